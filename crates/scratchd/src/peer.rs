//! Who is at the other end of a connection, by the kernel's word alone.

use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::Arc;

use rustix::io::Errno;
use scratch_lease::{Caller, TenantId};

use crate::process::{self, HeldProcess};

/// The rights that a tenant's work is done with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Identity {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) groups: Vec<u32>,
}

/// A connected peer.
#[derive(Debug, Clone)]
pub(crate) struct Peer {
    pub(crate) identity: Arc<Identity>,
    pub(crate) caller: Caller,
    /// 0: the kernel names no process, as for one of another pid namespace.
    pid: i32,
}

impl Identity {
    /// Takes on this identity on this thread, unless it is the broker's own user.
    ///
    /// # Errors
    /// Of [`scratch_sys::assume`].
    pub(crate) fn assume(&self, broker_uid: u32) -> Result<Option<scratch_sys::Assumed>, Errno> {
        if self.uid == broker_uid { Ok(None) } else { scratch_sys::assume(self.uid, self.gid, &self.groups).map(Some) }
    }
}

impl Peer {
    /// Asks the kernel.
    ///
    /// # Errors
    /// Of getsockopt(2).
    pub(crate) fn of(socket: BorrowedFd<'_>, admin_group: Option<u32>) -> Result<Self, Errno> {
        let credentials = rustix::net::sockopt::socket_peercred(socket)?;
        let groups = scratch_sys::peer_groups(socket)?;
        let identity = Identity { uid: credentials.uid.as_raw(), gid: credentials.gid.as_raw(), groups };
        let pid = rustix::process::Pid::as_raw(Some(credentials.pid));
        let in_admin_group = admin_group.is_some_and(|group| identity.gid == group || identity.groups.contains(&group));
        let admin = identity.uid == 0 || in_admin_group;
        let caller = Caller { admin, ..Caller::of(TenantId(identity.uid)) };
        Ok(Self { caller, identity: Arc::new(identity), pid })
    }

    /// Whoever has the other end of a delegated channel. The kernel would name the broker, which made both ends: who it is
    /// comes from the broker's own table.
    pub(crate) fn delegated(caller: Caller, identity: Arc<Identity>) -> Self {
        Self { identity, caller, pid: 0 }
    }

    /// The peer's process, held. `None` where the kernel names none that we could watch.
    ///
    /// # Errors
    /// SRCH when it is gone.
    pub(crate) fn process(&self, socket: BorrowedFd<'_>) -> Result<Option<HeldProcess>, Errno> {
        if self.pid <= 0 {
            return Ok(None);
        }
        match scratch_sys::peer_pidfd(socket) {
            Ok(pidfd) => HeldProcess::of_pidfd(pidfd).map(Some),
            Err(Errno::NOPROTOOPT) => self.process_by_number().map(Some),
            Err(Errno::NODATA | Errno::SRCH) => Err(Errno::SRCH),
            Err(errno) => Err(errno),
        }
    }

    /// Before Linux 6.5: the number may be another's by now, so its user is compared after it is held.
    fn process_by_number(&self) -> Result<HeldProcess, Errno> {
        let held = HeldProcess::of_pid(self.pid)?;
        let users = process::users(self.pid)?;
        let again = process::start_time(self.pid)?;
        let same = users.contains(&self.identity.uid) && again == held.id.start_time;
        if same { Ok(held) } else { Err(Errno::SRCH) }
    }
}

/// Whether a passed descriptor is a Unix socket that hangs up when its other end is closed; asks the socket layer alone, so
/// that no file system can stall it.
pub(crate) fn is_connected_unix_socket(descriptor: &OwnedFd) -> bool {
    use rustix::net::{AddressFamily, SocketType, sockopt};
    sockopt::socket_domain(descriptor).is_ok_and(|family| family == AddressFamily::UNIX)
        && sockopt::socket_type(descriptor)
            .is_ok_and(|kind| kind == SocketType::STREAM || kind == SocketType::SEQPACKET)
        && sockopt::socket_acceptconn(descriptor).is_ok_and(|listens| !listens)
}
