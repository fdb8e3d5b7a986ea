//! Signals as records to be read instead of handlers that interrupt.

use std::mem::MaybeUninit;
use std::os::fd::{FromRawFd, OwnedFd};

use rustix::io::Errno;
use rustix::process::Signal;

use super::identity::last_errno;

/// Bytes of a signalfd_siginfo, of which number, code and sender are read.
const RECORD_BYTES: usize = 128;
/// More than there are signals that do not queue.
const RECORDS_MAX: usize = 64;

/// Signals that are blocked in this thread and come as records.
#[derive(Debug)]
pub struct Signals {
    descriptor: OwnedFd,
}

/// One signal that came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Caught {
    /// Its number.
    pub number: i32,
    /// The process that sent it; none for the kernel's own, such as the terminal's Ctrl-C.
    pub sender: Option<i32>,
}

impl Signals {
    /// Blocks these signals in the calling thread, and makes them readable. They stay blocked.
    ///
    /// # Errors
    /// Of signalfd(2) and pthread_sigmask(3).
    pub fn block(signals: &[Signal]) -> Result<Self, Errno> {
        let mut set = MaybeUninit::<libc::sigset_t>::uninit();
        // SAFETY: sigemptyset makes the set, which the other calls then change and read; all of it outlives them.
        let descriptor = unsafe {
            libc::sigemptyset(set.as_mut_ptr());
            for signal in signals {
                libc::sigaddset(set.as_mut_ptr(), signal.as_raw());
            }
            match libc::pthread_sigmask(libc::SIG_BLOCK, set.as_ptr(), std::ptr::null_mut()) {
                0 => libc::signalfd(-1, set.as_ptr(), libc::SFD_CLOEXEC),
                errno => return Err(Errno::from_raw_os_error(errno)),
            }
        };
        if descriptor == -1 {
            return Err(last_errno());
        }
        // SAFETY: signalfd succeeded, so that the descriptor is ours alone.
        Ok(Self { descriptor: unsafe { OwnedFd::from_raw_fd(descriptor) } })
    }

    /// Waits for a signal and takes all that are pending.
    ///
    /// # Errors
    /// Of read(2).
    pub fn wait(&self) -> Result<Vec<Caught>, Errno> {
        let mut buffer = [0; RECORD_BYTES * RECORDS_MAX];
        let length = rustix::io::retry_on_intr(|| rustix::io::read(&self.descriptor, &mut buffer))?;
        Ok(buffer[..length].chunks_exact(RECORD_BYTES).map(caught).collect())
    }
}

/// Raises a signal in the calling thread, unblocked for this moment. Returns when what it does is over: for a stop, when the
/// process was continued.
///
/// Raised first and unblocked then: the terminal's own may come at the same moment (it goes to the command first), and both are
/// one stop so, since being continued takes away every stop that is pending.
pub fn raise_unblocked(signal: Signal) {
    let mut set = MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: sigemptyset makes the set before it is changed and read, and it outlives all calls.
    unsafe {
        libc::sigemptyset(set.as_mut_ptr());
        libc::sigaddset(set.as_mut_ptr(), signal.as_raw());
        libc::raise(signal.as_raw());
        libc::pthread_sigmask(libc::SIG_UNBLOCK, set.as_ptr(), std::ptr::null_mut());
        libc::pthread_sigmask(libc::SIG_BLOCK, set.as_ptr(), std::ptr::null_mut());
    }
}

/// Takes a blocked signal that is pending, if it is, and does nothing about it.
pub fn forget_pending(signal: Signal) {
    let mut set = MaybeUninit::<libc::sigset_t>::uninit();
    let now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: sigemptyset makes the set before it is changed and read; set and time outlive all calls; no information about
    // the signal is asked for.
    unsafe {
        libc::sigemptyset(set.as_mut_ptr());
        libc::sigaddset(set.as_mut_ptr(), signal.as_raw());
        libc::sigtimedwait(set.as_ptr(), std::ptr::null_mut(), &raw const now);
    }
}

/// Gives a signal its default disposition. Async-signal-safe.
pub fn restore_default(signal: Signal) {
    // SAFETY: no handler is installed, only the default; no code of ours runs for it.
    unsafe { libc::signal(signal.as_raw(), libc::SIG_DFL) };
}

/// Empties the calling thread's signal mask. Async-signal-safe.
pub(crate) fn unblock_all() {
    let mut set = MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: sigemptyset makes the set before it is read, and it outlives both calls.
    unsafe {
        libc::sigemptyset(set.as_mut_ptr());
        libc::pthread_sigmask(libc::SIG_SETMASK, set.as_ptr(), std::ptr::null_mut());
    }
}

/// ssi_signo, ssi_errno, ssi_code and ssi_pid are the record's first four words.
fn caught(record: &[u8]) -> Caught {
    let word = |index: usize| {
        let mut bytes = [0; 4];
        bytes.copy_from_slice(&record[index * 4..index * 4 + 4]);
        i32::from_ne_bytes(bytes)
    };
    // Codes of processes are 0 and below; those of the kernel are above.
    Caught { number: word(0), sender: (word(2) <= 0).then_some(word(3)) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::process::{Pid, getpid};

    #[test]
    fn a_blocked_signal_is_read_with_its_sender() {
        std::thread::spawn(|| {
            let signals = Signals::block(&[Signal::WINCH]).unwrap();
            // To this thread: the process's other threads do not block it.
            // SAFETY: no pointers; the signal is blocked here and ignored by default elsewhere.
            unsafe { libc::pthread_kill(libc::pthread_self(), libc::SIGWINCH) };
            let caught = signals.wait().unwrap();
            let sender = Some(Pid::as_raw(Some(getpid())));
            assert_eq!(caught, [Caught { number: libc::SIGWINCH, sender }]);
        })
        .join()
        .unwrap();
    }
}
