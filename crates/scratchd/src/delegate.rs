//! Delegate: a channel that reaches one lease and those below it, for a process that can reach no broker.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair, sockopt};
use scratch_fs::FsError;
use scratch_lease::{Caller, LeaseId, Refusal};
use scratch_proto::v1::channel_request::Op;
use scratch_proto::v1::r#where;
use scratch_proto::v1::{self, HolderSpec, Kind, holder_spec};

use crate::broker::Broker;
use crate::client::{Client, Road};
use crate::holders::Asking;
use crate::reason::RequestError;
use crate::translate::lease_id;

/// How often a channel may be delegated on.
const DEPTH_MAX: u8 = 8;

/// A new channel: its lease, the broker's end with all that is known of the other, and the other.
pub(crate) struct Delegated {
    pub(crate) lease: LeaseId,
    pub(crate) client: Client,
    pub(crate) end: OwnedFd,
}

/// Whether this operation may come by this client's channel; any may on one that was not delegated.
///
/// # Errors
/// DELEGATED.
pub(crate) fn may_ask(broker: &Broker, client: &Client, op: &Op) -> Result<(), RequestError> {
    let Some(own) = client.peer.caller.confined_to else { return Ok(()) };
    let is_own = |lease: &str| lease.is_empty() || lease.parse() == Ok(own);
    let refused = match op {
        Op::Ping(_) | Op::Release(_) | Op::Delegate(_) => return Ok(()),
        // The plain descriptor that this broker gives for a directory leads out of it.
        Op::Grant(grant) if grant.want_handle && broker.gives_plain() => {
            "handle of a directory, which this broker can't contain"
        }
        Op::Create(create) if create.want_handle && create.kind() == Kind::Directory && broker.gives_plain() => {
            "handle of a directory, which this broker can't contain"
        }
        Op::Create(create) if is_foreign(create) => "directory that the client passes",
        Op::Create(_) | Op::Grant(_) => return Ok(()),
        Op::Revoke(revoke) if is_own(&revoke.lease) => "Revoke of its own lease, which ends when the channel is closed",
        Op::KeepAlive(renewal) if is_own(&renewal.lease) => "KeepAlive of its own lease, which the channel holds",
        Op::Revoke(_) | Op::KeepAlive(_) => return Ok(()),
        Op::Attach(_) => "Attach",
        Op::Detach(_) => "Detach",
        Op::Claim(_) => "Claim",
        Op::Persist(_) => "Persist",
    };
    Err(RequestError::Delegated(refused))
}

/// Whether an area is to be made in a directory that rides along.
pub(crate) fn is_foreign(create: &v1::CreateRequest) -> bool {
    matches!(create.r#where.as_ref().and_then(|place| place.kind.as_ref()), Some(r#where::Kind::Foreign(_)))
}

impl Broker {
    /// Makes a channel confined to a new lease below one of the client's. Nothing serves it yet.
    ///
    /// # Errors
    /// LEASE_UNKNOWN, LIMIT_DEPTH, LIMIT_CONNECTIONS, LIMIT_UNREAD, and what Grant says; nothing is left then.
    pub(crate) fn delegate(
        self: &Arc<Self>,
        client: &mut Client,
        request: v1::DelegateRequest,
    ) -> Result<Delegated, RequestError> {
        if client.delegations >= DEPTH_MAX {
            return Err(Refusal::Depth { limit: DEPTH_MAX.into() }.into());
        }
        self.check_unread(client, 1)?;
        let parent = self.lease_for(client, &request.lease)?;
        let caller = client.peer.caller;
        let (tenant, identity) = {
            let state = self.lock();
            let tenant = state.table.live(parent, caller)?.tenant();
            (tenant, state.identities.get(&parent).cloned().ok_or(Refusal::LeaseUnknown)?)
        };
        let settings = self.settings.get();
        let limits = settings.limits_of(caller);
        // A sandbox that delegates without end leaves its worker room to connect.
        let connections = if client.delegations == 0 { limits.connections } else { limits.connections / 2 };
        let seat = self.loads.join(tenant.0, connections);
        let seat = seat.ok_or(RequestError::LimitConnections { limit: connections })?;
        let (socket, end) = pair(limits.unread_bytes).map_err(|errno| FsError::new("make", "a channel", errno))?;

        let connection = self.new_connection();
        self.lock().open.insert(connection);
        let rule = caller.rule.filter(|_| caller.tenant == tenant);
        let worker = Caller { confined_to: caller.confined_to, rule, ..Caller::of(tenant) };
        let asking = Asking::for_connection(worker, Arc::clone(&identity), connection);
        let lease = match self.grant(asking, below(parent, request.limits), Vec::new()) {
            Ok(granted) => lease_id(&granted.id)?,
            Err(error) => {
                self.connection_closed(connection);
                return Err(error);
            }
        };
        let confined = client.peer.delegate(Caller { confined_to: Some(lease), ..worker }, identity);
        let mut confined = Client::new(socket, confined, (connection, Road::Channel), seat);
        confined.delegations = client.delegations + 1;
        tracing::info!(%lease, parent = %parent, tenant = tenant.0, "delegated");
        Ok(Delegated { lease, client: confined, end })
    }
}

fn below(parent: LeaseId, limits: Option<v1::Limits>) -> v1::GrantRequest {
    let connection = holder_spec::Kind::Connection(v1::ConnectionHolder {});
    v1::GrantRequest {
        parent: parent.to_string(),
        holders: vec![HolderSpec { kind: Some(connection) }],
        limits,
        soft: true,
        ..v1::GrantRequest::default()
    }
}

/// The broker's end, set up as one that was accepted, and the other.
fn pair(unread_bytes: u64) -> Result<(OwnedFd, OwnedFd), Errno> {
    let (socket, end) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
    rustix::io::ioctl_fionbio(&socket, true)?;
    // The kernel doubles what it is told.
    sockopt::set_socket_send_buffer_size(&socket, usize::try_from(unread_bytes / 2).unwrap_or(usize::MAX))?;
    Ok((socket, end))
}
