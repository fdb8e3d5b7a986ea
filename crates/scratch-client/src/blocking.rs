//! The blocking flavour: its sockets wait by themselves, in the system call.

mod client;
mod lease;
mod named;
mod renewal;
mod scope;
mod stock;

use std::cell::Cell;
use std::future::{Ready, pending, ready};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::net::sockopt::{Timeout, set_socket_timeout};
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

/// How long a dropped guard waits for its answer. What the broker has not answered by then it has still been told.
const LET_GO_MAX: Duration = Duration::from_secs(2);
/// A system call on the socket returns after this time, so that one who does not wait for ever can look at the clock.
const LOOK_UP: Duration = Duration::from_secs(1);

thread_local! {
    /// How long this thread may wait in the call that it is in.
    static UNTIL: Cell<Option<Instant>> = const { Cell::new(None) };
}

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
        set_socket_timeout(&connected, Timeout::Recv, Some(LOOK_UP))?;
        set_socket_timeout(&connected, Timeout::Send, Some(LOOK_UP))?;
        Ok(connected)
    }

    async fn send(socket: &OwnedFd, packet: &[u8], descriptors: &[BorrowedFd<'_>]) -> Result<(), Errno> {
        until_time_is_up(|| send_packet(socket.as_fd(), packet, descriptors, SendFlags::empty())).await
    }

    async fn pause(time: Duration) {
        thread::sleep(time);
    }

    async fn receive(socket: &OwnedFd, buffer: &mut [u8], descriptors: &mut Vec<OwnedFd>) -> Result<Received, Errno> {
        until_time_is_up(|| receive_packet(socket.as_fd(), buffer, descriptors, RecvFlags::empty())).await
    }

    fn tend(_: Tending<Self>) {
        // There are none: its calls are not given up, and its guards wait.
    }

    fn let_go(broker: &Broker<Self>, op: Op) {
        // Ignoring answers: nobody can be told here, and the lease's end takes it in any case.
        match block_for(LET_GO_MAX, broker.say(&op)) {
            Some(false) if broker.is_there() => drop(block_for(LET_GO_MAX, broker.call(op, &[]))),
            // The next connection says it.
            Some(false) => broker.tell(op),
            Some(true) | None => {}
        }
    }
}

/// Does a system call on the socket until it is done. Where this thread may not wait any longer it never is: the future is dropped
/// then.
async fn until_time_is_up<T>(mut call: impl FnMut() -> Result<T, Errno>) -> Result<T, Errno> {
    loop {
        match call() {
            Err(Errno::AGAIN) if UNTIL.get().is_some_and(|until| until <= Instant::now()) => pending().await,
            Err(Errno::AGAIN) => {}
            done => return done,
        }
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

/// The same for so long; nothing where that was not enough.
fn block_for<T>(time: Duration, future: impl Future<Output = T>) -> Option<T> {
    let until = Instant::now() + time;
    UNTIL.set(Some(until));
    let done = block_until(until, future);
    UNTIL.set(None);
    done
}

fn block_until<T>(until: Instant, future: impl Future<Output = T>) -> Option<T> {
    let mut future = pin!(future);
    if let Poll::Ready(done) = future.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
        return Some(done);
    }
    let waker = Waker::from(Arc::new(Unpark(thread::current())));
    loop {
        if let Poll::Ready(done) = future.as_mut().poll(&mut Context::from_waker(&waker)) {
            return Some(done);
        }
        let left = until.checked_duration_since(Instant::now()).filter(|left| !left.is_zero())?;
        thread::park_timeout(left);
    }
}

struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}
