//! A pool on disk: `<root>/<lease id>` for tenants, `<root>/.scratch` for the broker (marker, lock, boot, leases, new,
//! trash, gone). The pool is the journal: the order of steps in here is what makes a crash between any two of them harmless.

use std::ffi::{CStr, CString};
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use rustix::fs::{AtFlags, FlockOperation, Mode, OFlags, RenameFlags};
use rustix::io::Errno;
use scratch_lease::LeaseId;

use crate::FsError;
use crate::backend::{Backend, Firmness};
use crate::create::open_directory;
use crate::end::Place;
use crate::files::{WRITE_NEW, names, read_small, replace, write_all};
use crate::foreign::ForeignBook;
use crate::gone::Gone;
use crate::marker::{FORMAT, Marker, MarkerError};
use crate::memory::Memory;
use crate::quota::{NewQuota, Quotas};
use crate::record::{Record, Torn};
use crate::root::{RootRefusal, open_root};
use crate::trash::{Trash, TrashName};
use crate::unused::is_unused;

/// One storage root with one owner: this process, for as long as the value lives.
#[derive(Debug)]
pub struct Pool {
    pub(crate) root: OwnedFd,
    pub(crate) path: PathBuf,
    pub(crate) scratch: OwnedFd,
    pub(crate) records: OwnedFd,
    pub(crate) new: OwnedFd,
    pub(crate) trash: Trash,
    pub(crate) gone: Gone,
    pub(crate) quotas: Quotas,
    /// Subvolumes that are gone and may still have a quota.
    pub(crate) stale: Mutex<Vec<u64>>,
    pub(crate) foreign: ForeignBook,
    uuid: String,
    backend: Backend,
    /// Of a pool whose leases are in memory.
    pub(crate) memory: Option<Memory>,
    /// Held exclusively, so that a second broker finds out.
    pub(crate) lock: File,
}

/// A record as a start finds it.
pub type FoundRecord = (LeaseId, Result<Record, Torn>);

/// The boot that a pool's leases belong to, and how often a broker was started on it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Boot {
    /// From /proc/sys/kernel/random/boot_id.
    pub id: String,
    /// Grows by one at each start.
    pub generation: u64,
}

/// How a lease's directory is owned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Owner {
    /// The broker's own user.
    Broker,
    /// This tenant.
    Tenant {
        /// User.
        uid: u32,
        /// Group.
        gid: u32,
    },
}

impl Pool {
    /// Opens a pool, or makes one of an empty directory. Takes its lock, and a shared flock on the root that keeps
    /// systemd-tmpfiles out of all of it.
    ///
    /// # Errors
    /// [`RootRefusal`]; a root that is refused was not changed.
    pub fn open(path: &Path, backend: Backend, homes: &[PathBuf], runtime: &Path) -> Result<Self, RootRefusal> {
        let (root, path) = open_root(path, homes)?;
        if backend == Backend::Btrfs && !scratch_sys::is_btrfs(root.as_fd()).map_err(FsError::on("look at", &path))? {
            return Err(RootRefusal::NotBtrfs(path));
        }
        let marker = read_marker(&root, &path)?;
        match &marker {
            Some(marker) if marker.matches(root.as_fd()).map_err(FsError::on("look at", &path))? => {}
            Some(_) => return Err(RootRefusal::Copied(path)),
            None if is_unused(&root, &path)? => {}
            None => return Err(RootRefusal::NotEmpty(path)),
        }
        let scratch = sub_directory(&root, c".scratch", &path)?;
        let inside = path.join(".scratch");
        let lock = take_lock(&scratch, &path, runtime)?;
        rustix::fs::flock(&root, FlockOperation::LockShared).map_err(FsError::on("flock", &path))?;
        let records = sub_directory(&scratch, c"leases", &inside)?;
        let new = sub_directory(&scratch, c"new", &inside)?;
        let trash = Trash::open(scratch.as_fd(), &inside.join("trash"))?;
        let gone = Gone::new(sub_directory(&scratch, c"gone", &inside)?, inside.join("gone"));
        let quotas = match backend {
            Backend::Btrfs => Quotas::of_subvolumes(root.as_fd()),
            Backend::Dir | Backend::Tmpfs => Quotas::None,
        };
        let foreign = ForeignBook::open(scratch.as_fd(), &inside.join("foreign"))?;
        let marker = match marker {
            Some(marker) => marker,
            None => write_marker(&root, &scratch, &path)?,
        };
        Ok(Self {
            root,
            path,
            scratch,
            records,
            new,
            trash,
            gone,
            foreign,
            quotas,
            stale: Mutex::default(),
            uuid: marker.uuid,
            backend,
            memory: None,
            lock,
        })
    }

    /// The root's canonical path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Areas in directories that clients named.
    pub fn foreign(&self) -> &ForeignBook {
        &self.foreign
    }

    /// What tells this pool from all others.
    pub fn uuid(&self) -> &str {
        &self.uuid
    }

    /// How its leases are stored.
    pub fn backend(&self) -> Backend {
        self.backend
    }

    /// What limits of bytes are worth here.
    pub fn firmness(&self) -> Firmness {
        if !self.has_paths() {
            return Firmness::Hard;
        }
        // Owners can take directories out of projects, and make subvolumes.
        if self.enforced().bytes { Firmness::Cooperative } else { Firmness::Soft }
    }

    /// What limits of inodes are worth here.
    pub fn inodes_firmness(&self) -> Firmness {
        if !self.has_paths() {
            return Firmness::Hard;
        }
        if self.enforced().inodes { Firmness::Cooperative } else { Firmness::Soft }
    }

    /// The root itself.
    pub fn root(&self) -> BorrowedFd<'_> {
        self.root.as_fd()
    }

    /// Where ended trees go.
    pub fn trash(&self) -> &Trash {
        &self.trash
    }

    /// Where leases are that have ended and can be brought back.
    pub fn gone(&self) -> &Gone {
        &self.gone
    }

    /// The path of a lease's directory.
    pub fn lease_path(&self, lease: LeaseId) -> PathBuf {
        self.path.join(lease.as_str())
    }

    /// Opens a lease's directory.
    ///
    /// # Errors
    /// Of openat(2); ESTALE when its name stands for another one.
    pub fn open_lease(&self, lease: LeaseId, place: Place) -> Result<OwnedFd, FsError> {
        let on_disk = || {
            open_directory(self.root.as_fd(), &name_of(lease)).and_then(|opened| {
                let is_it = place.is(&rustix::fs::fstat(&opened)?);
                if is_it { Ok(opened) } else { Err(Errno::STALE) }
            })
        };
        let opened = self.open_memory(lease).unwrap_or_else(on_disk);
        opened.map_err(|errno| FsError::new("open lease", self.lease_path(lease), errno))
    }

    /// Makes a lease's directory: in new/ with owner and mode, then its record, then its name. A crash in between leaves
    /// rubbish inside `.scratch` only, or a record without directory. Its limits hold before it has its name.
    ///
    /// # Errors
    /// The first step's that failed; what was made before is taken back.
    pub fn make_lease(
        &self,
        lease: LeaseId,
        owner: Owner,
        quota: NewQuota,
        record: &mut Record,
    ) -> Result<(), FsError> {
        let name = name_of(lease);
        let shown = self.lease_path(lease);
        self.make_memory(lease, owner, record)?;
        // What stands at the path of a lease in memory takes nothing from its tenant.
        let owner = if self.has_paths() { owner } else { Owner::Broker };
        self.make_directory(&name).map_err(|errno| {
            self.unmake_memory(lease);
            FsError::new("make lease directory", &shown, errno)
        })?;
        self.finish_lease(&name, owner, quota, record).map_err(|(operation, errno)| {
            self.unmake_memory(lease);
            // Best effort: what stays is below .scratch/new, which the next start empties.
            let _ = rustix::fs::unlinkat(&self.records, &name, AtFlags::empty());
            let _ = rustix::fs::unlinkat(&self.new, &name, AtFlags::REMOVEDIR);
            if let NewQuota::Own(_) = quota {
                self.give_back_quota(record.quota());
            }
            FsError::new(operation, &shown, errno)
        })
    }

    fn finish_lease(
        &self,
        name: &CStr,
        owner: Owner,
        quota: NewQuota,
        record: &mut Record,
    ) -> Result<(), (&'static str, Errno)> {
        self.count_directory(name, quota, record).map_err(|errno| ("limit lease directory", errno))?;
        if let Owner::Tenant { uid, gid } = owner {
            let (uid, gid) = (rustix::fs::Uid::from_raw(uid), rustix::fs::Gid::from_raw(gid));
            rustix::fs::chownat(&self.new, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)
                .map_err(|errno| ("give lease directory to tenant", errno))?;
        }
        let made =
            rustix::fs::statat(&self.new, name, AtFlags::SYMLINK_NOFOLLOW).map_err(|errno| ("look at", errno))?;
        record.device = made.st_dev;
        record.inode = made.st_ino;
        self.replace_record(name, record).map_err(|errno| ("write record of lease", errno))?;
        rustix::fs::renameat_with(&self.new, name, &self.root, name, RenameFlags::NOREPLACE)
            .map_err(|errno| ("name lease directory", errno))
    }

    /// Rewrites a lease's record whole.
    ///
    /// # Errors
    /// The write's or the rename's; then the old record is still there.
    pub fn write_record(&self, lease: LeaseId, record: &Record) -> Result<(), FsError> {
        self.replace_record(&name_of(lease), record)
            .map_err(|errno| FsError::new("write record of lease", self.lease_path(lease), errno))
    }

    fn replace_record(&self, name: &CStr, record: &Record) -> Result<(), Errno> {
        let mut fresh = name.to_bytes().to_vec();
        fresh.extend_from_slice(b".record");
        let fresh = CString::new(fresh).expect("a lease id has no NUL");
        let file = rustix::fs::openat(&self.new, &fresh, WRITE_NEW, Mode::RUSR | Mode::WUSR)?;
        let written = write_all(file, &record.to_file())
            .and_then(|()| rustix::fs::renameat(&self.new, &fresh, &self.records, name));
        if written.is_err() {
            // Best effort: the first error is told; new/ is emptied at the next start.
            let _ = rustix::fs::unlinkat(&self.new, &fresh, AtFlags::empty());
        }
        written
    }

    /// Drops a record whose directory is gone.
    ///
    /// # Errors
    /// Of unlinkat(2); a missing record is none.
    pub fn drop_record(&self, lease: LeaseId) -> Result<(), FsError> {
        match rustix::fs::unlinkat(&self.records, name_of(lease), AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(errno) => Err(FsError::new("drop record of lease", self.lease_path(lease), errno)),
        }
    }

    /// All records, torn ones as such. What is not named by a lease id is left alone.
    ///
    /// # Errors
    /// When the directory can't be listed or a record can't be read: then nothing is known, and nothing may be ended.
    pub fn records(&self) -> Result<Vec<FoundRecord>, FsError> {
        let shown = self.path.join(".scratch/leases");
        lease_names(self.records.as_fd(), &shown)?
            .into_iter()
            .map(|lease| {
                let bytes =
                    read_small(&self.records, &name_of(lease)).map_err(FsError::on("read record in", &shown))?;
                Ok((lease, Record::from_file(&bytes)))
            })
            .collect()
    }

    /// The leases that have a record, without reading any: others may come and go meanwhile.
    ///
    /// # Errors
    /// When `.scratch/leases` can't be listed.
    pub fn recorded(&self) -> Result<Vec<LeaseId>, FsError> {
        lease_names(self.records.as_fd(), &self.path.join(".scratch/leases"))
    }

    /// The lease directories that are there, whether or not they have a record.
    ///
    /// # Errors
    /// When the root can't be listed.
    pub fn lease_directories(&self) -> Result<Vec<LeaseId>, FsError> {
        lease_names(self.root.as_fd(), &self.path)
    }

    /// Writes something that is gone at once: whether a lease could be made.
    ///
    /// # Errors
    /// Of openat(2) and write(2); ENOSPC and EROFS among them.
    pub fn check_writable(&self) -> Result<(), FsError> {
        let file = crate::create_anonymous(self.new.as_fd(), 0o600)?;
        let written = rustix::io::retry_on_intr(|| rustix::io::write(&file, &[0; 4096]));
        written.map(drop).map_err(FsError::on("write to", &self.path.join(".scratch/new")))
    }

    /// Moves what a crash left in new/ into trash, as the broker's own, and hands over each tree, to be freed.
    ///
    /// # Errors
    /// The first one; the rest is still moved.
    pub fn empty_new(&self, mut taken: impl FnMut(TrashName)) -> Result<(), FsError> {
        let shown = self.path.join(".scratch/new");
        let mut first = Ok(());
        for name in names(self.new.as_fd(), &shown)? {
            let lease = LeaseId::from_bytes(&name.to_bytes()[..name.to_bytes().len().min(LeaseId::LEN)]);
            let lease = lease.unwrap_or_else(|_| LeaseId::from_bits([0; 10]));
            let owner = rustix::fs::statat(&self.new, &name, AtFlags::SYMLINK_NOFOLLOW).map(|found| found.st_uid);
            let moved = owner
                .map_err(FsError::on("look at rubbish in", &shown))
                .and_then(|owner| self.trash.take(self.new.as_fd(), &name, owner, lease));
            match moved {
                Ok(tree) => taken(tree),
                Err(error) => first = first.and(Err(error)),
            }
        }
        first
    }

    /// The boot for which the leases of this pool were granted; `None` in a new pool.
    ///
    /// # Errors
    /// Of the read.
    pub fn boot(&self) -> Result<Option<Boot>, FsError> {
        let bytes = match read_small(&self.scratch, c"boot") {
            Ok(bytes) => bytes,
            Err(Errno::NOENT) => return Ok(None),
            Err(errno) => return Err(FsError::new("read", self.path.join(".scratch/boot"), errno)),
        };
        let text = String::from_utf8_lossy(&bytes);
        let mut lines = text.lines();
        let id = lines.next().unwrap_or_default().to_owned();
        Ok(Some(Boot { id, generation: lines.next().and_then(|line| line.parse().ok()).unwrap_or(0) }))
    }

    /// Says that every lease there is belongs to this boot. Only to be called when all of the old one are in trash.
    ///
    /// # Errors
    /// Of the write or the rename.
    pub fn set_boot(&self, boot: &Boot) -> Result<(), FsError> {
        replace(&self.scratch, c"boot", format!("{}\n{}\n", boot.id, boot.generation).as_bytes())
            .map_err(|errno| FsError::new("write", self.path.join(".scratch/boot"), errno))
    }

    /// Bytes and inodes of the file system below.
    ///
    /// # Errors
    /// Of fstatvfs(3).
    pub fn space(&self) -> Result<rustix::fs::StatVfs, FsError> {
        rustix::fs::fstatvfs(&self.root).map_err(FsError::on("look at file system of", &self.path))
    }
}

pub(crate) fn name_of(lease: LeaseId) -> CString {
    CString::new(lease.as_str()).expect("a lease id has no NUL")
}

fn sub_directory(parent: &OwnedFd, name: &CStr, shown: &Path) -> Result<OwnedFd, FsError> {
    let error = FsError::on("open directory of the broker in", shown);
    match rustix::fs::mkdirat(parent, name, Mode::RWXU) {
        Ok(()) | Err(Errno::EXIST) => open_directory(parent.as_fd(), name).map_err(error),
        Err(errno) => Err(error(errno)),
    }
}

/// The lock file holds the runtime directory of whoever has it, so that others find their way to it.
fn take_lock(scratch: &OwnedFd, path: &Path, runtime: &Path) -> Result<File, RootRefusal> {
    let error = FsError::on("lock", path);
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let lock = match rustix::fs::openat(scratch, c"lock", flags, Mode::RUSR | Mode::WUSR) {
        Ok(lock) => File::from(lock),
        Err(errno) => return Err(error(errno).into()),
    };
    match rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => {}
        Err(Errno::WOULDBLOCK) => {
            return Err(RootRefusal::Locked { path: path.to_owned(), runtime: runtime_of(&lock) });
        }
        Err(errno) => return Err(error(errno).into()),
    }
    let text = runtime.as_os_str().as_bytes();
    lock.set_len(0).and_then(|()| (&lock).write_all(text)).map_err(|failed| {
        FsError::new("write", path.join(".scratch/lock"), Errno::from_io_error(&failed).unwrap_or(Errno::IO))
    })?;
    Ok(lock)
}

fn runtime_of(lock: &File) -> PathBuf {
    let mut text = Vec::new();
    // An unreadable lock file only makes the message shorter.
    let _ = lock.take(4096).read_to_end(&mut text);
    PathBuf::from(std::ffi::OsStr::from_bytes(&text))
}

fn read_marker(root: &OwnedFd, path: &Path) -> Result<Option<Marker>, RootRefusal> {
    let scratch = match open_directory(root.as_fd(), c".scratch") {
        Ok(scratch) => scratch,
        Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => return Ok(None),
        Err(errno) => return Err(FsError::new("open", path.join(".scratch"), errno).into()),
    };
    let bytes = match read_small(&scratch, c"pool") {
        Ok(bytes) => bytes,
        Err(Errno::NOENT) => return Ok(None),
        Err(errno) => return Err(FsError::new("read", path.join(".scratch/pool"), errno).into()),
    };
    match Marker::parse(&String::from_utf8_lossy(&bytes)) {
        Ok(marker) => Ok(Some(marker)),
        Err(MarkerError::Format(format)) => Err(RootRefusal::Format { path: path.to_owned(), format, known: FORMAT }),
        Err(MarkerError::Unreadable) => Err(RootRefusal::Marker(path.to_owned())),
    }
}

fn write_marker(root: &OwnedFd, scratch: &OwnedFd, path: &Path) -> Result<Marker, FsError> {
    let error = |errno| FsError::new("write", path.join(".scratch/pool"), errno);
    let marker = Marker::of(root.as_fd()).map_err(error)?;
    replace(scratch, c"pool", marker.to_text().as_bytes()).map_err(error)?;
    Ok(marker)
}

fn lease_names(directory: BorrowedFd<'_>, shown: &Path) -> Result<Vec<LeaseId>, FsError> {
    Ok(names(directory, shown)?.iter().filter_map(|name| LeaseId::from_bytes(name.to_bytes()).ok()).collect())
}
