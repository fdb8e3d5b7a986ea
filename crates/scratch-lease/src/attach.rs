//! How holders come and go.

use std::time::Duration;

use crate::table::live_mut;
use crate::{
    BootTime, Caller, ConnectionId, EventKind, Holder, HolderId, HolderKind, Last, Lease, LeaseId, LeaseState,
    NewHolder, Parting, Reason, Refusal, Table,
};

impl Table {
    /// One more holder; a Searching or Kept lease is Live again. A connection takes the place of a lost one, and a connection
    /// or process that holds the lease already is that holder.
    ///
    /// # Errors
    /// As [`live`](Self::live), a TTL out of bounds, and [`Refusal::LimitHolders`].
    pub fn attach(&mut self, id: LeaseId, caller: Caller, new: NewHolder, now: BootTime) -> Result<Holder, Refusal> {
        let limits = *self.limits_of(caller);
        let limit = limits.holders_per_lease;
        self.revive(id, caller, new)?;
        let lease = live_mut(&mut self.leases, id, caller)?;
        if let Some(holder) = lease.find(new) {
            return Ok(holder);
        }
        limits.check_holder(new)?;
        let place = empty_place(lease, new);
        if place.is_none() && (lease.holders.len() >= limit || lease.holder_next == HolderId::MAX) {
            return Err(Refusal::LimitHolders { limit });
        }
        let kind = new.kind(now);
        let holder = match place.and_then(|place| lease.holders.get_mut(place)) {
            Some(lost) => {
                self.index.remove_holder(id, *lost);
                lost.kind = kind;
                *lost
            }
            None => lease.push(kind),
        };
        lease.state = LeaseState::Live;
        lease.searched = false;
        lease.waited = false;
        let ended = lease.grace_end.take();
        if let Some(end) = ended.filter(|end| lease.lifetime_end != Some(*end)) {
            self.index.remove_end(id, end);
        }
        self.index.add_holder(id, holder);
        self.log.at(now);
        self.log.push_holder(id, lease.tenant, EventKind::Attached(holder.id), holder);
        if lease.parent.is_none_or(|parent| self.lives(parent)) {
            self.index.pending.remove(&id);
        }
        Ok(holder)
    }

    /// Takes a holder away. After the last one the lease is due.
    ///
    /// # Errors
    /// As [`live`](Self::live), and [`Refusal::HolderUnknown`].
    pub fn detach(&mut self, id: LeaseId, caller: Caller, holder: HolderId) -> Result<(), Refusal> {
        self.live(id, caller)?;
        if self.part(id, holder, Parting::Detached) { Ok(()) } else { Err(Refusal::HolderUnknown) }
    }

    /// A holder's subject has ended. After the last one the lease is due. Unknown ones are ignored.
    pub fn holder_gone(&mut self, id: LeaseId, holder: HolderId) {
        self.part(id, holder, Parting::Gone);
    }

    /// The same for a holder that did not just end.
    pub fn holder_parted(&mut self, id: LeaseId, holder: HolderId, how: Parting) {
        self.part(id, holder, how);
    }

    /// A connection has closed: it holds nothing any more.
    pub fn connection_closed(&mut self, connection: ConnectionId) {
        for (lease, holder) in self.index.take_connection(connection) {
            self.part(lease, holder, Parting::Gone);
        }
    }

    /// Removes one holder, in any state; false if there is none such.
    pub(crate) fn part(&mut self, id: LeaseId, holder: HolderId, how: Parting) -> bool {
        let Some(lease) = self.leases.get_mut(&id) else { return false };
        let Some(holder) = lease.take(holder) else { return false };
        self.index.remove_holder(id, holder);
        lease.loss = match holder.kind {
            HolderKind::LostConnection { .. } if how == Parting::Expired => Reason::RestartGrace,
            kind => Reason::HoldersGone { last: Some(Last::of(kind, how)), grace: Duration::ZERO },
        };
        if lease.is_there() {
            let detached = how == Parting::Detached;
            let kind = if detached { EventKind::Detached(holder.id) } else { EventKind::HolderGone(holder.id) };
            self.log.push_holder(id, lease.tenant, kind, holder);
            if lease.holders.is_empty() {
                self.index.pending.insert(id);
            }
        }
        true
    }
}

/// Where a connection is missing whose place a connection takes.
fn empty_place(lease: &Lease, new: NewHolder) -> Option<usize> {
    if !matches!(new, NewHolder::Connection(_)) {
        return None;
    }
    lease.holders.iter().position(|old| old.kind.waits_for_connection())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::*;

    #[test]
    fn holders_have_ids_that_are_never_used_again() {
        let mut table = table_with([grant(1, &[process(1)])]);
        assert_eq!(table.attach(id(1), ME, NewHolder::Descriptor, at(0)).map(|holder| holder.id), Ok(2));
        assert_eq!(table.detach(id(1), ME, 2), Ok(()));
        assert_eq!(table.attach(id(1), ME, NewHolder::Descriptor, at(0)).map(|holder| holder.id), Ok(3));
        table.holder_gone(id(1), 1);
        assert_eq!(lease(&table, 1).holders(), [Holder { id: 3, kind: HolderKind::Descriptor }]);
        let wanted = [
            EventKind::Granted,
            EventKind::Attached(2),
            EventKind::Detached(2),
            EventKind::Attached(3),
            EventKind::HolderGone(1),
        ];
        assert_eq!(events(&table, 1), wanted);
    }

    #[test]
    fn one_subject_holds_a_lease_once() {
        let mut table = table_with([grant(1, &[process(1), process(1), connection(1)])]);
        assert_eq!(lease(&table, 1).holders().len(), 2);
        let revision = table.revision();
        assert_eq!(table.attach(id(1), ME, connection(1), at(0)).map(|holder| holder.id), Ok(2));
        assert_eq!(table.attach(id(1), ME, process(1), at(0)).map(|holder| holder.id), Ok(1));
        assert_eq!(table.revision(), revision);
        let reused = NewHolder::Process(crate::ProcessId { pid: 1, start_time: 8, pidfd_inode: 0 });
        assert_eq!(table.attach(id(1), ME, reused, at(0)).map(|holder| holder.id), Ok(3));
    }

    #[test]
    fn a_connection_takes_the_place_of_a_lost_one() {
        let mut table = table();
        adopt(&mut table, grant(1, &[lost(30), NewHolder::Descriptor, process(1)]), at(0), at(0));
        let wanted = Holder { id: 1, kind: HolderKind::Connection(ConnectionId(5)) };
        assert_eq!(table.attach(id(1), ME, connection(5), at(1)), Ok(wanted));
        assert_eq!(lease(&table, 1).holders()[0], wanted);
        assert_eq!((table.next_deadline(), table.due(at(31))), (None, vec![]));
        table.connection_closed(ConnectionId(5));
        assert_eq!(lease(&table, 1).holders().len(), 2);
    }

    #[test]
    fn a_closed_connection_lets_go_of_all_it_held_and_nothing_else() {
        let mut table = table_with([
            grant(1, &[connection(1)]),
            grant(2, &[connection(1), connection(2)]),
            grant(3, &[connection(2)]),
        ]);
        assert_eq!(table.detach(id(2), ME, 2), Ok(()));
        table.connection_closed(ConnectionId(1));
        let due = table.due(at(0));
        assert_eq!(due.len(), 2);
        assert!(due.contains(&end(1, gone("connection"))) && due.contains(&end(2, gone("connection"))));
        table.connection_closed(ConnectionId(1));
        assert_eq!(table.due(at(0)), []);
    }

    #[test]
    fn attach_refuses() {
        let mut table = table_with([grant(1, &[process(1)])]);
        let (ttl_min, ttl_max) = (table.limits.ttl_min, table.limits.ttl_max);
        let mut attach = |number, caller, new| table.attach(id(number), caller, new, at(0)).map(|holder| holder.id);
        assert_eq!(attach(9, ME, ttl(5)), Err(Refusal::LeaseUnknown));
        assert_eq!(attach(1, OTHER, ttl(5)), Err(Refusal::LeaseUnknown));
        assert_eq!(attach(1, ME, ttl(0)), Err(Refusal::TtlTooShort { limit: ttl_min }));
        assert_eq!(attach(1, ME, ttl(1_000_000)), Err(Refusal::TtlTooLong { limit: ttl_max }));
        assert_eq!(attach(1, ME, process(-1)), Err(Refusal::HolderKind("process")));
        assert_eq!((attach(1, ADMIN, ttl(5)), attach(1, ME, ttl(5))), (Ok(2), Ok(3)));
        assert_eq!(attach(1, ME, connection(1)), Err(Refusal::LimitHolders { limit: 3 }));
        assert_eq!(table.revoke(id(1), ME), Ok(()));
        assert_eq!(table.attach(id(1), ME, process(1), at(0)), Err(Refusal::LeaseEnding));
    }

    #[test]
    fn detach_refuses_and_of_the_last_makes_it_due() {
        let mut table = table_with([grant(1, &[NewHolder::Descriptor, process(1)])]);
        assert_eq!(table.detach(id(1), OTHER, 1), Err(Refusal::LeaseUnknown));
        assert_eq!(table.detach(id(1), ME, 3), Err(Refusal::HolderUnknown));
        assert_eq!(table.detach(id(1), ME, 2), Ok(()));
        assert_eq!(table.due(at(0)), []);
        assert_eq!(table.detach(id(1), ADMIN, 1), Ok(()));
        assert_eq!(table.due(at(0)), [end(1, lost_by("descriptor", Parting::Detached))]);
        assert_eq!(table.detach(id(1), ME, 1), Err(Refusal::LeaseEnding));
    }

    #[test]
    fn a_holder_that_comes_before_due_saves_the_lease() {
        let mut table = table_with([grant(1, &[process(1)])]);
        table.holder_gone(id(1), 1);
        assert_eq!(table.next_deadline(), Some(BootTime(0)));
        assert!(table.attach(id(1), ME, process(2), at(0)).is_ok());
        assert_eq!((table.next_deadline(), table.due(at(0))), (None, vec![]));
        table.holder_gone(id(1), 1);
        table.holder_gone(id(9), 1);
        assert_eq!(table.due(at(0)), []);
    }

    #[test]
    fn nothing_is_said_of_holders_that_go_after_the_end() {
        let mut table = table_with([grant(1, &[connection(1), process(1)])]);
        assert_eq!(table.revoke(id(1), ME), Ok(()));
        table.due(at(0));
        let revision = table.revision();
        table.connection_closed(ConnectionId(1));
        table.holder_gone(id(1), 2);
        assert_eq!((table.revision(), table.due(at(0))), (revision, vec![]));
        assert_eq!(lease(&table, 1).holders(), []);
    }
}
