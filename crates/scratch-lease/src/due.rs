//! Decides what is due: which leases end and why, and which are searched for first.

use crate::attach::Parting;
use crate::{BootTime, Caller, EventKind, Lease, LeaseId, LeaseState, Reason, Refusal, Table};

/// One thing to be done now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Due {
    /// Search once for processes that use the lease, attach them, then say [`Table::searched`].
    Search(LeaseId),
    /// It has ended and is to be kept: [`Table::keep_ended`].
    Keep {
        /// Which lease.
        id: LeaseId,
        /// Why it ended.
        reason: Reason,
    },
    /// Take it out of the name space, then [`Table::forget`] it. Of a Gone one what is left of it.
    End {
        /// Which lease.
        id: LeaseId,
        /// Why.
        reason: Reason,
    },
}

impl Table {
    /// The lease is to end now, also one that is kept or was to be: nothing new is taken from now on. Once more for an
    /// ending lease is fine.
    ///
    /// # Errors
    /// As [`get`](Self::get).
    pub fn revoke(&mut self, id: LeaseId, caller: Caller) -> Result<(), Refusal> {
        let is_kept = self.get(id, caller)?.kept_until().is_some();
        if is_kept {
            self.end_kept(id, Reason::Revoked)
        } else {
            self.end(id, Reason::Revoked)
        }
        Ok(())
    }

    /// The broker's own word that a lease is to end. The first reason stands; one being granted ends after commit.
    pub fn end(&mut self, id: LeaseId, reason: Reason) {
        let Some(lease) = self.leases.get_mut(&id) else { return };
        lease.reason.get_or_insert(reason);
        if lease.is_there() {
            self.index.pending.insert(id);
        }
    }

    /// A search is over, once for each [`Due::Search`]. A lease that still has no holder, and no further search under
    /// way, is due to end.
    pub fn searched(&mut self, id: LeaseId) {
        let Some(lease) = self.leases.get_mut(&id) else { return };
        lease.searches = lease.searches.saturating_sub(1);
        if lease.state == LeaseState::Searching && lease.searches == 0 {
            let loss = lease.loss;
            self.end(id, loss);
        }
    }

    /// All that is to be done now, each thing once: leases end after all below them. Ends come before searches.
    /// Costs nothing while nothing is due.
    pub fn due(&mut self, now: BootTime) -> Vec<Due> {
        while let Some((id, holder)) = self.index.pop_deadline(now) {
            match holder {
                Some(holder) => _ = self.part(id, holder, Parting::Expired),
                None => self.time_is_over(id),
            }
        }
        let mut due = Vec::new();
        let mut unheld = Vec::new();
        while let Some(id) = self.index.pending.pop_first() {
            let Some(lease) = self.leases.get(&id) else { continue };
            match self.verdict(lease) {
                Verdict::Lives => (),
                Verdict::Searches => unheld.push(id),
                Verdict::Ends(reason) => self.end_subtree(id, reason, &mut due),
            }
        }
        due.extend(unheld.into_iter().filter_map(|id| self.search(id)));
        due
    }

    /// The earliest time at which something is due; a time that is over while something is.
    #[must_use]
    pub fn next_deadline(&self) -> Option<BootTime> {
        self.index.next_deadline()
    }

    fn verdict(&self, lease: &Lease) -> Verdict {
        match (lease.reason, lease.parent) {
            (Some(reason), _) if lease.over => Verdict::Ends(reason),
            _ if !lease.is_there() => Verdict::Lives,
            (Some(reason), _) => Verdict::Ends(reason),
            (None, Some(parent)) if !self.lives(parent) => Verdict::Ends(Reason::ParentEnded(parent)),
            _ if !lease.holders.is_empty() => Verdict::Lives,
            _ if lease.search_environment => Verdict::Searches,
            _ => Verdict::Ends(lease.loss),
        }
    }

    /// Ends all that is below the lease, then the lease. A child being granted will end after its commit.
    fn end_subtree(&mut self, root: LeaseId, reason: Reason, due: &mut Vec<Due>) {
        for id in self.subtree(root).into_iter().rev() {
            let Some(lease) = self.leases.get_mut(&id) else { continue };
            let why = match lease.parent {
                Some(parent) if id != root => Reason::ParentEnded(parent),
                _ => reason,
            };
            let reason = *lease.reason.get_or_insert(why);
            if !lease.is_there() && !lease.over {
                continue;
            }
            self.index.retire(lease);
            let (tenant, before) = (lease.tenant, lease.state);
            let keeps = lease.keep.is_some() && lease.is_there() && reason.may_keep();
            // One that is gone stays so: whoever frees it looks there for it.
            if !matches!(before, LeaseState::Gone { .. }) {
                lease.state = LeaseState::Ending;
                self.count_state(tenant, before, LeaseState::Ending);
                self.log.push(id, tenant, EventKind::Ending(reason));
            }
            due.push(if keeps { Due::Keep { id, reason } } else { Due::End { id, reason } });
        }
    }

    /// The lifetime of one that is there, or the time of one that has ended.
    fn time_is_over(&mut self, id: LeaseId) {
        match self.leases.get(&id).map(|lease| lease.state) {
            Some(LeaseState::Kept { .. }) => self.end_kept(id, Reason::KeepOver),
            Some(LeaseState::Gone { .. }) => self.end_gone(id),
            _ => self.end(id, Reason::LifetimeMax),
        }
    }

    /// Starts a search, unless the lease went with its parent in the same round.
    fn search(&mut self, id: LeaseId) -> Option<Due> {
        let lease = self.leases.get_mut(&id).filter(|lease| lease.state == LeaseState::Live)?;
        lease.state = LeaseState::Searching;
        lease.searches = lease.searches.saturating_add(1);
        Some(Due::Search(id))
    }
}

/// What becomes of a lease that was looked at.
enum Verdict {
    Lives,
    Searches,
    Ends(Reason),
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Grant;
    use crate::fixture::*;

    #[test]
    fn nothing_is_due_while_something_holds() {
        let mut table = table_with([grant(1, &[process(1), connection(1), ttl(10)])]);
        assert_eq!((table.due(at(10)), table.next_deadline()), (vec![], None));
        table.holder_gone(id(1), 1);
        assert_eq!(table.due(at(1_000_000)), []);
        table.connection_closed(crate::ConnectionId(1));
        assert_eq!(table.due(at(1_000_000)), [end(1, gone("connection"))]);
        assert_eq!(lease(&table, 1).state(), LeaseState::Ending);
        assert_eq!(table.due(at(2_000_000)), []);
    }

    #[test]
    fn deadlines_pass_in_their_time_and_not_before() {
        let mut table = table_with([grant(1, &[ttl(10)]), grant(2, &[ttl(20)])]);
        table.adopt(grant(3, &[lost(15)]), at(0), at(0));
        let due = [10, 15, 20].map(|second| {
            assert_eq!((table.next_deadline(), table.due(BootTime(at(second).0 - 1))), (Some(at(second)), vec![]));
            table.due(at(second))
        });
        assert_eq!(due, [[end(1, gone("ttl"))], [end(3, Reason::RestartGrace)], [end(2, gone("ttl"))]]);
        assert_eq!(table.next_deadline(), None);
        assert_eq!(events(&table, 1)[1..], [EventKind::HolderGone(1), EventKind::Ending(gone("ttl"))]);
    }

    #[test]
    fn a_lifetime_ends_whatever_holds() {
        let mut table = table_with([Grant { lifetime_max: Some(seconds_long(5)), ..grant(1, &[process(1)]) }]);
        assert_eq!(lease(&table, 1).expire_time(), Some(at(5)));
        assert_eq!((table.due(at(4)), table.next_deadline()), (vec![], Some(at(5))));
        assert_eq!(table.due(at(5)), [end(1, Reason::LifetimeMax)]);
        assert_eq!((lease(&table, 1).reason(), table.next_deadline()), (Some(Reason::LifetimeMax), None));
    }

    #[test]
    fn a_revoked_lease_takes_nothing_and_is_due_once() {
        let mut table = table_with([grant(1, &[ttl(10)])]);
        assert_eq!(table.revoke(id(1), OTHER), Err(Refusal::LeaseUnknown));
        assert_eq!((table.revoke(id(1), ME), table.next_deadline()), (Ok(()), Some(BootTime(0))));
        assert_eq!(table.live(id(1), ME).err(), Some(Refusal::LeaseEnding));
        table.end(id(1), Reason::NewBoot);
        assert_eq!(table.due(at(0)), [end(1, Reason::Revoked)]);
        assert_eq!((table.revoke(id(1), ME), table.next_deadline()), (Ok(()), None));
        assert_eq!(table.due(at(100)), []);
        assert_eq!(table.get(id(1), ME).map(Lease::state), Ok(LeaseState::Ending));
        assert_eq!(table.get(id(1), OTHER).err(), Some(Refusal::LeaseUnknown));
    }

    #[test]
    fn an_end_said_during_the_grant_waits_for_the_commit() {
        let mut table = table();
        assert!(table.grant(grant(1, &[process(1)]), at(0)).is_ok());
        table.end(id(1), Reason::Revoked);
        table.end(id(9), Reason::Revoked);
        assert_eq!(table.due(at(0)), []);
        table.commit(id(1), at(0));
        assert_eq!(table.due(at(0)), [end(1, Reason::Revoked)]);
    }

    #[test]
    fn children_end_before_their_parent() {
        let mut table = table_with([grant(1, &[process(1)]), grant(2, &[process(1)])]);
        put(&mut table, below(1, grant(3, &[process(1)])));
        put(&mut table, below(3, searched_for(grant(4, &[process(4)]))));
        table.holder_gone(id(4), 1);
        table.holder_gone(id(1), 1);
        let (three, four) = (end(3, Reason::ParentEnded(id(1))), end(4, Reason::ParentEnded(id(3))));
        assert_eq!(table.due(at(0)), [four, three, end(1, gone("process"))]);
        assert_eq!(lease(&table, 2).state(), LeaseState::Live);
    }

    #[test]
    fn a_search_comes_before_the_end_and_may_find_something() {
        let mut table = table_with([searched_for(grant(1, &[process(1)]))]);
        table.searched(id(1));
        table.searched(id(9));
        table.holder_gone(id(1), 1);
        assert_eq!(table.due(at(0)), [Due::Search(id(1))]);
        assert_eq!((lease(&table, 1).state(), table.due(at(0))), (LeaseState::Searching, vec![]));
        assert_eq!(table.next_deadline(), None);
        assert_eq!(table.attach(id(1), ME, process(2), at(0)).map(|holder| holder.id), Ok(2));
        table.searched(id(1));
        assert_eq!((lease(&table, 1).state(), table.due(at(0))), (LeaseState::Live, vec![]));
        table.holder_gone(id(1), 2);
        assert_eq!(table.due(at(0)), [Due::Search(id(1))]);
        table.searched(id(1));
        assert_eq!(table.due(at(0)), [end(1, gone("process"))]);
    }

    #[test]
    fn an_older_search_does_not_speak_for_a_newer_one() {
        let mut table = table_with([searched_for(grant(1, &[process(1)]))]);
        table.holder_gone(id(1), 1);
        assert_eq!(table.due(at(0)), [Due::Search(id(1))]);
        assert!(table.attach(id(1), ME, process(2), at(0)).is_ok());
        table.holder_gone(id(1), 2);
        assert_eq!(table.due(at(0)), [Due::Search(id(1))]);
        table.searched(id(1));
        assert_eq!(table.due(at(0)), []);
        table.searched(id(1));
        assert_eq!(table.due(at(0)), [end(1, gone("process"))]);
    }

    #[test]
    fn a_search_ends_with_the_lease() {
        let lifetime_max = Some(seconds_long(5));
        let mut table = table_with([Grant { lifetime_max, ..searched_for(grant(1, &[process(1)])) }]);
        table.holder_gone(id(1), 1);
        assert_eq!((table.due(at(0)), table.next_deadline()), (vec![Due::Search(id(1))], Some(at(5))));
        assert_eq!(table.due(at(5)), [end(1, Reason::LifetimeMax)]);
        table.searched(id(1));
        assert_eq!(table.due(at(6)), []);
    }
}
