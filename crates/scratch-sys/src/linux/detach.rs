//! Starts a daemon: not our child, in a session of its own, with none of our descriptors.

use std::ffi::{CStr, OsStr, OsString};
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{Pid, Signal, WaitOptions};

use super::exec::Image;
use super::identity::last_errno;
use super::{signals, spawn};

/// What to start.
#[derive(Debug)]
pub struct Detached<'a> {
    /// Its file; not searched for if there is a slash in it.
    pub program: &'a OsStr,
    /// Its name and arguments.
    pub arguments: &'a [OsString],
    /// The whole environment.
    pub environment: &'a [(OsString, OsString)],
    /// Becomes its standard output and error.
    pub log: BorrowedFd<'a>,
    /// Becomes descriptor [`READY_NUMBER`]. All others are closed, standard input is /dev/null.
    pub ready: BorrowedFd<'a>,
}

/// The number at which a detached process finds its readiness pipe.
pub const READY_NUMBER: RawFd = 3;
/// Where a detached process reports that it can't be executed.
const REPORT_NUMBER: RawFd = 4;
/// Copies are made above all numbers that are given out.
const ASIDE: RawFd = 10;

/// Forks twice, so that the daemon is nobody's child and leads no session; returns when it has become its program. It
/// starts in `/` with no signal blocked or ignored.
///
/// # Errors
/// Of fork(2), open(2), close_range(2) and execve(2).
pub fn spawn_detached(detached: &Detached<'_>) -> Result<(), Errno> {
    let mut image = Image::new(detached.program, detached.arguments, detached.environment)?;
    let null = rustix::fs::open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())?;
    let (failure, report) = pipe_with(PipeFlags::CLOEXEC)?;
    let numbers = [null.as_raw_fd(), detached.log.as_raw_fd(), detached.ready.as_raw_fd(), report.as_raw_fd()];
    // SAFETY: the child calls only `detach`, which keeps to async-signal-safe calls and never returns.
    match unsafe { libc::fork() } {
        -1 => return Err(last_errno()),
        0 => detach(&mut image, numbers),
        between => {
            let between = Pid::from_raw(between).ok_or(Errno::SRCH)?;
            // Where SIGCHLD is ignored, there is nothing to wait for, and waiting says so.
            let _ = rustix::io::retry_on_intr(|| rustix::process::waitpid(Some(between), WaitOptions::empty()));
        }
    }
    drop(report);
    let mut errno = [0; 4];
    match rustix::io::retry_on_intr(|| rustix::io::read(&failure, &mut errno))? {
        4 => Err(Errno::from_raw_os_error(i32::from_ne_bytes(errno))),
        _ => Ok(()),
    }
}

/// In the process between: leaves the session, forks once more and ends.
fn detach(image: &mut Image, numbers: [RawFd; 4]) -> ! {
    // SAFETY: setsid, fork and _exit are async-signal-safe and take no pointers; the child calls only `become_daemon`,
    // which keeps to such calls and never returns.
    unsafe {
        libc::setsid();
        match libc::fork() {
            -1 => spawn::exit_with(numbers[3], last_errno().raw_os_error()),
            0 => become_daemon(image, numbers),
            _ => libc::_exit(0),
        }
    }
}

/// In the daemon's process: puts everything in its place and becomes the program.
fn become_daemon(image: &mut Image, numbers: [RawFd; 4]) -> ! {
    let [_, _, _, report] = numbers;
    if let Err(errno) = place(numbers) {
        spawn::exit_with(report, errno.raw_os_error());
    }
    for number in 1..=libc::SIGRTMAX() {
        if let Some(signal) = Signal::from_named_raw(number) {
            signals::restore_default(signal);
        }
    }
    signals::unblock_all();
    let root: &CStr = c"/";
    // SAFETY: chdir reads a C string that lives for ever. `/` can always be entered.
    unsafe { libc::chdir(root.as_ptr()) };
    let errno = image.execute();
    spawn::exit_with(REPORT_NUMBER, errno.raw_os_error())
}

/// In the daemon's process: standard descriptors, readiness pipe and report in their places, everything else closed.
fn place(numbers: [RawFd; 4]) -> Result<(), Errno> {
    let mut aside = [0; 4];
    for (copy, number) in aside.iter_mut().zip(numbers) {
        // SAFETY: copies a descriptor that is open; no pointers.
        *copy = checked(unsafe { libc::fcntl(number, libc::F_DUPFD, ASIDE) })?;
    }
    let [null, log, ready, report] = aside;
    for (number, target) in [(null, 0), (log, 1), (log, 2), (ready, READY_NUMBER)] {
        // SAFETY: `number` is open; what `target` was, has a copy above or is not wanted.
        checked(unsafe { libc::dup2(number, target) })?;
    }
    // SAFETY: as above; the kernel closes the rest, none of which is used again in this process.
    unsafe {
        checked(libc::dup3(report, REPORT_NUMBER, libc::O_CLOEXEC))?;
        let first = (REPORT_NUMBER + 1).cast_unsigned();
        match libc::syscall(libc::SYS_close_range, first, u32::MAX, 0) {
            0 => Ok(()),
            _ => Err(last_errno()),
        }
    }
}

fn checked(result: libc::c_int) -> Result<libc::c_int, Errno> {
    if result == -1 { Err(last_errno()) } else { Ok(result) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;
    use std::os::fd::AsFd;

    fn start(program: &str, script: &str) -> Result<(String, String), Errno> {
        let (ready, ready_far) = pipe_with(PipeFlags::CLOEXEC).unwrap();
        let mut log = tempfile::tempfile().unwrap();
        let arguments = ["sh", "-c", script].map(OsString::from);
        spawn_detached(&Detached {
            program: OsStr::new(program),
            arguments: &arguments,
            environment: &[("PATH".into(), "/bin:/usr/bin".into())],
            log: log.as_fd(),
            ready: ready_far.as_fd(),
        })?;
        drop(ready_far);
        let mut line = String::new();
        std::fs::File::from(ready).read_to_string(&mut line).unwrap();
        let mut logged = String::new();
        std::io::Seek::rewind(&mut log).unwrap();
        log.read_to_string(&mut logged).unwrap();
        Ok((line, logged))
    }

    #[test]
    fn a_daemon_has_a_session_of_its_own_and_none_of_our_descriptors() {
        let (_inherited, _far) = rustix::pipe::pipe().unwrap();
        let script = "cut -d' ' -f6 /proc/$$/stat >&2; pwd >&2; exec ls /proc/self/fd >&3";
        let (open, log) = start("/bin/sh", script).unwrap();
        assert_eq!(open, "0\n1\n2\n3\n4\n", "the last is the directory that ls reads");
        let mut lines = log.lines();
        let session: u32 = lines.next().unwrap().parse().unwrap();
        let own = std::fs::read_to_string("/proc/self/stat").unwrap();
        assert_ne!(own.rsplit(") ").next().unwrap().split(' ').nth(3), Some(session.to_string().as_str()));
        assert_eq!(lines.next(), Some("/"));
    }

    #[test]
    fn a_program_that_is_not_there_is_an_error() {
        assert_eq!(start("/no/such/program", "").unwrap_err(), Errno::NOENT);
    }
}
