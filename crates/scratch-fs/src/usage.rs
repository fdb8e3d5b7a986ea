//! What a tree holds on disk. Walks as the removal does, but changes nothing: never through a link, never across a mount,
//! with few descriptors at any depth.

use std::collections::HashSet;
use std::ffi::{CStr, CString};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{AtFlags, FileType, RawDir, Statx, StatxAttributes, StatxFlags};
use rustix::io::Errno;

use scratch_sys::Project;

use crate::QuotaId;
use crate::descend::{LIST, descend};
use crate::ladder::{Identity, Ladder};

const WANTED: StatxFlags = StatxFlags::TYPE.union(StatxFlags::NLINK).union(StatxFlags::INO).union(StatxFlags::BLOCKS);

/// Bytes and inodes; a file with several names counts once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Usage {
    /// Bytes of the blocks on disk.
    pub bytes: u64,
    /// Files, directories and all else that has an inode, the directory itself included.
    pub inodes: u64,
}

/// Meters a directory with all below it. The tree may be changing, so that the figure is of no single moment; what can't be
/// looked at, or is gone by then, does not count.
#[must_use]
pub fn usage(directory: BorrowedFd<'_>) -> Usage {
    usage_within(directory, usize::MAX).unwrap_or_default()
}

/// As [`usage`], and given up as soon as more than `names_max` names below the directory were looked at: then None. What it
/// costs is bounded so, in time and memory.
#[must_use]
pub fn usage_within(directory: BorrowedFd<'_>, names_max: usize) -> Option<Usage> {
    // `.` has a position of its own, so that the caller's descriptor is left as it is.
    match descend(directory, c".", LIST) {
        Ok(own) => Meter::new(names_max).run(own).map(|walked| walked.usage),
        Err(_) => Some(Usage::default()),
    }
}

/// As [`usage_within`], of a lease's directory that is counted in a quota: also says whether all of it is. Its owner can
/// take directories out of a project, and make subvolumes in a subvolume.
#[must_use]
pub fn usage_in_quota(directory: BorrowedFd<'_>, quota: QuotaId, names_max: usize) -> Option<Walked> {
    match descend(directory, c".", LIST) {
        Ok(own) => Meter { quota, ..Meter::new(names_max) }.run(own),
        Err(_) => Some(Walked::default()),
    }
}

/// What a walk through a lease has found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Walked {
    /// Bytes and inodes, whoever counts them.
    pub usage: Usage,
    /// A directory of it is not counted in its quota.
    pub evaded: bool,
}

/// What one name is and the bytes of its blocks on disk, never following; of a directory without what is in it.
///
/// # Errors
/// Of statx(2).
pub fn allocated(directory: BorrowedFd<'_>, name: &CStr) -> Result<(FileType, u64), Errno> {
    let found = look(directory, name)?;
    Ok((FileType::from_raw_mode(found.stx_mode.into()), found.stx_blocks * 512))
}

/// Meters whatever `name` is; None when it is not there.
pub(crate) fn usage_of(directory: BorrowedFd<'_>, name: &CStr) -> Option<Usage> {
    let mut meter = Meter::new(usize::MAX);
    match (descend(directory, name, LIST), look(directory, name)) {
        (Ok(opened), _) => return meter.run(opened).map(|walked| walked.usage),
        (Err(Errno::NOENT), _) => return None,
        (Err(_), Ok(found)) => meter.count(&found),
        // It is there, and that is all that can be said.
        (Err(_), Err(_)) => {}
    }
    Some(meter.usage)
}

struct Meter {
    usage: Usage,
    quota: QuotaId,
    /// The device of the directory that it began with: each subvolume has its own.
    device: Option<u64>,
    evaded: bool,
    /// Names that may still be looked at.
    names_left: usize,
    /// Of files with several names: device and inode.
    counted: HashSet<Identity>,
    /// With the sub-directories that are still to be entered.
    ladder: Ladder<Vec<CString>>,
}

impl Meter {
    fn new(names_max: usize) -> Self {
        Self {
            usage: Usage::default(),
            quota: QuotaId::None,
            device: None,
            evaded: false,
            names_left: names_max,
            counted: HashSet::new(),
            ladder: Ladder::new(),
        }
    }

    /// None when the names were too many.
    fn run(mut self, root: OwnedFd) -> Option<Walked> {
        let mut buffer = Box::new_uninit_slice(64 << 10);
        self.enter(root, &mut buffer)?;
        while let Some((directory, pending)) = self.ladder.lowest() {
            match (pending.pop(), directory) {
                (Some(name), Ok(directory)) => {
                    // Ignoring: a mount, or gone, or closed to us; it does not count.
                    if let Ok(opened) = descend(directory, &name, LIST) {
                        self.enter(opened, &mut buffer)?;
                    }
                }
                _ => drop(self.ladder.pop()),
            }
        }
        Some(Walked { usage: self.usage, evaded: self.evaded })
    }

    /// Counts a directory and its files, and keeps its sub-directories for later.
    fn enter(&mut self, directory: OwnedFd, buffer: &mut [MaybeUninit<u8>]) -> Option<()> {
        let Ok(found) = look(directory.as_fd(), c"") else { return Some(()) };
        self.count(&found);
        self.evaded |= self.is_outside(directory.as_fd(), &found);
        let mut pending = Vec::new();
        let mut listing = RawDir::new(&directory, buffer);
        // An error ends the listing: what was counted so far stands.
        while let Some(Ok(entry)) = listing.next() {
            let name = entry.file_name();
            if matches!(name.to_bytes(), b"." | b"..") {
                continue;
            }
            self.names_left = self.names_left.checked_sub(1)?;
            if entry.file_type() == FileType::Directory {
                pending.push(name.to_owned());
            } else if let Ok(found) = look(directory.as_fd(), name) {
                match FileType::from_raw_mode(found.stx_mode.into()) {
                    FileType::Directory => pending.push(name.to_owned()),
                    _ if found.stx_attributes.contains(StatxAttributes::MOUNT_ROOT) => {}
                    _ => self.count(&found),
                }
            }
        }
        self.ladder.push(directory, identity(&found), pending);
        Some(())
    }

    fn is_outside(&mut self, directory: BorrowedFd<'_>, found: &Statx) -> bool {
        match self.quota {
            QuotaId::None | QuotaId::Memory(_) => false,
            // Unknown is not evaded.
            QuotaId::Project(id) => {
                scratch_sys::project(directory).is_ok_and(|found| found != Project { id, inherited: true })
            }
            QuotaId::Subvolume(_) => {
                let device = identity(found).0;
                *self.device.get_or_insert(device) != device
            }
        }
    }

    fn count(&mut self, found: &Statx) {
        let several = found.stx_nlink > 1 && !FileType::from_raw_mode(found.stx_mode.into()).is_dir();
        if !several || self.counted.insert(identity(found)) {
            self.usage.bytes += found.stx_blocks * 512;
            self.usage.inodes += 1;
        }
    }
}

fn look(directory: BorrowedFd<'_>, name: &CStr) -> Result<Statx, Errno> {
    let at = AtFlags::EMPTY_PATH | AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT;
    rustix::fs::statx(directory, name, at, WANTED)
}

fn identity(found: &Statx) -> Identity {
    (rustix::fs::makedev(found.stx_dev_major, found.stx_dev_minor), found.stx_ino)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn a_tree_with_one_name_too_many_has_no_figure() {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir_all(root.path().join("a/b")).unwrap();
        fs::write(root.path().join("a/b/file"), [1; 9000]).unwrap();
        fs::write(root.path().join("file"), b"").unwrap();
        let held = fs::File::open(root.path()).unwrap();
        let all = usage(held.as_fd());
        assert!(all.inodes == 5 && all.bytes >= 9000, "{all:?}");
        assert_eq!(usage_within(held.as_fd(), 4), Some(all));
        for names_max in 0..4 {
            assert_eq!(usage_within(held.as_fd(), names_max), None);
        }
    }

    #[test]
    fn one_name_is_looked_at_and_not_followed() {
        let root = tempfile::tempdir().unwrap();
        fs::write(root.path().join("file"), [1; 9000]).unwrap();
        std::os::unix::fs::symlink("file", root.path().join("link")).unwrap();
        let held = fs::File::open(root.path()).unwrap();
        let (kind, bytes) = allocated(held.as_fd(), c"file").unwrap();
        assert!(kind == FileType::RegularFile && bytes >= 9000, "{bytes}");
        let (kind, bytes) = allocated(held.as_fd(), c"link").unwrap();
        assert!(kind == FileType::Symlink && bytes < 9000, "{bytes}");
        assert_eq!(allocated(held.as_fd(), c"missing").unwrap_err(), Errno::NOENT);
    }
}
