//! Copies a single file, symbolic link or FIFO. What it is copied to is private until it is whole.

use std::ffi::CStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{AtFlags, FileType, Mode, OFlags, Stat};
use rustix::io::Errno;

use crate::create::NEW_FILE;
use crate::descend::{LOOK, descend};
use crate::persist::attributes::{keep_attributes, kept_mode, times};
use crate::persist::content::Content;
use crate::repair::chmod_held;

/// NONBLOCK, so that a FIFO swapped in is no wait.
const READ: OFlags =
    OFlags::RDONLY.union(OFlags::NOFOLLOW).union(OFlags::NONBLOCK).union(OFlags::NOCTTY).union(OFlags::CLOEXEC);

pub(super) const OWNER: Mode = Mode::RUSR.union(Mode::WUSR);

/// Opens a regular file to be copied.
///
/// # Errors
/// EXDEV for what is mounted there, ESTALE for what is no regular file any more, those of openat(2).
pub(super) fn open_source(from: BorrowedFd<'_>, name: &CStr) -> Result<(OwnedFd, Stat), Errno> {
    let source = descend(from, name, READ)?;
    let found = rustix::fs::fstat(&source)?;
    let regular = FileType::from_raw_mode(found.st_mode).is_file();
    if regular { Ok((source, found)) } else { Err(Errno::STALE) }
}

/// Copies a regular file in a tree.
pub(super) fn copy_file(
    content: &mut Content,
    from: BorrowedFd<'_>,
    name: &CStr,
    to: BorrowedFd<'_>,
) -> Result<(), Errno> {
    let (source, found) = open_source(from, name)?;
    let made = rustix::fs::openat(to, name, NEW_FILE, OWNER)?;
    fill(content, source.as_fd(), &found, made.as_fd())
}

/// Makes an empty file a copy.
pub(super) fn fill(
    content: &mut Content,
    source: BorrowedFd<'_>,
    found: &Stat,
    made: BorrowedFd<'_>,
) -> Result<(), Errno> {
    content.copy(source, found, made)?;
    keep_attributes(source, found, made)
}

/// Copies a symbolic link or a FIFO. On an error nothing is left behind.
///
/// # Errors
/// EOPNOTSUPP for a socket or device, which is nobody's data; EXDEV for what is mounted there.
pub(super) fn copy_special(
    from: BorrowedFd<'_>,
    name: &CStr,
    to: BorrowedFd<'_>,
    new_name: &CStr,
) -> Result<Stat, Errno> {
    let source = descend(from, name, LOOK)?;
    let found = rustix::fs::fstat(&source)?;
    match FileType::from_raw_mode(found.st_mode) {
        FileType::Symlink => {
            let target = rustix::fs::readlinkat(&source, c"", Vec::new())?;
            rustix::fs::symlinkat(&target, to, new_name)?;
        }
        FileType::Fifo => {
            rustix::fs::mknodat(to, new_name, FileType::Fifo, OWNER, 0)?;
            set_fifo_mode(&found, to, new_name).inspect_err(|_| {
                // Best effort: the error that is told is the one that came first.
                let _ = rustix::fs::unlinkat(to, new_name, AtFlags::empty());
            })?;
        }
        _ => return Err(Errno::OPNOTSUPP),
    }
    // Ignoring: a file system without times.
    let _ = rustix::fs::utimensat(to, new_name, &times(&found), AtFlags::SYMLINK_NOFOLLOW);
    Ok(found)
}

fn set_fifo_mode(found: &Stat, to: BorrowedFd<'_>, new_name: &CStr) -> Result<(), Errno> {
    let held = descend(to, new_name, LOOK)?;
    let made = rustix::fs::fstat(&held)?;
    if !FileType::from_raw_mode(made.st_mode).is_fifo() || made.st_nlink != 1 {
        // Swapped: its mode is not ours to set.
        return Err(Errno::STALE);
    }
    chmod_held(held.as_fd(), kept_mode(found, &made))
}
