//! One gRPC connection: its peer as the kernel named it when it was accepted, and its place among its tenant's.

use std::os::fd::AsFd;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{UnixListener, UnixStream};
use tokio_stream::wrappers::UnixListenerStream;
use tokio_stream::{Stream, StreamExt};
use tonic::transport::server::Connected;

use crate::broker::Broker;
use crate::load::Seat;
use crate::peer::Peer;

/// A connection that was admitted.
pub(super) struct Connection {
    stream: UnixStream,
    peer: Arc<Peer>,
    _seat: Seat,
}

/// Connections of tenants that may have one more; the others are closed.
pub(super) fn admitted(
    broker: Arc<Broker>,
    listener: UnixListener,
) -> impl Stream<Item = std::io::Result<Connection>> + Send {
    UnixListenerStream::new(listener).filter_map(move |stream| match stream {
        Ok(stream) => admit(&broker, stream).map(Ok),
        Err(error) => Some(Err(error)),
    })
}

fn admit(broker: &Broker, stream: UnixStream) -> Option<Connection> {
    let settings = broker.settings.get();
    let peer = match Peer::of(stream.as_fd(), settings.admin_group) {
        Ok(peer) => Arc::new(peer),
        Err(errno) => {
            tracing::warn!(%errno, "a gRPC connection was refused: the kernel does not name its peer");
            return None;
        }
    };
    let seat = broker.loads.join(peer.identity.uid, settings.limits.connections);
    if seat.is_none() {
        tracing::warn!(tenant = peer.identity.uid, "a gRPC connection was refused: the tenant has too many");
    }
    Some(Connection { stream, peer, _seat: seat? })
}

impl Connected for Connection {
    type ConnectInfo = Arc<Peer>;

    fn connect_info(&self) -> Arc<Peer> {
        Arc::clone(&self.peer)
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
