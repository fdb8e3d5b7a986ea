//! What has ended and can be brought back for a while, in `.scratch/gone`. One rename takes a lease's directory there, one
//! brings it back, one makes trash of it: its name says until when, so that nothing has to be written down beside it.

use std::ffi::CString;
use std::fmt;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;

use rustix::fs::{AtFlags, RenameFlags, Stat};
use rustix::io::Errno;
use scratch_lease::LeaseId;

use crate::FsError;
use crate::end::Place;
use crate::files::names;
use crate::repair::make_removable;
use crate::trash::{Trash, TrashName};

/// `<nanoseconds>.<lease id>`: the directory of a lease that can be brought back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GoneName {
    /// Until when, on CLOCK_BOOTTIME of the boot in which it ended.
    pub until: u64,
    /// Whose directory it is.
    pub lease: LeaseId,
}

impl GoneName {
    /// Reads a name as directory listings give it; None for anything that [`fmt::Display`] would not write.
    #[must_use]
    pub fn parse(name: &[u8]) -> Option<Self> {
        let (until, lease) = std::str::from_utf8(name).ok()?.split_once('.')?;
        let parsed = Self { until: until.parse().ok()?, lease: lease.parse().ok()? };
        // Integers also parse with `+` and leading zeros, which would be two names of one thing.
        (parsed.to_string().as_bytes() == name).then_some(parsed)
    }

    fn to_cstring(self) -> CString {
        CString::new(self.to_string()).expect("digits, a dot and base32 have no NUL")
    }
}

impl fmt::Display for GoneName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.until, self.lease)
    }
}

/// The directory `gone` of one pool.
#[derive(Debug)]
pub struct Gone {
    directory: OwnedFd,
    shown: PathBuf,
}

impl Gone {
    pub(crate) fn new(directory: OwnedFd, shown: PathBuf) -> Self {
        Self { directory, shown }
    }

    pub(crate) fn directory(&self) -> BorrowedFd<'_> {
        self.directory.as_fd()
    }

    /// What is there. Names that do not parse are nobody's to remove, and left out.
    ///
    /// # Errors
    /// When the directory can't be listed.
    pub fn entries(&self) -> Result<Vec<GoneName>, FsError> {
        let found = names(self.directory.as_fd(), &self.shown)?;
        Ok(found.iter().filter_map(|name| GoneName::parse(name.to_bytes())).collect())
    }

    /// Takes a lease's directory out of the pool's root, and nothing else of its name. False: it was not there.
    ///
    /// # Errors
    /// As those of [`Trash::take`].
    pub fn take(&self, root: BorrowedFd<'_>, name: GoneName, place: Place) -> Result<bool, FsError> {
        let lease = CString::new(name.lease.as_str()).expect("a lease id has no NUL");
        if !rustix::fs::statat(root, &lease, AtFlags::SYMLINK_NOFOLLOW).is_ok_and(|found| place.is(&found)) {
            return Ok(false);
        }
        let rename =
            || rustix::fs::renameat_with(root, &lease, &self.directory, name.to_cstring(), RenameFlags::NOREPLACE);
        let renamed = rename().or_else(|errno| match errno {
            Errno::ACCESS | Errno::PERM => {
                make_removable(root, &lease, errno);
                rename()
            }
            errno => Err(errno),
        });
        match renamed {
            Ok(()) => match self.look(name) {
                Ok(moved) if place.is(&moved) => Ok(true),
                // It took the lease's name in this instant; or whose it is can't be told.
                _ => self.give_back(name, root).map(|()| false),
            },
            Err(Errno::NOENT) => Ok(false),
            Err(errno) => Err(FsError::new("take out of sight", self.shown.join(name.to_string()), errno)),
        }
    }

    /// Brings a lease's directory back to its path.
    ///
    /// # Errors
    /// ENOENT when it is not here, EEXIST when its path is taken, those of renameat2(2) else.
    pub fn give_back(&self, name: GoneName, root: BorrowedFd<'_>) -> Result<(), FsError> {
        rustix::fs::renameat_with(&self.directory, name.to_cstring(), root, name.lease.as_str(), RenameFlags::NOREPLACE)
            .map_err(|errno| FsError::new("bring back", self.shown.join(name.to_string()), errno))
    }

    /// Makes trash of it. None: it was not there.
    ///
    /// # Errors
    /// As those of [`Trash::take`].
    pub fn discard(&self, name: GoneName, tenant: u32, trash: &Trash) -> Result<Option<TrashName>, FsError> {
        match trash.take(self.directory.as_fd(), &name.to_cstring(), tenant, name.lease) {
            Ok(tree) => Ok(Some(tree)),
            Err(error) if error.errno == Errno::NOENT => Ok(None),
            Err(error) => Err(FsError { path: self.shown.join(name.to_string()), ..error }),
        }
    }

    /// Who owns it.
    ///
    /// # Errors
    /// Of fstatat(2).
    pub fn owner(&self, name: GoneName) -> Result<u32, FsError> {
        self.look(name).map(|found| found.st_uid)
    }

    fn look(&self, name: GoneName) -> Result<Stat, FsError> {
        rustix::fs::statat(&self.directory, name.to_cstring(), AtFlags::SYMLINK_NOFOLLOW)
            .map_err(|errno| FsError::new("look at", self.shown.join(name.to_string()), errno))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::MetadataExt;

    const LEASE: &str = "abcdefghijklmnop";

    #[test]
    fn names_are_written_one_way_and_read_back() {
        let name = GoneName { until: 7, lease: LEASE.parse().unwrap() };
        assert_eq!(name.to_string(), "7.abcdefghijklmnop");
        assert_eq!(GoneName::parse(b"7.abcdefghijklmnop"), Some(name));
        for other in ["", ".", "7", "+7.abcdefghijklmnop", "07.abcdefghijklmnop", "7.abcdefghijklmno1", "7.a.b"] {
            assert_eq!(GoneName::parse(other.as_bytes()), None, "{other}");
        }
    }

    #[test]
    fn a_directory_goes_comes_back_and_becomes_trash() {
        let pool = tempfile::tempdir().unwrap();
        fs::create_dir_all(pool.path().join(".scratch/gone")).unwrap();
        fs::create_dir(pool.path().join(LEASE)).unwrap();
        fs::write(pool.path().join(LEASE).join("file"), "content").unwrap();
        fs::write(pool.path().join(".scratch/gone/not-ours"), "").unwrap();
        let open = |path: &str| fs::File::open(pool.path().join(path)).unwrap();
        let (root, scratch) = (open("."), open(".scratch"));
        let gone = Gone::new(open(".scratch/gone").into(), pool.path().join(".scratch/gone"));
        let trash = Trash::open(scratch.as_fd(), &pool.path().join(".scratch/trash")).unwrap();
        let name = GoneName { until: 9, lease: LEASE.parse().unwrap() };
        let made = fs::metadata(pool.path().join(LEASE)).unwrap();
        let place = Place::This { device: made.dev(), inode: made.ino() };

        assert_eq!(gone.give_back(name, root.as_fd()).unwrap_err().errno, Errno::NOENT);
        assert_eq!(gone.take(root.as_fd(), name, place), Ok(true));
        assert_eq!((gone.take(root.as_fd(), name, place), gone.entries()), (Ok(false), Ok(vec![name])));
        assert_eq!(gone.owner(name), Ok(rustix::process::geteuid().as_raw()));
        assert!(!pool.path().join(LEASE).exists());
        gone.give_back(name, root.as_fd()).unwrap();
        assert_eq!(fs::read_to_string(pool.path().join(LEASE).join("file")).unwrap(), "content");
        assert_eq!(gone.discard(name, 5, &trash), Ok(None));
        assert_eq!(gone.take(root.as_fd(), name, place), Ok(true));
        fs::create_dir(pool.path().join(LEASE)).unwrap();
        assert_eq!(gone.give_back(name, root.as_fd()).unwrap_err().errno, Errno::EXIST);
        let other = GoneName { until: 10, ..name };
        assert_eq!(gone.take(root.as_fd(), other, place), Ok(false), "another one has its path now");
        assert!(pool.path().join(LEASE).is_dir());
        let tree = gone.discard(name, 5, &trash).unwrap().unwrap();
        assert_eq!((trash.entries().unwrap(), gone.entries()), (vec![tree], Ok(vec![])));
    }
}
