//! What is still to be said to the broker without waiting for its answer: of guards that were dropped, and of calls that
//! were given up.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

use scratch_proto::v1::channel_request::Op;
use scratch_proto::v1::channel_response::Result as Reply;
use scratch_proto::v1::{Created, Kind, ReleaseRequest, RevokeRequest};

/// First in, first out. It outlives connections, and is a process's own.
#[derive(Default)]
pub(crate) struct Owed(Mutex<VecDeque<Op>>);

/// How to unmake what a request makes whose caller has gone. Known only when its answer comes: what it did not make, it may
/// not take away.
pub(crate) enum Undo {
    /// Releases the areas that were made under this lease.
    Areas { lease: String },
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
                Some(Self::Areas { lease: create.lease.clone() })
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
            (Self::Areas { lease }, Reply::Create(created)) => {
                let id = |area: Created| if area.id.is_empty() { area.name } else { area.id };
                created.areas.into_iter().map(|area| release(&lease, id(area))).collect()
            }
            (Self::Lease, Reply::Grant(granted)) => vec![revoke(&granted.id)],
            // It made nothing.
            _ => Vec::new(),
        }
    }
}

pub(crate) fn release(lease: &str, area: Vec<u8>) -> Op {
    Op::Release(ReleaseRequest { lease: lease.to_owned(), area, ..ReleaseRequest::default() })
}

pub(crate) fn revoke(lease: &str) -> Op {
    Op::Revoke(RevokeRequest { lease: lease.to_owned(), ..RevokeRequest::default() })
}
