//! What is still to be said to the broker without waiting for its answer: of guards that were dropped, and of calls that
//! were given up.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

use scratch_proto::v1::channel_request::Op;
use scratch_proto::v1::channel_response::Result as Reply;
use scratch_proto::v1::{CreateRequest, Created, Kind, ReleaseRequest, RevokeRequest, r#where};

/// First in, first out. It outlives connections, and is a process's own.
#[derive(Default)]
pub(crate) struct Owed(Mutex<VecDeque<Op>>);

/// How to unmake what a request makes whose caller has gone. Known only when its answer comes: what it did not make, it may
/// not take away.
pub(crate) enum Undo {
    /// Releases the areas that were made under this lease, in this directory below its own.
    Areas { lease: String, inside: Option<Vec<u8>> },
    /// Revokes the lease that was granted.
    Lease,
}

impl Owed {
    pub(crate) fn is_empty(&self) -> bool {
        self.queue().is_empty()
    }

    pub(crate) fn add(&self, ops: impl IntoIterator<Item = Op>) {
        self.queue().extend(ops);
    }

    pub(crate) fn next(&self) -> Option<Op> {
        self.queue().pop_front()
    }

    /// What could not be said after all.
    pub(crate) fn put_back(&self, op: Op) {
        self.queue().push_front(op);
    }

    fn queue(&self) -> MutexGuard<'_, VecDeque<Op>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Undo {
    /// Nothing for requests that leave nothing behind, or nothing that is not gone when its descriptor is closed.
    pub(crate) fn of(op: &Op) -> Option<Self> {
        match op {
            Op::Create(create) if matches!(create.kind(), Kind::File | Kind::Directory) => {
                Some(Self::Areas { lease: create.lease.clone(), inside: inside(create) })
            }
            Op::Grant(_) => Some(Self::Lease),
            _ => None,
        }
    }

    /// For requests whose making is to stay.
    pub(crate) fn nothing(_: &Op) -> Option<Self> {
        None
    }

    /// What is to be said now that the answer is there.
    pub(crate) fn ops(self, reply: Reply) -> Vec<Op> {
        match (self, reply) {
            (Self::Areas { lease, inside }, Reply::Create(created)) => {
                let id = |area: Created| match &inside {
                    _ if !area.id.is_empty() => area.id,
                    Some(directory) => [directory, b"/".as_slice(), &area.name].concat(),
                    None => area.name,
                };
                created.areas.into_iter().map(|area| release(&lease, id(area))).collect()
            }
            (Self::Lease, Reply::Grant(granted)) => vec![revoke(&granted.id)],
            // It made nothing.
            _ => Vec::new(),
        }
    }
}

fn inside(create: &CreateRequest) -> Option<Vec<u8>> {
    match create.r#where.as_ref()?.kind.as_ref()? {
        r#where::Kind::Directory(directory) => Some(directory.clone()),
        r#where::Kind::Foreign(_) => None,
    }
}

pub(crate) fn release(lease: &str, area: Vec<u8>) -> Op {
    Op::Release(ReleaseRequest { lease: lease.to_owned(), area, ..ReleaseRequest::default() })
}

pub(crate) fn revoke(lease: &str) -> Op {
    Op::Revoke(RevokeRequest { lease: lease.to_owned(), ..RevokeRequest::default() })
}

#[cfg(test)]
mod tests {
    use scratch_proto::v1::{CreateResponse, Where};

    use super::*;

    #[test]
    fn what_nobody_waits_for_is_released_where_it_was_made() {
        let released = |directory: &[u8]| {
            let place = Where { kind: Some(r#where::Kind::Directory(directory.to_vec())) };
            let place = Some(place).filter(|_| !directory.is_empty());
            let mut create = CreateRequest { lease: "lease".to_owned(), r#where: place, ..CreateRequest::default() };
            create.set_kind(Kind::File);
            let made = Created { name: b"f".to_vec(), ..Created::default() };
            let reply = Reply::Create(CreateResponse { areas: vec![made], ..CreateResponse::default() });
            Undo::of(&Op::Create(create)).expect("a file has a name").ops(reply)
        };
        assert_eq!(released(b""), [release("lease", b"f".to_vec())]);
        assert_eq!(released(b"d/e"), [release("lease", b"d/e/f".to_vec())]);
    }
}
