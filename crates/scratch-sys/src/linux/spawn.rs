//! Starts a command that waits, as a process with a pidfd, until it is told to become its program. What it is to be is made
//! before the fork; in the child only async-signal-safe calls are made.

use std::ffi::OsString;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd, RawFd};

use rustix::io::Errno;
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{Pid, PidfdFlags, Resource, Signal};

use super::exec::Image;
use super::identity::last_errno;
use super::mounts::OwnMounts;
use super::signals;

/// Shells and `subprocess` libraries use low numbers for themselves, and programs close "all" up to some number; below
/// 1000 it also stays within select(2)'s sets.
const KEPT_NUMBER_MAX: RawFd = 1000;

/// What to start.
#[derive(Debug)]
pub struct Spawn<'a> {
    /// The program, searched along the environment's PATH, and its arguments.
    pub arguments: &'a [OsString],
    /// The whole environment.
    pub environment: &'a [(OsString, OsString)],
    /// Stays open in the command, at the highest free number below 1000.
    pub kept: BorrowedFd<'a>,
    /// Signals whose dispositions this process changed and the command is to find as default.
    pub defaults: &'a [Signal],
    /// What it is to find mounted in a mount namespace of its own; `None`: it stays in ours.
    pub mounts: Option<&'a OwnMounts>,
}

/// Why a process did not become the command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NotStarted {
    /// It could not get mounts of its own.
    Mounts(Errno),
    /// Its program can't be executed, or this process can't hear of it.
    Execute(Errno),
}

impl NotStarted {
    /// On the way to the parent: a negative number is of the mounts.
    fn to_raw(self) -> i32 {
        match self {
            Self::Mounts(errno) => -errno.raw_os_error(),
            Self::Execute(errno) => errno.raw_os_error(),
        }
    }

    fn from_raw(raw: i32) -> Self {
        let errno = Errno::from_raw_os_error(raw.abs());
        if raw < 0 { Self::Mounts(errno) } else { Self::Execute(errno) }
    }
}

/// A process that is about to become the command. Dropped before [`Spawned::start`], it exits.
#[derive(Debug)]
pub struct Spawned {
    /// Its process id; it is ours to wait for.
    pub pid: Pid,
    /// The same, as a descriptor.
    pub pidfd: OwnedFd,
    go: OwnedFd,
    failure: OwnedFd,
}

/// Forks. The new process is in our process group and session, still has all our rights, and waits. Its signal mask will be
/// empty, whatever ours is.
///
/// # Errors
/// Of fork(2), pipe(2) and pidfd_open(2); INVAL for a NUL in a string, or no argument at all.
pub fn spawn(spawn: &Spawn<'_>) -> Result<Spawned, Errno> {
    let program = spawn.arguments.first().ok_or(Errno::INVAL)?;
    let mut image = Image::new(program, spawn.arguments, spawn.environment)?;
    let (wait, go) = pipe_with(PipeFlags::CLOEXEC)?;
    let (failure, report) = pipe_with(PipeFlags::CLOEXEC)?;
    // SAFETY: the child calls only `become_command`, which keeps to async-signal-safe calls and never returns.
    match unsafe { libc::fork() } {
        -1 => Err(last_errno()),
        0 => become_command(&mut image, spawn, wait.as_raw_fd(), go.as_raw_fd(), report.as_raw_fd()),
        pid => {
            let pid = Pid::from_raw(pid).ok_or(Errno::SRCH)?;
            // The child is not waited for before this, so that its number is still its own.
            let pidfd = rustix::process::pidfd_open(pid, PidfdFlags::empty())?;
            Ok(Spawned { pid, pidfd, go, failure })
        }
    }
}

impl Spawned {
    /// Lets it become its program, and returns when it has.
    ///
    /// # Errors
    /// Of execve(2), as execvp(3) would give it, or of the mounts; the process then exits.
    pub fn start(&self) -> Result<(), NotStarted> {
        match rustix::io::write(&self.go, b"g") {
            // It was killed while it waited: waiting for it will tell.
            Ok(_) | Err(Errno::PIPE) => {}
            Err(errno) => return Err(NotStarted::Execute(errno)),
        }
        let mut raw = [0; 4];
        match rustix::io::retry_on_intr(|| rustix::io::read(&self.failure, &mut raw)).map_err(NotStarted::Execute)? {
            4 => Err(NotStarted::from_raw(i32::from_ne_bytes(raw))),
            _ => Ok(()),
        }
    }
}

/// In the child: waits for the word, then becomes the command or reports why it can't.
fn become_command(image: &mut Image, spawn: &Spawn<'_>, wait: RawFd, go: RawFd, report: RawFd) -> ! {
    let mut word = 0u8;
    // SAFETY: async-signal-safe calls on descriptors that the parent opened before the fork; `word` is one live byte. Our
    // own copy of `go` is closed so that the end of file comes when the parent's is.
    let told = unsafe {
        libc::close(go);
        loop {
            match libc::read(wait, (&raw mut word).cast(), 1) {
                -1 if last_errno() == Errno::INTR => {}
                count => break count == 1,
            }
        }
    };
    let why = if told { execute(image, spawn) } else { NotStarted::Execute(Errno::CANCELED) };
    exit_with(report, why.to_raw())
}

/// In the child: sets up what the command is to find, then becomes it.
fn execute(image: &mut Image, spawn: &Spawn<'_>) -> NotStarted {
    if let Err(errno) = keep_open(spawn.kept.as_raw_fd()) {
        return NotStarted::Execute(errno);
    }
    if let Some(Err(errno)) = spawn.mounts.map(OwnMounts::set_up) {
        return NotStarted::Mounts(errno);
    }
    for signal in spawn.defaults {
        signals::restore_default(*signal);
    }
    signals::unblock_all();
    NotStarted::Execute(image.execute())
}

/// In the child: tells the parent why there is no command, as a number, and ends.
pub(crate) fn exit_with(report: RawFd, raw: i32) -> ! {
    let raw = raw.to_ne_bytes();
    // SAFETY: async-signal-safe calls; `raw` is live. _exit runs nothing of the parent's.
    unsafe {
        libc::write(report, raw.as_ptr().cast(), raw.len());
        libc::_exit(127)
    }
}

/// In the child: puts a copy that survives exec at the highest free number below the limits.
fn keep_open(descriptor: RawFd) -> Result<(), Errno> {
    let limit = rustix::process::getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    let end = RawFd::try_from(limit).unwrap_or(KEPT_NUMBER_MAX).min(KEPT_NUMBER_MAX);
    let is_free = |number: RawFd| {
        // SAFETY: F_GETFD only asks; a number that is not open is the answer that is looked for.
        unsafe { libc::fcntl(number, libc::F_GETFD) == -1 }
    };
    let number = (3..end).rev().find(|number| is_free(*number)).ok_or(Errno::MFILE)?;
    // SAFETY: `number` is not open, so that dup2 takes nothing away; the copy has no close-on-exec flag.
    if unsafe { libc::dup2(descriptor, number) } == -1 { Err(last_errno()) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::process::{WaitOptions, waitpid};
    use std::os::fd::AsFd;
    use std::os::unix::net::UnixStream;

    fn exit_status(arguments: &[&str]) -> Result<Option<i32>, NotStarted> {
        exit_status_with(arguments, None)
    }

    fn exit_status_with(arguments: &[&str], mounts: Option<&OwnMounts>) -> Result<Option<i32>, NotStarted> {
        let arguments: Vec<OsString> = arguments.iter().map(OsString::from).collect();
        let environment = [("PATH".into(), "/bin:/usr/bin".into()), ("GREETING".into(), "hello".into())];
        let (kept, _far) = UnixStream::pair().unwrap();
        let spawn =
            Spawn { arguments: &arguments, environment: &environment, kept: kept.as_fd(), defaults: &[], mounts };
        let spawned = super::spawn(&spawn).map_err(NotStarted::Execute)?;
        let started = spawned.start();
        let (_, status) = waitpid(Some(spawned.pid), WaitOptions::empty()).unwrap().unwrap();
        started.map(|()| status.exit_status())
    }

    #[test]
    fn a_command_gets_arguments_and_environment() {
        assert_eq!(exit_status(&["sh", "-c", "test $GREETING = hello && exit 7"]), Ok(Some(7)));
    }

    #[test]
    fn a_command_finds_the_kept_descriptor_at_a_high_number() {
        assert_eq!(exit_status(&["sh", "-c", "test -S /proc/$$/fd/999"]), Ok(Some(0)));
    }

    #[test]
    fn a_command_finds_a_directory_of_ours_in_the_place_of_another() {
        let (ours, place) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let nowhere = place.path().join("nowhere");
        let mounts = OwnMounts::new(ours.path(), None, &[place.path(), &nowhere]).unwrap();
        let script = format!("echo x >{}/file", place.path().display());
        match exit_status_with(&["sh", "-c", &script], Some(&mounts)) {
            Err(NotStarted::Mounts(errno)) if !rustix::process::geteuid().is_root() => {
                println!("left out: needs root or user namespaces: {errno}");
                return;
            }
            status => assert_eq!(status, Ok(Some(0))),
        }
        assert_eq!(std::fs::read(ours.path().join("file")).unwrap(), b"x\n");
        assert_eq!(std::fs::read_dir(place.path()).unwrap().count(), 0);
    }

    #[test]
    fn mounts_that_can_not_be_made_say_why() {
        let place = tempfile::tempdir().unwrap();
        let mounts = OwnMounts::new(&place.path().join("nowhere"), None, &[place.path()]).unwrap();
        match exit_status_with(&["true"], Some(&mounts)) {
            Err(NotStarted::Mounts(errno)) if !rustix::process::geteuid().is_root() => {
                println!("left out: needs root or user namespaces: {errno}");
            }
            status => assert_eq!(status, Err(NotStarted::Mounts(Errno::NOENT))),
        }
    }

    #[test]
    fn what_cannot_be_executed_says_why() {
        assert_eq!(exit_status(&["no-such-program"]), Err(NotStarted::Execute(Errno::NOENT)));
        assert_eq!(exit_status(&["/etc/passwd"]), Err(NotStarted::Execute(Errno::ACCESS)));
        assert_eq!(exit_status(&[""]), Err(NotStarted::Execute(Errno::NOENT)));
        assert_eq!(exit_status(&[]), Err(NotStarted::Execute(Errno::INVAL)));
    }

    #[test]
    fn a_script_without_a_format_is_run_by_the_shell() {
        let directory = tempfile::tempdir().unwrap();
        let script = directory.path().join("script");
        std::fs::write(&script, "exit $1\n").unwrap();
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o700);
        std::fs::set_permissions(&script, mode).unwrap();
        assert_eq!(exit_status(&[script.to_str().unwrap(), "9"]), Ok(Some(9)));
    }

    #[test]
    fn a_process_that_is_never_told_to_start_ends() {
        let arguments = ["true".into()];
        let (kept, _far) = UnixStream::pair().unwrap();
        let spawn = Spawn { arguments: &arguments, environment: &[], kept: kept.as_fd(), defaults: &[], mounts: None };
        let spawned = super::spawn(&spawn).unwrap();
        let pid = spawned.pid;
        drop(spawned);
        let (_, status) = waitpid(Some(pid), WaitOptions::empty()).unwrap().unwrap();
        assert_eq!(status.exit_status(), Some(127));
    }
}
