//! Waiting by tokio: for the socket to be ready, and for the threads that connect.

use std::io;
use std::mem;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use ::tokio::io::Interest;
use ::tokio::net::UnixDatagram;
use ::tokio::runtime::Handle;
use ::tokio::task::{JoinHandle, spawn_blocking};
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags};
use scratch_proto::v1::channel_request::Op;
use scratch_sys::{Received, receive_packet, send_packet};

use crate::broker::Broker;
use crate::connect::{self, Connected, Start};
use crate::tending::Tending;
use crate::wait::Wait;
use crate::{ClientError, ConnectOptions};

/// Many tasks, one connection.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Tokio;

/// A socket that a runtime watches. To tokio, which has no type for SOCK_SEQPACKET, it is one of datagrams; it only waits
/// for it.
pub(crate) struct Socket {
    watched: Option<UnixDatagram>,
    process: u32,
}

/// A connection that is made on one of tokio's blocking threads, which goes on whoever waits for it.
pub(crate) struct Connecting(JoinHandle<Result<Connected, ClientError>>);

impl Wait for Tokio {
    type Socket = Socket;
    type Connecting = Connecting;

    fn connect(options: &ConnectOptions, start: Start) -> Connecting {
        let options = options.clone();
        Connecting(spawn_blocking(move || connect::connect(&options, start)))
    }

    fn socket(socket: OwnedFd) -> Result<Socket, Errno> {
        rustix::io::ioctl_fionbio(&socket, true)?;
        let watched = UnixDatagram::from_std(socket.into()).map_err(|error| errno(&error))?;
        Ok(Socket { watched: Some(watched), process: std::process::id() })
    }

    async fn send(socket: &Socket, packet: &[u8], descriptors: &[BorrowedFd<'_>]) -> Result<(), Errno> {
        let send = || send_packet(socket.as_fd(), packet, descriptors, SendFlags::empty());
        socket.when_ready(Interest::WRITABLE, send).await
    }

    async fn pause(time: Duration) {
        ::tokio::time::sleep(time).await;
    }

    async fn receive(socket: &Socket, buffer: &mut [u8], descriptors: &mut Vec<OwnedFd>) -> Result<Received, Errno> {
        let receive = || receive_packet(socket.as_fd(), buffer, descriptors, RecvFlags::empty());
        socket.when_ready(Interest::READABLE, receive).await
    }

    fn tend(tending: Tending<Self>) {
        // Outside of a runtime the next call reads them.
        if let Ok(runtime) = Handle::try_current() {
            runtime.spawn(tending.run());
        }
    }

    fn let_go(broker: &Broker<Self>, op: Op) {
        broker.tell(op);
    }
}

impl Socket {
    fn watched(&self) -> &UnixDatagram {
        self.watched.as_ref().expect("it is there until it is dropped")
    }

    async fn when_ready<T>(&self, interest: Interest, mut act: impl FnMut() -> Result<T, Errno>) -> Result<T, Errno> {
        self.watched().async_io(interest, || Ok(act()?)).await.map_err(|error| errno(&error))
    }
}

/// The kernel's error; a runtime that is gone has none, and takes the connection with it.
fn errno(error: &io::Error) -> Errno {
    Errno::from_io_error(error).unwrap_or(Errno::NOTCONN)
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.watched().as_fd()
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        // A forked child shares its parent's epoll instance: to give up the watch there would blind the parent. The child's copy
        // stays open until it ends or becomes another program.
        if self.process != std::process::id() {
            mem::forget(self.watched.take());
        }
    }
}

impl Future for Connecting {
    type Output = Result<Connected, ClientError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let joined = ready!(Pin::new(&mut self.0).poll(context));
        // Its runtime was shut down before it began; the next call begins anew.
        let lost = |_| Err(ClientError::io("connect to", "the broker", Errno::CANCELED));
        Poll::Ready(joined.unwrap_or_else(lost))
    }
}
