//! The runtime directory and its two sockets.

use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, FileType, FlockOperation, Mode, OFlags};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, bind, listen, socket_with};
use scratch_fs::FsError;

/// Connections that wait to be accepted.
const BACKLOG: i32 = 1024;

/// The listening sockets.
#[derive(Debug)]
pub(crate) struct Sockets {
    pub(crate) grpc: OwnedFd,
    pub(crate) handle: OwnedFd,
}

/// The daemon's directory: the option, SCRATCHD_RUNTIME_DIR, a user's own for a session, else /run/scratchd.
pub(crate) fn runtime_directory(option: Option<PathBuf>, session: bool) -> PathBuf {
    let named =
        option.or_else(|| std::env::var_os("SCRATCHD_RUNTIME_DIR").filter(|v| !v.is_empty()).map(PathBuf::from));
    named.unwrap_or_else(|| if session { session_directory() } else { "/run/scratchd".into() })
}

/// The session broker's directory, by the same rule as clients look for it.
fn session_directory() -> PathBuf {
    use std::os::unix::fs::MetadataExt;
    let own = rustix::process::geteuid().as_raw();
    let is_own =
        |path: &PathBuf| path.is_absolute() && path.metadata().is_ok_and(|found| found.is_dir() && found.uid() == own);
    match std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from).filter(is_own) {
        Some(directory) => directory.join("scratchd"),
        None => format!("/tmp/scratchd-{own}").into(),
    }
}

/// Opens the runtime directory. It must be ours, and nobody else's to write.
///
/// # Errors
/// With the path and what is wrong with it; WOULDBLOCK when another broker has it.
pub(crate) fn open_runtime(path: &Path) -> Result<OwnedFd, FsError> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let opened = rustix::fs::open(path, flags, Mode::empty()).map_err(FsError::on("open runtime directory", path))?;
    let found = rustix::fs::fstat(&opened).map_err(FsError::on("look at runtime directory", path))?;
    if found.st_uid != rustix::process::geteuid().as_raw() || found.st_mode & 0o022 != 0 {
        return Err(FsError::new("trust runtime directory (another's, or writable by others)", path, Errno::PERM));
    }
    // Held as long as the sockets are ours: another broker must not take their names away.
    rustix::fs::flock(&opened, FlockOperation::NonBlockingLockExclusive)
        .map_err(FsError::on("take for this broker (another one is there)", path))?;
    Ok(opened)
}

/// Makes both sockets, each with its mode from the start. A stale one is replaced; a file that is no socket is not.
///
/// # Errors
/// With the path that failed.
pub(crate) fn make(directory: &OwnedFd, path: &Path, mode: u32) -> Result<Sockets, FsError> {
    Ok(Sockets {
        grpc: listening(directory, path, "grpc.sock", SocketType::STREAM, mode)?,
        handle: listening(directory, path, "handle.sock", SocketType::SEQPACKET, mode)?,
    })
}

/// Takes the names away, so that clients start another broker.
pub(crate) fn remove(directory: &OwnedFd) {
    for name in ["grpc.sock", "handle.sock"] {
        // A missing one is what is wanted; one that stays is stale, and clients see that.
        let _ = rustix::fs::unlinkat(directory, name, AtFlags::empty());
    }
}

fn listening(directory: &OwnedFd, path: &Path, name: &str, kind: SocketType, mode: u32) -> Result<OwnedFd, FsError> {
    let shown = path.join(name);
    remove_stale(directory, name, &shown)?;
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let error = |errno| FsError::new("listen at", &shown, errno);
    let socket = socket_with(AddressFamily::UNIX, kind, flags, None).map_err(error)?;
    // The mode of an unbound socket is the mode of the name that bind makes, for no instant another.
    rustix::fs::fchmod(&socket, Mode::from_raw_mode(mode)).map_err(error)?;
    // Through the held directory: short whatever the path, and no other one if it is replaced.
    let address = format!("/proc/self/fd/{}/{name}", std::os::fd::AsRawFd::as_raw_fd(directory));
    let address = SocketAddrUnix::new(address).map_err(error)?;
    bind(&socket, &address).map_err(error)?;
    listen(&socket, BACKLOG).map_err(error)?;
    Ok(socket)
}

fn remove_stale(directory: &OwnedFd, name: &str, shown: &Path) -> Result<(), FsError> {
    match rustix::fs::statat(directory.as_fd(), name, AtFlags::SYMLINK_NOFOLLOW) {
        Err(Errno::NOENT) => Ok(()),
        Ok(found) if FileType::from_raw_mode(found.st_mode) == FileType::Socket => {
            rustix::fs::unlinkat(directory, name, AtFlags::empty()).map_err(FsError::on("remove stale socket", shown))
        }
        Ok(_) => Err(FsError::new("replace what is no socket", shown, Errno::EXIST)),
        Err(errno) => Err(FsError::new("look at", shown, errno)),
    }
}
