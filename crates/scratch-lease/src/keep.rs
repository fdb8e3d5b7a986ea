//! How a lease outlives its end: kept at its path for a time, or out of sight and to be brought back for a while.

use std::time::Duration;

use crate::table::live_mut;
use crate::{
    BootTime, Caller, EventKind, Grant, Holder, Lease, LeaseId, LeaseState, NewHolder, Reason, Refusal, Table,
};

/// What is to become of a lease at its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Keep {
    /// It is kept for so long after its end.
    pub time: Duration,
    /// If no more than this is in it then. 0 in a request: as much as is allowed.
    pub bytes: u64,
}

impl Table {
    /// Notes that a live lease is to be kept at its end, or with a time of zero that it is not. One that is kept already
    /// gets this time from now on; zero is its end. What was noted before.
    ///
    /// # Errors
    /// As [`get`](Self::get), [`Refusal::LeaseEnding`], and what is out of bounds.
    pub fn keep(&mut self, id: LeaseId, caller: Caller, wanted: Keep, now: BootTime) -> Result<Option<Keep>, Refusal> {
        let lease = self.present(id, caller)?;
        let (before, tenant, is_kept) = (lease.keep, lease.tenant, lease.kept_until().is_some());
        let limits = &self.limits;
        if wanted.time > limits.keep_time_max {
            return Err(Refusal::KeepTooLong { limit: limits.keep_time_max });
        }
        if wanted.bytes > limits.keep_bytes_max {
            return Err(Refusal::KeepTooMuch { limit: limits.keep_bytes_max });
        }
        if is_kept {
            self.keep_until(id, now + wanted.time);
            return Ok(before);
        }
        if !wanted.time.is_zero() {
            self.check_kept_limit(tenant)?;
        }
        let bytes = if wanted.bytes == 0 { self.limits.keep_bytes_max } else { wanted.bytes };
        let lease = live_mut(&mut self.leases, id, caller)?;
        lease.keep = (!wanted.time.is_zero()).then_some(Keep { bytes, ..wanted });
        Ok(before)
    }

    /// Sets what is to become of a lease at its end, and until when it is kept if it is: unchecked, of an adopted one, or
    /// back to what it was.
    pub fn set_keep(&mut self, id: LeaseId, keep: Option<Keep>, until: Option<BootTime>) {
        let Some(lease) = self.leases.get_mut(&id) else { return };
        lease.keep = keep;
        if let Some(until) = until
            && lease.kept_until().is_some()
        {
            self.keep_until(id, until);
        }
    }

    /// Keeps a lease of [`Due::Keep`](crate::Due::Keep): its time runs from now, nothing holds it any more, and it stands
    /// alone. The holders that it had. None: its tenant has too many of them, so that it has to end, for its
    /// [`reason`](Lease::reason).
    pub fn keep_ended(&mut self, id: LeaseId, now: BootTime) -> Option<Vec<Holder>> {
        let lease = self.leases.get(&id).filter(|lease| lease.state == LeaseState::Ending)?;
        let (keep, tenant) = (lease.keep?, lease.tenant);
        let reason = lease.reason.filter(|reason| reason.may_keep())?;
        if self.check_kept_limit(tenant).is_err() {
            if let Some(lease) = self.leases.get_mut(&id) {
                lease.reason = Some(Reason::LimitKeep);
            }
            return None;
        }
        self.log.push(id, tenant, EventKind::Kept(reason));
        Some(self.put_aside(id, LeaseState::Kept { until: now + keep.time }))
    }

    /// Ends a lease that is kept; one that lives again, or never was kept, is left alone.
    pub fn end_kept(&mut self, id: LeaseId, reason: Reason) {
        let Some(lease) = self.leases.get_mut(&id).filter(|lease| lease.kept_until().is_some()) else { return };
        lease.reason = Some(reason);
        lease.over = true;
        self.index.pending.insert(id);
    }

    /// Until when an Ending lease can be brought back if it ends now; None: it can't.
    #[must_use]
    pub fn undeletable(&self, id: LeaseId, now: BootTime) -> Option<BootTime> {
        let window = self.limits.undelete_window;
        let lease = self.leases.get(&id).filter(|lease| lease.state == LeaseState::Ending)?;
        let has_room = self.usage(lease.tenant).gone < self.limits.gone_per_tenant;
        let may = !window.is_zero() && has_room && lease.reason.is_some_and(Reason::may_undelete);
        may.then(|| now + window)
    }

    /// An Ending lease has left the name space and can be brought back until then. The holders that it had; its areas
    /// count no more. None: it was forgotten meanwhile.
    pub fn gone(&mut self, id: LeaseId, until: BootTime) -> Option<Vec<Holder>> {
        let lease = self.leases.get_mut(&id).filter(|lease| lease.state == LeaseState::Ending)?;
        let (tenant, areas) = (lease.tenant, std::mem::take(&mut lease.areas).len());
        let reason = lease.reason.unwrap_or(lease.loss);
        self.uncount_areas(tenant, self.payer_of_areas(id), areas);
        self.log.push(id, tenant, EventKind::Ended(reason));
        Some(self.put_aside(id, LeaseState::Gone { until }))
    }

    /// A Gone lease can't be brought back any more: it is due to be freed. False: there is none that this caller sees.
    pub fn free_gone(&mut self, id: LeaseId, caller: Caller) -> bool {
        // One that stands alone is below nothing that a caller may be confined to.
        let found = self.leases.get(&id).filter(|lease| caller.sees(lease.tenant) && caller.confined_to.is_none());
        let is_gone = found.is_some_and(|lease| matches!(lease.state, LeaseState::Gone { .. }));
        if is_gone {
            self.end_gone(id);
        }
        is_gone
    }

    pub(crate) fn end_gone(&mut self, id: LeaseId) {
        if let Some(lease) = self.leases.get_mut(&id) {
            lease.reason = Some(Reason::UndeleteOver);
            lease.over = true;
            self.index.pending.insert(id);
        }
    }

    /// Brings a Gone lease back: it is kept for the window's length, and again for that long after whatever holds it then.
    /// Until when it was to be freed: there its directory is. None: the lease is there already.
    ///
    /// # Errors
    /// As [`get`](Self::get), also for one whose time is over; [`Refusal::LeaseEnding`], [`Refusal::LimitKept`].
    pub fn undelete(&mut self, id: LeaseId, caller: Caller, now: BootTime) -> Result<Option<BootTime>, Refusal> {
        let found = self.leases.get(&id).filter(|lease| caller.sees(lease.tenant) && caller.confined_to.is_none());
        let lease = found.ok_or(Refusal::LeaseUnknown)?;
        let tenant = lease.tenant;
        let until = match lease.state {
            LeaseState::Gone { until } if !lease.over && until > now => until,
            LeaseState::Gone { .. } => return Err(Refusal::LeaseUnknown),
            _ => return self.present(id, caller).map(|_| None),
        };
        self.check_kept_limit(tenant)?;
        let time = self.limits.undelete_window.max(until.duration_since(now));
        self.move_to(id, LeaseState::Kept { until: now + time });
        if let Some(lease) = self.leases.get_mut(&id) {
            lease.keep = Some(Keep { time, bytes: u64::MAX });
        }
        self.log.push(id, tenant, EventKind::Undeleted);
        Ok(Some(until))
    }

    /// What [`undelete`](Self::undelete) did could not be done: it is Gone again. False: it has ended meanwhile.
    pub fn undelete_failed(&mut self, id: LeaseId, until: BootTime) -> bool {
        let is_kept = self.leases.get(&id).is_some_and(|lease| lease.kept_until().is_some());
        if is_kept {
            self.move_to(id, LeaseState::Gone { until });
        }
        is_kept
    }

    /// Takes over a lease that had ended with the broker before: Kept or Gone, whatever the limits.
    pub fn adopt_ended(&mut self, grant: Grant, created: BootTime, state: LeaseState) {
        let id = grant.id;
        if self.leases.contains_key(&id) {
            debug_assert!(false, "lease {id} is adopted twice");
            return;
        }
        let alone = Grant { holders: Vec::new(), parent: None, nonce: None, ..grant };
        let accounts = self.accounts(None, alone.pool, alone.share);
        let mut lease = Lease::new(alone, accounts, created, created);
        lease.state = state;
        lease.reason = Some(lease.loss);
        self.index.arm(&lease);
        self.log.push(id, lease.tenant, EventKind::Adopted);
        self.insert(lease);
    }

    /// A kept lease that is about to get a holder is there again; without one it is due.
    pub(crate) fn revive(&mut self, id: LeaseId, caller: Caller, new: NewHolder) -> Result<(), Refusal> {
        let kept = self.get(id, caller).is_ok_and(|lease| lease.kept_until().is_some());
        if !kept {
            return Ok(());
        }
        self.limits_of(caller).check_holder(new)?;
        self.check_lease_limit(self.get(id, caller)?.tenant, caller)?;
        self.move_to(id, LeaseState::Live);
        if let Some(lease) = self.leases.get_mut(&id) {
            lease.reason = None;
            self.index.pending.insert(id);
        }
        Ok(())
    }

    fn keep_until(&mut self, id: LeaseId, until: BootTime) {
        self.move_to(id, LeaseState::Kept { until });
    }

    /// Out of the lives of its holders and of its parent.
    fn put_aside(&mut self, id: LeaseId, state: LeaseState) -> Vec<Holder> {
        self.stand_alone(id);
        let Some(lease) = self.leases.get_mut(&id) else { return Vec::new() };
        let reason = lease.reason;
        self.index.remove(lease);
        lease.parent = None;
        lease.nonce = None;
        if reason == Some(Reason::LifetimeMax) {
            lease.lifetime_end = None;
        }
        lease.grace_end = None;
        lease.waited = false;
        lease.over = false;
        let holders = std::mem::take(&mut lease.holders);
        self.move_to(id, state);
        holders
    }

    /// From one state to another, with its count and its deadlines.
    fn move_to(&mut self, id: LeaseId, state: LeaseState) {
        let Some(lease) = self.leases.get_mut(&id) else { return };
        self.index.disarm(lease);
        let (tenant, before) = (lease.tenant, std::mem::replace(&mut lease.state, state));
        self.index.arm(lease);
        self.count_state(tenant, before, state);
    }

    fn check_kept_limit(&self, tenant: crate::TenantId) -> Result<(), Refusal> {
        let limit = self.limits.kept_per_tenant;
        if self.usage(tenant).kept >= limit { Err(Refusal::LimitKept { limit }) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::*;
    use crate::{AreaKey, AreaKind, Due, Limits, Usage};

    fn kept_for(seconds: u64) -> Keep {
        Keep { time: seconds_long(seconds), bytes: 7 }
    }

    /// Lease 1, held by process 1, to be kept for 10 s.
    fn noted() -> Table {
        let mut table = table_with([grant(1, &[process(1)])]);
        assert_eq!(table.keep(id(1), ME, kept_for(10), at(0)), Ok(None));
        table
    }

    /// The same after its end at 5 s.
    fn kept() -> Table {
        let mut table = noted();
        table.holder_gone(id(1), 1);
        assert_eq!(table.due(at(5)), [due_keep(1, gone("process"))]);
        assert_eq!(table.keep_ended(id(1), at(5)), Some(vec![]));
        table
    }

    fn due_keep(number: u8, reason: Reason) -> Due {
        Due::Keep { id: id(number), reason }
    }

    /// A table in which lease 1 can be brought back until 30 s.
    fn undeletable() -> Table {
        let mut table = table_with([grant(1, &[process(1)])]);
        table.set_limits(Limits { undelete_window: seconds_long(20), ..table.limits }, Vec::new());
        assert_eq!(table.reserve_areas(id(1), ME, 1).map(|reserved| reserved.first_number), Ok(1));
        assert!(table.add_area(id(1), AreaKey::Number(1), AreaKind::Memory));
        assert_eq!(table.revoke(id(1), ME), Ok(()));
        assert_eq!(table.due(at(10)), [end(1, Reason::Revoked)]);
        let until = table.undeletable(id(1), at(10));
        assert_eq!(until, Some(at(30)));
        assert_eq!(table.gone(id(1), at(30)).map(|holders| holders.len()), Some(1), "the holder that has not ended");
        table
    }

    #[test]
    fn a_kept_lease_takes_nothing_and_ends_in_its_time() {
        let mut table = kept();
        assert_eq!(lease(&table, 1).state(), LeaseState::Kept { until: at(15) });
        assert_eq!(table.usage(ME.tenant), Usage { kept: 1, ..Usage::default() });
        assert_eq!(table.live(id(1), ME).err(), Some(Refusal::LeaseKept));
        assert!(table.present(id(1), ME).is_ok() && table.present(id(1), OTHER).is_err());
        assert_eq!(table.reserve_areas(id(1), ME, 1), Err(Refusal::LeaseKept));
        assert_eq!(table.detach(id(1), ME, 1), Err(Refusal::LeaseKept));
        assert_eq!(table.grant(below(1, grant(2, &[process(2)])), at(6)), Err(Refusal::LeaseUnknown));
        assert_eq!((table.due(at(14)), table.next_deadline()), (vec![], Some(at(15))));
        assert_eq!(table.due(at(15)), [end(1, Reason::KeepOver)]);
        assert_eq!(table.undeletable(id(1), at(15)), None);
        table.forget(id(1));
        assert_eq!((table.totals(), table.next_deadline()), (Usage::default(), None));
        let wanted = [
            EventKind::Granted,
            EventKind::HolderGone(1),
            EventKind::Ending(gone("process")),
            EventKind::Kept(gone("process")),
            EventKind::Ending(Reason::KeepOver),
            EventKind::Ended(Reason::KeepOver),
        ];
        assert_eq!(events(&table, 1), wanted);
    }

    #[test]
    fn what_it_is_kept_after_and_what_not() {
        let mut table = table_with([grant(1, &[process(1)])]);
        put(&mut table, Grant { lifetime_max: Some(seconds_long(5)), ..below(1, grant(2, &[process(1)])) });
        put(&mut table, below(1, grant(3, &[process(1)])));
        for number in 1..=3 {
            assert_eq!(table.keep(id(number), ME, kept_for(10), at(0)), Ok(None));
        }
        assert_eq!(table.due(at(5)), [due_keep(2, Reason::LifetimeMax)]);
        assert_eq!(table.keep_ended(id(2), at(5)).map(|holders| holders.len()), Some(1));
        assert_eq!(table.revoke(id(1), ME), Ok(()));
        assert_eq!(table.due(at(6)), [due_keep(3, Reason::ParentEnded(id(1))), end(1, Reason::Revoked)]);
        assert!(table.keep_ended(id(3), at(6)).is_some() && table.keep_ended(id(1), at(6)).is_none());
        table.forget(id(1));
        assert_eq!((lease(&table, 2).parent(), lease(&table, 3).parent()), (None, None));
        assert_eq!(table.due(at(14)), []);
        assert_eq!(table.due(at(16)).len(), 2);
    }

    #[test]
    fn the_note_can_be_taken_back_and_the_time_set_anew() {
        let mut table = noted();
        assert_eq!(table.keep(id(1), ME, kept_for(0), at(1)), Ok(Some(kept_for(10))));
        table.holder_gone(id(1), 1);
        assert_eq!(table.due(at(5)), [end(1, gone("process"))]);
        assert_eq!(table.keep(id(1), ME, kept_for(5), at(1)), Err(Refusal::LeaseEnding));

        let mut table = kept();
        assert_eq!(table.keep(id(1), ME, kept_for(20), at(14)), Ok(Some(kept_for(10))));
        assert_eq!((table.due(at(33)), table.next_deadline()), (vec![], Some(at(34))));
        assert_eq!(table.keep(id(1), ME, kept_for(0), at(33)), Ok(Some(kept_for(10))));
        assert_eq!(table.due(at(33)), [end(1, Reason::KeepOver)]);
    }

    #[test]
    fn a_revoke_ends_a_kept_lease_and_a_measure_only_that() {
        let mut table = kept();
        assert_eq!(table.revoke(id(1), OTHER), Err(Refusal::LeaseUnknown));
        assert_eq!(table.revoke(id(1), ME), Ok(()));
        assert_eq!(table.attach(id(1), ME, process(2), at(6)), Err(Refusal::LeaseEnding));
        table.end_kept(id(1), Reason::KeepBudget);
        assert_eq!((table.due(at(6)), table.due(at(100))), (vec![end(1, Reason::Revoked)], vec![]));

        let mut table = kept();
        assert!(table.attach(id(1), ME, process(2), at(6)).is_ok());
        table.end_kept(id(1), Reason::KeepBudget);
        assert_eq!(table.due(at(100)), []);
    }

    #[test]
    fn a_holder_brings_it_back_and_it_is_kept_again() {
        let mut table = kept();
        assert_eq!(table.attach(id(1), OTHER, process(2), at(6)), Err(Refusal::LeaseUnknown));
        assert!(table.attach(id(1), ME, ttl(0), at(6)).is_err());
        assert_eq!(lease(&table, 1).kept_until(), Some(at(15)));
        assert_eq!(table.attach(id(1), ME, process(1), at(6)).map(|holder| holder.id), Ok(2));
        assert_eq!((table.live(id(1), ME).is_ok(), table.next_deadline()), (true, None));
        assert_eq!(table.usage(ME.tenant), Usage { leases: 1, ..Usage::default() });
        table.holder_gone(id(1), 2);
        assert_eq!(table.due(at(50)), [due_keep(1, gone("process"))]);
        assert_eq!(table.keep_ended(id(1), at(50)), Some(vec![]));
        assert_eq!(table.next_deadline(), Some(at(60)));
    }

    #[test]
    fn keep_refuses_and_too_many_are_not_kept() {
        let mut table = kept();
        let limits = Limits { kept_per_tenant: 1, keep_time_max: seconds_long(60), keep_bytes_max: 99, ..table.limits };
        table.set_limits(limits, Vec::new());
        put(&mut table, grant(2, &[process(1)]));
        assert_eq!(table.keep(id(2), OTHER, kept_for(10), at(5)), Err(Refusal::LeaseUnknown));
        let limit = seconds_long(60);
        assert_eq!(table.keep(id(2), ME, kept_for(61), at(5)), Err(Refusal::KeepTooLong { limit }));
        let much = Keep { bytes: 100, ..kept_for(10) };
        assert_eq!(table.keep(id(2), ME, much, at(5)), Err(Refusal::KeepTooMuch { limit: 99 }));
        assert_eq!(table.keep(id(2), ME, kept_for(10), at(5)), Err(Refusal::LimitKept { limit: 1 }));
        table.set_keep(id(2), Some(kept_for(10)), None);
        table.holder_gone(id(2), 1);
        assert_eq!(table.due(at(5)), [due_keep(2, gone("process"))]);
        assert_eq!(table.keep_ended(id(2), at(5)), None);
        assert_eq!(lease(&table, 2).reason(), Some(Reason::LimitKeep));
        table.forget(id(2));
        assert_eq!(table.keep(id(1), ME, Keep { bytes: 0, ..kept_for(60) }, at(5)), Ok(Some(kept_for(10))));
    }

    #[test]
    fn what_is_gone_is_there_for_nobody_until_it_is_brought_back() {
        let mut table = undeletable();
        assert_eq!(table.usage(ME.tenant), Usage { gone: 1, ..Usage::default() });
        assert_eq!(table.get(id(1), ME).err(), Some(Refusal::LeaseUnknown));
        assert_eq!(table.revoke(id(1), ME), Err(Refusal::LeaseUnknown));
        assert_eq!(table.attach(id(1), ME, process(2), at(11)), Err(Refusal::LeaseUnknown));
        assert_eq!(table.undelete(id(1), OTHER, at(11)), Err(Refusal::LeaseUnknown));
        assert_eq!(table.undelete(id(1), ME, at(29)), Ok(Some(at(30))));
        assert_eq!(lease(&table, 1).kept_until(), Some(at(49)));
        assert_eq!((table.undelete(id(1), ME, at(29)), table.next_deadline()), (Ok(None), Some(at(49))));
        assert_eq!(table.due(at(49)), [end(1, Reason::KeepOver)]);
        assert_eq!(table.undelete(id(1), ME, at(49)), Err(Refusal::LeaseEnding));
    }

    #[test]
    fn what_was_not_brought_back_is_freed_and_forgotten() {
        let mut table = undeletable();
        assert_eq!((table.due(at(29)), table.next_deadline()), (vec![], Some(at(30))));
        assert_eq!(table.undelete(id(1), ME, at(30)), Err(Refusal::LeaseUnknown));
        assert_eq!(table.due(at(30)), [end(1, Reason::UndeleteOver)]);
        assert_eq!(lease(&table, 1).state(), LeaseState::Gone { until: at(30) });
        table.forget(id(1));
        assert_eq!((table.totals(), table.due(at(99))), (Usage::default(), vec![]));

        let mut table = undeletable();
        assert!(!table.free_gone(id(1), OTHER) && !table.free_gone(id(9), ME) && table.free_gone(id(1), ME));
        assert_eq!(table.undelete(id(1), ME, at(11)), Err(Refusal::LeaseUnknown));
        assert_eq!(table.due(at(11)), [end(1, Reason::UndeleteOver)]);
    }

    #[test]
    fn bringing_back_can_fail_and_has_its_limits() {
        let mut table = undeletable();
        assert_eq!(table.undelete(id(1), ME, at(11)), Ok(Some(at(30))));
        assert!(table.undelete_failed(id(1), at(30)));
        assert_eq!((table.usage(ME.tenant).gone, table.next_deadline()), (1, Some(at(30))));
        table.set_limits(Limits { kept_per_tenant: 0, gone_per_tenant: 1, ..table.limits }, Vec::new());
        assert_eq!(table.undelete(id(1), ME, at(11)), Err(Refusal::LimitKept { limit: 0 }));
        put(&mut table, grant(2, &[process(2)]));
        assert_eq!(table.revoke(id(2), ME), Ok(()));
        assert_eq!(table.due(at(11)), [end(2, Reason::Revoked)]);
        assert_eq!(table.undeletable(id(2), at(11)), None, "as many as there may be");
    }

    #[test]
    fn what_had_ended_is_adopted_as_it_was() {
        let mut table = table();
        table.adopt_ended(below(9, grant(1, &[process(1)])), at(1), LeaseState::Kept { until: at(50) });
        table.adopt_ended(grant(2, &[]), at(1), LeaseState::Gone { until: at(40) });
        assert_eq!(table.usage(ME.tenant), Usage { kept: 1, gone: 1, ..Usage::default() });
        assert_eq!(table.due(at(39)), []);
        assert_eq!(table.due(at(40)), [end(2, Reason::UndeleteOver)]);
        assert_eq!(table.due(at(50)), [end(1, Reason::KeepOver)]);
    }
}
