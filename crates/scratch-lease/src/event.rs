//! What happened to leases, kept for watchers for a while.

use std::collections::VecDeque;

use crate::{HolderId, LeaseId, Reason, Table, TenantId};

/// So many events are kept.
const EVENTS_MAX: usize = 4_096;

/// One thing that happened to one lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Event {
    /// Counts up by one from 1 within a generation.
    pub revision: u64,
    /// The lease it happened to.
    pub lease: LeaseId,
    /// Whose lease that is.
    pub tenant: TenantId,
    /// What happened.
    pub kind: EventKind,
}

/// What happened to a lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventKind {
    /// It is there.
    Granted,
    /// It was taken over from the broker before.
    Adopted,
    /// A holder came.
    Attached(HolderId),
    /// A holder was taken away on request.
    Detached(HolderId),
    /// A holder ended by itself.
    HolderGone(HolderId),
    /// It takes nothing new and is about to go.
    Ending(Reason),
    /// It has left the name space.
    Ended(Reason),
    /// It has ended, and its directory stays for a while.
    Kept(Reason),
    /// It was brought back into the name space, and is kept.
    Undeleted,
}

/// Events after the revision asked for are no longer kept, or it is not of this generation: list anew.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("events after this revision are no longer kept")]
pub struct Compacted;

/// The newest events, the oldest first.
#[derive(Debug, Default)]
pub(crate) struct Log {
    revision: u64,
    events: VecDeque<Event>,
}

impl Log {
    pub(crate) fn push(&mut self, lease: LeaseId, tenant: TenantId, kind: EventKind) {
        self.revision += 1;
        if self.events.len() == EVENTS_MAX {
            self.events.pop_front();
        }
        self.events.push_back(Event { revision: self.revision, lease, tenant, kind });
    }
}

impl Table {
    /// Which run of the broker this is.
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// The revision of the newest event; 0 before the first.
    #[must_use]
    pub fn revision(&self) -> u64 {
        self.log.revision
    }

    /// The events after `revision`, oldest first.
    ///
    /// # Errors
    /// Some of them are no longer kept, or the revision has not been reached.
    pub fn events_since(&self, revision: u64) -> Result<impl Iterator<Item = &Event>, Compacted> {
        let missed = self.log.revision.checked_sub(revision).and_then(|missed| usize::try_from(missed).ok());
        let first = missed.and_then(|missed| self.log.events.len().checked_sub(missed)).ok_or(Compacted)?;
        Ok(self.log.events.range(first..))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::*;

    fn revisions(table: &Table, after: u64) -> Result<Vec<u64>, Compacted> {
        table.events_since(after).map(|events| events.map(|event| event.revision).collect())
    }

    #[test]
    fn watchers_go_on_where_they_were() {
        let mut table = table_with([grant(1, &[process(1)]), grant(2, &[process(1)])]);
        assert_eq!((table.generation(), table.revision()), (1, 2));
        assert_eq!(revisions(&table, 0), Ok(vec![1, 2]));
        assert_eq!(revisions(&table, 2), Ok(vec![]));
        table.holder_gone(id(1), 1);
        assert_eq!(revisions(&table, 2), Ok(vec![3]));
    }

    #[test]
    fn a_revision_that_is_not_kept_or_not_reached_is_compacted() {
        let mut table = table_with([grant(1, &[process(1)])]);
        assert_eq!(revisions(&table, 2), Err(Compacted));
        for _ in 0..EVENTS_MAX {
            table.log.push(id(1), ME.tenant, EventKind::Granted);
        }
        assert_eq!(revisions(&table, 0), Err(Compacted));
        assert_eq!(revisions(&table, 1).map(|kept| (kept.len(), kept[0])), Ok((EVENTS_MAX, 2)));
    }
}
