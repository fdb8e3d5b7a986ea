//! From a request to its reply: each operation is one call into the broker.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use scratch_fs::FsError;
use scratch_proto::v1::{self, channel_request::Op, channel_response::Result as Answer};

use crate::broker::Broker;
use crate::channel::connection::Connection;
use crate::channel::{LateReply, Mail, MailBox};
use crate::client::Client;
use crate::create::Creation;
use crate::delegate::{Delegated, is_foreign, may_ask};
use crate::foreign::Made;
use crate::holders::Asking;
use crate::reaper::WhenFreed;
use crate::reason::RequestError;
use crate::release::Released;
use crate::translate::{lease_id, wire_duration};

/// What a request has led to so far.
pub(crate) enum Outcome {
    /// The answer, with its handles.
    Answer(Answer, Vec<OwnedFd>),
    /// Areas that were made, with their descriptors.
    Created(Creation),
    /// It is worked on elsewhere; the answer comes by mail.
    UnderWay,
}

/// Where an answer that comes later goes.
pub(crate) struct ReplyTo {
    pub(crate) mail: MailBox,
    pub(crate) connection: u64,
    pub(crate) request: u64,
}

impl ReplyTo {
    fn send(self, answer: Answer, handle: Option<OwnedFd>) {
        self.send_or_undo(answer, handle, Vec::new());
    }

    fn send_or_undo(self, answer: Answer, handle: Option<OwnedFd>, undo: Vec<v1::ReleaseRequest>) {
        let response = v1::ChannelResponse { id: self.request, result: Some(answer) };
        self.mail.send(Mail::Reply(Box::new(LateReply { connection: self.connection, response, handle, undo })));
    }
}

/// An error as an answer.
pub(crate) fn refusal(error: &RequestError, index: Option<usize>) -> Answer {
    Answer::Error(error.to_wire(index))
}

fn answer(result: Result<Answer, RequestError>) -> Answer {
    result.unwrap_or_else(|error| refusal(&error, None))
}

/// Carries out one request. `descriptors` are as many as the request says.
pub(crate) fn dispatch(
    broker: &Arc<Broker>,
    client: &mut Client,
    op: Op,
    descriptors: Vec<OwnedFd>,
    reply_to: ReplyTo,
) -> Outcome {
    if let Err(error) = may_ask(broker, client, &op) {
        broker.side.close(client.peer.identity.uid, descriptors);
        return Outcome::Answer(refusal(&error, None), Vec::new());
    }
    let descriptors = match op {
        Op::Grant(_) | Op::Attach(_) | Op::Persist(_) => descriptors,
        Op::Create(request) if is_foreign(&request) => {
            return create_foreign(broker, client, request, descriptors, reply_to);
        }
        // Nothing else takes any in this version.
        _ => {
            broker.side.close(client.peer.identity.uid, descriptors);
            Vec::new()
        }
    };
    let here = |result| Outcome::Answer(answer(result), Vec::new());
    match op {
        Op::Ping(_) => here(Ok(Answer::Ping(v1::PingResponse {}))),
        Op::Create(request) => match broker.create(client, &request) {
            Ok(creation) => Outcome::Created(creation),
            Err(at) => Outcome::Answer(refusal(&at.error, (request.count > 1).then_some(at.index)), Vec::new()),
        },
        Op::Release(request) => release(broker, client, &request, reply_to),
        Op::KeepAlive(request) => here(keep_alive(broker, client, request)),
        Op::Grant(request) => grant(broker, client, request, descriptors, reply_to),
        Op::Attach(request) => attach(broker, client, request, descriptors, reply_to),
        Op::Revoke(request) => revoke(broker, client, &request, reply_to),
        Op::Claim(request) => claim(broker, client, &request),
        Op::Persist(request) => persist(broker, client, request, descriptors, reply_to),
        Op::Detach(request) => detach(broker, client, request, reply_to),
        Op::Delegate(request) => delegate(broker, client, request, &reply_to),
    }
}

/// The new channel is served by the thread that serves the one it was asked for on, until its client strays.
fn delegate(broker: &Arc<Broker>, client: &mut Client, request: v1::DelegateRequest, reply_to: &ReplyTo) -> Outcome {
    match broker.delegate(client, request) {
        Ok(Delegated { lease, client, end }) => {
            let token = client.id.0;
            reply_to.mail.send(Mail::Follow { token, connection: Box::new(Connection::new(client)) });
            let answer = v1::DelegateResponse { lease: lease.to_string(), fd: true };
            Outcome::Answer(Answer::Delegate(answer), vec![end])
        }
        Err(error) => Outcome::Answer(refusal(&error, None), Vec::new()),
    }
}

/// On one of the tenant's threads: the directory may never answer.
fn create_foreign(
    broker: &Arc<Broker>,
    client: &mut Client,
    request: v1::CreateRequest,
    descriptors: Vec<OwnedFd>,
    reply_to: ReplyTo,
) -> Outcome {
    let send = move |made: Made| match made {
        Ok(made) => reply_to.send_or_undo(Answer::Create(made.response), made.handle, made.undo),
        Err(error) => reply_to.send(refusal(&error, None), None),
    };
    match broker.create_foreign(client, request, descriptors, send) {
        Ok(()) => Outcome::UnderWay,
        Err(error) => Outcome::Answer(refusal(&error, None), Vec::new()),
    }
}

fn keep_alive(broker: &Broker, client: &Client, request: v1::KeepAliveRequest) -> Result<Answer, RequestError> {
    let granted = broker.keep_alive(client.peer.caller, lease_id(&request.lease)?)?;
    let granted_ttl = Some(wire_duration(granted));
    Ok(Answer::KeepAlive(v1::KeepAliveResponse { lease: request.lease, granted_ttl, error: None }))
}

fn grant(
    broker: &Arc<Broker>,
    client: &Client,
    request: v1::GrantRequest,
    descriptors: Vec<OwnedFd>,
    reply_to: ReplyTo,
) -> Outcome {
    let asking = match Asking::of(client, &request.holders) {
        Ok(asking) => asking,
        Err(error) => {
            broker.side.close(client.peer.identity.uid, descriptors);
            return Outcome::Answer(refusal(&error, None), Vec::new());
        }
    };
    if request.tenant.is_some()
        && client.peer.caller.admin
        && let Some(tokio) = broker.tokio.get()
    {
        // The user data base may be far away.
        let broker = Arc::clone(broker);
        tokio.spawn_blocking(move || {
            let (answer, handle) = granted(&broker, asking, request, descriptors);
            reply_to.send(answer, handle);
        });
        return Outcome::UnderWay;
    }
    if descriptors.is_empty() {
        let (answer, handle) = granted(broker, asking, request, descriptors);
        return Outcome::Answer(answer, handle.into_iter().collect());
    }
    let broker = Arc::clone(broker);
    let side = Arc::clone(&broker);
    side.side.run(client.peer.identity.uid, reply_to.connection, move || {
        let (answer, handle) = granted(&broker, asking, request, descriptors);
        reply_to.send(answer, handle);
    });
    Outcome::UnderWay
}

fn granted(
    broker: &Arc<Broker>,
    asking: Asking,
    request: v1::GrantRequest,
    descriptors: Vec<OwnedFd>,
) -> (Answer, Option<OwnedFd>) {
    match broker.grant_with_handle(asking, request, descriptors) {
        Ok((granted, handle)) => (Answer::Grant(granted), handle),
        Err(error) => (refusal(&error, None), None),
    }
}

/// On a side thread in any case: a lease's record is written by one thread at a time, in the order of the requests.
fn attach(
    broker: &Arc<Broker>,
    client: &Client,
    request: v1::AttachRequest,
    descriptors: Vec<OwnedFd>,
    reply_to: ReplyTo,
) -> Outcome {
    let asking = Asking::of(client, request.holder.as_slice());
    let broker = Arc::clone(broker);
    let side = Arc::clone(&broker);
    side.side.run(client.peer.identity.uid, lease_key(&request.lease), move || match asking {
        Ok(asking) => reply_to.send(answer(broker.attach(asking, &request, descriptors).map(Answer::Attach)), None),
        Err(error) => reply_to.send(refusal(&error, None), None),
    });
    Outcome::UnderWay
}

/// In the order of the requests, as [`attach`].
fn detach(broker: &Arc<Broker>, client: &Client, request: v1::DetachRequest, reply_to: ReplyTo) -> Outcome {
    let caller = client.peer.caller;
    let broker = Arc::clone(broker);
    let side = Arc::clone(&broker);
    side.side.run(client.peer.identity.uid, lease_key(&request.lease), move || {
        let detached = broker.detach(caller, &request);
        reply_to.send(answer(detached.map(|()| Answer::Detach(v1::DetachResponse {}))), None);
    });
    Outcome::UnderWay
}

fn claim(broker: &Broker, client: &Client, request: &v1::ClaimRequest) -> Outcome {
    match broker.tickets.claim(client.peer.caller.tenant.0, &request.ticket) {
        Ok(ticket) => Outcome::Answer(Answer::Claim(v1::ClaimResponse { areas: ticket.areas }), ticket.handles),
        Err(error) => Outcome::Answer(refusal(&error, None), Vec::new()),
    }
}

/// On a thread of its own: the directory that it goes to may never answer.
fn persist(
    broker: &Arc<Broker>,
    client: &Client,
    request: v1::PersistRequest,
    mut descriptors: Vec<OwnedFd>,
    reply_to: ReplyTo,
) -> Outcome {
    let refused = |error: RequestError| Outcome::Answer(refusal(&error, None), Vec::new());
    let persist = match broker.check_persist(client, request) {
        Ok(persist) => persist,
        Err(error) => {
            broker.side.close(client.peer.identity.uid, descriptors);
            return refused(error);
        }
    };
    let Some(directory) = descriptors.pop() else {
        return refused(RequestError::DescriptorCount { expected: 1, received: 0 });
    };
    // The work is handed over once there is a thread for it, so that nothing is lost where there is none.
    let (hand_over, work) = std::sync::mpsc::channel::<Box<dyn FnOnce() + Send>>();
    let run = move || work.into_iter().for_each(|work| work());
    if let Err(error) = std::thread::Builder::new().name("persist".to_owned()).spawn(run) {
        broker.side.close(client.peer.identity.uid, vec![directory]);
        let errno = rustix::io::Errno::from_io_error(&error).unwrap_or(rustix::io::Errno::NOMEM);
        return refused(FsError::new("start a thread for", "Persist", errno).into());
    }
    let broker = Arc::clone(broker);
    let work = Box::new(move || {
        reply_to.send(answer(broker.persist(persist, directory).map(Answer::Persist)), None);
    });
    // It waits for it.
    let _ = hand_over.send(work);
    Outcome::UnderWay
}

/// Whose jobs run in order: one lease's.
pub(crate) fn lease_key(lease: &str) -> u64 {
    use std::hash::{DefaultHasher, Hash, Hasher};
    let mut hasher = DefaultHasher::new();
    lease.hash(&mut hasher);
    hasher.finish()
}

fn release(broker: &Arc<Broker>, client: &mut Client, request: &v1::ReleaseRequest, reply_to: ReplyTo) -> Outcome {
    let reply =
        |existed, debt: Vec<String>| Answer::Release(v1::ReleaseResponse { existed, freed: debt.is_empty(), debt });
    match broker.release(client, request) {
        Err(error) => Outcome::Answer(refusal(&error, None), Vec::new()),
        Ok(Released::Nothing) => Outcome::Answer(reply(false, Vec::new()), Vec::new()),
        Ok(Released::Gone) => Outcome::Answer(reply(true, Vec::new()), Vec::new()),
        Ok(Released::Foreign(lease, number)) => {
            let waits = request.wait() == v1::Wait::Freed;
            let then: WhenFreed = Box::new(move |debt| {
                let freed = waits && debt.is_empty();
                reply_to.send(Answer::Release(v1::ReleaseResponse { existed: true, freed, debt }), None);
            });
            let (when_aside, when_freed) = if waits { (None, Some(then)) } else { (Some(then), None) };
            broker.end_foreign(lease, number, when_aside, when_freed);
            Outcome::UnderWay
        }
        Ok(Released::Trashed(pool, tree)) if request.wait() == v1::Wait::Freed => {
            broker.reaper.push(pool, tree, Some(Box::new(move |debt| reply_to.send(reply(true, debt), None))));
            Outcome::UnderWay
        }
        Ok(Released::Trashed(pool, tree)) => {
            broker.reaper.push(pool, tree, None);
            let answer = v1::ReleaseResponse { existed: true, freed: false, debt: Vec::new() };
            Outcome::Answer(Answer::Release(answer), Vec::new())
        }
    }
}

fn revoke(broker: &Arc<Broker>, client: &mut Client, request: &v1::RevokeRequest, reply_to: ReplyTo) -> Outcome {
    let reply = |debt: Vec<String>| Answer::Revoke(v1::RevokeResponse { freed: debt.is_empty(), debt });
    let lease = match lease_id(&request.lease) {
        Ok(lease) => lease,
        Err(error) => return Outcome::Answer(refusal(&error, None), Vec::new()),
    };
    client.let_go(lease);
    let caller = client.peer.caller;
    if request.wait() == v1::Wait::Freed {
        let (mail, connection, id) = (reply_to.mail.clone(), reply_to.connection, reply_to.request);
        let when_freed = Box::new(move |debt| reply_to.send(reply(debt), None));
        return match broker.revoke(caller, lease, Some(when_freed)) {
            Ok(_) => Outcome::UnderWay,
            Err(error) => {
                ReplyTo { mail, connection, request: id }.send(refusal(&error, None), None);
                Outcome::UnderWay
            }
        };
    }
    let done = |debt| Answer::Revoke(v1::RevokeResponse { freed: false, debt });
    match broker.revoke(caller, lease, None) {
        Err(error) => Outcome::Answer(refusal(&error, None), Vec::new()),
        Ok(ended) => {
            let mut there = broker.reaper.in_their_place(&ended);
            if !broker.reaper.has_foreign(&ended) {
                return Outcome::Answer(done(there), Vec::new());
            }
            let when_aside = move |debt| {
                there.extend(debt);
                reply_to.send(done(there), None);
            };
            broker.reaper.when_foreign(&ended, false, Box::new(when_aside));
            Outcome::UnderWay
        }
    }
}
