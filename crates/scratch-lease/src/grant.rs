//! How leases come into the table and leave it: grant, commit, forget.

use crate::{BootTime, Caller, EventKind, Grant, Lease, LeaseId, LeaseState, Refusal, Table, TenantId};

/// What a grant came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Granted {
    /// The lease is in the table as Granting: make its directory, then commit or forget it.
    New,
    /// The grant was sent before: this lease has the same tenant and nonce, and lives.
    Existing(LeaseId),
}

impl Table {
    /// Takes a lease in as Granting: it counts against the limits but is there for nobody and never due.
    ///
    /// # Errors
    /// Whatever is out of bounds; [`Refusal::LeaseUnknown`] for a parent that does not live or is another tenant's.
    pub fn grant(&mut self, grant: Grant, now: BootTime) -> Result<Granted, Refusal> {
        self.grant_by(Caller::of(grant.tenant), grant, now)
    }

    /// [`grant`](Self::grant) on behalf of a tenant: an admin may name any lease as the parent, a confined caller needs one.
    ///
    /// # Errors
    /// As `grant`.
    pub fn grant_by(&mut self, caller: Caller, mut grant: Grant, now: BootTime) -> Result<Granted, Refusal> {
        if let Some(first) = self.granted_before(caller, grant.tenant, grant.nonce)? {
            return Ok(Granted::Existing(first));
        }
        if caller.confined_to.is_some() {
            grant.nonce = None;
            grant.parent.ok_or(Refusal::LeaseUnknown)?;
        }
        self.limits_of(caller).check_grant(&grant)?;
        if let Some(parent) = grant.parent {
            self.check_parent(parent, caller)?;
        }
        self.check_lease_limit(grant.tenant, caller)?;
        if self.leases.contains_key(&grant.id) {
            debug_assert!(false, "lease {} is granted twice", grant.id);
            return Err(Refusal::LeaseEnding);
        }
        self.check_firm(&grant)?;
        self.check_share(&grant, caller)?;
        self.check_room(&grant)?;
        self.take_creates(caller, 1, now)?;
        let accounts = self.accounts(grant.parent, grant.pool, grant.share);
        self.insert(Lease::new(grant, accounts, now, now));
        Ok(Granted::New)
    }

    /// The lease is made: it is there, its TTLs and the wait for a stream run from now. Due at once if it lost its holders
    /// or its parent meanwhile.
    pub fn commit(&mut self, id: LeaseId, now: BootTime) {
        let Some(lease) = self.leases.get_mut(&id).filter(|lease| lease.state == LeaseState::Granting) else {
            debug_assert!(false, "lease {id} is not being granted");
            return;
        };
        lease.state = LeaseState::Live;
        lease.restart_ttls(now);
        lease.wait_longer(now.duration_since(lease.created));
        self.index.arm(lease);
        if lease.ends() || lease.holders.is_empty() {
            self.index.pending.insert(id);
        }
        self.log.at(now);
        self.log.push(id, lease.tenant, EventKind::Granted);
    }

    /// Drops a Granting or Gone lease without a trace, or an Ending one that has left the name space: it has ended.
    pub fn forget(&mut self, id: LeaseId) {
        let Some(lease) = self.leases.get(&id) else { return };
        let (tenant, areas, state) = (lease.tenant, lease.areas.len(), lease.state);
        match state {
            LeaseState::Granting | LeaseState::Gone { .. } => (),
            LeaseState::Ending => {
                self.log.push(id, tenant, EventKind::Ended(lease.reason.unwrap_or(lease.loss)));
            }
            LeaseState::Live | LeaseState::Searching | LeaseState::Kept { .. } => {
                debug_assert!(false, "lease {id} is there and can't be forgotten");
                return;
            }
        }
        self.index.remove(lease);
        if let Some(lease) = self.leases.remove(&id) {
            self.uncarve(&lease);
            self.put_on(&lease);
        }
        self.count(tenant, |usage| {
            let counted = usage.of(state);
            *counted = counted.saturating_sub(1);
            usage.areas = usage.areas.saturating_sub(areas);
        });
    }

    pub(crate) fn insert(&mut self, mut lease: Lease) {
        lease.quota = self.quota_of(&lease);
        self.take_off(&lease);
        self.index.add(&lease);
        self.carve(&lease);
        self.count(lease.tenant, |usage| *usage.of(lease.state) += 1);
        self.leases.insert(lease.id, Box::new(lease));
    }

    /// The lease of a grant that is sent again. A nonce is free again once its lease is decided to end. To a confined caller no
    /// lease exists by its nonce: it could be another's.
    ///
    /// # Errors
    /// NONCE_BUSY while it is being granted.
    pub fn granted_before(
        &self,
        caller: Caller,
        tenant: TenantId,
        nonce: Option<[u8; 16]>,
    ) -> Result<Option<LeaseId>, Refusal> {
        let nonce = nonce.filter(|_| caller.confined_to.is_none());
        let first = nonce.and_then(|nonce| self.index.nonce(tenant, nonce)).and_then(|first| self.leases.get(&first));
        match first {
            Some(first) if first.state == LeaseState::Granting => Err(Refusal::NonceBusy),
            Some(first) if !first.ends() => Ok(Some(first.id)),
            _ => Ok(None),
        }
    }

    fn check_parent(&self, parent: LeaseId, caller: Caller) -> Result<(), Refusal> {
        self.live(parent, caller).map_err(|_| Refusal::LeaseUnknown)?;
        let limit = self.limits_of(caller).depth_max;
        let mut above = Some(parent);
        for _ in 0..limit {
            above = above.and_then(|id| self.leases.get(&id)).and_then(|lease| lease.parent);
        }
        if above.is_some() { Err(Refusal::Depth { limit }) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::*;
    use std::time::Duration;

    use crate::{Last, NewHolder, Parting, Reason};

    fn refused(table: &mut Table, grant: Grant) -> Refusal {
        let (usage, revision) = (table.totals(), table.revision());
        let refusal = table.grant(grant, at(0)).expect_err("this grant is to be refused");
        assert_eq!((table.totals(), table.revision()), (usage, revision));
        refusal
    }

    #[test]
    fn a_lease_is_there_only_after_its_commit() {
        let mut table = table();
        assert_eq!(table.grant(grant(1, &[process(1)]), at(5)), Ok(Granted::New));
        assert_eq!(table.get(id(1), ME).err(), Some(Refusal::LeaseUnknown));
        assert_eq!(table.live(id(1), ADMIN).err(), Some(Refusal::LeaseUnknown));
        assert_eq!((lease(&table, 1).state(), table.usage(ME.tenant).leases), (LeaseState::Granting, 1));
        table.commit(id(1), at(6));
        assert_eq!(table.live(id(1), ME).map(Lease::state), Ok(LeaseState::Live));
        assert_eq!(lease(&table, 1).created(), at(5));
        assert_eq!(events(&table, 1), [EventKind::Granted]);
        assert_eq!(table.due(at(1_000_000)), []);
    }

    #[test]
    fn a_forgotten_grant_leaves_no_trace() {
        let mut table = table();
        let nonce = Some([7; 16]);
        assert_eq!(table.grant(Grant { nonce, ..grant(1, &[connection(1), ttl(5)]) }, at(0)), Ok(Granted::New));
        assert_eq!(table.next_deadline(), None);
        table.forget(id(1));
        assert!(table.lease(id(1)).is_none() && table.events_since(0, ADMIN).expect("none").next().is_none());
        assert_eq!((table.totals(), table.usage(ME.tenant)), Default::default());
        assert_eq!(table.grant(Grant { nonce, ..grant(2, &[process(1)]) }, at(0)), Ok(Granted::New));
        table.forget(id(9));
    }

    #[test]
    fn holders_that_die_before_the_commit_make_it_due() {
        let mut table = table();
        assert_eq!(table.grant(grant(1, &[connection(1)]), at(0)), Ok(Granted::New));
        table.connection_closed(crate::ConnectionId(1));
        assert_eq!((table.due(at(1)), table.next_deadline()), (vec![], None));
        table.commit(id(1), at(2));
        assert_eq!(table.due(at(2)), [end(1, gone("connection"))]);
        assert_eq!(events(&table, 1), [EventKind::Granted, EventKind::Ending(gone("connection"))]);
    }

    #[test]
    fn a_ttl_runs_from_the_commit_and_a_lifetime_from_the_grant() {
        let mut table = table();
        let lifetime_max = Some(seconds_long(60));
        assert_eq!(table.grant(Grant { lifetime_max, ..grant(1, &[ttl(10)]) }, at(0)), Ok(Granted::New));
        assert_eq!(table.due(at(15)), []);
        table.commit(id(1), at(20));
        assert_eq!(lease(&table, 1).expire_time(), Some(at(30)));
        assert_eq!(lease(&table, 1).lifetime_end(), Some(at(60)));
        assert_eq!(lease(&table, 1).granted_ttl(), Some(seconds_long(10)));
    }

    #[test]
    fn a_stream_has_its_time_from_the_commit() {
        let mut table = table();
        let awaited = NewHolder::AwaitedConnection { until: at(30) };
        assert_eq!(table.grant(grant(1, &[awaited]), at(0)), Ok(Granted::New));
        // The machine slept while the directory was made.
        assert_eq!(table.due(at(100)), []);
        table.commit(id(1), at(100));
        assert_eq!((table.due(at(129)), table.next_deadline()), (vec![], Some(at(130))));
        let late = Last { kind: "connection", pid: None, how: Parting::Expired };
        assert_eq!(table.due(at(130)), [end(1, Reason::HoldersGone { last: Some(late), grace: Duration::ZERO })]);
    }

    #[test]
    fn the_same_nonce_gives_the_same_lease_while_it_lives() {
        let mut table = table();
        let with_nonce = |number| Grant { nonce: Some([1; 16]), ..grant(number, &[process(1)]) };
        assert_eq!(table.grant(with_nonce(1), at(0)), Ok(Granted::New));
        assert_eq!(refused(&mut table, with_nonce(2)), Refusal::NonceBusy);
        table.commit(id(1), at(0));
        assert_eq!(table.grant(with_nonce(2), at(0)), Ok(Granted::Existing(id(1))));
        let others = Grant { tenant: OTHER.tenant, ..with_nonce(3) };
        assert_eq!(table.grant(others, at(0)), Ok(Granted::New));
        assert_eq!(table.revoke(id(1), ME), Ok(()));
        assert_eq!(table.grant(with_nonce(4), at(0)), Ok(Granted::New));
        table.commit(id(4), at(0));
        assert_eq!(table.due(at(0)), [end(1, Reason::Revoked)]);
        table.forget(id(1));
        assert_eq!(table.grant(with_nonce(5), at(0)), Ok(Granted::Existing(id(4))));
    }

    #[test]
    fn what_is_out_of_bounds_is_refused() {
        let mut table = table();
        let limits = table.limits;
        let labels = |labels: &[(&str, &str)]| Grant {
            labels: labels.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect(),
            ..grant(1, &[process(1)])
        };
        for (grant, refusal) in [
            (grant(1, &[]), Refusal::NoHolder),
            (grant(1, &[NewHolder::Descriptor; 4]), Refusal::LimitHolders { limit: 3 }),
            (grant(1, &[NewHolder::Ttl(seconds_long(1) / 2)]), Refusal::TtlTooShort { limit: limits.ttl_min }),
            (grant(1, &[ttl(7 * 86_400 + 1)]), Refusal::TtlTooLong { limit: limits.ttl_max }),
            (grant(1, &[process(0)]), Refusal::HolderKind("process")),
            (labels(&[("a", ""), ("b", ""), ("c", "")]), Refusal::LimitLabels { limit: 2 }),
            (labels(&[("long", "value")]), Refusal::LabelTooLong { limit: 8 }),
        ] {
            assert_eq!(refused(&mut table, grant), refusal);
        }
        assert_eq!(table.grant(labels(&[("four", "four"), ("", "")]), at(0)), Ok(Granted::New));
        assert_eq!(table.grant(grant(2, &[ttl(1), ttl(7 * 86_400)]), at(0)), Ok(Granted::New));
    }

    #[test]
    fn leases_count_until_they_are_forgotten() {
        let mut table = table_with((1..=4).map(|number| grant(number, &[process(1)])));
        let fifth = || grant(5, &[process(1)]);
        assert_eq!(refused(&mut table, fifth()), Refusal::LimitLeases { limit: 4 });
        assert_eq!(table.grant(Grant { tenant: OTHER.tenant, ..grant(6, &[process(1)]) }, at(0)), Ok(Granted::New));
        assert_eq!(table.revoke(id(1), ME), Ok(()));
        table.due(at(0));
        assert_eq!(refused(&mut table, fifth()), Refusal::LimitLeases { limit: 4 });
        table.forget(id(1));
        assert_eq!(events(&table, 1).last(), Some(&EventKind::Ended(Reason::Revoked)));
        assert_eq!(table.get(id(1), ME).err(), Some(Refusal::LeaseUnknown));
        assert_eq!(table.grant(fifth(), at(0)), Ok(Granted::New));
        assert_eq!((table.usage(ME.tenant).leases, table.totals().leases), (4, 5));
    }

    #[test]
    fn a_parent_is_ones_own_and_lives() {
        let mut table = table_with([grant(1, &[process(1)]), searched_for(grant(2, &[process(1)]))]);
        let child = |parent| below(parent, grant(3, &[process(1)]));
        assert_eq!(refused(&mut table, child(9)), Refusal::LeaseUnknown);
        assert_eq!(refused(&mut table, Grant { tenant: OTHER.tenant, ..child(1) }), Refusal::LeaseUnknown);
        let admins = Grant { tenant: ADMIN.tenant, ..child(1) };
        assert_eq!(table.grant_by(ADMIN, admins, at(0)), Ok(Granted::New));
        assert_eq!(refused(&mut table, below(3, grant(4, &[process(1)]))), Refusal::LeaseUnknown);
        table.forget(id(3));
        assert_eq!(table.revoke(id(1), ME), Ok(()));
        assert_eq!(refused(&mut table, child(1)), Refusal::LeaseUnknown);
        table.holder_gone(id(2), 1);
        table.due(at(0));
        assert_eq!(lease(&table, 2).state(), LeaseState::Searching);
        assert_eq!(table.grant(child(2), at(0)), Ok(Granted::New));
    }

    #[test]
    fn who_is_confined_grants_below_its_lease_and_finds_nothing_by_nonce() {
        let nonce = Some([1; 16]);
        let mut table = table_with([grant(1, &[process(1)]), Grant { nonce, ..grant(2, &[process(1)]) }]);
        let confined = Caller { confined_to: Some(id(1)), ..ME };
        let mut granted = |grant| table.grant_by(confined, grant, at(0));
        assert_eq!(granted(grant(3, &[process(1)])), Err(Refusal::LeaseUnknown));
        assert_eq!(granted(below(2, grant(3, &[process(1)]))), Err(Refusal::LeaseUnknown));
        assert_eq!(granted(Grant { nonce, ..below(1, grant(3, &[process(1)])) }), Ok(Granted::New));
        table.commit(id(3), at(0));
        let again = Grant { nonce, ..grant(4, &[process(1)]) };
        assert_eq!(table.grant(again, at(0)), Ok(Granted::Existing(id(2))), "it took nobody's nonce");
    }

    #[test]
    fn families_are_only_so_deep() {
        let mut table = table_with([grant(1, &[process(1)])]);
        put(&mut table, below(1, grant(2, &[process(1)])));
        put(&mut table, below(2, grant(3, &[process(1)])));
        assert_eq!(refused(&mut table, below(3, grant(4, &[process(1)]))), Refusal::Depth { limit: 2 });
        assert_eq!(table.subtree(id(1)), [id(1), id(2), id(3)]);
        assert_eq!((table.subtree(id(3)), table.subtree(id(4))), (vec![id(3)], vec![]));
    }

    #[test]
    fn a_parent_that_ends_during_the_grant_takes_the_child_after_its_commit() {
        let mut table = table_with([grant(1, &[process(1)])]);
        assert_eq!(table.grant(below(1, grant(2, &[process(1)])), at(0)), Ok(Granted::New));
        table.holder_gone(id(1), 1);
        assert_eq!(table.due(at(0)), [end(1, gone("process"))]);
        table.forget(id(1));
        assert_eq!(table.due(at(0)), []);
        table.commit(id(2), at(0));
        assert_eq!(table.due(at(0)), [end(2, Reason::ParentEnded(id(1)))]);
    }

    #[test]
    fn an_empty_table_keeps_nothing_of_what_was_there() {
        let long = Grant { nonce: Some([1; 16]), lifetime_max: Some(seconds_long(9)), ..grant(1, &[ttl(5)]) };
        let mut table = table_with([long, grant(2, &[connection(1), connection(2)])]);
        put(&mut table, below(1, searched_for(grant(3, &[connection(1), lost(7)]))));
        assert_eq!(table.detach(id(2), ME, 1), Ok(()));
        assert!((1..=3).all(|number| table.revoke(id(number), ME).is_ok()));
        table.due(at(0));
        (1..=3).for_each(|number| table.forget(id(number)));
        assert!(table.index == Default::default(), "{:?}", table.index);
        assert!(table.leases.is_empty() && table.tenants.is_empty() && table.totals() == Default::default());
    }
}
