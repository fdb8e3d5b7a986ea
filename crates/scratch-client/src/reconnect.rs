//! Making the connection: of many callers that need it one makes it, the others wait for that and share its failure.

use std::future::poll_fn;
use std::mem;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use scratch_proto::v1::channel_request::Op;
use scratch_proto::v1::holder_spec::Kind;
use scratch_proto::v1::{AttachRequest, ChannelRequest, ConnectionHolder, HolderSpec};

use crate::ClientError;
use crate::broker::{Broker, State};
use crate::link::Link;
use crate::owed::Undo;
use crate::wait::Wait;

/// Who makes the connection, and who waits for it.
pub(crate) struct Making<W: Wait> {
    is_made: bool,
    /// Begun by one that gave up waiting for it.
    begun: Option<W::Connecting>,
    waiting: Vec<Waker>,
    /// How often it failed, and how the last time.
    failures: (u64, Option<ClientError>),
}

/// What one that needs the connection finds.
enum Turn<W: Wait> {
    Connected(Arc<Link<W>>),
    /// It is the one to make it.
    Make,
}

/// The one that makes it.
struct Maker<'a, W: Wait> {
    broker: &'a Broker<W>,
    connecting: Option<W::Connecting>,
}

impl<W: Wait> Broker<W> {
    /// The connection.
    pub(crate) async fn link(&self) -> Result<Arc<Link<W>>, ClientError> {
        let failures = self.state().making.failures.0;
        match poll_fn(|context| self.state().poll_turn(failures, context)).await? {
            Turn::Connected(link) => Ok(link),
            Turn::Make => Maker { broker: self, connecting: None }.make().await,
        }
    }
}

impl<W: Wait> Maker<'_, W> {
    async fn make(mut self) -> Result<Arc<Link<W>>, ClientError> {
        let made = self.connect().await;
        if let Err(error) = &made {
            let failures = &mut self.broker.state().making.failures;
            *failures = (failures.0 + 1, Some(error.clone()));
        }
        made
    }

    /// A new connection takes the place of the last as a holder.
    async fn connect(&mut self) -> Result<Arc<Link<W>>, ClientError> {
        if self.broker.is_delegated {
            return Err(ClientError::ChannelClosed);
        }
        let begun = self.broker.state().making.begun.take();
        let connecting = self.connecting.insert(match begun {
            Some(begun) => begun,
            None => W::connect(&self.broker.options, self.broker.start),
        });
        let connected = connecting.await;
        self.connecting = None;
        let connected = connected?;
        let peer = (connected.process, connected.directory.clone());
        let (owed, held) = {
            let mut state = self.broker.state();
            // Also if it is lost again before it is of use: whose it was decides whether to try once more.
            state.peer = peer;
            (Arc::clone(&state.owed), state.held.clone())
        };
        let link = Arc::new(Link::new(connected, owed)?);
        for lease in &held {
            let mut request = ChannelRequest { op: Some(attach_connection(lease)), ..ChannelRequest::default() };
            // A lease that has ended meanwhile says so when it is used.
            link.send(&mut request, &[], Undo::nothing).await?.answer().await?;
        }
        let mut state = self.broker.state();
        state.link = Some(Arc::clone(&link));
        Ok(link)
    }
}

impl<W: Wait> State<W> {
    fn poll_turn(&mut self, failures: u64, context: &Context<'_>) -> Poll<Result<Turn<W>, ClientError>> {
        let making = &mut self.making;
        match (&self.link, &making.failures) {
            (Some(link), _) => Poll::Ready(Ok(Turn::Connected(Arc::clone(link)))),
            (None, (failed, Some(failure))) if *failed > failures => Poll::Ready(Err(failure.clone())),
            (None, _) if making.is_made => {
                making.waiting.push(context.waker().clone());
                Poll::Pending
            }
            (None, _) => {
                making.is_made = true;
                Poll::Ready(Ok(Turn::Make))
            }
        }
    }
}

impl<W: Wait> Drop for Maker<'_, W> {
    fn drop(&mut self) {
        let waiting = {
            let mut state = self.broker.state();
            state.making.is_made = false;
            state.making.begun = self.connecting.take();
            mem::take(&mut state.making.waiting)
        };
        waiting.into_iter().for_each(Waker::wake);
    }
}

impl<W: Wait> Making<W> {
    pub(crate) fn is_under_way(&self) -> bool {
        self.is_made
    }
}

impl<W: Wait> Default for Making<W> {
    fn default() -> Self {
        Self { is_made: false, begun: None, waiting: Vec::new(), failures: (0, None) }
    }
}

pub(crate) fn attach_connection(lease: &str) -> Op {
    let holder = HolderSpec { kind: Some(Kind::Connection(ConnectionHolder {})) };
    Op::Attach(AttachRequest { lease: lease.to_owned(), holder: Some(holder) })
}
