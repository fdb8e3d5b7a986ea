//! What a tree holds on disk. Walks as the removal does, but changes nothing: never through a link, never across a mount,
//! with few descriptors at any depth.

use std::collections::HashSet;
use std::ffi::{CStr, CString};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{AtFlags, FileType, Mode, RawDir, Statx, StatxAttributes, StatxFlags};
use rustix::io::Errno;

use crate::descend::{LIST, descend};

/// Directories held at once; those above are opened again on the way back.
const HELD_MAX: usize = 32;

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
    // `.` has a position of its own, so that the caller's descriptor is left as it is.
    match descend(directory, c".", LIST) {
        Ok(own) => Meter::default().run(own),
        Err(_) => Usage::default(),
    }
}

/// Meters whatever `name` is; None when it is not there.
pub(crate) fn usage_of(directory: BorrowedFd<'_>, name: &CStr) -> Option<Usage> {
    let mut meter = Meter::default();
    match (descend(directory, name, LIST), look(directory, name)) {
        (Ok(opened), _) => return Some(meter.run(opened)),
        (Err(Errno::NOENT), _) => return None,
        (Err(_), Ok(found)) => meter.count(&found),
        // It is there, and that is all that can be said.
        (Err(_), Err(_)) => {}
    }
    Some(meter.usage)
}

#[derive(Default)]
struct Meter {
    usage: Usage,
    /// Of files with several names: device and inode.
    counted: HashSet<(u32, u32, u64)>,
    stack: Vec<Level>,
}

struct Level {
    /// None while too many below it are open.
    directory: Option<OwnedFd>,
    identity: (u32, u32, u64),
    pending: Vec<CString>,
}

impl Meter {
    fn run(mut self, root: OwnedFd) -> Usage {
        let mut buffer = Box::new_uninit_slice(64 << 10);
        self.enter(root, &mut buffer);
        while let Some(level) = self.stack.last_mut() {
            match (level.pending.pop(), &level.directory) {
                (Some(name), Some(directory)) => {
                    // Ignoring: a mount, or gone, or closed to us; it does not count.
                    if let Ok(opened) = descend(directory.as_fd(), &name, LIST) {
                        self.enter(opened, &mut buffer);
                    }
                }
                _ => self.leave(),
            }
        }
        self.usage
    }

    /// Counts a directory and its files, and keeps its sub-directories for later.
    fn enter(&mut self, directory: OwnedFd, buffer: &mut [MaybeUninit<u8>]) {
        let Ok(found) = look(directory.as_fd(), c"") else { return };
        self.count(&found);
        let mut pending = Vec::new();
        let mut listing = RawDir::new(&directory, buffer);
        // An error ends the listing: what was counted so far stands.
        while let Some(Ok(entry)) = listing.next() {
            let name = entry.file_name();
            if matches!(name.to_bytes(), b"." | b"..") {
                continue;
            }
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
        if let Some(above) = self.stack.len().checked_sub(HELD_MAX) {
            self.stack[above].directory = None;
        }
        self.stack.push(Level { directory: Some(directory), identity: identity(&found), pending });
    }

    /// Goes up one level, and opens it again if need be: by `..`, which counts only if it is the directory we came from.
    fn leave(&mut self) {
        let left = self.stack.pop();
        let (Some(below), Some(level)) = (left.and_then(|level| level.directory), self.stack.last_mut()) else {
            return;
        };
        if level.directory.is_none() {
            level.directory = reopen_above(below.as_fd(), level.identity).ok();
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

fn reopen_above(below: BorrowedFd<'_>, identity_above: (u32, u32, u64)) -> Result<OwnedFd, Errno> {
    let above = rustix::fs::openat(below, c"..", LIST, Mode::empty())?;
    let found = look(above.as_fd(), c"")?;
    if identity(&found) == identity_above { Ok(above) } else { Err(Errno::STALE) }
}

fn look(directory: BorrowedFd<'_>, name: &CStr) -> Result<Statx, Errno> {
    let at = AtFlags::EMPTY_PATH | AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT;
    rustix::fs::statx(directory, name, at, WANTED)
}

fn identity(found: &Statx) -> (u32, u32, u64) {
    (found.stx_dev_major, found.stx_dev_minor, found.stx_ino)
}
