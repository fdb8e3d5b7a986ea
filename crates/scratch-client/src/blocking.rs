//! The blocking flavour: its sockets wait by themselves, in the system call.

mod client;
mod lease;
mod named;
mod renewal;
mod scope;
mod stock;

use std::future::{Ready, ready};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, Thread};
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags};
use scratch_proto::v1::channel_request::Op;
use scratch_sys::{Received, receive_packet, send_packet};

pub use client::Client;
pub use lease::Lease;
pub use named::{Directory, NamedFile};
pub use renewal::Renewal;
pub use scope::Scope;
pub use stock::Stock;

use crate::broker::Broker;
use crate::connect::{self, Connected, Start};
use crate::tending::Tending;
use crate::wait::Wait;
use crate::{ClientError, ConnectOptions};

/// One thread, one call.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Blocking;

impl Wait for Blocking {
    type Socket = OwnedFd;
    type Connecting = Ready<Result<Connected, ClientError>>;

    fn connect(options: &ConnectOptions, start: Start) -> Self::Connecting {
        ready(connect::connect(options, start))
    }

    fn socket(connected: OwnedFd) -> Result<OwnedFd, Errno> {
        Ok(connected)
    }

    async fn send(socket: &OwnedFd, packet: &[u8], descriptors: &[BorrowedFd<'_>]) -> Result<(), Errno> {
        send_packet(socket.as_fd(), packet, descriptors, SendFlags::empty())
    }

    async fn pause(time: Duration) {
        thread::sleep(time);
    }

    async fn receive(socket: &OwnedFd, buffer: &mut [u8], descriptors: &mut Vec<OwnedFd>) -> Result<Received, Errno> {
        receive_packet(socket.as_fd(), buffer, descriptors, RecvFlags::empty())
    }

    fn tend(_: Tending<Self>) {
        // There are none: its calls are not given up, and its guards wait.
    }

    fn let_go(broker: &Broker<Self>, op: Op) {
        // Ignoring: nobody can be told here, and the lease's end takes it in any case.
        let _ = block(broker.call(op, &[]));
    }
}

/// Runs a future of this flavour to its end. It stops on its way only where another thread reads for this one, or connects.
pub(crate) fn block<T>(future: impl Future<Output = T>) -> T {
    let mut future = pin!(future);
    // Nearly always this is all, and needs no waker.
    if let Poll::Ready(done) = future.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
        return done;
    }
    let waker = Waker::from(Arc::new(Unpark(thread::current())));
    loop {
        match future.as_mut().poll(&mut Context::from_waker(&waker)) {
            Poll::Ready(done) => return done,
            Poll::Pending => thread::park(),
        }
    }
}

struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}
