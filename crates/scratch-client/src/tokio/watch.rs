//! What happens to leases, as it happens; gone on with after a disconnect.

use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use ::tokio::net::UnixStream;
use ::tokio::time::sleep;
use hyper_util::rt::TokioIo;
use rustix::io::Errno;
use scratch_proto::v1::leases_client::LeasesClient;
use scratch_proto::v1::{WatchRequest, WatchResponse};
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status, Streaming};
use tonic_types::StatusExt;

use super::Client;
use super::socket::Tokio;
use crate::ClientError;
use crate::broker::Broker;

/// A broker that is started anew has so long to come back.
const COMES_BACK_WITHIN: Duration = Duration::from_secs(30);
/// How often it is looked for.
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// Which events are to be told. The default: all that this user may see, from now on.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct WatchOptions {
    /// Go on after this revision, which an event had. Empty: from now on.
    pub since: String,
    /// Only of this lease, and restarts. It may have ended, or not be there. Empty: all.
    pub lease: String,
    /// Without `since`: first all that the broker still knows to have happened.
    pub held: bool,
}

/// What [`Watch::next`] tells.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event {
    /// This happened.
    Told(Told),
    /// Something may have happened that is told by nobody: the broker was started anew, or this came back too late. What follows
    /// begins with all that the broker knows to have happened since; list anew what it is all about.
    Lost,
}

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Told {
    /// To go on after this event.
    pub revision: String,
    /// Of which lease; empty where it is about none.
    pub lease: String,
    /// GRANTED, ENDING, ENDED, …; see docs/protocol.md. Later versions of the broker have more.
    pub code: String,
    /// The same for people.
    pub text: String,
    /// When, by the broker's clock.
    pub time: Option<SystemTime>,
    /// Whose lease it is; nobody's where it is everybody's.
    pub uid: Option<u32>,
    /// What belongs to the code: holder, reason, …
    pub metadata: HashMap<String, String>,
}

/// Events of leases, one after the other. It holds no lease, and needs none.
///
/// It has a gRPC connection of its own beside its client's, which a task of that library's drives until the watch is dropped.
#[derive(Debug)]
pub struct Watch {
    broker: Arc<Broker<Tokio>>,
    /// As they are for the next stream.
    request: WatchRequest,
    stream: Option<Streaming<WatchResponse>>,
    /// Read before it was asked for.
    first: Option<WatchResponse>,
    lost_at: Option<Instant>,
}

impl Client {
    /// Watches leases. What happens after this returns is told.
    ///
    /// # Errors
    /// COMPACTED for a revision that the broker can't go on after, LIMIT_WATCHES, those of the connection. Unsupported on a delegated
    /// channel.
    pub async fn watch(&self, options: &WatchOptions) -> Result<Watch, ClientError> {
        let WatchOptions { since, lease, held } = options.clone();
        let request = WatchRequest { held: held && since.is_empty(), since, lease };
        let mut watch = Watch { broker: Arc::clone(&self.broker), request, stream: None, first: None, lost_at: None };
        watch.open().await?;
        Ok(watch)
    }
}

impl Watch {
    /// Waits for the next event. May be given up at any point: nothing is lost by that. A broker that was started anew is gone on with;
    /// one that is away is looked for.
    ///
    /// # Errors
    /// What the broker refuses. That it has not come back for 30 s; the next call looks for it again.
    pub async fn next(&mut self) -> Result<Event, ClientError> {
        loop {
            let failed = match self.advance().await {
                Ok(Some(told)) => return Ok(Event::Told(told)),
                Ok(None) => continue,
                Err(error) => error,
            };
            self.stream = None;
            if failed.is_refusal("COMPACTED") {
                self.request = WatchRequest { since: String::new(), held: true, lease: self.request.lease.clone() };
                return Ok(Event::Lost);
            }
            let lost_at = *self.lost_at.get_or_insert_with(Instant::now);
            if !is_passing(&failed) || lost_at.elapsed() > COMES_BACK_WITHIN {
                self.lost_at = None;
                return Err(failed);
            }
            sleep(LOOK_EVERY).await;
        }
    }

    /// One message further; nothing where that was a mark.
    async fn advance(&mut self) -> Result<Option<Told>, ClientError> {
        if self.stream.is_none() {
            self.open().await?;
        }
        let message = match (self.first.take(), &mut self.stream) {
            (Some(first), _) => first,
            (None, Some(stream)) => match stream.message().await.map_err(|status| said(&status))? {
                Some(message) => message,
                None => return Err(ClientError::Closed { reason: "the broker has ended the stream".to_owned() }),
            },
            (None, None) => return Ok(None),
        };
        self.lost_at = None;
        self.request.since.clone_from(&message.revision);
        self.request.held = false;
        Ok(Told::of(message))
    }

    /// Begins a stream, and waits until it has begun.
    async fn open(&mut self) -> Result<(), ClientError> {
        if self.broker.is_delegated {
            return Err(ClientError::io("watch leases by", "a delegated channel", Errno::OPNOTSUPP));
        }
        // Connects anew if need be, and looks whose broker it is.
        self.broker.ping().await?;
        let directory = self.broker.state().peer.1.clone();
        let channel = connect(&directory).await?;
        let mut stream =
            LeasesClient::new(channel).watch(self.request.clone()).await.map_err(|status| said(&status))?.into_inner();
        // A mark, or the first of what is held.
        self.first = stream.message().await.map_err(|status| said(&status))?;
        self.stream = Some(stream);
        Ok(())
    }
}

impl Told {
    fn of(message: WatchResponse) -> Option<Self> {
        let WatchResponse { revision, lease, event, tenant, metadata } = message;
        let event = event?;
        let time = event.time.and_then(|time| SystemTime::try_from(time).ok());
        let uid = tenant.map(|tenant| tenant.uid);
        Some(Self { revision, lease, code: event.code, text: event.text, time, uid, metadata })
    }
}

/// A gRPC connection with the broker in this runtime directory.
async fn connect(directory: &Path) -> Result<Channel, ClientError> {
    let path = directory.join("grpc.sock");
    let error = |error: &io::Error| ClientError::std_io("connect to", &path, error);
    let socket = UnixStream::connect(&path).await.map_err(|failed| match failed.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => {
            ClientError::NoBroker { runtime_directory: directory.to_owned() }
        }
        _ => error(&failed),
    })?;
    let uid = socket.peer_cred().map_err(|failed| error(&failed))?.uid();
    if uid != 0 && uid != rustix::process::geteuid().as_raw() {
        return Err(ClientError::ForeignBroker { runtime_directory: directory.to_owned(), uid });
    }
    over(socket, path).await
}

/// Over this socket, once.
async fn over(socket: UnixStream, path: PathBuf) -> Result<Channel, ClientError> {
    let mut socket = Some(TokioIo::new(socket));
    let connector = tower::service_fn(move |_| {
        let socket = socket.take().ok_or_else(|| io::Error::from(io::ErrorKind::NotConnected));
        async move { socket }
    });
    // The address is not used; a URI is wanted.
    let connected = Endpoint::from_static("http://localhost").connect_with_connector(connector).await;
    connected.map_err(|_| ClientError::io("speak gRPC on", path, Errno::CONNRESET))
}

/// The broker's refusal, or the end of the connection.
fn said(status: &Status) -> ClientError {
    let message = status.message().to_owned();
    match status.get_details_error_info() {
        Some(info) => {
            let code = u32::try_from(i32::from(status.code())).unwrap_or(2);
            ClientError::Refused { code, reason: info.reason, message, metadata: info.metadata }
        }
        None if matches!(status.code(), Code::Unimplemented | Code::InvalidArgument) => {
            ClientError::Protocol("no answer to Watch")
        }
        None => ClientError::Closed { reason: message },
    }
}

/// Whether it passes when the next broker is there, or this one has time again.
fn is_passing(error: &ClientError) -> bool {
    match error {
        ClientError::Refused { reason, .. } => reason == "STOPPING" || reason == "SLOW_READER",
        ClientError::NoBroker { .. } => true,
        error => error.is_disconnect(),
    }
}
