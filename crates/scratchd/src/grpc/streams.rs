//! KeepAlive: a stream that renews leases, and holds those that were to be held by their connection.

use std::collections::HashMap;
use std::os::fd::AsFd;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use scratch_lease::{BootTime, ConnectionId};
use scratch_proto::v1;
use tokio::sync::mpsc;
use tonic::{Status, Streaming};

use super::connection::Shared;
use crate::broker::Broker;
use crate::load::Outgoing;
use crate::reason::RequestError;
use crate::translate::{lease_id, wire_duration};

/// Replies that a client may leave unread before nothing more is read from it.
const UNREAD_MAX: usize = 16;

/// How often in a row nothing may be unread before what was sent counts as read; how often to look at most. Looks are
/// counted, not time: in a broker that stands still nothing is read.
const QUIET_LOOKS: u32 = 5;
const LOOKS_MAX: u32 = 100;
const LOOK_EVERY: Duration = Duration::from_millis(10);

type Reply = Result<v1::KeepAliveResponse, Status>;

/// The sockets of the connections that streams may be on.
#[derive(Debug, Default)]
pub(crate) struct Streams(Mutex<HashMap<ConnectionId, Arc<Outgoing>>>);

/// One stream; what it held is let go when it is dropped.
struct Renewal {
    broker: Arc<Broker>,
    shared: Arc<Shared>,
    id: ConnectionId,
}

/// Serves a stream on a task of its own; its replies come through what is returned.
pub(super) fn serve(
    broker: &Arc<Broker>,
    shared: Arc<Shared>,
    requests: Streaming<v1::KeepAliveRequest>,
) -> mpsc::Receiver<Reply> {
    let (replies, receiver) = mpsc::channel(UNREAD_MAX);
    let id = broker.new_connection();
    broker.lock().open.insert(id);
    let renewal = Renewal { broker: Arc::clone(broker), shared, id };
    tokio::spawn(renewal.run(requests, replies));
    receiver
}

impl Renewal {
    /// Until either side ends the stream. A broker that stops ends it with a word, and lets go of nothing.
    async fn run(self, mut requests: Streaming<v1::KeepAliveRequest>, replies: mpsc::Sender<Reply>) {
        let mut stopping = self.broker.stopping.subscribe();
        loop {
            let request = tokio::select! {
                request = requests.message() => request,
                () = replies.closed() => return,
                _ = stopping.wait_for(|stopping| *stopping) => Err(RequestError::Stopping.to_status(None)),
            };
            let reply = match request {
                Ok(Some(request)) => Ok(self.renew(request)),
                Ok(None) => return,
                Err(status) => Err(status),
            };
            let is_last = reply.is_err();
            let sent = tokio::select! {
                sent = replies.send(reply) => sent.is_ok(),
                // Who does not read is not waited for by a broker that stops.
                _ = stopping.wait_for(|stopping| *stopping), if !is_last => false,
            };
            if !sent || is_last {
                return;
            }
        }
    }

    fn renew(&self, request: v1::KeepAliveRequest) -> v1::KeepAliveResponse {
        let renewed = self
            .shared
            .look_again(&self.broker)
            .and_then(|()| lease_id(&request.lease))
            .and_then(|lease| self.broker.keep_alive_by(self.id, self.shared.caller(), lease));
        let (granted_ttl, error) = match renewed {
            Ok(granted) => (granted.map(wire_duration), None),
            Err(error) => (None, Some(error.to_wire(None))),
        };
        v1::KeepAliveResponse { lease: request.lease, granted_ttl, error }
    }
}

impl Drop for Renewal {
    fn drop(&mut self) {
        self.broker.connection_closed(self.id);
    }
}

impl Streams {
    /// A connection was accepted.
    pub(super) fn join(&self, connection: ConnectionId, socket: Arc<Outgoing>) {
        self.lock().insert(connection, socket);
    }

    /// It has closed.
    pub(super) fn leave(&self, connection: ConnectionId) {
        self.lock().remove(&connection);
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<ConnectionId, Arc<Outgoing>>> {
        self.0.lock().expect("a thread that panics ends the process")
    }

    /// Whether something was sent on one of them that was not read yet. An error counts as nothing: that one has gone.
    fn have_unread(&self) -> bool {
        let unread = |one: &Arc<Outgoing>| rustix::io::ioctl_fionread(one.socket().as_fd()).unwrap_or(0);
        self.lock().values().any(|one| unread(one) > 0)
    }

    /// Returns when what was sent until now has been read. What waits to be accepted is accepted meanwhile.
    async fn quiet(&self) {
        let mut quiet = 0;
        for _ in 0..LOOKS_MAX {
            tokio::time::sleep(LOOK_EVERY).await;
            quiet = if self.have_unread() { 0 } else { quiet + 1 };
            if quiet == QUIET_LOOKS {
                return;
            }
        }
    }
}

impl Broker {
    /// Acts on deadlines up to `time` when what was sent on KeepAlive streams until now has been read: a renewal that came in
    /// time counts. A client that floods puts that off by one second at most.
    pub(crate) fn pass_deadlines_when_streams_are_read(self: &Arc<Self>, time: BootTime) {
        let Some(tokio) = self.tokio.get() else {
            self.pass_deadlines(time);
            self.watch.wake();
            return;
        };
        let broker = Arc::clone(self);
        tokio.spawn(async move {
            broker.streams.quiet().await;
            broker.pass_deadlines(time);
            broker.watch.wake();
        });
    }
}
