//! Looks at a pool as it is on disk, for those who compare it with what they know. Changes nothing.

use std::ffi::{CString, OsStr};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags, Stat};
use rustix::io::Errno;
use scratch_lease::LeaseId;

use crate::files::{names, read_small};
use crate::foreign::ForeignBook;
use crate::gone::GoneName;
use crate::marker::Marker;
use crate::pool::{FoundRecord, name_of};
use crate::{FsError, Pool, Record, TrashName};

/// What the broker itself has in `.scratch`, and what it writes there before a rename.
const OWN: &[&[u8]] = &[
    b"pool",
    b"pool.new",
    b"lock",
    b"boot",
    b"boot.new",
    b"debts",
    b"debts.new",
    b"foreign",
    b"gone",
    b"leases",
    b"new",
    b"trash",
    b"warm",
];

/// Something of the broker's own that is not where its path says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Misplaced {
    /// The path.
    pub path: PathBuf,
    /// What there is instead: nothing, or something else.
    pub is_gone: bool,
}

impl Pool {
    /// The broker's directories and its lock whose path leads somewhere else than to what the broker holds. Everything is
    /// still done in what it holds; but clients go by the path, and so does the next start.
    ///
    /// # Errors
    /// Of stat(2), but for a path that is not there.
    pub fn misplaced(&self) -> Result<Vec<Misplaced>, FsError> {
        let inside = self.path.join(".scratch");
        let held: [(PathBuf, BorrowedFd<'_>); 8] = [
            (self.path.clone(), self.root.as_fd()),
            (inside.clone(), self.scratch.as_fd()),
            (inside.join("leases"), self.records.as_fd()),
            (inside.join("new"), self.new.as_fd()),
            (inside.join("trash"), self.trash.directory()),
            (inside.join("gone"), self.gone.directory()),
            (inside.join("foreign"), self.foreign.directory()),
            (inside.join("lock"), self.lock.as_fd()),
        ];
        let mut misplaced = Vec::new();
        for (path, held) in held {
            let expected = rustix::fs::fstat(held).map_err(FsError::on("look at", &path))?;
            match rustix::fs::lstat(&path) {
                Ok(found) if same(&found, &expected) => {}
                Ok(_) => misplaced.push(Misplaced { path, is_gone: false }),
                Err(Errno::NOENT | Errno::NOTDIR) => misplaced.push(Misplaced { path, is_gone: true }),
                Err(errno) => return Err(FsError::new("look at", path, errno)),
            }
        }
        Ok(misplaced)
    }

    /// Whether the marker is there and says that this is the pool it was made for.
    ///
    /// # Errors
    /// Of the read.
    pub fn has_its_marker(&self) -> Result<bool, FsError> {
        let shown = self.path.join(".scratch/pool");
        match read_small(&self.scratch, c"pool") {
            Ok(bytes) => match Marker::parse(&String::from_utf8_lossy(&bytes)) {
                Ok(marker) => marker.matches(self.root.as_fd()).map_err(FsError::on("look at", &self.path)),
                Err(_) => Ok(false),
            },
            Err(Errno::NOENT | Errno::LOOP) => Ok(false),
            Err(errno) => Err(FsError::new("read", shown, errno)),
        }
    }

    /// Names that are nobody's: in the root no lease's, in `.scratch` and below it not the broker's.
    ///
    /// # Errors
    /// When one of the directories can't be listed.
    pub fn strays(&self) -> Result<Vec<PathBuf>, FsError> {
        let inside = self.path.join(".scratch");
        let (leases, trash) = (inside.join("leases"), inside.join("trash"));
        let is_lease = |name: &[u8]| LeaseId::from_bytes(name).is_ok();
        let mut strays = Vec::new();
        let mut add = |held: BorrowedFd<'_>, shown: &Path, is_known: &dyn Fn(&[u8]) -> bool| {
            let unknown = names(held, shown)?.into_iter().filter(|name| !is_known(name.to_bytes()));
            strays.extend(unknown.map(|name| shown.join(OsStr::from_bytes(name.to_bytes()))));
            Ok::<_, FsError>(())
        };
        add(self.root.as_fd(), &self.path, &|name| is_lease(name) || name == b".scratch" || name == b"lost+found")?;
        add(self.scratch.as_fd(), &inside, &|name| OWN.contains(&name))?;
        add(self.records.as_fd(), &leases, &is_lease)?;
        add(self.trash.directory(), &trash, &|name| TrashName::parse(name).is_some())?;
        add(self.gone.directory(), &inside.join("gone"), &|name| GoneName::parse(name).is_some())?;
        add(self.foreign.directory(), &inside.join("foreign"), &ForeignBook::knows)?;
        Ok(strays)
    }

    /// What lies in new/: the lease it is in the making of, or None for a name that no broker gives.
    ///
    /// # Errors
    /// When it can't be listed.
    pub fn in_the_making(&self) -> Result<Vec<(PathBuf, Option<LeaseId>)>, FsError> {
        let shown = self.path.join(".scratch/new");
        let lease = |name: &CString| {
            let name = name.to_bytes();
            LeaseId::from_bytes(name.strip_suffix(b".record").unwrap_or(name)).ok()
        };
        let found = names(self.new.as_fd(), &shown)?;
        Ok(found.iter().map(|name| (shown.join(OsStr::from_bytes(name.to_bytes())), lease(name))).collect())
    }

    /// One record; None where there is none.
    ///
    /// # Errors
    /// Of the read.
    pub fn record(&self, lease: LeaseId) -> Result<Option<FoundRecord>, FsError> {
        match read_small(&self.records, &name_of(lease)) {
            Ok(bytes) => Ok(Some((lease, Record::from_file(&bytes)))),
            Err(Errno::NOENT) => Ok(None),
            // A link, or a directory: something is there, and it is no record.
            Err(Errno::LOOP | Errno::ISDIR) => Ok(Some((lease, Err(crate::Torn)))),
            Err(errno) => Err(FsError::new("read record of", self.lease_path(lease), errno)),
        }
    }

    /// The path of a lease's record, for messages.
    pub fn record_path(&self, lease: LeaseId) -> PathBuf {
        self.path.join(".scratch/leases").join(lease.as_str())
    }

    /// Watches what would take something away: the pool's directories and all above them for being moved or removed, root
    /// and records for names that go. Returns what to read from, and the numbers by which its events name the two.
    ///
    /// # Errors
    /// Of inotify_init1(2) and inotify_add_watch(2).
    pub fn watch_tampering(&self) -> Result<(rustix::fd::OwnedFd, TamperWatches), FsError> {
        use rustix::fs::inotify::{CreateFlags, WatchFlags, add_watch, init};
        let moved = WatchFlags::MOVE_SELF | WatchFlags::DELETE_SELF | WatchFlags::ONLYDIR;
        let taken = moved | WatchFlags::DELETE | WatchFlags::MOVED_FROM;
        let inotify = init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK).map_err(FsError::on("watch", &self.path))?;
        let held = |directory: BorrowedFd<'_>, flags| {
            // The very directory that is held, whatever has its path.
            let name = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&directory));
            add_watch(&inotify, name, flags).map_err(FsError::on("watch", &self.path))
        };
        for above in self.path.ancestors().skip(1) {
            add_watch(&inotify, above, moved | WatchFlags::MASK_ADD).map_err(FsError::on("watch", above))?;
        }
        let root = held(self.root.as_fd(), taken)?;
        held(self.scratch.as_fd(), moved)?;
        held(self.new.as_fd(), moved)?;
        held(self.trash.directory(), moved)?;
        held(self.gone.directory(), moved)?;
        let records = held(self.records.as_fd(), taken)?;
        Ok((inotify, TamperWatches { root, records }))
    }
}

/// The watches that tell names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TamperWatches {
    /// Of the root: leases.
    pub root: i32,
    /// Of `.scratch/leases`: records.
    pub records: i32,
}

/// Whether a path is there below a lease's directory; None where that can't be told.
pub fn is_below(held: BorrowedFd<'_>, name: &[u8]) -> Option<bool> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let resolve =
        rustix::fs::ResolveFlags::BENEATH | rustix::fs::ResolveFlags::NO_SYMLINKS | rustix::fs::ResolveFlags::NO_XDEV;
    let found = rustix::fs::openat2(held, CString::new(name).ok()?, flags, Mode::empty(), resolve);
    match found {
        Ok(_) => Some(true),
        Err(Errno::NOENT | Errno::NOTDIR) => Some(false),
        Err(_) => None,
    }
}

fn same(found: &Stat, expected: &Stat) -> bool {
    (found.st_dev, found.st_ino) == (expected.st_dev, expected.st_ino)
}
