//! All in which the two flavours differ: how they connect, how they wait for their socket, and what a dropped guard does.
//! Everything else is written once, as async functions; see docs/decisions/0005-one-logic-two-flavours.md.

use std::fmt::Debug;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use rustix::io::Errno;
use scratch_proto::v1::channel_request::Op;
use scratch_sys::Received;

use crate::broker::Broker;
use crate::connect::{Connected, Start};
use crate::tending::Tending;
use crate::{ClientError, ConnectOptions};

/// A flavour of the SDK.
pub(crate) trait Wait: Debug + Clone + Copy + Send + Sync + 'static {
    /// A connected socket that can be waited for.
    type Socket: AsFd + Send + Sync;
    /// A connection in the making. Who takes over from one that gave up waiting for it goes on with it.
    type Connecting: Future<Output = Result<Connected, ClientError>> + Send + Unpin;

    /// Begins to look for the broker. May take as long as a broker takes to start.
    fn connect(options: &ConnectOptions, start: Start) -> Self::Connecting;

    fn socket(connected: OwnedFd) -> Result<Self::Socket, Errno>;

    /// Sends one packet, whole or not at all.
    async fn send(socket: &Self::Socket, packet: &[u8], descriptors: &[BorrowedFd<'_>]) -> Result<(), Errno>;

    /// Receives one packet. Dropped before its end it has received nothing.
    async fn receive(
        socket: &Self::Socket,
        buffer: &mut [u8],
        descriptors: &mut Vec<OwnedFd>,
    ) -> Result<Received, Errno>;

    /// Does nothing for this long.
    async fn pause(time: Duration);

    /// Sees to it that answers are read which nobody waits for, if there is somebody to do it.
    fn tend(tending: Tending<Self>);

    /// Says what a dropped guard has to say. Nobody hears of an error.
    fn let_go(broker: &Broker<Self>, op: Op);
}
