//! The runtime directory and its two sockets, made here or handed over.

use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, FileType, FlockOperation, Mode, OFlags};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, bind, listen, socket_with, sockopt};
use scratch_fs::FsError;

use crate::store::Inherited;

/// Connections that wait to be accepted.
const BACKLOG: i32 = 1024;

/// The listening sockets.
#[derive(Debug)]
pub(crate) struct Sockets {
    pub(crate) grpc: OwnedFd,
    pub(crate) handle: OwnedFd,
    /// Those that a broker has made: one of a socket unit is the unit's, and so is its name.
    pub(crate) ours: Vec<Ours>,
}

/// A socket that a broker has made.
#[derive(Debug)]
pub(crate) struct Ours {
    pub(crate) socket: OwnedFd,
    pub(crate) name: SocketName,
}

/// A name in the runtime directory, and what it named when the socket was made.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct SocketName {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(uint64, tag = "2")]
    device: u64,
    #[prost(uint64, tag = "3")]
    inode: u64,
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

impl Sockets {
    /// Takes those that a socket unit or the broker before has handed over, and makes the others, each with its mode from
    /// the start. A stale one is replaced; a file that is no socket is not.
    ///
    /// # Errors
    /// With the path that failed.
    pub(crate) fn take_or_make(
        (directory, path): (&OwnedFd, &Path),
        mode: u32,
        inherited: &mut Inherited,
        left: &[SocketName],
    ) -> Result<Self, FsError> {
        let mut ours = Vec::new();
        let mut one = |name, kind| {
            if let Some(socket) = take(&mut inherited.of_units, kind) {
                return Ok(socket);
            }
            let shown = path.join(name);
            let is_left = || name_of(directory, name).is_ok_and(|name| left.contains(&name));
            let socket = match take(&mut inherited.listeners, kind).filter(|_| is_left()) {
                Some(socket) => socket,
                None => listening(directory, &shown, name, kind, mode)?,
            };
            let error = |errno| FsError::new("look at", &shown, errno);
            let copy = rustix::io::fcntl_dupfd_cloexec(&socket, 0).map_err(error)?;
            ours.push(Ours { socket: copy, name: name_of(directory, name).map_err(error)? });
            Ok(socket)
        };
        let (grpc, handle) = (one("grpc.sock", SocketType::STREAM)?, one("handle.sock", SocketType::SEQPACKET)?);
        Ok(Self { grpc, handle, ours })
    }
}

/// Takes the names away, so that clients start another broker.
pub(crate) fn remove(directory: &OwnedFd, ours: &[Ours]) {
    for one in ours {
        // A missing one is what is wanted; one that stays is stale, and clients see that.
        let _ = rustix::fs::unlinkat(directory, one.name.name.as_str(), AtFlags::empty());
    }
}

/// A listener of this kind, made not to block.
fn take(listeners: &mut Vec<OwnedFd>, kind: SocketType) -> Option<OwnedFd> {
    let fits = |socket: &OwnedFd| {
        sockopt::socket_domain(socket) == Ok(AddressFamily::UNIX)
            && sockopt::socket_acceptconn(socket) == Ok(true)
            && sockopt::socket_type(socket) == Ok(kind)
            && rustix::io::ioctl_fionbio(socket, true).is_ok()
    };
    listeners.iter().position(fits).map(|place| listeners.remove(place))
}

fn name_of(directory: &OwnedFd, name: &str) -> Result<SocketName, Errno> {
    let found = rustix::fs::statat(directory, name, AtFlags::SYMLINK_NOFOLLOW)?;
    Ok(SocketName { name: name.to_owned(), device: found.st_dev, inode: found.st_ino })
}

fn listening(directory: &OwnedFd, shown: &Path, name: &str, kind: SocketType, mode: u32) -> Result<OwnedFd, FsError> {
    remove_stale(directory, name, shown)?;
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let error = |errno| FsError::new("listen at", shown, errno);
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
