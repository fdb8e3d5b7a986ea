//! What the kernel says of a cgroup: which one it is, whether it has processes, where it is found again. Version 2 alone tells
//! of its end; the v2 half of a hybrid host does as well.

use std::collections::HashMap;
use std::ffi::{CString, OsString};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};

use rustix::fs::{AtFlags, FileType, Mode, OFlags, StatxFlags};
use rustix::io::Errno;
use scratch_fs::RecordCgroup;
use scratch_lease::{CgroupId, Holder, HolderKind, Lease, LeaseId, Parting};

use crate::peer::Identity;
use crate::reason::RequestError;

const NO_CGROUP: &str = "the descriptor of a cgroup holder must be a cgroup's directory";
const VERSION_1: &str = "a cgroup of version 1 does not tell when its last process has gone; pass one of version 2, which on a \
                         hybrid host is mounted at /sys/fs/cgroup/unified";
const NO_VERSION_2: &str =
    "no cgroup file system of version 2 is mounted where the broker runs; let a process hold the lease";
const ROOT: &str = "the root of the cgroup hierarchy never ends; make a cgroup below it and pass that";
const REMOVED: &str = "the cgroup is removed; make another one";
const NO_KILL: &str = "this kernel can't kill a cgroup (Linux 5.14 can); leave kill out";

/// A cgroup that is looked at: its own descriptors, none of the client's.
#[derive(Debug)]
pub(crate) struct Cgroup {
    pub(crate) known: Arc<KnownCgroup>,
    directory: OwnedFd,
    events: OwnedFd,
    /// It has had a process since it became a holder.
    populated: bool,
}

/// A cgroup by all that tells it apart after a restart.
#[derive(Debug)]
pub(crate) struct KnownCgroup {
    pub(crate) record: RecordCgroup,
    /// Where it is, for people; empty where the broker does not find it.
    pub(crate) path: PathBuf,
    /// Of one whose processes are to die with the lease.
    kill: Option<Kill>,
}

/// What kills a cgroup's processes, and shows when they have gone: both opened while its tenant's rights were asked.
#[derive(Debug)]
struct Kill {
    word: OwnedFd,
    events: OwnedFd,
}

/// What became of the cgroup of a record.
pub(crate) enum Found {
    There(Cgroup),
    Gone(Parting),
    /// It could not be looked at.
    Unknown,
}

impl Cgroup {
    /// The cgroup of a descriptor that a client has passed. Nothing is asked of it before its device shows that it is a
    /// cgroup's: another file system may never answer.
    ///
    /// # Errors
    /// HOLDER_INVALID for anything else, for version 1, the root, and what is removed; PERMISSION where its processes are to be
    /// killed, for `tenant`, and the kernel does not let it.
    pub(crate) fn of_directory(passed: &OwnedFd, tenant: Option<(&Identity, u32)>) -> Result<Self, RequestError> {
        let mounts = Mounts::read();
        match mounts.kind_of(passed) {
            Some(Kind::Version2) => {}
            Some(Kind::Version1) => return Err(RequestError::Holder(VERSION_1)),
            None if mounts.version_2.is_empty() => return Err(RequestError::Holder(NO_VERSION_2)),
            None => return Err(RequestError::Holder(NO_CGROUP)),
        }
        let status = rustix::fs::fstat(passed).map_err(|_| RequestError::Holder(NO_CGROUP))?;
        if FileType::from_raw_mode(status.st_mode) != FileType::Directory {
            return Err(RequestError::Holder(NO_CGROUP));
        }
        let place = mounts.find(passed, status.st_ino);
        let (root_inode, below, path) = place.unwrap_or_default();
        let kill = tenant.is_some();
        let record = RecordCgroup { inode: status.st_ino, root_inode, path: below, populated: false, usage: 0, kill };
        let refused = |errno| match errno {
            Errno::NOENT
                if rustix::fs::accessat(passed, "cgroup.procs", rustix::fs::Access::EXISTS, AtFlags::empty())
                    .is_ok() =>
            {
                RequestError::Holder(ROOT)
            }
            Errno::NOENT | Errno::NODEV => RequestError::Holder(REMOVED),
            errno => scratch_fs::FsError::new("open cgroup", &path, errno).into(),
        };
        let mut cgroup = Self::open(passed.as_fd(), record, path.clone()).map_err(refused)?;
        // The time first: a process that comes and goes between the two shows in the next look.
        let usage = cgroup.usage().unwrap_or(u64::MAX);
        let populated = cgroup.is_populated().map_err(refused)?;
        cgroup.populated = populated;
        let record = RecordCgroup { usage, populated, ..cgroup.known.record.clone() };
        let kill = tenant.map(|(identity, broker)| Kill::open(passed.as_fd(), identity, broker)).transpose();
        let kill = kill.map_err(|errno| match errno {
            Errno::NOENT => RequestError::Holder(NO_KILL),
            errno => scratch_fs::FsError::new("open cgroup.kill of", &path, errno).into(),
        })?;
        cgroup.known = Arc::new(KnownCgroup { record, path, kill });
        Ok(cgroup)
    }

    /// The cgroup of a record of this boot. No cgroup of version 2 ever changes its path or gets another's inode: so what is
    /// not at its place below its root is gone.
    pub(crate) fn find(mounts: &Mounts, record: &RecordCgroup, (tenant, broker): (&Identity, u32)) -> Found {
        let Some((mount, root)) = mounts.roots(record.root_inode).next().filter(|_| !record.path.is_empty()) else {
            return Found::Unknown;
        };
        let Ok(below) = CString::new(record.path.clone()) else { return Found::Unknown };
        let directory = match scratch_fs::open_directory_beneath(root.as_fd(), &below) {
            Ok(directory) => directory,
            Err(Errno::NOENT) => return Found::Gone(Parting::Removed),
            Err(_) => return Found::Unknown,
        };
        match rustix::fs::fstat(&directory) {
            Ok(status) if status.st_ino == record.inode => {}
            Ok(_) => return Found::Gone(Parting::Removed),
            Err(_) => return Found::Unknown,
        }
        let path = mount.join(OsString::from_vec(record.path.clone()));
        let kill = record.kill.then(|| mounts.kill_of(record, &below, (tenant, broker))).transpose();
        let kill = kill.unwrap_or_else(|errno| {
            tracing::warn!(path = %path.display(), %errno, "processes of a cgroup can't be killed any more, ignoring");
            None
        });
        match Self::open(directory.as_fd(), record.clone(), path.clone()) {
            Ok(cgroup) => {
                let known = Arc::new(KnownCgroup { record: record.clone(), path, kill });
                let mut cgroup = Self { known, ..cgroup };
                cgroup.ended().map_or_else(|| Found::There(cgroup), Found::Gone)
            }
            Err(Errno::NOENT | Errno::NODEV) => Found::Gone(Parting::Removed),
            Err(_) => Found::Unknown,
        }
    }

    fn open(directory: BorrowedFd<'_>, record: RecordCgroup, path: PathBuf) -> Result<Self, Errno> {
        let open = |name: &str, flags| rustix::fs::openat(directory, name, flags | OFlags::CLOEXEC, Mode::empty());
        let events = open("cgroup.events", OFlags::RDONLY | OFlags::NOFOLLOW)?;
        let populated = record.populated;
        // Our own: closing the client's may be left to those who close such things.
        let directory = open(".", OFlags::PATH | OFlags::DIRECTORY)?;
        Ok(Self { known: Arc::new(KnownCgroup { record, path, kill: None }), directory, events, populated })
    }

    /// How it has ended, if it has; after a look.
    pub(crate) fn ended(&mut self) -> Option<Parting> {
        match self.is_populated() {
            Ok(true) => {
                self.populated = true;
                None
            }
            Ok(false) if self.has_had_a_process() => Some(Parting::Unpopulated),
            Ok(false) => None,
            Err(Errno::NODEV) => Some(Parting::Removed),
            Err(errno) => {
                tracing::warn!(path = %self.known.path.display(), %errno, "a cgroup can't be looked at; its lease lives on");
                None
            }
        }
    }

    /// What waits for a change: the kernel wakes whoever polls it.
    pub(crate) fn events(&self) -> BorrowedFd<'_> {
        self.events.as_fd()
    }

    /// The directory above, as a path for inotify(7), if it is a cgroup's too: of the removal of a cgroup that never had a
    /// process it alone tells. `None`: nothing more is to be waited for.
    pub(crate) fn above(&self) -> Option<PathBuf> {
        let device = |descriptor: &OwnedFd| rustix::fs::fstat(descriptor).map(|status| status.st_dev);
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let above = rustix::fs::openat(&self.directory, "..", flags, Mode::empty()).ok()?;
        let inside =
            !self.populated && device(&above).is_ok_and(|device_above| Ok(device_above) == device(&self.directory));
        inside.then(|| PathBuf::from(format!("/proc/self/fd/{}/..", self.directory.as_raw_fd())))
    }

    /// One that came and went between two looks has at least used the processor.
    fn has_had_a_process(&mut self) -> bool {
        self.populated |= self.usage().is_ok_and(|usage| usage > self.known.record.usage);
        self.populated
    }

    fn is_populated(&self) -> Result<bool, Errno> {
        is_populated(self.events.as_fd())
    }

    /// Microseconds that processes in it, and in cgroups below it, have run so far.
    fn usage(&self) -> Result<u64, Errno> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let stat = rustix::fs::openat(&self.directory, "cpu.stat", flags, Mode::empty())?;
        number(&read(stat.as_fd())?, "usage_usec").ok_or(Errno::INVAL)
    }
}

fn is_populated(events: BorrowedFd<'_>) -> Result<bool, Errno> {
    Ok(number(&read(events)?, "populated").ok_or(Errno::INVAL)? != 0)
}

/// From the beginning: each read is a look of its own.
fn read(file: BorrowedFd<'_>) -> Result<String, Errno> {
    let mut bytes = [0; 4096];
    let count = rustix::io::retry_on_intr(|| rustix::io::pread(file, &mut bytes, 0))?;
    Ok(String::from_utf8_lossy(&bytes[..count]).into_owned())
}

/// The number behind a word.
fn number(text: &str, word: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix(word)?.strip_prefix(' ')?.trim().parse().ok())
}

impl Kill {
    /// With the tenant's rights: the kernel says whether it may kill what is in there.
    fn open(cgroup: BorrowedFd<'_>, tenant: &Identity, broker: u32) -> Result<Self, Errno> {
        let _rights = tenant.assume(broker)?;
        let open = |name: &str, flags| {
            rustix::fs::openat(cgroup, name, flags | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())
        };
        Ok(Self { word: open("cgroup.kill", OFlags::WRONLY)?, events: open("cgroup.events", OFlags::RDONLY)? })
    }
}

impl KnownCgroup {
    /// One that can't be looked at.
    pub(crate) fn of(record: &RecordCgroup) -> Self {
        Self { record: record.clone(), path: PathBuf::from(OsString::from_vec(record.path.clone())), kill: None }
    }

    /// Whether its processes die with the lease.
    pub(crate) fn kills(&self) -> bool {
        self.kill.is_some()
    }

    /// Kills what is in it. False: nothing was, or is to be.
    pub(crate) fn kill(&self) -> bool {
        let Some(kill) = self.kill.as_ref().filter(|_| self.has_to_die()) else { return false };
        match rustix::io::write(&kill.word, b"1") {
            Ok(_) => true,
            // It was removed: nothing is in it.
            Err(Errno::NODEV) => false,
            Err(errno) => {
                tracing::warn!(path = %self.path.display(), %errno, "what is in a cgroup is not killed, ignoring");
                false
            }
        }
    }

    /// Whether something is in it that is to die with the lease. What can't be looked at is not waited for.
    pub(crate) fn has_to_die(&self) -> bool {
        self.kill.as_ref().is_some_and(|kill| is_populated(kill.events.as_fd()) == Ok(true))
    }
}

/// The cgroups that hold leases, by lease.
#[derive(Debug, Default)]
pub(crate) struct KnownCgroups(Mutex<HashMap<LeaseId, Vec<Arc<KnownCgroup>>>>);

impl KnownCgroups {
    /// A cgroup holds a lease from now on. Those that do no more are dropped with it.
    pub(crate) fn add(&self, lease: &Lease, cgroup: &Arc<KnownCgroup>) {
        let mut all = self.lock();
        let of_lease = all.entry(lease.id()).or_default();
        let holds = |known: &Arc<KnownCgroup>| {
            let id = HolderKind::Cgroup(CgroupId(known.record.inode));
            lease.holders().iter().any(|holder| holder.kind == id)
        };
        of_lease.retain(|known| known.record.inode != cgroup.record.inode && holds(known));
        of_lease.push(Arc::clone(cgroup));
    }

    pub(crate) fn get(&self, lease: LeaseId, id: CgroupId) -> Option<Arc<KnownCgroup>> {
        self.lock().get(&lease)?.iter().find(|known| known.record.inode == id.0).cloned()
    }

    /// Kills what is in those of these holders of a lease that say so, and gives those in which something was.
    pub(crate) fn kill(&self, lease: LeaseId, holders: &[Holder]) -> Vec<Arc<KnownCgroup>> {
        let known = |holder: &Holder| match holder.kind {
            HolderKind::Cgroup(id) => self.get(lease, id),
            _ => None,
        };
        holders.iter().filter_map(known).filter(|cgroup| cgroup.kill()).collect()
    }

    /// These holders hold a lease no more.
    pub(crate) fn forget(&self, lease: LeaseId, gone: &[Holder]) {
        let is_gone = |known: &Arc<KnownCgroup>| {
            let id = HolderKind::Cgroup(CgroupId(known.record.inode));
            gone.iter().any(|holder| holder.kind == id)
        };
        let mut all = self.lock();
        if let Some(of_lease) = all.get_mut(&lease) {
            of_lease.retain(|known| !is_gone(known));
            if of_lease.is_empty() {
                all.remove(&lease);
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<LeaseId, Vec<Arc<KnownCgroup>>>> {
        self.0.lock().expect("a thread that panics ends the process")
    }
}

/// The cgroup file systems that this process sees.
#[derive(Debug)]
pub(crate) struct Mounts {
    devices: HashMap<(u32, u32), Kind>,
    version_2: Vec<PathBuf>,
}

#[derive(Clone, Copy, Debug)]
enum Kind {
    Version1,
    Version2,
}

impl Mounts {
    pub(crate) fn read() -> Self {
        // Without a table nothing is known to be a cgroup's, and nothing is taken for one.
        Self::of(&std::fs::read("/proc/self/mountinfo").unwrap_or_default())
    }

    /// Of the text of proc_pid_mountinfo(5).
    fn of(table: &[u8]) -> Self {
        let mut mounts = Self { devices: HashMap::new(), version_2: Vec::new() };
        for line in table.split(|byte| *byte == b'\n') {
            let fields: Vec<&[u8]> = line.split(|byte| *byte == b' ').collect();
            let kind = fields.iter().position(|field| *field == b"-").and_then(|dash| fields.get(dash + 1).copied());
            let kind = match kind {
                Some(b"cgroup") => Kind::Version1,
                Some(b"cgroup2") => Kind::Version2,
                _ => continue,
            };
            let numbers = String::from_utf8_lossy(fields[2]).into_owned();
            let device =
                numbers.split_once(':').and_then(|(major, minor)| Some((major.parse().ok()?, minor.parse().ok()?)));
            mounts.devices.extend(device.map(|device| (device, kind)));
            if matches!(kind, Kind::Version2) {
                mounts.version_2.push(PathBuf::from(OsString::from_vec(unescaped(fields[4]))));
            }
        }
        mounts
    }

    /// By what the kernel knows without asking the file system.
    fn kind_of(&self, descriptor: &OwnedFd) -> Option<Kind> {
        let flags = AtFlags::EMPTY_PATH | AtFlags::STATX_DONT_SYNC;
        let status = rustix::fs::statx(descriptor, "", flags, StatxFlags::empty()).ok()?;
        self.devices.get(&(status.stx_dev_major, status.stx_dev_minor)).copied()
    }

    /// The mounts whose root is this cgroup.
    fn roots(&self, inode: u64) -> impl Iterator<Item = (&Path, OwnedFd)> {
        self.version_2.iter().filter_map(move |mount| {
            let root = open_root(mount)?;
            (rustix::fs::fstat(&root).ok()?.st_ino == inode).then_some((mount.as_path(), root))
        })
    }

    /// Through any mount: one of them may be read-only.
    fn kill_of(&self, record: &RecordCgroup, below: &CString, tenant: (&Identity, u32)) -> Result<Kill, Errno> {
        let mut last = Err(Errno::NOENT);
        for (_, root) in self.roots(record.root_inode) {
            last = scratch_fs::open_directory_beneath(root.as_fd(), below).and_then(|directory| {
                let same = rustix::fs::fstat(&directory)?.st_ino == record.inode;
                if same { Kill::open(directory.as_fd(), tenant.0, tenant.1) } else { Err(Errno::NOENT) }
            });
            if last.is_ok() {
                break;
            }
        }
        last
    }

    /// Where a descriptor's cgroup is: its root's inode, the path below that, and the whole one. The path that the kernel gives
    /// may be of another name space, so it is looked up, and only below a root.
    fn find(&self, cgroup: &OwnedFd, inode: u64) -> Option<(u64, Vec<u8>, PathBuf)> {
        let path = rustix::fs::readlink(format!("/proc/self/fd/{}", cgroup.as_raw_fd()), Vec::new()).ok()?;
        let path = PathBuf::from(OsString::from_vec(path.into_bytes()));
        self.version_2.iter().find_map(|mount| {
            let below = path.strip_prefix(mount).ok()?.as_os_str().as_bytes().to_vec();
            let root = open_root(mount)?;
            let there = scratch_fs::open_directory_beneath(root.as_fd(), &CString::new(below.clone()).ok()?).ok()?;
            let same = rustix::fs::fstat(&there).ok()?.st_ino == inode;
            same.then_some((rustix::fs::fstat(&root).ok()?.st_ino, below, path.clone()))
        })
    }
}

/// `None` where something else was mounted over it.
fn open_root(mount: &Path) -> Option<OwnedFd> {
    const CGROUP2_SUPER_MAGIC: i64 = 0x6367_7270;
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = rustix::fs::open(mount, flags, Mode::empty()).ok()?;
    (rustix::fs::fstatfs(&root).ok()?.f_type == CGROUP2_SUPER_MAGIC).then_some(root)
}

/// A path of the mount table: blanks, line ends and backslashes stand there as `\` and three octal digits.
fn unescaped(field: &[u8]) -> Vec<u8> {
    let mut path = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((byte, after)) = rest.split_first() {
        let octal = after.get(..3).filter(|_| *byte == b'\\').and_then(|digits| std::str::from_utf8(digits).ok());
        match octal.and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
            Some(escaped) => {
                path.push(escaped);
                rest = &after[3..];
            }
            None => {
                path.push(*byte);
                rest = after;
            }
        }
    }
    path
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mount_table_tells_the_versions_apart() {
        let table = b"30 25 0:26 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n\
                      31 25 0:38 / /sys/fs/cgroup\\040x\\134 rw,relatime shared:9 - cgroup2 cgroup2 rw\n\
                      32 25 0:39 / /tmp rw - tmpfs tmpfs rw\n";
        let mounts = Mounts::of(table);
        assert!(matches!(mounts.devices[&(0, 26)], Kind::Version1));
        assert!(matches!(mounts.devices[&(0, 38)], Kind::Version2));
        assert_eq!((mounts.devices.len(), mounts.version_2), (2, vec![PathBuf::from("/sys/fs/cgroup x\\")]));
    }

    #[test]
    fn numbers_are_found_by_their_word() {
        let events = "populated 1\nfrozen 0\n";
        assert_eq!((number(events, "populated"), number(events, "frozen")), (Some(1), Some(0)));
        assert_eq!((number(events, "pop"), number("populated x\n", "populated")), (None, None));
    }

    #[test]
    fn what_is_no_cgroup_is_refused() {
        for path in ["/proc/self/stat", "/"] {
            let other = OwnedFd::from(std::fs::File::open(path).unwrap());
            assert!(matches!(Cgroup::of_directory(&other, None), Err(RequestError::Holder(_))), "{path}");
        }
    }
}
