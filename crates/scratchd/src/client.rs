//! One client, as far as requests are concerned: who it is, on which road it comes, and what it has used before.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use rustix::io::Errno;
use scratch_lease::{ConnectionId, LeaseId, Refusal};
use scratch_proto::v1;

use crate::broker::Broker;
use crate::load::{Outgoing, Seat};
use crate::peer::Peer;
use crate::process::HeldProcess;
use crate::reason::RequestError;
use crate::translate::lease_id;

/// The road that requests come on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Road {
    /// The handle channel, which carries descriptors.
    Channel,
    /// gRPC, which does not.
    Grpc,
}

/// State of one connection that requests read and change.
#[derive(Debug)]
pub(crate) struct Client {
    pub(crate) outgoing: Arc<Outgoing>,
    pub(crate) peer: Peer,
    pub(crate) id: ConnectionId,
    pub(crate) road: Road,
    /// The connection's own lease, once it has one.
    pub(crate) own_lease: Option<LeaseId>,
    /// How many times the channel was delegated on; 0: its client connected by itself. Which lease it is confined to stands in
    /// its caller.
    pub(crate) delegations: u8,
    /// That lease's grant, until a reply has told of it.
    pub(crate) untold: Option<v1::GrantResponse>,
    /// The lease's directory that was used last: many requests in a row use the same.
    directory: Option<(LeaseId, OwnedFd)>,
    /// Where the client said it runs.
    pub(crate) cpu: Option<usize>,
    _seat: Seat,
}

impl Client {
    /// A client that has asked for nothing yet.
    pub(crate) fn new(socket: OwnedFd, peer: Peer, (id, road): (ConnectionId, Road), seat: Seat) -> Self {
        let outgoing = seat.outgoing(socket);
        outgoing.comes_under(peer.caller.rule);
        // A delegated channel has its lease from the start, and never another one.
        let own_lease = peer.caller.confined_to;
        Self {
            outgoing,
            peer,
            id,
            road,
            own_lease,
            delegations: 0,
            untold: None,
            directory: None,
            cpu: None,
            _seat: seat,
        }
    }

    /// Looks at the peer again if the settings have changed.
    ///
    /// # Errors
    /// Where it may not be here any more.
    pub(crate) fn look_again(&mut self, broker: &Broker) -> Result<(), RequestError> {
        let rule = self.peer.caller.rule;
        broker.look_again(&mut self.peer, self.outgoing.socket())?;
        if self.peer.caller.rule != rule {
            self.outgoing.comes_under(self.peer.caller.rule);
        }
        Ok(())
    }

    /// The peer's process, held.
    ///
    /// # Errors
    /// SRCH when it is gone.
    pub(crate) fn process(&self) -> Result<Option<HeldProcess>, Errno> {
        self.peer.process(self.outgoing.socket())
    }

    /// The lease that a request names; the connection's own one if it names none.
    ///
    /// # Errors
    /// LEASE_UNKNOWN.
    pub(crate) fn lease(&self, text: &str) -> Result<LeaseId, RequestError> {
        match self.own_lease {
            Some(own) if text.is_empty() => Ok(own),
            _ => lease_id(text),
        }
    }

    /// The directory of a lease, opened or still held from the last request.
    ///
    /// # Errors
    /// LEASE_LOST, or of opening it.
    pub(crate) fn directory(&mut self, broker: &Broker, lease: LeaseId) -> Result<BorrowedFd<'_>, RequestError> {
        if self.directory.as_ref().is_none_or(|(held, _)| *held != lease) {
            self.directory = Some((lease, broker.open_lease(lease)?));
        }
        let (_, directory) = self.directory.as_ref().ok_or(Refusal::LeaseUnknown)?;
        Ok(directory.as_fd())
    }

    /// Lets go of a lease's directory, which would keep its inode past the end.
    pub(crate) fn let_go(&mut self, lease: LeaseId) {
        self.directory.take_if(|(held, _)| *held == lease);
    }
}
