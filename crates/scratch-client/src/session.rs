//! Starts a session broker where there is none: under a lock, detached, and waited for until it is ready.

use std::env;
use std::ffi::{OsStr, OsString};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{Access, AtFlags, FlockOperation, Mode, OFlags};
use rustix::io::Errno;
use rustix::pipe::{PipeFlags, pipe_with};
use scratch_sys::{Detached, READY_NUMBER, spawn_detached};

use crate::ClientError;
use crate::connect::{ConnectOptions, Connected, try_connect, variable};

/// How long a broker may take to become ready.
const READY_TIME_MAX: Duration = Duration::from_secs(10);
/// Longest readiness line: a path and a word.
const LINE_BYTES_MAX: usize = 8192;
/// A log beyond this is begun anew by the next broker.
const LOG_BYTES_MAX: i64 = 1024 * 1024;
/// Between looks at a pool whose broker begins or ends just then.
const RETRY_AFTER: Duration = Duration::from_millis(50);
/// Without a client a session broker ends after this time.
const IDLE_EXIT: &str = "60s";
/// These lead into a lease when this process runs under one; the broker must neither live there nor look like a holder.
const LEASE_VARIABLES: [&str; 4] = ["TMPDIR", "TMP", "TEMP", "SCRATCHD_LEASE"];
/// Of the service that this process may be: the broker is none, and must not speak in its name.
const SERVICE_VARIABLES: [&str; 4] = ["NOTIFY_SOCKET", "LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"];

/// What a starting broker says on its readiness pipe.
#[derive(Debug, PartialEq, Eq)]
enum Word {
    Ready,
    /// The pool is served by another broker; it has written down its runtime directory, or is about to.
    Locked(Option<PathBuf>),
    Failed(String),
}

/// Starts a broker for this runtime directory, or finds the one that somebody else started meanwhile.
pub(crate) fn start(directory: &Path, options: &ConnectOptions) -> Result<Connected, ClientError> {
    let held = own_directory(directory)?;
    // Held until the broker is ready, so that of many starters one starts.
    let _lock = lock(held.as_fd(), directory)?;
    let deadline = Instant::now() + READY_TIME_MAX;
    while Instant::now() < deadline {
        if let Some(connected) = try_connect(directory)? {
            return Ok(connected);
        }
        let served = match launch(held.as_fd(), directory, options)? {
            Word::Ready => Some(directory.to_owned()),
            Word::Locked(other) => other,
            Word::Failed(reason) => return Err(ClientError::Start { log: directory.join("log"), reason }),
        };
        if let Some(served) = served
            && let Some(connected) = try_connect(&served)?
        {
            return Ok(connected);
        }
        // The broker that has the pool is just beginning, or ending: a moment, then it is another's turn.
        std::thread::sleep(RETRY_AFTER);
    }
    let reason = "it was ready and then did not answer".to_owned();
    Err(ClientError::Start { log: directory.join("log"), reason })
}

/// Makes the runtime directory if need be. Nobody else may have a say in it.
fn own_directory(directory: &Path) -> Result<OwnedFd, ClientError> {
    let error = |errno| ClientError::io("make runtime directory", directory, errno);
    match rustix::fs::mkdir(directory, Mode::RWXU) {
        Ok(()) | Err(Errno::EXIST) => {}
        Err(errno) => return Err(error(errno)),
    }
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let held = rustix::fs::open(directory, flags, Mode::empty()).map_err(error)?;
    let found = rustix::fs::fstat(&held).map_err(error)?;
    let runtime_directory = directory.to_owned();
    if found.st_uid == rustix::process::geteuid().as_raw() && found.st_mode & 0o022 == 0 {
        Ok(held)
    } else if found.st_uid == 0 {
        // The system's: its broker is started by others.
        Err(ClientError::NoBroker { runtime_directory })
    } else {
        Err(ClientError::ForeignDirectory { runtime_directory })
    }
}

fn lock(held: BorrowedFd<'_>, directory: &Path) -> Result<OwnedFd, ClientError> {
    let error = |errno| ClientError::io("lock start.lock in", directory, errno);
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = rustix::fs::openat(held, c"start.lock", flags, Mode::RUSR | Mode::WUSR).map_err(error)?;
    rustix::io::retry_on_intr(|| rustix::fs::flock(&file, FlockOperation::LockExclusive)).map_err(error)?;
    Ok(file)
}

/// Runs the broker's program, detached, and hears what it has to say.
fn launch(held: BorrowedFd<'_>, directory: &Path, options: &ConnectOptions) -> Result<Word, ClientError> {
    let program = match &options.program {
        Some(program) => program.clone(),
        None => find_program(variable("SCRATCHD_BIN"), variable("PATH")).ok_or(ClientError::NoProgram)?,
    };
    let absolute = std::path::absolute(directory).unwrap_or_else(|_| directory.to_owned());
    // Its working directory will be another one.
    let program =
        if program.components().nth(1).is_some() { std::path::absolute(&program).unwrap_or(program) } else { program };
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::APPEND | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let log = rustix::fs::openat(held, c"log", flags, Mode::RUSR | Mode::WUSR)
        .map_err(|errno| ClientError::io("open", directory.join("log"), errno))?;
    // Of a broker that comes and goes for years; what is written now is what somebody may want to read.
    if rustix::fs::fstat(&log).is_ok_and(|found| found.st_size > LOG_BYTES_MAX) {
        rustix::fs::ftruncate(&log, 0).map_err(|errno| ClientError::io("shorten", directory.join("log"), errno))?;
    }
    let (words, ready) =
        pipe_with(PipeFlags::CLOEXEC).map_err(|errno| ClientError::io("make a pipe for", &program, errno))?;
    let arguments = ["scratch", "daemon", "--session", "--runtime-dir"].map(OsStr::new);
    let more = [absolute.as_os_str(), OsStr::new("--idle-exit"), OsStr::new(IDLE_EXIT)];
    let arguments: Vec<OsString> = arguments.into_iter().chain(more).map(OsStr::to_owned).collect();
    spawn_detached(&Detached {
        program: program.as_os_str(),
        arguments: &arguments,
        environment: &environment(),
        log: log.as_fd(),
        ready: ready.as_fd(),
    })
    .map_err(|errno| ClientError::io("start the broker", &program, errno))?;
    drop(ready);
    match read_line(&words) {
        Ok(line) => Ok(understand(&line)),
        Err(Errno::TIMEDOUT) => Ok(Word::Failed(format!("it was not ready after {} s", READY_TIME_MAX.as_secs()))),
        Err(errno) => Err(ClientError::io("hear from", &program, errno)),
    }
}

/// Ours, without what leads into a lease.
fn environment() -> Vec<(OsString, OsString)> {
    let under_lease = env::var_os("SCRATCHD_LEASE").is_some();
    let is_of = |names: &[&str], name: &OsStr| names.iter().any(|removed| name == *removed);
    let goes = |name: &OsStr| is_of(&SERVICE_VARIABLES, name) || (under_lease && is_of(&LEASE_VARIABLES, name));
    let ready = ("SCRATCHD_READY_FD".into(), READY_NUMBER.to_string().into());
    env::vars_os().filter(|(name, _)| !goes(name)).chain([ready]).collect()
}

/// The file that SCRATCHD_BIN names, else `scratch` along PATH.
fn find_program(named: Option<OsString>, path: Option<OsString>) -> Option<PathBuf> {
    if let Some(named) = named {
        return Some(named.into());
    }
    let candidates = path.into_iter().flat_map(|path| env::split_paths(&path).collect::<Vec<_>>());
    candidates.filter(|directory| directory.is_absolute()).map(|directory| directory.join("scratch")).find(|file| {
        file.is_file() && rustix::fs::accessat(rustix::fs::CWD, file, Access::EXEC_OK, AtFlags::EACCESS).is_ok()
    })
}

/// Everything up to the end of the line or of the pipe.
fn read_line(words: &OwnedFd) -> Result<Vec<u8>, Errno> {
    let deadline = Instant::now() + READY_TIME_MAX;
    let mut line = Vec::new();
    while line.len() < LINE_BYTES_MAX && !line.contains(&b'\n') {
        let left = deadline.saturating_duration_since(Instant::now());
        let timeout = Timespec::try_from(left).map_err(|_| Errno::INVAL)?;
        match poll(&mut [PollFd::new(words, PollFlags::IN)], Some(&timeout)) {
            Ok(0) => return Err(Errno::TIMEDOUT),
            Ok(_) => {}
            Err(Errno::INTR) => continue,
            Err(errno) => return Err(errno),
        }
        let mut buffer = [0; 512];
        match rustix::io::retry_on_intr(|| rustix::io::read(words, &mut buffer))? {
            0 => break,
            count => line.extend_from_slice(&buffer[..count]),
        }
    }
    Ok(line)
}

fn understand(line: &[u8]) -> Word {
    let line = line.strip_suffix(b"\n").unwrap_or(line);
    let (word, rest) = match line.iter().position(|byte| *byte == b' ') {
        Some(space) => (&line[..space], &line[space + 1..]),
        None => (line, &[][..]),
    };
    match word {
        b"ready" => Word::Ready,
        b"locked" => Word::Locked((!rest.is_empty()).then(|| PathBuf::from(OsStr::from_bytes(rest)))),
        b"error" => Word::Failed(String::from_utf8_lossy(rest).into_owned()),
        b"" => Word::Failed("it ended before it was ready".to_owned()),
        _ => Word::Failed(String::from_utf8_lossy(line).into_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_readiness_line_is_understood() {
        assert_eq!(understand(b"ready /run/user/1/scratchd\n"), Word::Ready);
        assert_eq!(understand(b"ready\n"), Word::Ready);
        assert_eq!(understand(b"locked /run/a b\n"), Word::Locked(Some("/run/a b".into())));
        assert_eq!(understand(b"error no space\n"), Word::Failed("no space".into()));
        assert_eq!(understand(b""), Word::Failed("it ended before it was ready".into()));
        assert_eq!(understand(b"locked \n"), Word::Locked(None));
    }

    #[test]
    fn the_program_is_the_named_one_or_the_first_along_the_path() {
        let directory = tempfile::tempdir().unwrap();
        let path = env::join_paths([Path::new("relative"), Path::new("/nowhere"), directory.path()]).unwrap();
        assert_eq!(find_program(Some("x".into()), Some(path.clone())), Some("x".into()));
        assert_eq!(find_program(None, Some(path.clone())), None);
        let program = directory.path().join("scratch");
        std::fs::write(&program, "").unwrap();
        std::fs::set_permissions(&program, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        assert_eq!(find_program(None, Some(path)), Some(program));
        assert_eq!(find_program(None, None), None);
    }
}
