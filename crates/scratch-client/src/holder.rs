//! What keeps a lease alive.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use scratch_proto::v1::holder_spec::Kind;
use scratch_proto::v1::{
    CgroupHolder, ConnectionHolder, DescriptorHolder, HoldHolder, HolderSpec, ProcessHolder, TtlHolder,
};

use crate::ClientError;

/// What keeps a lease alive from the start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Holder {
    /// This process.
    Process,
    /// This connection, and after a restart of the broker the next one.
    Connection,
    /// Time that [`Lease::keep_alive`](crate::Lease::keep_alive) renews.
    Ttl(Duration),
    /// Another process of this user.
    Other(Pidfd),
    /// A cgroup: until its last process has gone, or the cgroup. One that has none yet does not end before its first.
    Cgroup(CgroupDirectory),
    /// Whoever has the other end of this Unix socket pair: until every copy of that is closed.
    Descriptor(SocketEnd),
    /// Until it is detached; for root and the admin group.
    Hold,
}

/// The directory of a cgroup (version 2), open.
#[derive(Debug, Clone)]
pub struct CgroupDirectory {
    directory: Arc<OwnedFd>,
    kill: bool,
}

impl CgroupDirectory {
    /// Opens the cgroup at this path.
    ///
    /// # Errors
    /// Those of open(2). Whether it is a cgroup's is for the broker to say.
    pub fn open(path: &Path) -> Result<Self, ClientError> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let opened = rustix::fs::open(path, flags, Mode::empty());
        Ok(Self::from(opened.map_err(|errno| ClientError::io("open cgroup", path, errno))?))
    }

    /// What is still in it when the lease ends is killed, which takes the right to write its cgroup.kill (Linux 5.14).
    #[must_use]
    pub fn killed(self) -> Self {
        Self { kill: true, ..self }
    }
}

impl From<OwnedFd> for CgroupDirectory {
    fn from(directory: OwnedFd) -> Self {
        Self { directory: Arc::new(directory), kill: false }
    }
}

impl PartialEq for CgroupDirectory {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.directory, &other.directory) && self.kill == other.kill
    }
}

impl Eq for CgroupDirectory {}

/// One end of a Unix socket pair of streams. Nothing is read from it or written to it.
///
/// ```no_run
/// use std::os::unix::net::UnixStream;
/// use scratch_client::{Client, ConnectOptions, GrantOptions, Holder, SocketEnd};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let (near, far) = UnixStream::pair()?;
/// let holders = vec![Holder::Descriptor(SocketEnd::from(far))];
/// let lease = Client::connect_or_start(&ConnectOptions::default())?.grant(&GrantOptions { holders, ..Default::default() })?;
/// lease.leave();
/// drop(near); // ends it, if no child has inherited a copy
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct SocketEnd(Arc<OwnedFd>);

impl<S: Into<OwnedFd>> From<S> for SocketEnd {
    fn from(end: S) -> Self {
        Self(Arc::new(end.into()))
    }
}

impl PartialEq for SocketEnd {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Eq for SocketEnd {}

/// A process that is held, so that its number can't become another's meanwhile.
#[derive(Debug, Clone)]
pub struct Pidfd(Arc<OwnedFd>);

impl Pidfd {
    /// Holds the process that has this number now.
    ///
    /// # Errors
    /// Those of pidfd_open(2): ESRCH where there is none.
    pub fn open(pid: u32) -> Result<Self, ClientError> {
        let number = i32::try_from(pid).ok().and_then(Pid::from_raw).ok_or(Errno::SRCH);
        let opened = number.and_then(|number| pidfd_open(number, PidfdFlags::empty()));
        let opened = opened.map_err(|errno| ClientError::io("hold process", pid.to_string(), errno))?;
        Ok(Self(Arc::new(opened)))
    }
}

impl PartialEq for Pidfd {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Eq for Pidfd {}

impl Holder {
    pub(crate) fn spec(&self) -> Result<HolderSpec, ClientError> {
        let kind = match self {
            Self::Process => Kind::Process(ProcessHolder { fd: false }),
            Self::Connection => Kind::Connection(ConnectionHolder {}),
            Self::Ttl(ttl) => Kind::Ttl(TtlHolder { ttl: Some(duration(*ttl)?) }),
            Self::Other(_) => Kind::Process(ProcessHolder { fd: true }),
            Self::Cgroup(directory) => Kind::Cgroup(CgroupHolder { fd: true, kill: directory.kill }),
            Self::Descriptor(_) => Kind::Descriptor(DescriptorHolder { fd: true }),
            Self::Hold => Kind::Hold(HoldHolder {}),
        };
        Ok(HolderSpec { kind: Some(kind) })
    }

    /// What rides along with the spec.
    pub(crate) fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        match self {
            Self::Other(process) => Some(process.0.as_fd()),
            Self::Cgroup(directory) => Some(directory.directory.as_fd()),
            Self::Descriptor(end) => Some(end.0.as_fd()),
            Self::Process | Self::Connection | Self::Ttl(_) | Self::Hold => None,
        }
    }
}

/// The process whose pidfd rides along.
pub(crate) fn passed_process() -> HolderSpec {
    HolderSpec { kind: Some(Kind::Process(ProcessHolder { fd: true })) }
}

/// The cgroup whose directory rides along.
pub(crate) fn passed_cgroup() -> HolderSpec {
    HolderSpec { kind: Some(Kind::Cgroup(CgroupHolder { fd: true, kill: false })) }
}

/// The end of a socket pair that rides along.
pub(crate) fn passed_descriptor() -> HolderSpec {
    HolderSpec { kind: Some(Kind::Descriptor(DescriptorHolder { fd: true })) }
}

pub(crate) fn duration(time: Duration) -> Result<prost_types::Duration, ClientError> {
    time.try_into().map_err(|_| ClientError::Protocol("a time that is too long"))
}
