//! A delegated channel: a connection that this process was given. It reaches one lease and those below it, is used as it is,
//! and can't be made again.

use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;

use rustix::net::{AddressFamily, SocketType, sockopt};
use scratch_proto::v1::channel_request::Op;
use scratch_proto::v1::channel_response::Result as Reply;
use scratch_proto::v1::{DelegateRequest, GrantResponse, Limits as WireLimits};

use crate::broker::Broker;
use crate::connect::{self, Connected};
use crate::link::Link;
use crate::tenure::Tenure;
use crate::wait::Wait;
use crate::{ClientError, ConnectOptions};

/// How a process finds the channel that it was started with.
pub(crate) const VARIABLE: &str = "SCRATCHD_CHANNEL";

/// Limits of bytes and inodes; 0 is none. Those of a lease below another are carved out of the other's.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Limits {
    /// Bytes that are written. Where the pool can't hold who writes to them, they are shared out between leases.
    pub bytes: u64,
    /// Files and directories; where the pool does not count them, areas that the broker makes, and leases below.
    pub inodes: u64,
}

impl Limits {
    /// On the wire; none at all are left out.
    pub(crate) fn wire(self) -> Option<WireLimits> {
        (self != Self::default()).then_some(WireLimits { bytes: self.bytes, inodes: self.inodes })
    }
}

/// The channel that this process was started with, where nothing else was asked for.
///
/// # Errors
/// What SCRATCHD_CHANNEL names is no channel, or was taken by another client of this process.
pub(crate) fn inherited(options: &ConnectOptions) -> Result<Option<OwnedFd>, ClientError> {
    let variable = if options.runtime_directory.is_some() { None } else { connect::variable(VARIABLE) };
    let Some(value) = variable else { return Ok(None) };
    let number = value.to_str().and_then(|value| value.parse().ok());
    let taken = number.and_then(scratch_sys::take_inherited_descriptor);
    taken.filter(is_channel).map(Some).ok_or(ClientError::NoChannel { value })
}

/// Asks the socket layer; whose the other end is can't be told: in a user namespace the broker shows as nobody.
fn is_channel(descriptor: &OwnedFd) -> bool {
    sockopt::socket_domain(descriptor).is_ok_and(|family| family == AddressFamily::UNIX)
        && sockopt::socket_type(descriptor).is_ok_and(|kind| kind == SocketType::SEQPACKET)
}

impl<W: Wait> Broker<W> {
    /// Uses this channel.
    pub(crate) fn delegated(socket: OwnedFd) -> Result<Arc<Self>, ClientError> {
        let broker = Self::of_channel();
        let connected = Connected { socket, directory: PathBuf::from("(delegated channel)"), process: 0 };
        {
            let mut state = broker.state();
            state.link = Some(Arc::new(Link::new(connected, Arc::clone(&state.owed))?));
            // The broker knows it as the lease without a name: nothing is granted for it.
            state.own = Some(Arc::new(Tenure::new(GrantResponse::default())));
        }
        Ok(Arc::new(broker))
    }

    /// A channel for another process, confined to a new lease below this one.
    pub(crate) async fn delegate(&self, lease: &str, limits: Limits) -> Result<OwnedFd, ClientError> {
        let op = Op::Delegate(DelegateRequest { lease: lease.to_owned(), limits: limits.wire() });
        let answer = self.call_under(lease, op, &[]).await?;
        match (answer.reply, answer.descriptors.into_iter().next()) {
            (Reply::Delegate(_), Some(channel)) => Ok(channel),
            _ => Err(ClientError::Protocol("no answer to Delegate")),
        }
    }
}
