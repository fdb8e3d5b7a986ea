//! Limits of bytes and inodes: a lease's own ones are carved out of those of the lease above it.
//!
//! A lease without a limit of its own shares the nearest one above it, in its pool: another pool's limits are its own. What is
//! spent of a limit: the limits of the leases carved out of it, and, of inodes, one for each area that the broker made and for
//! each lease that shares it, for its directory. It is given back when the area is released or the lease has left the table.

use crate::{Caller, Grant, Lease, LeaseId, Limits, PoolId, Refusal, Table, TenantId, Usage};

/// The limits of one lease. `None`: none of its own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Share {
    /// Bytes. Counted against the leases above only: what is written is for the pool's backend to meter.
    pub bytes: Option<u64>,
    /// Areas that the broker makes, and leases below.
    pub inodes: Option<u64>,
}

/// What is limited.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resource {
    /// Bytes of content.
    Bytes,
    /// Files and directories.
    Inodes,
}

impl Resource {
    pub(crate) const ALL: [Self; 2] = [Self::Bytes, Self::Inodes];

    /// What a tenant's leases may be granted of it together.
    fn granted_max(self, limits: &Limits) -> Option<u64> {
        match self {
            Self::Bytes => limits.bytes_per_tenant,
            Self::Inodes => limits.inodes_per_tenant,
        }
    }

    pub(crate) fn granted(self, usage: &mut Usage) -> &mut u64 {
        match self {
            Self::Bytes => &mut usage.bytes,
            Self::Inodes => &mut usage.inodes,
        }
    }

    /// The word for it in messages.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Bytes => "bytes",
            Self::Inodes => "inodes",
        }
    }
}

/// One resource of one lease.
#[derive(Debug, Default)]
pub(crate) struct Account {
    /// Its own limit.
    pub(crate) limit: Option<u64>,
    /// How much of that is spent.
    pub(crate) spent: u64,
    /// Whose limit its own was carved out of, or it shares: the nearest one above when it was granted.
    pub(crate) above: Option<LeaseId>,
}

/// Both of them.
#[derive(Debug, Default)]
pub(crate) struct Accounts {
    bytes: Account,
    inodes: Account,
}

impl Accounts {
    pub(crate) fn of(&self, resource: Resource) -> &Account {
        match resource {
            Resource::Bytes => &self.bytes,
            Resource::Inodes => &self.inodes,
        }
    }

    pub(crate) fn of_mut(&mut self, resource: Resource) -> &mut Account {
        match resource {
            Resource::Bytes => &mut self.bytes,
            Resource::Inodes => &mut self.inodes,
        }
    }

    pub(crate) fn share(&self) -> Share {
        Share { bytes: self.bytes.limit, inodes: self.inodes.limit }
    }
}

impl Account {
    /// What a lease with this account costs the one above: its limit, or its directory.
    fn cost(&self, resource: Resource) -> u64 {
        self.limit.unwrap_or(match resource {
            Resource::Bytes => 0,
            Resource::Inodes => 1,
        })
    }

    /// What it costs the tenant: its limit, unless that was carved out of another one.
    pub(crate) fn granted(&self) -> u64 {
        self.limit.filter(|_| self.above.is_none()).unwrap_or(0)
    }

    /// Out of whose limit the lease spends.
    pub(crate) fn payer(&self, own: LeaseId) -> Option<LeaseId> {
        if self.limit.is_some() { Some(own) } else { self.above }
    }
}

impl Table {
    /// What is left of the limits that this lease is held to, its own or those that it shares. `None`: there is none.
    #[must_use]
    pub fn left(&self, lease: &Lease) -> Share {
        let left = |resource| {
            let payer = lease.accounts.of(resource).payer(lease.id)?;
            let account = self.leases.get(&payer)?.accounts.of(resource);
            Some(account.limit?.saturating_sub(account.spent))
        };
        Share { bytes: left(Resource::Bytes), inodes: left(Resource::Inodes) }
    }

    /// Refuses what does not fit into what is left above.
    pub(crate) fn check_share(&self, grant: &Grant, caller: Caller) -> Result<(), Refusal> {
        let accounts = self.accounts(grant.parent, grant.pool, grant.share);
        Resource::ALL.into_iter().try_for_each(|resource| {
            let account = accounts.of(resource);
            self.check_granted(grant.tenant, resource, account.granted(), caller)?;
            self.check_left(account.above, resource, account.cost(resource))
        })
    }

    pub(crate) fn check_granted(
        &self,
        tenant: TenantId,
        resource: Resource,
        wanted: u64,
        caller: Caller,
    ) -> Result<(), Refusal> {
        let Some(limit) = resource.granted_max(self.limits_of(caller)).filter(|_| wanted > 0) else { return Ok(()) };
        let left = limit.saturating_sub(*resource.granted(&mut self.usage(tenant)));
        if wanted > left { Err(Refusal::LimitGranted { resource, limit, left }) } else { Ok(()) }
    }

    /// The accounts of a lease to be.
    pub(crate) fn accounts(&self, parent: Option<LeaseId>, pool: PoolId, share: Share) -> Accounts {
        // The bytes of one pool are nothing to another's: the nearest lease above in the same one counts.
        let mut parent = parent.and_then(|parent| self.leases.get(&parent));
        while let Some(other) = parent.filter(|parent| parent.pool != pool) {
            parent = other.parent.and_then(|above| self.leases.get(&above));
        }
        let account = |resource, limit| Account {
            limit,
            spent: 0,
            above: parent.and_then(|parent| parent.accounts.of(resource).payer(parent.id)),
        };
        Accounts { bytes: account(Resource::Bytes, share.bytes), inodes: account(Resource::Inodes, share.inodes) }
    }

    /// A lease comes: it is carved out of what is above it.
    pub(crate) fn carve(&mut self, lease: &Lease) {
        for resource in Resource::ALL {
            let account = lease.accounts.of(resource);
            self.spend(account.above, resource, account.cost(resource));
            let amount = account.granted();
            self.count(lease.tenant, |usage| {
                let granted = resource.granted(usage);
                *granted = granted.saturating_add(amount);
            });
            if let Account { limit: Some(limit), above: None, .. } = account {
                self.promise(lease.pool, resource, *limit);
            }
        }
    }

    /// A lease goes: what it had of those above it is theirs again, and so are its areas' inodes.
    pub(crate) fn uncarve(&mut self, lease: &Lease) {
        for resource in Resource::ALL {
            let account = lease.accounts.of(resource);
            self.give_back(account.above, resource, account.cost(resource));
            let amount = account.granted();
            self.count(lease.tenant, |usage| {
                let granted = resource.granted(usage);
                *granted = granted.saturating_sub(amount);
            });
            if let Account { limit: Some(limit), above: None, .. } = account {
                self.take_back(lease.pool, resource, *limit);
            }
        }
        if let Account { limit: None, above, .. } = lease.accounts.inodes {
            self.give_back(above, Resource::Inodes, lease.areas.len() as u64);
        }
    }

    /// A lease is to outlive those above it: what it has is carved out of nothing any more, and is its tenant's and its pool's
    /// to count.
    pub(crate) fn stand_alone(&mut self, id: LeaseId) {
        // Out of the table while those above it change.
        let Some(mut lease) = self.leases.remove(&id) else { return };
        self.put_on(&lease);
        self.uncarve(&lease);
        for resource in Resource::ALL {
            lease.accounts.of_mut(resource).above = None;
        }
        self.carve(&lease);
        lease.quota = self.quota_of(&lease);
        self.leases.insert(id, lease);
    }

    /// Who pays for areas of this lease.
    pub(crate) fn payer_of_areas(&self, id: LeaseId) -> Option<LeaseId> {
        self.leases.get(&id).and_then(|lease| lease.accounts.inodes.payer(id))
    }

    pub(crate) fn check_left(&self, payer: Option<LeaseId>, resource: Resource, wanted: u64) -> Result<(), Refusal> {
        let account = payer.and_then(|payer| self.leases.get(&payer)).map(|lease| lease.accounts.of(resource));
        let Some(Account { limit: Some(limit), spent, .. }) = account else { return Ok(()) };
        let left = limit.saturating_sub(*spent);
        if wanted > left { Err(Refusal::LimitShare { resource, limit: *limit, left }) } else { Ok(()) }
    }

    pub(crate) fn spend(&mut self, payer: Option<LeaseId>, resource: Resource, amount: u64) {
        if let Some(lease) = payer.and_then(|payer| self.leases.get_mut(&payer)) {
            let account = lease.accounts.of_mut(resource);
            account.spent = account.spent.saturating_add(amount);
        }
    }

    pub(crate) fn give_back(&mut self, payer: Option<LeaseId>, resource: Resource, amount: u64) {
        if let Some(lease) = payer.and_then(|payer| self.leases.get_mut(&payer)) {
            let account = lease.accounts.of_mut(resource);
            account.spent = account.spent.saturating_sub(amount);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::*;
    use crate::{AreaKey, AreaKind, Limits};

    fn limited(number: u8, bytes: Option<u64>, inodes: Option<u64>) -> Grant {
        Grant { share: Share { bytes, inodes }, ..grant(number, &[process(1)]) }
    }

    fn roomy(grants: impl IntoIterator<Item = Grant>) -> Table {
        let mut table = Table::new(Limits { leases_per_tenant: 20, depth_max: 9, ..Limits::default() }, 1);
        grants.into_iter().for_each(|grant| put(&mut table, grant));
        table
    }

    fn left(table: &Table, number: u8) -> (Option<u64>, Option<u64>) {
        let Share { bytes, inodes } = table.left(lease(table, number));
        (bytes, inodes)
    }

    fn go(table: &mut Table, number: u8) {
        assert_eq!(table.revoke(id(number), ME), Ok(()));
        table.due(at(0));
        table.forget(id(number));
    }

    fn refused(table: &mut Table, grant: Grant) -> Refusal {
        let usage = table.totals();
        let refusal = table.grant(grant, at(0)).expect_err("there is not so much left");
        assert_eq!(table.totals(), usage);
        refusal
    }

    #[test]
    fn children_share_out_their_parents_limits_and_never_more() {
        let mut table = roomy([limited(1, Some(100), Some(10))]);
        put(&mut table, below(1, limited(2, Some(60), Some(6))));
        assert_eq!((left(&table, 1), left(&table, 2)), ((Some(40), Some(4)), (Some(60), Some(6))));
        let too_much = Refusal::LimitShare { resource: Resource::Bytes, limit: 100, left: 40 };
        assert_eq!(refused(&mut table, below(1, limited(3, Some(41), Some(1)))), too_much);
        let too_many = Refusal::LimitShare { resource: Resource::Inodes, limit: 10, left: 4 };
        assert_eq!(refused(&mut table, below(1, limited(3, Some(40), Some(5)))), too_many);
        put(&mut table, below(1, limited(3, Some(40), Some(4))));
        assert_eq!(left(&table, 1), (Some(0), Some(0)));
        go(&mut table, 2);
        assert_eq!(left(&table, 1), (Some(60), Some(6)));
    }

    #[test]
    fn what_is_carved_is_carved_again_at_every_depth() {
        let mut table = roomy([limited(1, Some(64), None)]);
        for number in 2..=7 {
            put(&mut table, below(number - 1, limited(number, Some(64 >> (number - 1)), None)));
        }
        assert_eq!(
            (left(&table, 1), left(&table, 6), left(&table, 7)),
            ((Some(32), None), (Some(1), None), (Some(1), None))
        );
        let refusal = Refusal::LimitShare { resource: Resource::Bytes, limit: 1, left: 1 };
        assert_eq!(refused(&mut table, below(7, limited(8, Some(2), None))), refusal);
        go(&mut table, 2);
        table.due(at(0));
        (3..=7).rev().for_each(|number| table.forget(id(number)));
        assert_eq!(left(&table, 1), (Some(64), None));
    }

    #[test]
    fn a_lease_without_limits_shares_those_above_and_its_directory_counts() {
        let mut table = roomy([limited(1, Some(9), Some(4)), grant(9, &[process(1)])]);
        put(&mut table, below(1, grant(2, &[process(1)])));
        put(&mut table, below(2, grant(3, &[process(1)])));
        assert_eq!((left(&table, 3), left(&table, 9)), ((Some(9), Some(2)), (None, None)));
        let reserved = table.reserve_areas(id(3), ME, 2).expect("two are left");
        assert!(table.add_area(id(3), AreaKey::Number(1), AreaKind::Memory));
        let none_left = Refusal::LimitShare { resource: Resource::Inodes, limit: 4, left: 0 };
        assert_eq!(table.reserve_areas(id(1), ME, 1), Err(none_left));
        assert_eq!(refused(&mut table, below(2, grant(4, &[process(1)]))), none_left);
        table.unreserve_areas(reserved, 1);
        assert_eq!(left(&table, 1), (Some(9), Some(1)));
        go(&mut table, 3);
        assert_eq!(left(&table, 1), (Some(9), Some(3)));
    }

    #[test]
    fn areas_count_from_reservation_to_release_or_the_end_of_their_lease() {
        let mut table = roomy([limited(1, None, Some(10))]);
        put(&mut table, below(1, limited(2, None, Some(3))));
        let reserved = table.reserve_areas(id(2), ME, 3).expect("three are left");
        assert_eq!((left(&table, 2), left(&table, 1)), ((None, Some(0)), (None, Some(7))));
        for name in ["d", "d/x", "d"] {
            assert!(table.add_area(id(2), AreaKey::Name(name.as_bytes().into()), AreaKind::Directory));
        }
        assert_eq!(left(&table, 2), (None, Some(1)), "made twice under one name it is one");
        table.remove_areas_below(id(2), b"d");
        assert_eq!(left(&table, 2), (None, Some(2)));
        assert!(table.remove_area(id(2), &AreaKey::Name(b"d"[..].into())).is_some());
        assert_eq!(left(&table, 2), (None, Some(3)));
        go(&mut table, 2);
        table.unreserve_areas(reserved, 1);
        assert_eq!(left(&table, 1), (None, Some(10)), "the limit came back, and nothing twice");
    }

    #[test]
    fn a_child_that_outstays_the_lease_between_gives_back_all_the_same() {
        let mut table = roomy([limited(1, Some(10), Some(10))]);
        put(&mut table, below(1, grant(2, &[process(1)])));
        put(&mut table, below(2, limited(3, Some(4), None)));
        table.end(id(2), crate::Reason::Revoked);
        table.due(at(0));
        // Its directory can't be moved yet: its parent is forgotten first.
        table.forget(id(2));
        assert_eq!(left(&table, 1), (Some(6), Some(9)));
        table.forget(id(3));
        assert_eq!(left(&table, 1), (Some(10), Some(10)));
    }

    #[test]
    fn each_pool_has_its_own_limits() {
        let mut table = roomy([limited(1, Some(10), Some(10))]);
        let elsewhere = |grant| Grant { pool: PoolId(1), ..grant };
        put(&mut table, below(1, elsewhere(limited(2, Some(99), None))));
        assert_eq!((left(&table, 1), left(&table, 2)), ((Some(10), Some(10)), (Some(99), None)));
        put(&mut table, below(2, limited(3, Some(4), None)));
        assert_eq!((left(&table, 1), left(&table, 2)), ((Some(6), Some(9)), (Some(99), None)));
        go(&mut table, 2);
        table.due(at(0));
        table.forget(id(3));
        assert_eq!(left(&table, 1), (Some(10), Some(10)));
    }

    #[test]
    fn what_outlives_its_parent_is_counted_by_itself() {
        let mut table = roomy([limited(1, Some(10), Some(10))]);
        put(&mut table, below(1, limited(2, Some(6), Some(3))));
        put(&mut table, below(1, grant(3, &[process(1)])));
        assert_eq!((left(&table, 1), table.usage(ME.tenant).bytes), ((Some(4), Some(6)), 10));
        [2, 3].into_iter().for_each(|number| table.stand_alone(id(number)));
        assert_eq!((left(&table, 1), table.usage(ME.tenant).bytes), ((Some(10), Some(10)), 16));
        assert_eq!((left(&table, 2), left(&table, 3)), ((Some(6), Some(3)), (None, None)));
    }

    #[test]
    fn a_grant_that_fails_gives_back_what_it_took() {
        let mut table = roomy([limited(1, Some(10), Some(10))]);
        assert!(table.grant(below(1, limited(2, Some(10), None)), at(0)).is_ok());
        assert_eq!(left(&table, 1), (Some(0), Some(9)));
        table.forget(id(2));
        assert_eq!(left(&table, 1), (Some(10), Some(10)));
    }

    #[test]
    fn adopted_leases_are_carved_without_being_asked_whether_they_fit() {
        let mut table = roomy([]);
        let adopt = |table: &mut Table, grant| adopt(table, grant, at(0), at(0));
        adopt(&mut table, limited(1, Some(10), None));
        adopt(&mut table, below(1, limited(2, Some(8), None)));
        adopt(&mut table, below(1, limited(3, Some(8), None)));
        assert_eq!(left(&table, 1), (Some(0), None));
        assert_eq!(lease(&table, 2).share(), Share { bytes: Some(8), inodes: None });
        go(&mut table, 2);
        assert_eq!(left(&table, 1), (Some(2), None));
    }

    #[test]
    fn a_tenants_leases_have_so_much_together_and_children_cost_nothing_more() {
        let mut table = roomy([limited(1, Some(60), Some(5))]);
        let limits = Limits { bytes_per_tenant: Some(100), inodes_per_tenant: Some(10), ..table.limits };
        table.set_limits(limits, Vec::new());
        put(&mut table, below(1, limited(2, Some(60), Some(3))));
        let refusal = Refusal::LimitGranted { resource: Resource::Bytes, limit: 100, left: 40 };
        assert_eq!(refused(&mut table, limited(3, Some(41), None)), refusal);
        let refusal = Refusal::LimitGranted { resource: Resource::Inodes, limit: 10, left: 5 };
        assert_eq!(refused(&mut table, limited(3, Some(40), Some(6))), refusal);
        put(&mut table, limited(3, Some(40), None));
        put(&mut table, grant(4, &[process(1)]));
        assert_eq!((table.usage(ME.tenant).bytes, table.usage(ME.tenant).inodes), (100, 5));
        go(&mut table, 3);
        assert_eq!((table.usage(ME.tenant).bytes, table.totals().inodes), (60, 5));
        table.revoke(id(1), ME).expect("it is there");
        table.due(at(0));
        table.forget(id(2));
        table.forget(id(1));
        assert_eq!((table.usage(ME.tenant).bytes, table.usage(ME.tenant).inodes), (0, 0));
    }

    #[test]
    fn a_rules_limits_are_for_who_it_is_for() {
        let mut table = roomy([]);
        let few = Limits { leases_per_tenant: 1, ..table.limits };
        table.set_limits(table.limits, vec![few]);
        let ruled = crate::Caller { rule: Some(0), ..ME };
        assert_eq!(table.grant_by(ruled, grant(1, &[process(1)]), at(0)), Ok(crate::Granted::New));
        let refusal = Refusal::LimitLeases { limit: 1 };
        assert_eq!(table.grant_by(ruled, grant(2, &[process(1)]), at(0)), Err(refusal));
        assert_eq!(table.grant_by(ME, grant(2, &[process(1)]), at(0)), Ok(crate::Granted::New));
        let of_a_rule_that_is_gone = crate::Caller { rule: Some(7), ..ME };
        assert_eq!(table.grant_by(of_a_rule_that_is_gone, grant(3, &[process(1)]), at(0)), Ok(crate::Granted::New));
    }
}
