//! A descriptor that this process was started with, told by its number.

use std::os::fd::{FromRawFd, OwnedFd, RawFd};
use std::sync::Mutex;

/// Numbers that were taken: nobody else may own them again.
static TAKEN: Mutex<Vec<RawFd>> = Mutex::new(Vec::new());

/// Takes an inherited descriptor, once, and makes it close-on-exec. `None` when it is not open, is one of the standard
/// three, was taken, or is close-on-exec already: that one was opened by this process and is somebody's.
pub fn take_inherited_descriptor(number: RawFd) -> Option<OwnedFd> {
    let mut taken = TAKEN.lock().ok()?;
    if number <= 2 || taken.contains(&number) {
        return None;
    }
    // SAFETY: F_GETFD takes any number and only answers.
    let flags = unsafe { libc::fcntl(number, libc::F_GETFD) };
    if flags < 0 || flags & libc::FD_CLOEXEC != 0 {
        return None;
    }
    // SAFETY: the number is open, as was just seen; the call changes only its flag.
    if unsafe { libc::fcntl(number, libc::F_SETFD, libc::FD_CLOEXEC) } != 0 {
        return None;
    }
    taken.push(number);
    // SAFETY: open, inherited (everything of this process's own making is close-on-exec), and taken by nobody else.
    Some(unsafe { OwnedFd::from_raw_fd(number) })
}
