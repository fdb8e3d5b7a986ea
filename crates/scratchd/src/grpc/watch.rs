//! Watch: a stream of what happens. Its place in the log is all that is kept for it: who reads slower than the log moves on
//! is told so, and never waited for.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use scratch_lease::{Event, EventKind, LeaseId};
use scratch_proto::v1;
use tokio::sync::mpsc;
use tonic::Status;

use super::connection::Shared;
use super::user_names;
use crate::broker::Broker;
use crate::clock;
use crate::events::{revision, wire_event};
use crate::load::Counted;
use crate::reason::RequestError;
use crate::translate::lease_id;

/// Events that are taken out of the log at once, and that wait to be sent.
const CHUNK: usize = 16;
/// So long nothing is looked for after all was sent: many watchers cost those who work little.
const REST: Duration = Duration::from_millis(10);
/// Users' names that a stream remembers.
const NAMES_MAX: usize = 256;

type Reply = Result<v1::WatchResponse, Status>;

/// One stream.
struct Watch {
    broker: Arc<Broker>,
    shared: Arc<Shared>,
    lease: Option<LeaseId>,
    generation: u64,
    /// The last revision that was looked at.
    seen: u64,
    names: HashMap<u32, String>,
    _counted: Counted,
}

/// What there is after the last look.
struct News {
    events: Vec<Event>,
    /// There is nothing newer in the log.
    is_all: bool,
    /// When there may be more, though nothing rings.
    look_again: Option<Duration>,
}

/// Serves a stream on a task of its own; what happens comes through what is returned.
///
/// # Errors
/// COMPACTED, LIMIT_WATCHES, REQUEST_INVALID, LEASE_UNKNOWN.
pub(super) fn serve(
    broker: &Arc<Broker>,
    shared: Arc<Shared>,
    request: &v1::WatchRequest,
) -> Result<mpsc::Receiver<Reply>, RequestError> {
    let lease = if request.lease.is_empty() { None } else { Some(lease_id(&request.lease)?) };
    let limit = broker.settings.get().limits_of(shared.caller()).watches;
    let counted = shared.outgoing.watch(limit).ok_or(RequestError::LimitWatches { limit })?;
    let (generation, seen) = begin(broker, &shared, request)?;
    let (events, receiver) = mpsc::channel(CHUNK);
    let watch =
        Watch { broker: Arc::clone(broker), shared, lease, generation, seen, names: HashMap::new(), _counted: counted };
    tokio::spawn(watch.run(events));
    Ok(receiver)
}

/// Where a stream begins: after which revision of this generation.
fn begin(broker: &Broker, shared: &Shared, request: &v1::WatchRequest) -> Result<(u64, u64), RequestError> {
    let mut state = broker.lock();
    let table = state.table.at(clock::now());
    let generation = table.generation();
    let seen = match (request.since.as_str(), request.held) {
        ("", false) => table.revision(),
        ("", true) => table.oldest_revision(shared.caller()),
        (since, _) => {
            let (of, number) =
                parse(since).ok_or(RequestError::Request("since is a revision: two numbers and a dot"))?;
            if of != generation || table.events_since(number, shared.caller()).is_err() {
                return Err(RequestError::Compacted);
            }
            number
        }
    };
    Ok((generation, seen))
}

pub(super) fn parse(since: &str) -> Option<(u64, u64)> {
    let (generation, number) = since.split_once('.')?;
    Some((generation.parse().ok()?, number.parse().ok()?))
}

impl Watch {
    /// Until either side ends the stream.
    async fn run(mut self, events: mpsc::Sender<Reply>) {
        let mut stopping = self.broker.stopping.subscribe();
        let ended = tokio::select! {
            ended = self.follow(&events) => ended,
            () = events.closed() => return,
            _ = stopping.wait_for(|stopping| *stopping) => Some(RequestError::Stopping),
        };
        if let Some(error) = ended {
            // A broker that stops does not wait for who does not read.
            let waits = !matches!(error, RequestError::Stopping);
            let status = error.to_status(None);
            tokio::select! {
                _ = events.send(Err(status)) => {}
                _ = stopping.wait_for(|stopping| *stopping), if waits => {}
            }
        }
    }

    /// Sends what happens, for as long as the client reads. `None`: it has gone.
    async fn follow(&mut self, events: &mpsc::Sender<Reply>) -> Option<RequestError> {
        let broker = Arc::clone(&self.broker);
        let _watching = broker.watchers.join();
        let mut marked = false;
        loop {
            let mut happened = std::pin::pin!(broker.watchers.happened.notified());
            happened.as_mut().enable();
            // Room first: what waits for it stays in the log.
            let mut room = events.reserve_many(CHUNK).await.ok()?;
            let Some(news) = self.look() else { return Some(RequestError::SlowReader) };
            self.know_names(&news.events).await;
            for event in &news.events {
                room.next()?.send(Ok(self.named(wire_event(self.generation, event))));
            }
            drop(room);
            if !news.is_all {
                continue;
            }
            if !marked {
                marked = true;
                let revision = revision(self.generation, self.seen);
                events.send(Ok(v1::WatchResponse { revision, ..v1::WatchResponse::default() })).await.ok()?;
            }
            match news.look_again {
                None => happened.await,
                Some(time) => _ = tokio::time::timeout(time, happened).await,
            }
            tokio::time::sleep(REST).await;
        }
    }

    /// The next events; `None` when some are no longer kept, or it may not be here any more, which it is told when it comes
    /// again.
    fn look(&mut self) -> Option<News> {
        self.shared.look_again(&self.broker).ok()?;
        let mut state = self.broker.lock();
        let table = state.table.at(clock::now());
        let newest = table.revision();
        let wanted =
            |event: &&Event| self.lease.is_none() || event.lease == self.lease || event.kind == EventKind::Restarted;
        let after = table.events_since(self.seen, self.shared.caller()).ok()?;
        let events: Vec<Event> = after.filter(wanted).take(CHUNK).cloned().collect();
        let is_all = events.len() < CHUNK;
        self.seen = match events.last() {
            Some(last) if !is_all => last.revision,
            _ => newest,
        };
        let look_again = table.tells_at().map(|time| time.duration_since(clock::now()));
        Some(News { events, is_all, look_again })
    }

    /// Looks users up whose names are not known yet.
    async fn know_names(&mut self, events: &[Event]) {
        let uids = events.iter().filter_map(|event| event.tenant).map(|tenant| tenant.0);
        let unknown: Vec<u32> = uids.filter(|uid| !self.names.contains_key(uid)).collect();
        if unknown.is_empty() {
            return;
        }
        if self.names.len() + unknown.len() > NAMES_MAX {
            self.names.clear();
        }
        // Who has no name is not looked up again either.
        self.names.extend(unknown.iter().map(|uid| (*uid, String::new())));
        self.names.extend(user_names(unknown).await);
    }

    fn named(&self, mut response: v1::WatchResponse) -> v1::WatchResponse {
        if let Some(tenant) = &mut response.tenant {
            tenant.name = self.names.get(&tenant.uid).cloned().unwrap_or_default();
        }
        response
    }
}
