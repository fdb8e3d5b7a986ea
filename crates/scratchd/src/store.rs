//! The service manager's side of a restart: what it hands to this broker, and what it keeps for the next one (sd_notify(3),
//! sd_listen_fds(3)). Descriptors are told apart by their names in its store.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SendFlags, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with};
use rustix::pipe::{PipeFlags, pipe_with};

/// The listeners that a broker has made itself.
pub(crate) const LISTENERS: &str = "scratchd-listeners";
/// One end of a socket pair that has everything else in it.
pub(crate) const PARKED: &str = "scratchd-parked";

/// The first number of those that are handed over.
const FIRST_NUMBER: i32 = 3;
/// How long the manager may take to read what it was told.
const TAKEN_WITHIN: Duration = Duration::from_secs(5);

/// What the service manager has handed over.
#[derive(Debug, Default)]
pub(crate) struct Inherited {
    pub(crate) parked: Vec<OwnedFd>,
    /// Of the broker before.
    pub(crate) listeners: Vec<OwnedFd>,
    /// Of a socket unit, whatever it calls them.
    pub(crate) of_units: Vec<OwnedFd>,
}

impl Inherited {
    /// Takes what the environment says was handed over. To be called before anything else is opened.
    pub(crate) fn take() -> Self {
        let mut inherited = Self::default();
        let variable = |name| std::env::var(name).unwrap_or_default();
        if variable("LISTEN_PID") != std::process::id().to_string() {
            return inherited;
        }
        let names = variable("LISTEN_FDNAMES");
        let mut names = names.split(':');
        let count: i32 = variable("LISTEN_FDS").parse().unwrap_or(0);
        for number in FIRST_NUMBER..FIRST_NUMBER.saturating_add(count) {
            let name = names.next().unwrap_or_default();
            let Some(descriptor) = scratch_sys::take_inherited_descriptor(number) else { continue };
            match name {
                PARKED => inherited.parked.push(descriptor),
                LISTENERS => inherited.listeners.push(descriptor),
                _ => inherited.of_units.push(descriptor),
            }
        }
        inherited
    }
}

/// Whether there is a service manager, which may have a store.
pub(crate) fn is_there() -> bool {
    std::env::var_os("NOTIFY_SOCKET").is_some_and(|path| !path.is_empty())
}

/// Has descriptors kept for the next broker, whatever becomes of their other ends.
///
/// # Errors
/// Of sending to the manager. Whether it keeps any it does not say.
pub(crate) fn keep(name: &str, descriptors: &[BorrowedFd<'_>]) -> Result<(), Errno> {
    tell(&format!("FDSTORE=1\nFDNAME={name}\nFDPOLL=0"), descriptors)
}

/// Empties the store: what was handed over is taken, and a crash from here on leaves nothing to be found.
pub(crate) fn empty() {
    if !is_there() {
        return;
    }
    for name in [PARKED, LISTENERS] {
        if let Err(errno) = tell(&format!("FDSTOREREMOVE=1\nFDNAME={name}"), &[]) {
            tracing::warn!(%errno, name, "the service manager still keeps what was taken, ignoring: it is of no use any more");
        }
    }
}

/// Waits until the manager has read all that it was told: it may not know a process any more that has ended.
///
/// # Errors
/// Of sending; TIMEDOUT.
pub(crate) fn wait_until_taken() -> Result<(), Errno> {
    let (read, write) = pipe_with(PipeFlags::CLOEXEC)?;
    tell("BARRIER=1", &[write.as_fd()])?;
    drop(write);
    let timeout = Timespec::try_from(TAKEN_WITHIN).map_err(|_| Errno::INVAL)?;
    match poll(&mut [PollFd::new(&read, PollFlags::empty())], Some(&timeout))? {
        0 => Err(Errno::TIMEDOUT),
        _ => Ok(()),
    }
}

fn tell(state: &str, descriptors: &[BorrowedFd<'_>]) -> Result<(), Errno> {
    let path = std::env::var_os("NOTIFY_SOCKET").unwrap_or_default();
    let address = match path.as_bytes() {
        [b'@', name @ ..] => SocketAddrUnix::new_abstract_name(name)?,
        path => SocketAddrUnix::new(path)?,
    };
    let socket = socket_with(AddressFamily::UNIX, SocketType::DGRAM, SocketFlags::CLOEXEC, None)?;
    connect(&socket, &address)?;
    scratch_sys::send_packet(socket.as_fd(), state.as_bytes(), descriptors, SendFlags::empty())
}
