//! The broker as its clients see it: one connection at a time, made again when the broker was restarted or the process is a
//! forked child.

use std::fmt;
use std::os::fd::BorrowedFd;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use scratch_proto::v1::ChannelRequest;
use scratch_proto::v1::channel_request::Op;
use scratch_proto::v1::channel_response::Result as Reply;

use crate::connect::{self, Start};
use crate::delegated;
use crate::link::Link;
use crate::owed::{Owed, Undo};
use crate::packet::Answer;
use crate::reconnect::Making;
use crate::tending::Tending;
use crate::tenure::Tenure;
use crate::wait::Wait;
use crate::{ClientError, ConnectOptions, CreateMode};

/// A broker that is killed loses its connections before its listener: who connects in between is lost to the same process
/// again. For so long it is taken to be dying.
const DYING_FOR: Duration = Duration::from_secs(1);
/// Between two tries; doubled each time.
const PAUSE_MIN: Duration = Duration::from_micros(500);

/// What all clones of a client share, and all guards.
pub(crate) struct Broker<W: Wait> {
    pub(crate) options: ConnectOptions,
    pub(crate) start: Start,
    pub(crate) create: CreateMode,
    /// The connection was given to this process and can't be made again.
    pub(crate) is_delegated: bool,
    state: Mutex<State<W>>,
}

/// What belongs to one process. Locked for moments, never while anything is waited for.
pub(crate) struct State<W: Wait> {
    process: u32,
    pub(crate) link: Option<Arc<Link<W>>>,
    pub(crate) making: Making<W>,
    /// The broker's process and runtime directory.
    pub(crate) peer: (i32, PathBuf),
    /// Leases that this connection holds and the next one will have to.
    pub(crate) held: Vec<String>,
    pub(crate) own: Option<Arc<Tenure>>,
    pub(crate) owed: Arc<Owed>,
}

/// How a call went, whatever came of it.
pub(crate) struct Course<W: Wait> {
    /// On this connection; none where none could be made.
    link: Option<Arc<Link<W>>>,
    is_sent: bool,
    /// It was sent more than once.
    pub(crate) resent: bool,
}

impl<W: Wait> Broker<W> {
    /// Connects.
    pub(crate) async fn new(options: &ConnectOptions, start: Start) -> Result<Arc<Self>, ClientError> {
        if let Some(channel) = delegated::inherited(options)? {
            return Self::delegated(channel);
        }
        let create = connect::create_mode(options);
        let state = Mutex::new(State::new());
        let broker = Arc::new(Self { options: options.clone(), start, create, is_delegated: false, state });
        broker.link().await?;
        Ok(broker)
    }

    /// Not connected yet, and unable to.
    pub(crate) fn of_channel() -> Self {
        let (options, state) = (ConnectOptions::default(), Mutex::new(State::new()));
        Self { options, start: Start::Never, create: CreateMode::Broker, is_delegated: true, state }
    }

    /// One request and its answer; a refusal is an error.
    pub(crate) async fn call(&self, op: Op, descriptors: &[BorrowedFd<'_>]) -> Result<Answer, ClientError> {
        self.call_resending(op, descriptors, Undo::of).await.0
    }

    /// The same; tells also how it went. `undo` says what becomes of what it makes if its caller gives up.
    pub(crate) async fn call_resending(
        &self,
        op: Op,
        descriptors: &[BorrowedFd<'_>],
        undo: fn(&Op) -> Option<Undo>,
    ) -> (Result<Answer, ClientError>, Course<W>) {
        let mut request = ChannelRequest { op: Some(op), ..ChannelRequest::default() };
        let (result, first) = self.call_once(&mut request, descriptors, undo).await;
        if !result.as_ref().is_err_and(ClientError::is_disconnect) {
            return (result, first);
        }
        // What was not sent has not arrived: an exact name that exists is another's then.
        if first.is_sent {
            mark_sent_before(&mut request);
        }
        let (lost, mut is_sent) = (self.state().peer.0, first.is_sent);
        let (began, mut pause) = (Instant::now(), PAUSE_MIN);
        loop {
            let (result, next) = self.call_once(&mut request, descriptors, undo).await;
            let is_lost = matches!(&result, Err(error @ ClientError::Io { .. }) if error.is_disconnect());
            // 0: the kernel names no process, so that the next broker can't be told from it.
            if !is_lost || lost == 0 || self.state().peer.0 != lost || began.elapsed() > DYING_FOR {
                return (result, Course { resent: is_sent, ..next });
            }
            if next.is_sent && !is_sent {
                mark_sent_before(&mut request);
                is_sent = true;
            }
            W::pause(pause).await;
            pause *= 2;
        }
    }

    /// Says something whose answer nobody waits for: now if that goes without waiting, else as soon as it does.
    pub(crate) fn tell(&self, op: Op) {
        let (link, owed) = {
            let state = self.state();
            (state.link.clone(), Arc::clone(&state.owed))
        };
        owed.add([op]);
        if let Some(link) = link {
            link.settle();
            Tending::of(&link).into_iter().for_each(W::tend);
        }
    }

    /// Says something on the connection that there is, and waits until it is answered. False: there is none, or not any more.
    pub(crate) async fn say(&self, op: &Op) -> bool {
        let Some(link) = self.state().link.clone() else { return false };
        let mut request = ChannelRequest { op: Some(op.clone()), ..ChannelRequest::default() };
        let answer = match link.send(&mut request, &[], Undo::nothing).await {
            Ok(waiting) => waiting.answer().await,
            Err(error) => Err(error),
        };
        !answer.is_err_and(|error| error.is_disconnect())
    }

    /// Whether a connection could be made at once, without waiting for a broker to start.
    pub(crate) fn is_there(&self) -> bool {
        !self.is_delegated && matches!(connect::try_connect(&self.options.find_runtime_directory()), Ok(Some(_)))
    }

    /// The connection holds this lease: the next one must attach itself. True: the present one must, too.
    pub(crate) fn hold(&self, lease: &str, course: &Course<W>) -> bool {
        let mut state = self.state();
        state.held.push(lease.to_owned());
        let is_other = match (&state.link, &course.link) {
            (Some(current), Some(used)) => !Arc::ptr_eq(current, used),
            _ => state.making.is_under_way(),
        };
        // Granted before and sent again, it is held by the connection that was lost.
        course.resent || is_other
    }

    /// This lease has ended, or is none of ours any more.
    pub(crate) fn forget(&self, lease: &str) {
        self.state().held.retain(|held| held != lease);
    }

    /// The state of this process: a forked child starts anew.
    pub(crate) fn state(&self) -> MutexGuard<'_, State<W>> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.process != std::process::id() {
            *state = State::new();
        }
        state
    }

    async fn call_once(
        &self,
        request: &mut ChannelRequest,
        descriptors: &[BorrowedFd<'_>],
        undo: fn(&Op) -> Option<Undo>,
    ) -> (Result<Answer, ClientError>, Course<W>) {
        let link = match self.link().await {
            Ok(link) => link,
            Err(error) => return (Err(error), Course { link: None, is_sent: false, resent: false }),
        };
        let (result, is_sent) = match link.send(request, descriptors, undo).await {
            Ok(waiting) => (waiting.answer().await, true),
            Err(error) => (Err(error), false),
        };
        if result.as_ref().is_err_and(ClientError::is_disconnect) || link.is_lost() {
            let mut state = self.state();
            if state.link.as_ref().is_some_and(|current| Arc::ptr_eq(current, &link)) {
                state.link = None;
            }
        }
        let result = match result {
            Ok(Answer { reply: Reply::Error(refusal), .. }) => Err(refusal.into()),
            result => result,
        };
        (result, Course { link: Some(link), is_sent, resent: false })
    }
}

impl<W: Wait> fmt::Debug for Broker<W> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { options, start, create, is_delegated, .. } = self;
        f.debug_struct("Broker")
            .field("options", options)
            .field("start", start)
            .field("create", create)
            .field("is_delegated", is_delegated)
            .finish_non_exhaustive()
    }
}

impl<W: Wait> State<W> {
    fn new() -> Self {
        Self {
            process: std::process::id(),
            link: None,
            making: Making::default(),
            peer: (0, PathBuf::new()),
            held: Vec::new(),
            own: None,
            owed: Arc::default(),
        }
    }
}

/// Says of a request that it may have arrived already.
fn mark_sent_before(request: &mut ChannelRequest) {
    if let Some(Op::Create(create)) = &mut request.op {
        create.resend = true;
    }
}
