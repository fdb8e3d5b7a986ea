//! Finds the broker: where it is looked for, whether it answers, and whether it may be trusted.

use std::env;
use std::ffi::{OsStr, OsString};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::inotify::{self, CreateFlags, WatchFlags};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};

use crate::area::CreateMode;
use crate::{ClientError, session};

/// The system broker's runtime directory: where it exists, nothing else is asked.
const SYSTEM_DIRECTORY: &str = "/run/scratchd";
/// How long a system broker may take to restart.
const RESTART_TIME_MAX: Duration = Duration::from_secs(30);
/// Between bind and listen nothing tells when to try again.
const RETRY_AFTER: Timespec = Timespec { tv_sec: 0, tv_nsec: 250_000_000 };
const SOCKET_NAME: &str = "handle.sock";
/// Longest path that fits into a socket address with its final NUL.
const SOCKET_PATH_BYTES_MAX: usize = 107;

/// How to find a broker, and how to use it. The default is what everybody should want.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ConnectOptions {
    /// Instead of the search for one.
    pub runtime_directory: Option<PathBuf>,
    /// The program that is a session broker when called as `<program> daemon --session`. Absent: SCRATCHD_BIN, then
    /// `scratch` along PATH.
    pub program: Option<PathBuf>,
    /// Who makes named and anonymous files. Absent: SCRATCHD_CREATE, else [`CreateMode::Auto`].
    pub create: Option<CreateMode>,
}

impl ConnectOptions {
    /// Where a client looks for the broker: in this one directory and in no other.
    #[must_use]
    pub fn find_runtime_directory(&self) -> PathBuf {
        let search = || runtime_directory(variable, Path::new(SYSTEM_DIRECTORY));
        self.runtime_directory.clone().unwrap_or_else(search)
    }
}

/// Whether a broker that is not there may be started.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Start {
    Never,
    IfNone,
}

/// A connection to a broker that may be trusted.
#[derive(Debug)]
pub(crate) struct Connected {
    pub(crate) socket: OwnedFd,
    /// Where it listens.
    pub(crate) directory: PathBuf,
    /// Its process, as it was when it began to listen.
    pub(crate) process: i32,
}

/// Connects to the broker, wherever it is.
pub(crate) fn connect(options: &ConnectOptions, start: Start) -> Result<Connected, ClientError> {
    let directory = options.find_runtime_directory();
    if let Some(connected) = try_connect(&directory)? {
        return Ok(connected);
    }
    if directory == Path::new(SYSTEM_DIRECTORY) {
        return wait_for_restart(&directory);
    }
    match start {
        Start::IfNone => session::start(&directory, options),
        Start::Never => Err(ClientError::NoBroker { runtime_directory: directory }),
    }
}

/// Connects if a broker listens there. A socket that nobody listens on is none.
pub(crate) fn try_connect(directory: &Path) -> Result<Option<Connected>, ClientError> {
    let error = |errno| ClientError::io("connect to the broker in", directory, errno);
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
        .map_err(error)?;
    let path = directory.join(SOCKET_NAME);
    let result = if path.as_os_str().len() <= SOCKET_PATH_BYTES_MAX {
        connect_path(&socket, &path)
    } else {
        connect_long_path(&socket, directory)
    };
    match result {
        Ok(()) => {}
        Err(Errno::NOENT | Errno::NOTDIR | Errno::CONNREFUSED) => return Ok(None),
        Err(errno) => return Err(error(errno)),
    }
    let peer = scratch_sys::peer_credentials(&socket).map_err(error)?;
    if peer.uid != 0 && peer.uid != rustix::process::geteuid().as_raw() {
        return Err(ClientError::ForeignBroker { runtime_directory: directory.to_owned(), uid: peer.uid });
    }
    Ok(Some(Connected { socket, directory: directory.to_owned(), process: peer.pid }))
}

/// A variable of the environment, which is not the user's word where this program has more rights than its caller.
pub(crate) fn variable(name: &str) -> Option<OsString> {
    if scratch_sys::secure_execution() { None } else { env::var_os(name).filter(|value| !value.is_empty()) }
}

fn connect_path(socket: &OwnedFd, path: &Path) -> Result<(), Errno> {
    let address = SocketAddrUnix::new(path)?;
    rustix::io::retry_on_intr(|| rustix::net::connect(socket, &address))
}

fn connect_long_path(socket: &OwnedFd, directory: &Path) -> Result<(), Errno> {
    let held = rustix::fs::open(directory, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    connect_path(socket, Path::new(&format!("/proc/self/fd/{}/{SOCKET_NAME}", held.as_raw_fd())))
}

/// The search order of design.md, section 3.
fn runtime_directory(variable: impl Fn(&str) -> Option<OsString>, system: &Path) -> PathBuf {
    if let Some(directory) = variable("SCRATCHD_RUNTIME_DIR") {
        return directory.into();
    }
    if system.is_dir() {
        return system.to_owned();
    }
    let own = rustix::process::geteuid().as_raw();
    // Kept by some ways to become another user: then it is not this user's.
    let is_own =
        |path: &PathBuf| path.is_absolute() && path.metadata().is_ok_and(|found| found.is_dir() && found.uid() == own);
    match variable("XDG_RUNTIME_DIR").map(PathBuf::from).filter(is_own) {
        Some(directory) => directory.join("scratchd"),
        None => PathBuf::from(format!("/tmp/scratchd-{own}")),
    }
}

/// Waits until the restarting system broker listens again; there is no other to fall back to.
fn wait_for_restart(directory: &Path) -> Result<Connected, ClientError> {
    let error = |errno| ClientError::io("watch", directory, errno);
    let none = || ClientError::NoBroker { runtime_directory: directory.to_owned() };
    let watch = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK).map_err(error)?;
    inotify::add_watch(&watch, directory, WatchFlags::CREATE | WatchFlags::MOVED_TO).map_err(error)?;
    let deadline = Instant::now() + RESTART_TIME_MAX;
    loop {
        if let Some(connected) = try_connect(directory)? {
            return Ok(connected);
        }
        if Instant::now() >= deadline {
            return Err(none());
        }
        match poll(&mut [PollFd::from_borrowed_fd(watch.as_fd(), PollFlags::IN)], Some(&RETRY_AFTER)) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(errno) => return Err(error(errno)),
        }
        let mut space = [MaybeUninit::uninit(); 4096];
        // What happened does not matter, only that something did.
        while rustix::io::read(&watch, &mut space).is_ok_and(|(events, _)| !events.is_empty()) {}
    }
}

/// The setting in force: the option, else SCRATCHD_CREATE. Values that are not known count as `auto`.
pub(crate) fn create_mode(options: &ConnectOptions) -> CreateMode {
    let from_environment = || match variable("SCRATCHD_CREATE").as_deref().map(OsStr::to_str) {
        Some(Some("broker")) => CreateMode::Broker,
        _ => CreateMode::Auto,
    };
    options.create.unwrap_or_else(from_environment)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_search_goes_from_the_environment_to_the_system_to_the_session() {
        let directory = tempfile::tempdir().unwrap();
        let missing = directory.path().join("missing");
        let own = rustix::process::geteuid().as_raw();
        let xdg = directory.path().as_os_str();
        let set = |name: &str| match name {
            "SCRATCHD_RUNTIME_DIR" => Some("/one".into()),
            _ => None,
        };
        assert_eq!(runtime_directory(set, directory.path()), Path::new("/one"));
        assert_eq!(runtime_directory(|_| None, directory.path()), directory.path());
        let session = |name: &str| (name == "XDG_RUNTIME_DIR").then(|| xdg.to_owned());
        assert_eq!(runtime_directory(session, &missing), directory.path().join("scratchd"));
        let fallback = PathBuf::from(format!("/tmp/scratchd-{own}"));
        assert_eq!(runtime_directory(|_| None, &missing), fallback);
        let relative = |name: &str| (name == "XDG_RUNTIME_DIR").then(|| OsString::from("."));
        assert_eq!(runtime_directory(relative, &missing), fallback);
    }

    #[test]
    fn where_nothing_listens_there_is_no_broker() {
        let directory = tempfile::tempdir().unwrap();
        assert!(try_connect(directory.path()).unwrap().is_none());
        let options = ConnectOptions { runtime_directory: Some(directory.path().into()), ..ConnectOptions::default() };
        assert!(matches!(connect(&options, Start::Never), Err(ClientError::NoBroker { .. })));
    }

    #[test]
    fn a_path_that_is_too_long_for_an_address_is_reached() {
        let directory = tempfile::tempdir().unwrap();
        let deep = directory.path().join("x".repeat(120));
        std::fs::create_dir(&deep).unwrap();
        let held = rustix::fs::open(&deep, OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).unwrap();
        let listener = rustix::net::socket(AddressFamily::UNIX, SocketType::SEQPACKET, None).unwrap();
        let short = format!("/proc/self/fd/{}/{SOCKET_NAME}", held.as_raw_fd());
        rustix::net::bind(&listener, &SocketAddrUnix::new(short).unwrap()).unwrap();
        assert!(try_connect(&deep).unwrap().is_none(), "bound, but nobody listens");
        rustix::net::listen(&listener, 1).unwrap();
        let connected = try_connect(&deep).unwrap().unwrap();
        assert_eq!(connected.process.cast_unsigned(), std::process::id());
    }
}
