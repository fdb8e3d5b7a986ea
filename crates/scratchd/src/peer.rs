//! Who is at the other end of a connection, by the kernel's word alone.

use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::sync::Arc;

use rustix::io::Errno;
use scratch_fs::FsError;
use scratch_lease::{Caller, TenantId};

use crate::broker::Broker;
use crate::process::{self, HeldProcess};
use crate::reason::RequestError;
use crate::rules::Place;
use crate::settings::Settings;

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
    /// It may have a lease held by its word alone.
    pub(crate) may_hold: bool,
    /// 0: the kernel names no process, as for one of another pid namespace.
    pid: i32,
    /// Of its process, where a rule asks for it.
    cgroup: Option<PathBuf>,
    /// Of the settings that the above is by.
    version: u64,
}

/// What the kernel says for a user or group that this user name space has no number for; `None` where it has all.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Overflow {
    uid: Option<u32>,
    gid: Option<u32>,
}

impl Overflow {
    /// Asks /proc.
    pub(crate) fn look() -> Self {
        Self {
            uid: overflow("/proc/self/uid_map", "/proc/sys/kernel/overflowuid"),
            gid: overflow("/proc/self/gid_map", "/proc/sys/kernel/overflowgid"),
        }
    }
}

fn overflow(map: &str, number: &str) -> Option<u32> {
    const USUAL: u32 = 65534;
    let map = std::fs::read_to_string(map).unwrap_or_default();
    let lengths = map.lines().filter_map(|line| line.split_ascii_whitespace().nth(2)?.parse::<u64>().ok());
    if lengths.sum::<u64>() >= u64::from(u32::MAX) {
        return None;
    }
    let number = std::fs::read_to_string(number).ok();
    Some(number.and_then(|number| number.trim().parse().ok()).unwrap_or(USUAL))
}

impl Identity {
    /// Takes on this identity on this thread, unless it is the broker's own user.
    ///
    /// # Errors
    /// Of [`scratch_sys::assume`].
    pub(crate) fn assume(&self, broker_uid: u32) -> Result<Option<scratch_sys::Assumed>, Errno> {
        if self.uid == broker_uid { Ok(None) } else { scratch_sys::assume(self.uid, self.gid, &self.groups).map(Some) }
    }

    /// Whether this is its group, or one of its supplementary ones.
    pub(crate) fn is_in(&self, group: u32) -> bool {
        self.gid == group || self.groups.contains(&group)
    }
}

impl Broker {
    /// Who has the other end of a socket, and what that may do here.
    ///
    /// # Errors
    /// USER_UNMAPPED; NOT_PERMITTED for whom a rule denies; of getsockopt(2).
    pub(crate) fn peer(&self, socket: BorrowedFd<'_>) -> Result<Peer, RequestError> {
        let mut peer = Peer::of(socket).map_err(|errno| FsError::new("look at the peer of", "a connection", errno))?;
        self.look_again(&mut peer, socket)?;
        Ok(peer)
    }

    /// Looks at a peer under the settings in force, if those that it was looked at under are not.
    ///
    /// # Errors
    /// As [`Self::peer`].
    pub(crate) fn look_again(&self, peer: &mut Peer, socket: BorrowedFd<'_>) -> Result<(), RequestError> {
        let version = self.settings.version();
        if peer.version == version {
            return Ok(());
        }
        let settings = self.settings.get();
        if settings.asks_for_cgroups()
            && let Ok(Some(process)) = peer.process(socket)
        {
            // An error: it has ended meanwhile. What was read before stands.
            peer.cgroup = process::cgroup(&process).ok().or_else(|| peer.cgroup.take());
        }
        peer.come_under(&settings);
        let own = [0, self.uid].contains(&peer.identity.uid);
        let unmapped = [(settings.overflow.uid, peer.identity.uid), (settings.overflow.gid, peer.identity.gid)];
        if !own && unmapped.iter().any(|(unmapped, id)| *unmapped == Some(*id)) {
            return Err(RequestError::UserUnmapped(peer.identity.uid));
        }
        if !own && settings.rule_of(peer.caller).is_some_and(|rule| rule.deny) {
            return Err(RequestError::NotPermitted("this broker", "users whom no rule of its configuration denies"));
        }
        peer.version = version;
        Ok(())
    }
}

impl Peer {
    /// Asks the kernel who it is. What it may do is not known yet.
    fn of(socket: BorrowedFd<'_>) -> Result<Self, Errno> {
        let scratch_sys::PeerCredentials { pid, uid, gid } = scratch_sys::peer_credentials(socket)?;
        let groups = scratch_sys::peer_groups(socket)?;
        let identity = Identity { uid, gid, groups };
        Ok(Self { pid, ..Self::delegated(Caller::of(TenantId(identity.uid)), Arc::new(identity)) })
    }

    /// Whoever has the other end of a delegated channel. The kernel would name the broker, which made both ends: who it is
    /// comes from the broker's own table.
    pub(crate) fn delegated(caller: Caller, identity: Arc<Identity>) -> Self {
        Self { identity, caller, may_hold: false, pid: 0, cgroup: None, version: 0 }
    }

    /// As a delegated channel of this one's: held to what this is.
    pub(crate) fn delegate(&self, caller: Caller, identity: Arc<Identity>) -> Self {
        let same = caller.tenant == self.caller.tenant;
        Self { cgroup: self.cgroup.clone().filter(|_| same), ..Self::delegated(caller, identity) }
    }

    fn come_under(&mut self, settings: &Settings) {
        let is_confined = self.caller.confined_to.is_some();
        if let Some(unmapped) = settings.overflow.gid
            && self.identity.groups.contains(&unmapped)
        {
            // It stands for any group that has no number here, and can't be taken on.
            let groups = self.identity.groups.iter().copied().filter(|group| *group != unmapped).collect();
            self.identity = Arc::new(Identity { groups, ..(*self.identity).clone() });
        }
        let place = match &self.cgroup {
            Some(cgroup) => Place::Cgroup(cgroup),
            // Nobody asks where the worker is that has delegated it, once that has gone.
            None if is_confined => Place::Nowhere,
            None => Place::Unknown,
        };
        self.caller.rule = settings.first_fit(&self.identity, place);
        let rule = settings.rule_of(self.caller);
        let in_admin_group = settings.admin_group.is_some_and(|group| self.identity.is_in(group));
        let admin = self.identity.uid == 0 || in_admin_group || rule.is_some_and(|rule| rule.admin);
        self.caller.admin = admin && !is_confined;
        self.may_hold = !is_confined && (admin || rule.is_some_and(|rule| rule.hold));
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
