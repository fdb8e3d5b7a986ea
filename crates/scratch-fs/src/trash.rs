//! A pool's trash, `.scratch/trash`: what has ended is renamed into it under a fresh number, in one system call, and waits
//! there to be removed. Only the broker can open it, so that nothing in it is swapped by name.

use std::ffi::{CStr, CString, OsStr};
use std::fmt;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::fs::{Mode, OFlags, RawDir, RenameFlags};
use rustix::io::Errno;
use scratch_lease::LeaseId;

use crate::FsError;
use crate::create::open_directory;
use crate::descend::{LIST, descend};
use crate::repair::make_removable;

/// `<number>.<uid>.<lease id>`: an ended tree in the pool's trash.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TrashName {
    /// Counts up over the pool's life.
    pub number: u64,
    /// Whose it was, and whom its bytes are charged to.
    pub tenant: u32,
    /// The lease that it belonged to.
    pub lease: LeaseId,
}

impl TrashName {
    /// Reads a name as directory listings give it; None for anything that [`fmt::Display`] would not write.
    #[must_use]
    pub fn parse(name: &[u8]) -> Option<Self> {
        let mut parts = std::str::from_utf8(name).ok()?.splitn(3, '.');
        let (number, tenant, lease) = (parts.next()?, parts.next()?, parts.next()?);
        let parsed = Self { number: number.parse().ok()?, tenant: tenant.parse().ok()?, lease: lease.parse().ok()? };
        // Integers also parse with `+` and leading zeros, which would be two names of one thing.
        (parsed.to_string().as_bytes() == name).then_some(parsed)
    }

    /// The name for system calls.
    #[must_use]
    pub fn to_cstring(self) -> CString {
        CString::new(self.to_string()).expect("digits, dots and base32 have no NUL")
    }
}

impl fmt::Display for TrashName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.number, self.tenant, self.lease)
    }
}

/// Numbers that a tree has for its parts that is removed where it is.
const IN_PLACE_NUMBERS: u64 = 1 << 20;

/// The trash of one pool.
#[derive(Debug)]
pub struct Trash {
    directory: OwnedFd,
    shown: PathBuf,
    next: AtomicU64,
}

impl Trash {
    /// Opens `trash` below `.scratch`, made if missing; numbers go on after the highest one there. `shown` is its path in
    /// messages.
    ///
    /// # Errors
    /// Of mkdirat(2), openat(2) and getdents64(2).
    pub fn open(scratch: BorrowedFd<'_>, shown: &Path) -> Result<Self, FsError> {
        Self::open_from(scratch, shown, 0)
    }

    /// [`Self::open`] with numbers from `first` on.
    pub(crate) fn open_from(scratch: BorrowedFd<'_>, shown: &Path, first: u64) -> Result<Self, FsError> {
        match rustix::fs::mkdirat(scratch, c"trash", Mode::RWXU) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(errno) => return Err(FsError::new("make trash", shown, errno)),
        }
        let directory = open_directory(scratch, c"trash").map_err(FsError::on("open trash", shown))?;
        let trash = Self { directory, shown: shown.to_owned(), next: AtomicU64::new(0) };
        let after = trash.entries()?.last().map_or(first, |last| last.number.saturating_add(1));
        trash.next.store(after, Ordering::Relaxed);
        Ok(trash)
    }

    /// A held directory that is to be emptied, as a trash of its own: what is in it is renamed within it.
    ///
    /// # Errors
    /// Of openat(2) and getdents64(2).
    pub(crate) fn within(directory: OwnedFd, shown: &Path) -> Result<Self, Errno> {
        let trash = Self { directory, shown: shown.to_owned(), next: AtomicU64::new(0) };
        let after = trash.list()?.iter().map(|last| last.number.saturating_add(1)).max().unwrap_or(0);
        trash.next.store(after, Ordering::Relaxed);
        Ok(trash)
    }

    /// What waits, oldest first. Names that do not parse are nobody's to remove, and left out.
    ///
    /// # Errors
    /// Of openat(2) and getdents64(2).
    pub fn entries(&self) -> Result<Vec<TrashName>, FsError> {
        let mut entries = self.list().map_err(FsError::on("list trash", &self.shown))?;
        entries.sort_unstable();
        Ok(entries)
    }

    /// Whether nothing waits.
    ///
    /// # Errors
    /// As [`Self::entries`].
    pub fn is_empty(&self) -> Result<bool, FsError> {
        Ok(self.entries()?.is_empty())
    }

    /// Renames `name` out of `from` into the trash: one system call. Where that is refused, the directory is made movable
    /// (owner's rights, no immutable or append-only flag) and it is tried once more.
    ///
    /// # Errors
    /// ENOENT when it is not there, EBUSY for a mount point, EXDEV from another file system, those of renameat2(2) else.
    pub fn take(&self, from: BorrowedFd<'_>, name: &CStr, tenant: u32, lease: LeaseId) -> Result<TrashName, FsError> {
        self.rename(from, name, tenant, lease)
            .map_err(|errno| FsError::new("rename into trash", OsStr::from_bytes(name.to_bytes()), errno))
    }

    /// For what is in another subvolume than this trash, to which it is another file system: renames `name` within its own
    /// directory, to a name that no entry of this trash has. Returns that with what stands in for this trash.
    ///
    /// # Errors
    /// As [`Self::take`].
    pub fn take_in_place(
        &self,
        from: BorrowedFd<'_>,
        name: &CStr,
        tenant: u32,
        lease: LeaseId,
    ) -> Result<(TrashName, Self), FsError> {
        let error = |errno| FsError::new("rename aside", OsStr::from_bytes(name.to_bytes()), errno);
        // A descriptor of its own, and one that can be listed.
        let directory = descend(from, c".", LIST).map_err(error)?;
        let next = AtomicU64::new(self.next.fetch_add(IN_PLACE_NUMBERS, Ordering::Relaxed));
        let shown = self.shown.join("..").join("..").join(lease.as_str());
        let in_place = Self { directory, shown, next };
        let entry = in_place.rename(from, name, tenant, lease).map_err(error)?;
        Ok((entry, in_place))
    }

    /// Its path, for messages.
    pub fn shown(&self) -> &Path {
        &self.shown
    }

    /// The directory itself.
    pub fn directory(&self) -> BorrowedFd<'_> {
        self.directory.as_fd()
    }

    /// [`Self::take`] with the bare errno.
    pub(crate) fn rename(
        &self,
        from: BorrowedFd<'_>,
        name: &CStr,
        tenant: u32,
        lease: LeaseId,
    ) -> Result<TrashName, Errno> {
        match self.try_rename(from, name, tenant, lease) {
            Err(errno @ (Errno::ACCESS | Errno::PERM)) => {
                make_removable(from, name, errno);
                self.try_rename(from, name, tenant, lease)
            }
            result => result,
        }
    }

    /// A name that no entry has had.
    pub(crate) fn fresh(&self, tenant: u32, lease: LeaseId) -> TrashName {
        TrashName { number: self.next.fetch_add(1, Ordering::Relaxed), tenant, lease }
    }

    fn try_rename(&self, from: BorrowedFd<'_>, name: &CStr, tenant: u32, lease: LeaseId) -> Result<TrashName, Errno> {
        loop {
            let entry = self.fresh(tenant, lease);
            match rustix::fs::renameat_with(from, name, &self.directory, entry.to_cstring(), RenameFlags::NOREPLACE) {
                // Somebody put it here by hand; numbers only go up, so this ends.
                Err(Errno::EXIST) => {}
                result => return result.map(|()| entry),
            }
        }
    }

    fn list(&self) -> Result<Vec<TrashName>, Errno> {
        // A descriptor of its own: a shared one would share its position too.
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let directory = rustix::fs::openat(&self.directory, c".", flags, Mode::empty())?;
        let mut buffer = [MaybeUninit::uninit(); 8192];
        let mut listing = RawDir::new(directory, &mut buffer);
        let mut entries = Vec::new();
        while let Some(entry) = listing.next() {
            entries.extend(TrashName::parse(entry?.file_name().to_bytes()));
        }
        Ok(entries)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEASE: &str = "abcdefghijklmnop";

    fn open(directory: &Path) -> Trash {
        let scratch = std::fs::File::open(directory).unwrap();
        Trash::open(scratch.as_fd(), &directory.join("trash")).unwrap()
    }

    #[test]
    fn names_are_written_one_way_and_read_back() {
        let name = TrashName { number: 7, tenant: 1000, lease: LEASE.parse().unwrap() };
        assert_eq!(name.to_string(), "7.1000.abcdefghijklmnop");
        assert_eq!(TrashName::parse(b"7.1000.abcdefghijklmnop"), Some(name));
        for other in [
            "",
            ".",
            "..",
            "7",
            "7.1000",
            "+7.1000.abcdefghijklmnop",
            "07.1000.abcdefghijklmnop",
            "7.-1.abcdefghijklmnop",
            "7.1000.abcdefghijklmno1",
            "7.1000.abcdefghijklmnop.x",
            "7.4294967296.abcdefghijklmnop",
            "18446744073709551616.0.abcdefghijklmnop",
        ] {
            assert_eq!(TrashName::parse(other.as_bytes()), None, "{other}");
        }
        assert_eq!(TrashName::parse(b"7.1000.abcdefghijklmno\xff"), None);
    }

    #[test]
    fn entries_are_sorted_and_numbers_go_on_after_a_reopen() {
        let directory = tempfile::tempdir().unwrap();
        let lease: LeaseId = LEASE.parse().unwrap();
        let from = std::fs::File::open(directory.path()).unwrap();
        let trash = open(directory.path());
        assert!(trash.is_empty().unwrap());
        for number in 0..11 {
            std::fs::create_dir(directory.path().join("area")).unwrap();
            assert_eq!(trash.take(from.as_fd(), c"area", 5, lease).unwrap().number, number);
        }
        std::fs::write(directory.path().join("trash/not-ours"), b"").unwrap();
        std::fs::create_dir(directory.path().join("trash/12.5.abcdefghijklmnop")).unwrap();
        let numbers: Vec<u64> = trash.entries().unwrap().iter().map(|entry| entry.number).collect();
        assert_eq!(numbers, [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 12]);
        for expected in [11, 13] {
            std::fs::create_dir(directory.path().join("area")).unwrap();
            assert_eq!(trash.take(from.as_fd(), c"area", 5, lease).unwrap().number, expected, "12 is taken");
        }
        let trash = open(directory.path());
        std::fs::write(directory.path().join("area"), b"").unwrap();
        assert_eq!(trash.take(from.as_fd(), c"area", 5, lease).unwrap().number, 14);
        let missing = trash.take(from.as_fd(), c"area", 5, lease).unwrap_err();
        assert_eq!((missing.errno, missing.path.to_str()), (Errno::NOENT, Some("area")));
    }
}
