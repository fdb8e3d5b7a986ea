//! Takes away what an owner can put in the way of a removal: missing permission bits, immutable and append-only flags. Always
//! through a descriptor of the very thing, never by following a name, and never on a file that has other names.

use std::ffi::CStr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use rustix::fs::{FileType, IFlags, Mode, OFlags};
use rustix::io::Errno;

use crate::descend::{LIST, LOOK, descend};

const FLAGS_IN_THE_WAY: IFlags = IFlags::IMMUTABLE.union(IFlags::APPEND);

/// Takes away what may be behind this errno of an operation on `name`, as far as that can be done; the next try tells.
pub(crate) fn make_removable(directory: BorrowedFd<'_>, name: &CStr, errno: Errno) {
    if errno == Errno::PERM {
        // Before the mode: an immutable directory takes no chmod either.
        let _ = clear_flags_of(directory, name);
    }
    let _ = make_accessible(directory, name);
}

/// Makes an open directory one whose names can be unlinked, as far as that can be done.
pub(crate) fn make_emptiable(directory: BorrowedFd<'_>) {
    let _ = clear_flags(directory);
    let _ = rustix::fs::fchmod(directory, Mode::RWXU);
}

/// Gives the owner all rights to the directory `name`. Through an O_PATH descriptor, since one to read can't be had of a
/// directory of mode 000.
///
/// # Errors
/// ENOTDIR for anything else, EPERM when it is another's.
fn make_accessible(directory: BorrowedFd<'_>, name: &CStr) -> Result<(), Errno> {
    let held = descend(directory, name, LOOK)?;
    let found = rustix::fs::fstat(&held)?;
    if !FileType::from_raw_mode(found.st_mode).is_dir() {
        return Err(Errno::NOTDIR);
    }
    let mode = Mode::from_raw_mode(found.st_mode);
    if mode.contains(Mode::RWXU) {
        return Ok(());
    }
    chmod_held(held.as_fd(), mode | Mode::RWXU)
}

/// Clears the flags of a directory, or of a regular file whose only name this is.
///
/// # Errors
/// Of openat(2) and ioctl(2); nothing is an error where there is nothing to clear.
fn clear_flags_of(directory: BorrowedFd<'_>, name: &CStr) -> Result<(), Errno> {
    let looked = rustix::fs::fstat(descend(directory, name, LOOK)?)?;
    let flags = match FileType::from_raw_mode(looked.st_mode) {
        FileType::Directory => LIST,
        FileType::RegularFile if looked.st_nlink == 1 => {
            OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOFOLLOW | OFlags::CLOEXEC
        }
        _ => return Ok(()),
    };
    let held = descend(directory, name, flags)?;
    let opened = rustix::fs::fstat(&held)?;
    if (opened.st_dev, opened.st_ino) != (looked.st_dev, looked.st_ino) {
        // Swapped since it was looked at: what was judged is not what is held.
        return Err(Errno::STALE);
    }
    clear_flags(held.as_fd())
}

/// Clears the flags of what is open.
pub(crate) fn clear_flags(held: BorrowedFd<'_>) -> Result<(), Errno> {
    let flags = rustix::fs::ioctl_getflags(held)?;
    if flags.intersects(FLAGS_IN_THE_WAY) {
        rustix::fs::ioctl_setflags(held, flags - FLAGS_IN_THE_WAY)?;
    }
    Ok(())
}

/// Sets the mode of what an O_PATH descriptor holds; EOPNOTSUPP for a symbolic link.
pub(crate) fn chmod_held(held: BorrowedFd<'_>, mode: Mode) -> Result<(), Errno> {
    match scratch_sys::fchmodat2(held, mode) {
        // Before Linux 6.6, or under a seccomp filter: the one road through a name, but of our own descriptor.
        Err(Errno::NOSYS | Errno::PERM) => rustix::fs::chmod(format!("/proc/self/fd/{}", held.as_raw_fd()), mode),
        result => result,
    }
}
