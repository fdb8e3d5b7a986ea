//! Which leases the file system holds to their limits, and to how much; what a pool may promise.
//!
//! A quota on disk is of one lease, and those below it that have no limits of their own share it. It counts bytes and inodes
//! together: who has a limit of its own of one of them and shares the other can't have a quota of its own.

use crate::carve::Account;
use crate::{Grant, Lease, LeaseId, PoolId, Refusal, Resource, Share, Table};

/// What a pool can hold its leases to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Enforced {
    /// Bytes.
    pub bytes: bool,
    /// Inodes.
    pub inodes: bool,
    /// Several leases can be held to one limit together.
    pub shared: bool,
}

/// On what terms a lease is granted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Terms {
    /// What its pool can hold it to.
    pub enforced: Enforced,
    /// What its pool may promise in all. `None`: without end.
    pub room: Share,
    /// Limits that nothing holds it to will do.
    pub soft: bool,
}

/// What a lease's quota on disk is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Quota {
    /// None is needed: it has no limits, and shares none that a quota could hold it to.
    Unlimited,
    /// Its own.
    Own,
    /// That of this lease above it.
    Of(LeaseId),
    /// None can be had: what it has is metered.
    Metered,
}

/// Amounts of both.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Amounts {
    bytes: u64,
    inodes: u64,
}

impl Amounts {
    fn of(self, resource: Resource) -> u64 {
        match resource {
            Resource::Bytes => self.bytes,
            Resource::Inodes => self.inodes,
        }
    }

    fn of_mut(&mut self, resource: Resource) -> &mut u64 {
        match resource {
            Resource::Bytes => &mut self.bytes,
            Resource::Inodes => &mut self.inodes,
        }
    }
}

impl Enforced {
    pub(crate) fn has(self, resource: Resource) -> bool {
        match resource {
            Resource::Bytes => self.bytes,
            Resource::Inodes => self.inodes,
        }
    }
}

impl Lease {
    /// What holds it to its limits on disk.
    #[must_use]
    pub fn quota(&self) -> Quota {
        self.quota
    }

    /// What its pool can hold it to.
    #[must_use]
    pub fn enforced(&self) -> Enforced {
        self.enforced
    }
}

impl Share {
    /// The limits that there are.
    pub(crate) fn each(self) -> impl Iterator<Item = (Resource, u64)> {
        Resource::ALL.into_iter().filter_map(move |resource| Some((resource, self.of(resource)?)))
    }

    pub(crate) fn of(self, resource: Resource) -> Option<u64> {
        match resource {
            Resource::Bytes => self.bytes,
            Resource::Inodes => self.inodes,
        }
    }
}

impl Table {
    /// What is to hold a lease to its limits on disk; those above it are in the table. It stays so while it lives.
    pub(crate) fn quota_of(&self, lease: &Lease) -> Quota {
        let payers = Resource::ALL.into_iter().filter(|resource| lease.enforced.has(*resource));
        let payers = payers.filter_map(|resource| lease.accounts.of(resource).payer(lease.id));
        let (mut own, mut above) = (false, None);
        for payer in payers {
            if payer == lease.id {
                own = true;
            } else {
                // The nearest: what has the other limit only shares what is further up.
                above = Some(above.map_or(payer, |other| if self.is_below(payer, other) { payer } else { other }));
            }
        }
        let Some(above) = above else {
            let limited = lease.accounts.share() != Share::default();
            return if own {
                Quota::Own
            } else if limited {
                Quota::Metered
            } else {
                Quota::Unlimited
            };
        };
        match self.leases.get(&above).filter(|above| lease.enforced.shared && above.pool == lease.pool) {
            Some(above) => match above.quota {
                Quota::Own => Quota::Of(above.id),
                quota => quota,
            },
            None => Quota::Metered,
        }
    }

    /// What a quota of a lease's own is to be set to: what those below it that have quotas of their own leave of its limits.
    #[must_use]
    pub fn quota_limits(&self, lease: &Lease) -> Share {
        let left = |resource| {
            let limit = lease.accounts.share().of(resource).filter(|_| lease.enforced.has(resource))?;
            Some(limit.saturating_sub(lease.taken.of(resource)))
        };
        Share { bytes: left(Resource::Bytes), inodes: left(Resource::Inodes) }
    }

    /// The lease above whose quota what this one has was taken off.
    #[must_use]
    pub fn quota_above(&self, lease: &Lease) -> Option<LeaseId> {
        let above = |resource| lease.accounts.of(resource).above.and_then(|above| self.leases.get(&above));
        // Of both it is the same one: a quota counts both.
        Resource::ALL.into_iter().filter(|resource| lease.enforced.has(*resource)).find_map(above).and_then(|above| {
            match above.quota {
                Quota::Own => Some(above.id),
                Quota::Of(other) => Some(other),
                Quota::Metered | Quota::Unlimited => self.quota_above(above),
            }
        })
    }

    /// A lease with a quota of its own comes.
    pub(crate) fn take_off(&mut self, lease: &Lease) {
        self.change_taken(lease, |taken, share| *taken = taken.saturating_add(share));
    }

    /// It goes.
    pub(crate) fn put_on(&mut self, lease: &Lease) {
        self.change_taken(lease, |taken, share| *taken = taken.saturating_sub(share));
    }

    fn change_taken(&mut self, lease: &Lease, change: impl Fn(&mut u64, u64)) {
        if lease.quota != Quota::Own {
            return;
        }
        let above = self.quota_above(lease);
        if let Some(above) = above.and_then(|above| self.leases.get_mut(&above)) {
            lease.accounts.share().each().for_each(|(resource, share)| change(above.taken.of_mut(resource), share));
        }
    }

    /// Refuses a lease whose limits were taken off those above it, where those have used so much that they are over what is
    /// left to them. `used`: what the quota above counts.
    ///
    /// # Errors
    /// [`Refusal::LimitShare`].
    pub fn check_used(&self, lease: &Lease, used: Share) -> Result<(), Refusal> {
        let above = self.quota_above(lease).and_then(|above| self.leases.get(&above));
        let Some(above) = above else { return Ok(()) };
        let left = self.quota_limits(above);
        for (resource, limit) in above.accounts.share().each() {
            if let (Some(left), Some(used)) = (left.of(resource), used.of(resource))
                && used > left
            {
                let own = lease.accounts.share().of(resource).unwrap_or(0);
                let left = left.saturating_add(own).saturating_sub(used);
                return Err(Refusal::LimitShare { resource, limit, left });
            }
        }
        Ok(())
    }

    fn is_below(&self, lease: LeaseId, other: LeaseId) -> bool {
        let mut above = self.leases.get(&lease).and_then(|lease| lease.parent);
        for _ in 0..=self.leases.len() {
            match above {
                Some(id) if id == other => return true,
                Some(id) => above = self.leases.get(&id).and_then(|lease| lease.parent),
                None => return false,
            }
        }
        false
    }

    /// Refuses limits that nothing would hold the lease to, unless that was asked for.
    pub(crate) fn check_firm(&self, grant: &Grant) -> Result<(), Refusal> {
        let (share, enforced) = (grant.share, grant.terms.enforced);
        if grant.terms.soft || share == Share::default() {
            return Ok(());
        }
        let accounts = self.accounts(grant.parent, grant.pool, share);
        let firm = |resource| {
            let Account { limit, above, .. } = accounts.of(resource);
            // What it would share of the one is not to be had in a quota of its own for the other.
            if limit.is_some() { enforced.has(resource) } else { above.is_none() || !enforced.has(resource) }
        };
        if Resource::ALL.into_iter().all(firm) { Ok(()) } else { Err(Refusal::LimitsNotFirm) }
    }

    /// Refuses what the pool has promised to others.
    pub(crate) fn check_room(&self, grant: &Grant) -> Result<(), Refusal> {
        let accounts = self.accounts(grant.parent, grant.pool, grant.share);
        Resource::ALL.into_iter().try_for_each(|resource| match accounts.of(resource) {
            Account { limit: Some(limit), above: None, .. } => {
                self.check_promise(grant.pool, resource, *limit, grant.terms.room)
            }
            _ => Ok(()),
        })
    }

    /// What a pool has promised so far.
    #[must_use]
    pub fn promised(&self, pool: PoolId) -> (u64, u64) {
        let promised = self.promised.get(&pool).copied().unwrap_or_default();
        (promised.bytes, promised.inodes)
    }

    pub(crate) fn check_promise(
        &self,
        pool: PoolId,
        resource: Resource,
        wanted: u64,
        room: Share,
    ) -> Result<(), Refusal> {
        let Some(limit) = room.of(resource) else { return Ok(()) };
        let promised = self.promised.get(&pool).copied().unwrap_or_default().of(resource);
        let left = limit.saturating_sub(promised);
        if wanted > left { Err(Refusal::PoolPromised { resource, limit, left }) } else { Ok(()) }
    }

    pub(crate) fn promise(&mut self, pool: PoolId, resource: Resource, amount: u64) {
        let promised = self.promised.entry(pool).or_default().of_mut(resource);
        *promised = promised.saturating_add(amount);
    }

    pub(crate) fn take_back(&mut self, pool: PoolId, resource: Resource, amount: u64) {
        if let Some(promised) = self.promised.get_mut(&pool) {
            let promised = promised.of_mut(resource);
            *promised = promised.saturating_sub(amount);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Limits;
    use crate::fixture::*;

    const BOTH: Enforced = Enforced { bytes: true, inodes: true, shared: true };
    const BYTES: Enforced = Enforced { bytes: true, inodes: false, shared: false };

    fn limited(number: u8, enforced: Enforced, bytes: Option<u64>, inodes: Option<u64>) -> Grant {
        let terms = Terms { enforced, room: Share { bytes: Some(100), inodes: Some(100) }, soft: false };
        Grant { share: Share { bytes, inodes }, terms, ..grant(number, &[process(1)]) }
    }

    fn soft(grant: Grant) -> Grant {
        Grant { terms: Terms { soft: true, ..grant.terms }, ..grant }
    }

    fn table_of(grants: impl IntoIterator<Item = Grant>) -> Table {
        let mut table = Table::new(Limits::default(), 1);
        grants.into_iter().for_each(|grant| put(&mut table, grant));
        table
    }

    fn quota(table: &Table, number: u8) -> Quota {
        lease(table, number).quota()
    }

    fn on_disk(table: &Table, number: u8) -> (Option<u64>, Option<u64>) {
        let Share { bytes, inodes } = table.quota_limits(lease(table, number));
        (bytes, inodes)
    }

    #[test]
    fn a_lease_has_its_own_quota_or_shares_the_nearest() {
        let mut table = table_of([
            limited(1, BOTH, Some(60), Some(9)),
            below(1, limited(2, BOTH, None, None)),
            below(2, limited(3, BOTH, Some(20), Some(4))),
            below(3, limited(4, BOTH, None, None)),
            limited(9, BOTH, None, None),
        ]);
        let expected = [Quota::Own, Quota::Of(id(1)), Quota::Own, Quota::Of(id(3))];
        assert_eq!([1, 2, 3, 4].map(|number| quota(&table, number)), expected);
        assert_eq!(quota(&table, 9), Quota::Unlimited);
        assert_eq!((on_disk(&table, 1), on_disk(&table, 3)), ((Some(40), Some(5)), (Some(20), Some(4))));
        assert_eq!(table.quota_above(lease(&table, 4)), Some(id(3)));
        assert_eq!(table.quota_above(lease(&table, 3)), Some(id(1)));
        assert_eq!(table.quota_above(lease(&table, 1)), None);
        let used = |bytes, inodes| Share { bytes: Some(bytes), inodes: Some(inodes) };
        assert_eq!(table.check_used(lease(&table, 3), used(40, 5)), Ok(()));
        let refusal = Refusal::LimitShare { resource: Resource::Bytes, limit: 60, left: 19 };
        assert_eq!(table.check_used(lease(&table, 3), used(41, 5)), Err(refusal));
        assert!(table.update_limits(id(3), ME, used(30, 2), Share::default()).is_ok());
        assert_eq!((on_disk(&table, 1), on_disk(&table, 3)), ((Some(30), Some(7)), (Some(30), Some(2))));
        assert_eq!(table.revoke(id(3), ME), Ok(()));
        table.due(at(0));
        [4, 3].into_iter().for_each(|number| table.forget(id(number)));
        assert_eq!(on_disk(&table, 1), (Some(60), Some(9)));
    }

    #[test]
    fn one_limit_of_its_own_where_the_other_is_shared_is_not_firm() {
        let mut table = table_of([limited(1, BOTH, Some(60), Some(9))]);
        let half = below(1, limited(2, BOTH, Some(20), None));
        assert_eq!(table.grant(half.clone(), at(0)), Err(Refusal::LimitsNotFirm));
        put(&mut table, soft(half));
        // It lives in the quota of the one above, so that nothing is taken off that.
        assert_eq!((quota(&table, 2), on_disk(&table, 1)), (Quota::Of(id(1)), (Some(60), Some(9))));
        put(&mut table, below(2, limited(3, BOTH, Some(10), Some(3))));
        assert_eq!((quota(&table, 3), on_disk(&table, 1)), (Quota::Own, (Some(50), Some(6))));
    }

    #[test]
    fn what_a_pool_can_not_enforce_is_refused_or_metered() {
        let mut table = table_of([limited(1, BYTES, Some(60), None), below(1, limited(2, BYTES, None, None))]);
        assert_eq!((quota(&table, 1), quota(&table, 2)), (Quota::Own, Quota::Metered));
        for refused in [limited(3, BYTES, Some(1), Some(1)), limited(3, Enforced::default(), Some(1), None)] {
            assert_eq!(table.grant(refused, at(0)), Err(Refusal::LimitsNotFirm));
        }
        put(&mut table, soft(limited(3, BYTES, Some(1), Some(1))));
        put(&mut table, soft(limited(4, Enforced::default(), Some(1), None)));
        assert_eq!((quota(&table, 3), quota(&table, 4)), (Quota::Own, Quota::Metered));
        assert_eq!(on_disk(&table, 3), (Some(1), None));
    }

    #[test]
    fn a_pool_promises_no_more_than_it_has() {
        let mut table = table_of([limited(1, BOTH, Some(60), Some(9)), below(1, limited(2, BOTH, Some(50), Some(9)))]);
        assert_eq!(table.promised(PoolId(0)), (60, 9));
        let refusal = Refusal::PoolPromised { resource: Resource::Bytes, limit: 100, left: 40 };
        assert_eq!(table.grant(limited(3, BOTH, Some(41), None), at(0)), Err(refusal));
        put(&mut table, limited(3, BOTH, Some(40), None));
        let elsewhere = Grant { pool: PoolId(1), ..limited(4, BOTH, Some(100), None) };
        put(&mut table, elsewhere);
        assert_eq!((table.promised(PoolId(0)), table.promised(PoolId(1))), ((100, 9), (100, 0)));
        assert_eq!(table.revoke(id(3), ME), Ok(()));
        table.due(at(0));
        table.forget(id(3));
        assert_eq!(table.promised(PoolId(0)), (60, 9));
    }
}
