//! The requests that are under way on one connection, and who is to hear of their answers. No I/O.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, DefaultHasher};
use std::mem;
use std::task::{Context, Poll, Waker};

use scratch_proto::PACKET_BYTES_MAX;
use scratch_proto::v1::channel_request::Op;

use crate::ClientError;
use crate::owed::Undo;
use crate::packet::Answer;

/// One request under way.
enum Pending {
    /// Its caller waits, and sleeps if there is a waker.
    Waited(Option<Waker>),
    /// Its caller has not looked yet.
    Answered(Answer),
    /// Its caller has gone.
    Cancelled(Undo),
    /// It never had one.
    Told(Op),
}

/// All that is under way. Of the callers that wait one reads, for all: who has the buffer.
pub(crate) struct Table {
    last_id: u64,
    /// By numbers of our own, which need no keyed hash; and the model must be able to go the same way again.
    pending: HashMap<u64, Pending, BuildHasherDefault<DefaultHasher>>,
    buffer: Option<Box<[u8]>>,
    /// Somebody reads on for those that have gone.
    is_tended: bool,
    /// Why nothing will be answered any more.
    lost: Option<ClientError>,
}

/// What a caller is to do next.
#[expect(clippy::large_enum_variant, reason = "taken apart at once: a box would be an allocation for each answer")]
pub(crate) enum Next {
    Take(Result<Answer, ClientError>),
    /// Read, for everybody, until its own answer is there.
    Read(Box<[u8]>),
}

impl Table {
    pub(crate) fn new() -> Self {
        let buffer = Some(vec![0; PACKET_BYTES_MAX].into_boxed_slice());
        Self { last_id: 0, pending: HashMap::default(), buffer, is_tended: false, lost: None }
    }

    /// A new request whose caller will wait.
    pub(crate) fn begin(&mut self) -> Result<u64, ClientError> {
        match &self.lost {
            Some(lost) => Err(lost.clone()),
            None => Ok(self.add(Pending::Waited(None))),
        }
    }

    /// A new request that nobody will wait for. Should the connection be lost before it is answered, it is said again.
    pub(crate) fn tell(&mut self, op: Op) -> u64 {
        self.add(Pending::Told(op))
    }

    /// It could not be sent. Nothing if it is to be said again already.
    pub(crate) fn untell(&mut self, id: u64) -> Option<Op> {
        match self.pending.remove(&id) {
            Some(Pending::Told(op)) => Some(op),
            _ => None,
        }
    }

    pub(crate) fn is_lost(&self) -> bool {
        self.lost.is_some()
    }

    /// The caller of `id` looks whether it is answered; if not, it reads or sleeps.
    pub(crate) fn poll(&mut self, id: u64, context: &mut Context<'_>) -> Poll<Next> {
        if let Some(done) = self.take(id) {
            return Poll::Ready(Next::Take(done));
        }
        if let Some(buffer) = self.buffer.take() {
            return Poll::Ready(Next::Read(buffer));
        }
        self.pending.insert(id, Pending::Waited(Some(context.waker().clone())));
        Poll::Pending
    }

    /// The answer to `id`, if it is there or will never come.
    pub(crate) fn take(&mut self, id: u64) -> Option<Result<Answer, ClientError>> {
        if matches!(self.pending.get(&id), Some(Pending::Answered(_)))
            && let Some(Pending::Answered(answer)) = self.pending.remove(&id)
        {
            return Some(Ok(answer));
        }
        self.lost.clone().map(Err)
    }

    /// The caller of `id` has gone, with its answer or without; `undo` if the request was sent. Gives what is to be undone
    /// now, or nothing if it has taken its answer.
    pub(crate) fn leave(&mut self, id: u64, undo: impl FnOnce() -> Option<Undo>) -> Option<Vec<Op>> {
        let ops = match self.pending.remove(&id) {
            None => return None,
            Some(Pending::Answered(answer)) => undo().map_or_else(Vec::new, |undo| undo.ops(answer.reply)),
            Some(_) => {
                let undo = if self.lost.is_none() { undo() } else { None };
                undo.into_iter().for_each(|undo| drop(self.pending.insert(id, Pending::Cancelled(undo))));
                Vec::new()
            }
        };
        // It may have been woken to read.
        self.pass_on();
        Some(ops)
    }

    /// One that reads on until every answer is there that nobody waits for. Nothing if there is none, or there is one already.
    pub(crate) fn begin_tending(&mut self) -> Option<u64> {
        if self.is_tended || self.is_lost() || !self.has_unawaited() {
            return None;
        }
        self.is_tended = true;
        Some(self.add(Pending::Waited(None)))
    }

    /// Whether it may end.
    pub(crate) fn is_tended_to(&mut self) -> bool {
        self.is_tended = self.has_unawaited();
        !self.is_tended
    }

    pub(crate) fn end_tending(&mut self, id: u64) {
        self.is_tended = false;
        // It made no request.
        self.leave(id, || None);
    }

    /// For one who does not wait, and reads only what is there.
    pub(crate) fn try_read(&mut self) -> Option<Box<[u8]>> {
        self.buffer.take()
    }

    /// Somebody else may read now.
    pub(crate) fn stop_reading(&mut self, buffer: Box<[u8]>) {
        self.buffer = Some(buffer);
        self.pass_on();
    }

    /// Takes in what was read, and wakes whom it concerns. Gives what is to be said on account of it.
    pub(crate) fn hear(&mut self, heard: Result<Option<(u64, Answer)>, ClientError>) -> Vec<Op> {
        match heard {
            Ok(None) => Vec::new(),
            Ok(Some((id, _))) if id > self.last_id => {
                self.lose(ClientError::Protocol("an answer to a request that was not made"))
            }
            Ok(Some((id, answer))) => self.answered(id, answer),
            Err(error) => self.lose(error),
        }
    }

    /// What the broker has said before the end, if it was more than that.
    pub(crate) fn last_word(&self) -> Option<ClientError> {
        self.lost.clone().filter(|lost| !lost.is_disconnect())
    }

    fn has_unawaited(&self) -> bool {
        self.pending.values().any(|pending| matches!(pending, Pending::Cancelled(_) | Pending::Told(_)))
    }

    fn add(&mut self, pending: Pending) -> u64 {
        self.last_id += 1;
        self.pending.insert(self.last_id, pending);
        self.last_id
    }

    fn answered(&mut self, id: u64, answer: Answer) -> Vec<Op> {
        match self.pending.remove(&id) {
            Some(Pending::Waited(waker)) => {
                self.pending.insert(id, Pending::Answered(answer));
                waker.into_iter().for_each(Waker::wake);
                Vec::new()
            }
            Some(Pending::Cancelled(undo)) => undo.ops(answer.reply),
            // Its descriptors are closed with it.
            Some(Pending::Told(_) | Pending::Answered(_)) | None => Vec::new(),
        }
    }

    fn lose(&mut self, error: ClientError) -> Vec<Op> {
        self.lost = Some(error);
        let mut again = Vec::new();
        for (id, pending) in mem::take(&mut self.pending) {
            match pending {
                Pending::Waited(waker) => {
                    waker.into_iter().for_each(Waker::wake);
                    self.pending.insert(id, Pending::Waited(None));
                }
                Pending::Answered(_) => {
                    self.pending.insert(id, pending);
                }
                Pending::Told(op) => again.push(op),
                // Whether it made anything is not known any more; the lease's end takes it.
                Pending::Cancelled(_) => {}
            }
        }
        again
    }

    fn pass_on(&mut self) {
        if self.buffer.is_some() {
            let sleeping = self.pending.values_mut().find_map(|pending| match pending {
                Pending::Waited(waker) => waker.take(),
                _ => None,
            });
            sleeping.into_iter().for_each(Waker::wake);
        }
    }
}

#[cfg(test)]
mod model;
