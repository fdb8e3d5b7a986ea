//! chmod(2) of what an O_PATH descriptor holds, which fchmod(2) refuses.

use std::os::fd::{AsRawFd, BorrowedFd};

use rustix::fs::Mode;
use rustix::io::Errno;

use super::identity::last_errno;

/// fchmodat2(2) has this number on every architecture but alpha; libc does not name it everywhere yet.
pub(super) const SYS_FCHMODAT2: libc::c_long = 452;

/// Sets the mode of what is held, O_PATH or not, by fchmodat2(2).
///
/// # Errors
/// ENOSYS before Linux 6.6; EOPNOTSUPP for a symbolic link, whose target stays as it is.
pub fn fchmodat2(held: BorrowedFd<'_>, mode: Mode) -> Result<(), Errno> {
    // SAFETY: the descriptor is open for the call's time, the path is a NUL-terminated constant, and the kernel writes
    // no memory of ours.
    let result = unsafe {
        libc::syscall(SYS_FCHMODAT2, held.as_raw_fd(), c"".as_ptr(), mode.as_raw_mode(), libc::AT_EMPTY_PATH)
    };
    if result == 0 { Ok(()) } else { Err(last_errno()) }
}
