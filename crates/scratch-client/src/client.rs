//! A client: one connection at a time, made again when the broker was restarted or the process is a forked child.

use std::os::fd::BorrowedFd;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use scratch_proto::v1::channel_request::Op;
use scratch_proto::v1::channel_response::Result as Reply;
use scratch_proto::v1::holder_spec::Kind;
use scratch_proto::v1::{AttachRequest, ChannelRequest, ConnectionHolder, HolderSpec, PingRequest, RevokeRequest};

use crate::channel::{Answer, Channel};
use crate::connect::{self, Start};
use crate::lease::Tenure;
use crate::{ClientError, ConnectOptions, CreateMode, GrantOptions, Lease};

/// A connection to the broker. Clones share it.
///
/// A forked child never uses its parent's connection: it makes one of its own at its first call. Fork while another thread
/// is in a call, and the child must not use the client at all.
#[derive(Debug, Clone)]
pub struct Client {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    options: ConnectOptions,
    start: Start,
    create: CreateMode,
    state: Mutex<State>,
}

/// What belongs to one process.
#[derive(Debug)]
struct State {
    process: u32,
    channel: Option<Channel>,
    /// The broker's process and runtime directory.
    broker: (i32, PathBuf),
    /// Leases that this connection holds and the next one will have to.
    held: Vec<String>,
    own: Option<Arc<Tenure>>,
}

impl Client {
    /// Connects to a broker that runs.
    ///
    /// # Errors
    /// [`ClientError::NoBroker`] where none answers; [`ClientError::ForeignBroker`] for one that may not be trusted.
    pub fn connect(options: &ConnectOptions) -> Result<Self, ClientError> {
        Self::new(options, Start::Never)
    }

    /// Connects to the broker, and starts one for this user where there is none. It ends by itself when it is idle.
    ///
    /// # Errors
    /// As [`Client::connect`]; [`ClientError::NoProgram`] and [`ClientError::Start`] where none could be started.
    pub fn connect_or_start(options: &ConnectOptions) -> Result<Self, ClientError> {
        Self::new(options, Start::IfNone)
    }

    fn new(options: &ConnectOptions, start: Start) -> Result<Self, ClientError> {
        let create = connect::create_mode(options);
        let state = State::new();
        let client =
            Self { shared: Arc::new(Shared { options: options.clone(), start, create, state: Mutex::new(state) }) };
        client.state().channel(&client.shared)?;
        Ok(client)
    }

    /// Asks the broker nothing and waits for its answer.
    ///
    /// # Errors
    /// Those of the connection.
    pub fn ping(&self) -> Result<(), ClientError> {
        match self.call(Op::Ping(PingRequest {}), &[])?.reply {
            Reply::Ping(_) => Ok(()),
            _ => Err(ClientError::Protocol("no answer to Ping")),
        }
    }

    /// Grants a lease. The guard that is returned revokes it when it is dropped.
    ///
    /// # Errors
    /// What the broker refuses: LEASE_UNKNOWN for a parent that is not there, and limits.
    pub fn grant(&self, options: &GrantOptions) -> Result<Lease, ClientError> {
        Lease::grant(self, options)
    }

    /// Ends a lease by its id, whatever holds it; returns when its directory is out of the name space.
    ///
    /// # Errors
    /// LEASE_UNKNOWN for one that is not there.
    pub fn revoke(&self, lease: &str) -> Result<(), ClientError> {
        let (result, resent) =
            self.call_resending(Op::Revoke(RevokeRequest { lease: lease.to_owned(), ..RevokeRequest::default() }), &[]);
        match result.map(|answer| answer.reply) {
            Ok(Reply::Revoke(_)) => Ok(()),
            Ok(_) => Err(ClientError::Protocol("no answer to Revoke")),
            // The first one arrived; its answer was lost.
            Err(error) if resent && error.is_refusal("LEASE_UNKNOWN") => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// The process id that the broker had when it began to listen.
    #[must_use]
    pub fn broker_process(&self) -> i32 {
        self.state().broker.0
    }

    /// The runtime directory of the broker.
    #[must_use]
    pub fn runtime_directory(&self) -> PathBuf {
        self.state().broker.1.clone()
    }

    pub(crate) fn create_mode(&self) -> CreateMode {
        self.shared.create
    }

    /// One request and its answer; a refusal is an error.
    pub(crate) fn call(&self, op: Op, descriptors: &[BorrowedFd<'_>]) -> Result<Answer, ClientError> {
        self.call_resending(op, descriptors).0
    }

    /// The same; tells also whether it was sent more than once.
    pub(crate) fn call_resending(&self, op: Op, descriptors: &[BorrowedFd<'_>]) -> (Result<Answer, ClientError>, bool) {
        let mut state = self.state();
        let mut request = ChannelRequest { id: 0, op: Some(op), ..ChannelRequest::default() };
        match state.call(&self.shared, &mut request, descriptors) {
            Err(error) if error.is_disconnect() => {
                state.channel = None;
                mark_sent_before(&mut request);
                (state.call(&self.shared, &mut request, descriptors), true)
            }
            result => (result, false),
        }
    }

    /// The lease that areas get whose maker names none: granted at first use, held by this process, and left to end with it.
    pub(crate) fn own_lease(&self) -> Result<Arc<Tenure>, ClientError> {
        if let Some(own) = &self.state().own {
            return Ok(Arc::clone(own));
        }
        let own = Lease::grant(self, &GrantOptions::default())?.into_tenure();
        Ok(Arc::clone(self.state().own.insert(own)))
    }

    /// The connection holds this lease: the next one must attach itself.
    pub(crate) fn hold(&self, lease: &str) {
        self.state().held.push(lease.to_owned());
    }

    /// This lease has ended, or is none of ours any more.
    pub(crate) fn forget(&self, lease: &str) {
        self.state().held.retain(|held| held != lease);
    }

    /// The state of this process: a forked child starts anew.
    fn state(&self) -> MutexGuard<'_, State> {
        let mut state = self.shared.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.process != std::process::id() {
            *state = State::new();
        }
        state
    }
}

impl State {
    fn new() -> Self {
        Self { process: std::process::id(), channel: None, broker: (0, PathBuf::new()), held: Vec::new(), own: None }
    }

    fn call(
        &mut self,
        shared: &Shared,
        request: &mut ChannelRequest,
        descriptors: &[BorrowedFd<'_>],
    ) -> Result<Answer, ClientError> {
        let channel = self.channel(shared)?;
        let id = channel.send(request, descriptors)?;
        match channel.wait_for(id) {
            Ok(Answer { reply: Reply::Error(refusal), .. }) => Err(refusal.into()),
            Err(error @ ClientError::Protocol(_)) => {
                // Whatever comes next on this connection can't be relied on.
                self.channel = None;
                Err(error)
            }
            result => result,
        }
    }

    /// The connection; a new one takes the place of the last as a holder.
    fn channel(&mut self, shared: &Shared) -> Result<&mut Channel, ClientError> {
        if self.channel.is_none() {
            let connected = connect::connect(&shared.options, shared.start)?;
            self.broker = (connected.process, connected.directory.clone());
            let mut channel = Channel::new(connected);
            for lease in &self.held {
                let id = channel.send(&mut attach_connection(lease), &[])?;
                // A lease that has ended meanwhile says so when it is used.
                channel.wait_for(id)?;
            }
            self.channel = Some(channel);
        }
        self.channel.as_mut().ok_or(ClientError::Protocol("no connection"))
    }
}

/// Says of a request that it may have arrived already.
fn mark_sent_before(request: &mut ChannelRequest) {
    if let Some(Op::Create(create)) = &mut request.op {
        create.resend = true;
    }
}

fn attach_connection(lease: &str) -> ChannelRequest {
    let holder = HolderSpec { kind: Some(Kind::Connection(ConnectionHolder {})) };
    let attach = AttachRequest { lease: lease.to_owned(), holder: Some(holder) };
    ChannelRequest { id: 0, op: Some(Op::Attach(attach)), ..ChannelRequest::default() }
}
