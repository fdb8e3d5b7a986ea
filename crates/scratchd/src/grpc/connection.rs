//! One gRPC connection: its peer as the kernel named it when it was accepted, and its place among its tenant's.

use std::os::fd::{AsFd, OwnedFd};
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::{RecvFlags, Shutdown};
use scratch_fs::FsError;
use scratch_lease::{Caller, ConnectionId};
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::{UnixListener, UnixStream};
use tokio_stream::wrappers::UnixListenerStream;
use tokio_stream::{Stream, StreamExt};
use tonic::transport::server::Connected;

use super::authority::Authority;
use crate::broker::Broker;
use crate::client::{Client, Road};
use crate::load::Outgoing;
use crate::reason::RequestError;

/// How long to accept nothing where the system has no descriptor left for it.
const NO_ACCEPT_FOR: Duration = Duration::from_millis(100);

/// A connection that was admitted.
pub(super) struct Connection {
    stream: UnixStream,
    /// The kernel keeps descriptors off it.
    refuses_descriptors: bool,
    authority: Authority,
    broker: Arc<Broker>,
    shared: Arc<Shared>,
}

/// What a connection's calls share.
#[derive(Debug)]
pub(super) struct Shared {
    caller: Mutex<Caller>,
    pub(super) outgoing: Arc<Outgoing>,
    id: ConnectionId,
    client: Mutex<Client>,
    /// Of the settings that the caller is by.
    version: AtomicU64,
}

impl Shared {
    /// Who calls, and what that may.
    pub(super) fn caller(&self) -> Caller {
        *self.caller.lock().expect("a thread that panics ends the process")
    }

    /// Looks at the peer again if the settings have changed.
    ///
    /// # Errors
    /// Where it may not be here any more.
    pub(super) fn look_again(&self, broker: &Broker) -> Result<(), RequestError> {
        let version = broker.settings.version();
        if self.version.load(Ordering::Acquire) != version {
            let mut client = self.client();
            client.look_again(broker)?;
            *self.caller.lock().expect("a thread that panics ends the process") = client.peer.caller;
            self.version.store(version, Ordering::Release);
        }
        Ok(())
    }

    /// The client, for one request: held for its system calls, as a channel thread would, and never across an await.
    pub(super) fn client(&self) -> MutexGuard<'_, Client> {
        self.client.lock().expect("a thread that panics ends the process")
    }
}

/// Connections of tenants that may have one more; the others are closed.
pub(super) fn admitted(
    broker: Arc<Broker>,
    listener: UnixListener,
    refuses_descriptors: bool,
) -> impl Stream<Item = std::io::Result<Connection>> + Send {
    let accepted = UnixListenerStream::new(listener).then(async |stream| {
        if stream.is_err() {
            // No descriptor left, say: at once it would be the same.
            tokio::time::sleep(NO_ACCEPT_FOR).await;
        }
        stream
    });
    accepted.filter_map(move |stream| match stream {
        Ok(stream) => admit(&broker, stream, refuses_descriptors).map(Ok),
        Err(error) => Some(Err(error)),
    })
}

fn admit(broker: &Arc<Broker>, stream: UnixStream, refuses_descriptors: bool) -> Option<Connection> {
    let failed = |errno| RequestError::from(FsError::new("hold", "a connection", errno));
    let looked = broker.peer(stream.as_fd());
    let with_socket = |peer| Ok((peer, rustix::io::fcntl_dupfd_cloexec(&stream, 0).map_err(failed)?));
    let (peer, socket) = match looked.and_then(with_socket) {
        Ok(known) => known,
        Err(error @ RequestError::FileSystem(_)) => {
            tracing::warn!(%error, "a gRPC connection was refused");
            return None;
        }
        Err(error) => {
            tracing::debug!(%error, "a gRPC connection was refused");
            return None;
        }
    };
    // Not older than those that it was looked at under.
    let settings = broker.settings.get();
    let tenant = peer.identity.uid;
    let seat = broker.loads.join(tenant, settings.limits_of(peer.caller).connections);
    if seat.is_none() {
        tracing::debug!(tenant, "a gRPC connection was refused: the tenant has too many");
        broker.note_refusal(tenant, "LIMIT_CONNECTIONS");
    }
    let id = broker.new_connection();
    let caller = peer.caller;
    let client = Client::new(socket, peer, (id, Road::Grpc), seat?);
    broker.lock().open.insert(id);
    broker.streams.join(id, Arc::clone(&client.outgoing));
    let shared = Shared {
        caller: Mutex::new(caller),
        outgoing: Arc::clone(&client.outgoing),
        id,
        client: Mutex::new(client),
        version: AtomicU64::new(0),
    };
    let (authority, broker, shared) = (Authority::default(), Arc::clone(broker), Arc::new(shared));
    Some(Connection { stream, refuses_descriptors, authority, broker, shared })
}

impl Drop for Connection {
    fn drop(&mut self) {
        // Calls that are under way hold a descriptor of it still; the peer is to see its end now. An error: it has gone.
        let _ = rustix::net::shutdown(&self.stream, Shutdown::Both);
        self.broker.streams.leave(self.shared.id);
        self.broker.connection_closed(self.shared.id);
    }
}

impl Connected for Connection {
    type ConnectInfo = Arc<Shared>;

    fn connect_info(&self) -> Arc<Shared> {
        Arc::clone(&self.shared)
    }
}

impl Connection {
    /// Descriptors may ride along with any bytes: they are received, so that they can be closed where that may block.
    fn read(&self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let mut descriptors: Vec<OwnedFd> = Vec::new();
        let received = self.stream.try_io(Interest::READABLE, || {
            let received =
                scratch_sys::receive_packet(self.stream.as_fd(), buffer, &mut descriptors, RecvFlags::DONTWAIT);
            received.map_err(
                |errno| if errno == Errno::AGAIN { std::io::ErrorKind::WouldBlock.into() } else { errno.into() },
            )
        });
        if !descriptors.is_empty() {
            let tenant = self.shared.caller().tenant.0;
            let flooded = self.broker.side.is_flooded_by(tenant);
            self.broker.side.close(tenant, descriptors);
            if flooded {
                // Whoever sends more descriptors than can be closed is cut off.
                return Err(std::io::ErrorKind::ConnectionAborted.into());
            }
        }
        Ok(received?.length)
    }
}

impl Connection {
    fn poll_receive(&mut self, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<std::io::Result<()>> {
        if self.refuses_descriptors {
            return Pin::new(&mut self.stream).poll_read(context, buffer);
        }
        loop {
            ready!(self.stream.poll_read_ready(context))?;
            match self.read(buffer.initialize_unfilled()) {
                Ok(length) => {
                    buffer.advance(length);
                    return Poll::Ready(Ok(()));
                }
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        let before = buffer.filled().len();
        ready!(self.poll_receive(context, buffer))?;
        self.authority.mend(&mut buffer.filled_mut()[before..]);
        Poll::Ready(Ok(()))
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
