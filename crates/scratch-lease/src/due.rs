//! Decides what is due: which leases end and why, and which are searched for first.

use crate::{BootTime, Caller, EventKind, Lease, LeaseId, LeaseState, Parting, Reason, Refusal, Table};

/// One thing to be done now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Due {
    /// Search once for processes that use the lease, attach them, then say [`Table::searched`].
    Search(LeaseId),
    /// Nothing holds it, and it has a grace: say [`Table::wait_for_holder`].
    Grace(LeaseId),
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
            self.end_kept(id, Reason::Revoked);
            return Ok(());
        }
        if let Some(lease) = self.leases.get_mut(&id) {
            // Also if it was about to end by itself, which would keep it.
            lease.keep = None;
            if lease.is_there() {
                lease.reason = Some(Reason::Revoked);
            }
        }
        self.end(id, Reason::Revoked);
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
        if lease.state != LeaseState::Searching || lease.searches != 0 {
            return;
        }
        if lease.may_wait() {
            lease.state = LeaseState::Live;
            lease.searched = true;
            self.index.pending.insert(id);
        } else {
            let reason = if lease.waited { lease.reason_waited() } else { lease.loss };
            self.end(id, reason);
        }
    }

    /// A lease without holders waits for one from now on, as long as its grace; one that has a holder again does not.
    pub fn wait_for_holder(&mut self, id: LeaseId, now: BootTime) {
        let Some(lease) = self.leases.get_mut(&id) else { return };
        if lease.is_there() && lease.holders.is_empty() && lease.grace_end.is_none() {
            let end = now + lease.grace;
            lease.grace_end = Some(end);
            self.index.add_end(id, end);
        }
    }

    /// All that is to be done now, each thing once: leases end after all below them. Ends come before searches.
    /// Costs nothing while nothing is due.
    pub fn due(&mut self, now: BootTime) -> Vec<Due> {
        self.log.at(now);
        self.forget_full_buckets(now);
        while let Some((id, holder)) = self.index.pop_deadline(now) {
            match holder {
                Some(holder) => _ = self.part(id, holder, Parting::Expired),
                None => self.time_is_over(id, now),
            }
        }
        let mut due = Vec::new();
        let mut unheld = Vec::new();
        while let Some(id) = self.index.pending.pop_first() {
            let Some(lease) = self.leases.get(&id) else { continue };
            match self.verdict(lease) {
                Verdict::Lives => (),
                Verdict::Searches | Verdict::Waits => unheld.push(id),
                Verdict::Ends(reason) => self.end_subtree(id, reason, &mut due),
            }
        }
        due.extend(unheld.into_iter().filter_map(|id| self.look_for_holders(id)));
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
            _ if lease.grace_end.is_some() => Verdict::Lives,
            _ if lease.search_environment && !lease.searched => Verdict::Searches,
            _ if lease.may_wait() => Verdict::Waits,
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

    /// The lifetime or the grace of one that is there, or the time of one that has ended.
    fn time_is_over(&mut self, id: LeaseId, now: BootTime) {
        let Some(lease) = self.leases.get_mut(&id) else { return };
        match lease.state {
            LeaseState::Kept { .. } => self.end_kept(id, Reason::KeepOver),
            LeaseState::Gone { .. } => self.end_gone(id),
            // What uses it may have been started while it waited.
            LeaseState::Live if lease.search_environment && lease.reason_at(now) != Reason::LifetimeMax => {
                lease.grace_end = None;
                lease.searched = false;
                lease.waited = true;
                self.index.pending.insert(id);
            }
            _ => {
                let reason = lease.reason_at(now);
                self.end(id, reason);
            }
        }
    }

    /// Starts a search or a wait, unless the lease went with its parent in the same round.
    fn look_for_holders(&mut self, id: LeaseId) -> Option<Due> {
        let lease = self.leases.get_mut(&id).filter(|lease| lease.state == LeaseState::Live)?;
        if !lease.search_environment || lease.searched {
            return Some(Due::Grace(id));
        }
        lease.state = LeaseState::Searching;
        lease.searches = lease.searches.saturating_add(1);
        Some(Due::Search(id))
    }
}

/// What becomes of a lease that was looked at.
enum Verdict {
    Lives,
    Searches,
    Waits,
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
        adopt(&mut table, grant(0, &[lost(15)]), at(0), at(0));
        let due = [10, 15, 20].map(|second| {
            assert_eq!((table.next_deadline(), table.due(BootTime(at(second).0 - 1))), (Some(at(second)), vec![]));
            table.due(at(second))
        });
        assert_eq!(due, [[end(1, gone("ttl"))], [end(0, Reason::RestartGrace)], [end(2, gone("ttl"))]]);
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
        assert_eq!(table.attach(id(1), ME, process(1), at(0)).map(|holder| holder.id), Ok(2));
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
        assert!(table.attach(id(1), ME, process(1), at(0)).is_ok());
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

    #[test]
    fn a_grace_runs_from_the_last_holders_end_and_a_new_one_ends_it() {
        let mut table = table_with([patient(30, grant(1, &[process(1), ttl(10)]))]);
        table.holder_gone(id(1), 1);
        assert_eq!(table.due(at(5)), []);
        assert_eq!(table.due(at(10)), [Due::Grace(id(1))]);
        assert_eq!((table.due(at(10)), lease(&table, 1).state()), (vec![], LeaseState::Live));
        table.wait_for_holder(id(1), at(11));
        table.wait_for_holder(id(1), at(12));
        assert_eq!(lease(&table, 1).waits_until(), Some((at(41), gone("ttl"))));
        assert_eq!((table.next_deadline(), table.due(at(40))), (Some(at(41)), vec![]));

        assert!(table.attach(id(1), ME, process(1), at(40)).is_ok());
        assert_eq!((table.next_deadline(), table.due(at(100))), (None, vec![]));
        assert_eq!(lease(&table, 1).waits_until(), None);
        table.holder_gone(id(1), 3);
        assert_eq!(table.due(at(100)), [Due::Grace(id(1))]);
        table.wait_for_holder(id(1), at(100));
        let Reason::HoldersGone { last, .. } = gone("process") else { panic!("holders are gone") };
        let reason = Reason::HoldersGone { last, grace: seconds_long(30) };
        assert_eq!(table.due(at(130)), [end(1, reason)]);
    }

    #[test]
    fn a_holder_that_comes_before_the_wait_begins_is_not_waited_for() {
        let mut table = table_with([patient(30, grant(1, &[process(1)]))]);
        table.holder_gone(id(1), 1);
        assert_eq!(table.due(at(0)), [Due::Grace(id(1))]);
        assert!(table.attach(id(1), ME, process(2), at(0)).is_ok());
        table.wait_for_holder(id(1), at(0));
        assert_eq!((table.next_deadline(), table.due(at(100))), (None, vec![]));
    }

    #[test]
    fn an_explicit_end_knows_no_grace() {
        let lifetime_max = Some(seconds_long(5));
        let mut table = table_with([
            patient(30, grant(1, &[process(1)])),
            patient(30, grant(2, &[process(1)])),
            Grant { lifetime_max, ..patient(5, grant(3, &[process(1)])) },
        ]);
        put(&mut table, below(1, patient(30, grant(4, &[process(1)]))));
        table.holder_gone(id(4), 1);
        table.holder_gone(id(3), 1);
        let mut due = table.due(at(0));
        due.sort_by_key(|due| *due == Due::Grace(id(4)));
        assert_eq!(due, [Due::Grace(id(3)), Due::Grace(id(4))]);
        (3..=4).for_each(|number| table.wait_for_holder(id(number), at(0)));
        assert_eq!((table.detach(id(1), ME, 1), table.revoke(id(2), ME)), (Ok(()), Ok(())));
        let due = table.due(at(0));
        assert_eq!(due.len(), 3);
        for wanted in
            [end(4, Reason::ParentEnded(id(1))), end(1, lost_by("process", Parting::Detached)), end(2, Reason::Revoked)]
        {
            assert!(due.contains(&wanted), "{wanted:?}");
        }
        assert_eq!(table.due(at(5)), [end(3, Reason::LifetimeMax)]);
    }

    #[test]
    fn the_end_of_a_lifetime_outlasts_a_grace_that_would_have_ended_with_it() {
        let lifetime_max = Some(seconds_long(5));
        let mut table = table_with([Grant { lifetime_max, ..patient(5, grant(1, &[process(1)])) }]);
        table.holder_gone(id(1), 1);
        assert_eq!(table.due(at(0)), [Due::Grace(id(1))]);
        table.wait_for_holder(id(1), at(0));
        assert!(table.attach(id(1), ME, process(2), at(1)).is_ok());
        assert_eq!(table.due(at(5)), [end(1, Reason::LifetimeMax)]);
    }

    #[test]
    fn a_search_comes_before_the_grace() {
        let mut table = table_with([searched_for(patient(30, grant(1, &[process(1)])))]);
        for round in 1..=2 {
            table.holder_gone(id(1), round);
            assert_eq!(table.due(at(0)), [Due::Search(id(1))]);
            table.searched(id(1));
            assert_eq!(table.due(at(0)), [Due::Grace(id(1))]);
            table.wait_for_holder(id(1), at(0));
            assert_eq!((lease(&table, 1).state(), table.due(at(1))), (LeaseState::Live, vec![]));
            assert!(table.attach(id(1), ME, process(2), at(1)).is_ok());
        }
    }

    #[test]
    fn and_another_search_after_it() {
        let mut table = table_with([1, 2].map(|number| searched_for(patient(30, grant(number, &[process(1)])))));
        for number in [1, 2] {
            table.holder_gone(id(number), 1);
            assert_eq!(table.due(at(0)), [Due::Search(id(number))]);
            table.searched(id(number));
            assert_eq!(table.due(at(0)), [Due::Grace(id(number))]);
            table.wait_for_holder(id(number), at(0));
        }
        assert_eq!((table.due(at(29)), table.due(at(30))), (vec![], vec![Due::Search(id(1)), Due::Search(id(2))]));
        assert!(table.attach(id(1), ME, process(2), at(30)).is_ok(), "it was started meanwhile");
        table.searched(id(1));
        table.searched(id(2));
        let Reason::HoldersGone { last, .. } = gone("process") else { return };
        let waited = Reason::HoldersGone { last, grace: seconds_long(30) };
        assert_eq!(table.due(at(30)), [end(2, waited)], "it does not wait twice");
        table.holder_gone(id(1), 2);
        assert_eq!(table.due(at(31)), [Due::Search(id(1))]);
        table.searched(id(1));
        assert_eq!(table.due(at(31)), [Due::Grace(id(1))], "its grace is whole again");
    }

    #[test]
    fn after_a_restart_the_grace_is_whole_again_unless_it_was_waited_for() {
        let mut table = table();
        adopt(&mut table, patient(30, grant(1, &[])), at(0), at(50));
        adopt(&mut table, patient(30, grant(0, &[lost(80)])), at(0), at(50));
        assert_eq!(table.due(at(50)), [Due::Grace(id(1))]);
        table.wait_for_holder(id(1), at(50));
        table.rearm(at(60), seconds_long(0));
        let nothing = Reason::HoldersGone { last: None, grace: seconds_long(30) };
        assert_eq!((table.due(at(79)), table.due(at(80))), (vec![], vec![end(0, Reason::RestartGrace)]));
        assert_eq!((table.due(at(89)), table.due(at(90))), (vec![], vec![end(1, nothing)]));
    }

    #[test]
    fn a_hold_and_a_cgroup_know_no_deadline() {
        let mut table = table_with([grant(1, &[crate::NewHolder::Hold, process(1)])]);
        let cgroup = crate::NewHolder::Cgroup(crate::CgroupId(7));
        assert_eq!(table.attach(id(1), ME, cgroup, at(0)).map(|holder| holder.id), Ok(3));
        assert_eq!(table.attach(id(1), ME, cgroup, at(0)).map(|holder| holder.id), Ok(3), "it holds the lease already");
        table.holder_gone(id(1), 2);
        table.holder_parted(id(1), 3, Parting::Unpopulated);
        assert_eq!((table.due(at(1_000_000)), table.next_deadline()), (vec![], None));
        assert_eq!(table.detach(id(1), ME, 1), Ok(()));
        assert_eq!(table.due(at(1_000_000)), [end(1, lost_by("hold", Parting::Detached))]);
    }
}
