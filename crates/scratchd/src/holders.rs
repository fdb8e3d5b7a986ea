//! Who asks for a lease and what is to hold it: a request's holders, with the descriptors that show their end.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use rustix::io::Errno;
use scratch_fs::FsError;
use scratch_lease::{Caller, CgroupId, ConnectionId, NewHolder, TenantId};
use scratch_proto::v1::{self, ProcessHolder};

use crate::cgroup::{Cgroup, KnownCgroup};
use crate::client::{Client, Road};
use crate::clock;
use crate::peer::{Identity, is_connected_unix_socket};
use crate::process::{self, HeldProcess};
use crate::reason::RequestError;
use crate::side::{NOBODYS, Side};
use crate::translate::duration;

/// How long a lease that a KeepAlive stream is to hold waits for it.
pub(crate) const STREAM_COMES_WITHIN: Duration = Duration::from_secs(30);
const AWAITED: &str = "held by the KeepAlive stream that names the lease; it has 30 s to come";

/// Said in the reply when the kernel names no process that could hold the lease.
const NO_PROCESS: &str = "the kernel names no process for this peer; its connection holds the lease";

/// Who asks for a lease, without the connection itself: a request with descriptors is worked on elsewhere.
#[derive(Debug)]
pub(crate) struct Asking {
    pub(crate) caller: Caller,
    pub(crate) identity: Arc<Identity>,
    pub(crate) connection: ConnectionId,
    road: Road,
    /// It may have a lease held by its word alone.
    pub(crate) may_hold: bool,
    /// The admin that asks on behalf of the caller.
    pub(crate) on_behalf_by: Option<TenantId>,
    /// The peer's process, where it is wanted and the kernel names one.
    pub(crate) process: Option<HeldProcess>,
    /// Its own process was named as a holder.
    named_itself: bool,
    /// A stream of its own that is still to come was named as a holder.
    named_stream: bool,
}

pub(crate) const TWICE: &str = "the same holder is named twice; name it once";
const NO_PIDFD: &str = "the descriptor of a process holder must be a pidfd";
const NO_SOCKET: &str =
    "the descriptor of a descriptor holder must be one end of a Unix stream or seqpacket socket pair";

/// A holder, what shows its end, and what is to be said of it.
pub(crate) type Holding = (NewHolder, Watched, &'static str);

/// What shows a holder's end.
pub(crate) enum Watched {
    Process(HeldProcess),
    Socket(OwnedFd),
    Cgroup(Box<Cgroup>),
    Nothing,
}

/// Descriptors that a client has passed. Those that are not used are closed where that may block.
pub(crate) struct Passed<'a> {
    pub(crate) side: &'a Side,
    pub(crate) tenant: u32,
    pub(crate) rest: std::vec::IntoIter<OwnedFd>,
}

impl Passed<'_> {
    /// The next one, if it is what it should be.
    fn next(&mut self, fits: impl FnOnce(&OwnedFd) -> bool, else_say: &'static str) -> Result<OwnedFd, RequestError> {
        let next = self.rest.next().ok_or(RequestError::DescriptorCount { expected: 1, received: 0 })?;
        if fits(&next) {
            return Ok(next);
        }
        self.side.close(self.tenant, vec![next]);
        Err(RequestError::Holder(else_say))
    }

    fn cgroup(&mut self, tenant: Option<(&Identity, u32)>) -> Result<Cgroup, RequestError> {
        let next = self.rest.next().ok_or(RequestError::DescriptorCount { expected: 1, received: 0 })?;
        let cgroup = Cgroup::of_directory(&next, tenant);
        self.side.close(self.tenant, vec![next]);
        cgroup
    }
}

impl Drop for Passed<'_> {
    fn drop(&mut self) {
        self.side.close(self.tenant, self.rest.by_ref().collect());
    }
}

impl Watched {
    /// What is to be known of it beyond its watching.
    pub(crate) fn known(&self) -> Option<&Arc<KnownCgroup>> {
        if let Self::Cgroup(cgroup) = self { Some(&cgroup.known) } else { None }
    }

    /// Closes a passed socket that is not to be watched.
    pub(crate) fn discard(self, side: &Side) {
        if let Self::Socket(socket) = self {
            side.close(NOBODYS, vec![socket]);
        }
    }
}

impl Asking {
    /// The broker itself, for a new connection of this tenant.
    pub(crate) fn for_connection(caller: Caller, identity: Arc<Identity>, connection: ConnectionId) -> Self {
        let road = Road::Channel;
        Self {
            caller,
            identity,
            connection,
            road,
            may_hold: false,
            on_behalf_by: None,
            process: None,
            named_itself: false,
            named_stream: false,
        }
    }

    /// Takes from a client what these holders need.
    ///
    /// # Errors
    /// PROCESS_GONE.
    pub(crate) fn of(client: &Client, holders: &[v1::HolderSpec]) -> Result<Self, RequestError> {
        let own_process =
            |spec: &v1::HolderSpec| matches!(&spec.kind, Some(v1::holder_spec::Kind::Process(process)) if !process.fd);
        let wanted = holders.is_empty() || holders.iter().any(own_process);
        Ok(Self {
            caller: client.peer.caller,
            identity: Arc::clone(&client.peer.identity),
            connection: client.id,
            road: client.road,
            may_hold: client.peer.may_hold,
            on_behalf_by: None,
            named_itself: false,
            named_stream: false,
            process: if wanted { client.process().map_err(no_process)? } else { None },
        })
    }

    /// The default: the peer's process, or its connection where the kernel names none.
    pub(crate) fn default_holder(&mut self) -> Holding {
        match self.process.take() {
            Some(process) => (NewHolder::Process(process.id), Watched::Process(process), ""),
            None if self.caller.confined_to.is_some() => (NewHolder::Connection(self.connection), Watched::Nothing, ""),
            None => (NewHolder::Connection(self.connection), Watched::Nothing, NO_PROCESS),
        }
    }

    pub(crate) fn holder(&mut self, spec: &v1::HolderSpec, passed: &mut Passed<'_>) -> Result<Holding, RequestError> {
        use v1::holder_spec::Kind;
        let of_channel = matches!(spec.kind, Some(Kind::Connection(_) | Kind::Ttl(_)) | None);
        if self.caller.confined_to.is_some() && !of_channel {
            // The kernel would name the broker's own process.
            return Err(RequestError::Delegated("holder but the channel itself and ttl"));
        }
        match &spec.kind {
            None => Err(RequestError::Holder("a holder has no kind; set one")),
            Some(Kind::Connection(_)) if self.road == Road::Channel => {
                Ok((NewHolder::Connection(self.connection), Watched::Nothing, ""))
            }
            Some(Kind::Connection(_)) if std::mem::replace(&mut self.named_stream, true) => {
                Err(RequestError::Holder(TWICE))
            }
            Some(Kind::Connection(_)) => {
                let until = clock::now() + STREAM_COMES_WITHIN;
                Ok((NewHolder::AwaitedConnection { until }, Watched::Nothing, AWAITED))
            }
            Some(Kind::Process(ProcessHolder { fd: true }) | Kind::Descriptor(_) | Kind::Cgroup(_))
                if self.road == Road::Grpc =>
            {
                Err(RequestError::NeedsChannel("a holder by descriptor"))
            }
            Some(Kind::Process(wanted)) if wanted.fd => {
                let process = self.passed_process(passed.next(process::is_pidfd, NO_PIDFD)?)?;
                Ok((NewHolder::Process(process.id), Watched::Process(process), ""))
            }
            Some(Kind::Process(_)) if std::mem::replace(&mut self.named_itself, true) => {
                Err(RequestError::Holder(TWICE))
            }
            Some(Kind::Process(_)) => Ok(self.default_holder()),
            Some(Kind::Ttl(ttl)) => {
                let ttl = ttl.ttl.ok_or(RequestError::Holder("a ttl holder needs its ttl"))?;
                Ok((NewHolder::Ttl(duration(ttl)?), Watched::Nothing, ""))
            }
            Some(Kind::Descriptor(wanted)) => {
                if !wanted.fd {
                    return Err(RequestError::Holder("a descriptor holder needs its descriptor; set fd"));
                }
                let socket = passed.next(is_connected_unix_socket, NO_SOCKET)?;
                Ok((NewHolder::Descriptor, Watched::Socket(socket), ""))
            }
            Some(Kind::Cgroup(wanted)) => {
                if !wanted.fd {
                    return Err(RequestError::Holder("a cgroup holder needs its cgroup's directory; set fd"));
                }
                let broker = rustix::process::geteuid().as_raw();
                let cgroup = passed.cgroup(wanted.kill.then_some((&*self.identity, broker)))?;
                let id = CgroupId(cgroup.known.record.inode);
                Ok((NewHolder::Cgroup(id), Watched::Cgroup(Box::new(cgroup)), ""))
            }
            Some(Kind::Hold(_)) if self.may_hold => Ok((NewHolder::Hold, Watched::Nothing, "")),
            Some(Kind::Hold(_)) => Err(RequestError::NotPermitted(
                "a hold, which nothing but a Detach or a Revoke ends,",
                "root and the admin group, and for whom a rule allows it; let a process, a cgroup or a ttl hold the lease",
            )),
        }
    }

    /// Whether whoever's process may hold its leases.
    fn may_name_any(&self) -> bool {
        self.caller.admin || self.on_behalf_by.is_some()
    }

    /// A process that a client passes must be its tenant's own, unless an admin says so.
    fn passed_process(&self, pidfd: OwnedFd) -> Result<HeldProcess, RequestError> {
        let process = HeldProcess::of_pidfd(pidfd).map_err(no_process)?;
        let users = process::users(process.id.pid).map_err(no_process)?;
        // Read while it was held, and it is alive still: so it was read of this process.
        let same = process::start_time(process.id.pid) == Ok(process.id.start_time);
        match same {
            false => Err(RequestError::ProcessGone),
            true if self.may_name_any() || users.contains(&self.caller.tenant.0) => Ok(process),
            true => Err(RequestError::Holder("the process is another tenant's")),
        }
    }
}

/// What is to be said of these holders.
pub(crate) fn note_of(holdings: &[Holding]) -> &'static str {
    holdings.iter().map(|(_, _, note)| *note).find(|note| !note.is_empty()).unwrap_or_default()
}

/// Gone, or not to be looked at.
fn no_process(errno: Errno) -> RequestError {
    match errno {
        // ACCESS: it lives where this broker can't see it, and can't be watched either.
        Errno::SRCH | Errno::NOENT | Errno::BADF | Errno::ACCESS => RequestError::ProcessGone,
        errno => FsError::new("look at", "a process that is to hold the lease", errno).into(),
    }
}
