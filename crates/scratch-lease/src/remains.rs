//! What has ended takes room until it is freed: what its tenant was granted and its pool has promised stays so until then.

use crate::{Lease, LeaseId, LeaseState, PoolId, Resource, Share, Table, TenantId};

/// What a lease that is in the table no more still takes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Remains {
    tenant: TenantId,
    pool: PoolId,
    share: Share,
}

impl Remains {
    /// Nothing, where it was carved out of a lease above, which has it back at once.
    fn of(lease: &Lease) -> Option<Self> {
        let part = |resource| Some(lease.accounts.of(resource).granted()).filter(|amount| *amount > 0);
        let share = Share { bytes: part(Resource::Bytes), inodes: part(Resource::Inodes) };
        let ended = lease.state == LeaseState::Ending && share != Share::default();
        ended.then_some(Self { tenant: lease.tenant, pool: lease.pool, share })
    }
}

impl Table {
    /// As [`forget`](Self::forget), of a lease of which something is still to be freed: its limits count until
    /// [`freed`](Self::freed).
    pub fn forget_until_freed(&mut self, id: LeaseId) {
        let remains = self.leases.get(&id).and_then(|lease| Remains::of(lease));
        self.forget(id);
        if let Some(remains) = remains {
            self.count_remains(remains, u64::saturating_add);
            for (resource, amount) in remains.share.each() {
                self.promise(remains.pool, resource, amount);
            }
            self.remains.insert(id, remains);
        }
    }

    /// Whether a lease that is in the table no more still takes something.
    #[must_use]
    pub fn remains(&self, id: LeaseId) -> bool {
        self.remains.contains_key(&id)
    }

    /// Nothing is left of a lease.
    pub fn freed(&mut self, id: LeaseId) {
        if let Some(remains) = self.remains.remove(&id) {
            self.count_remains(remains, u64::saturating_sub);
            for (resource, amount) in remains.share.each() {
                self.take_back(remains.pool, resource, amount);
            }
        }
    }

    fn count_remains(&mut self, remains: Remains, change: fn(u64, u64) -> u64) {
        self.count(remains.tenant, |usage| {
            for (resource, amount) in remains.share.each() {
                let granted = resource.granted(usage);
                *granted = change(*granted, amount);
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::*;
    use crate::{Grant, Usage};

    fn limited(number: u8, bytes: u64) -> Grant {
        Grant { share: Share { bytes: Some(bytes), inodes: Some(5) }, ..grant(number, &[process(1)]) }
    }

    #[test]
    fn what_was_granted_counts_until_it_is_freed() {
        let mut table = table_with([limited(1, 100), below(1, limited(2, 60))]);
        assert_eq!(table.revoke(id(1), ME), Ok(()));
        table.due(at(0));
        table.forget_until_freed(id(2));
        assert!(!table.remains(id(2)), "its parent has it back");
        table.forget_until_freed(id(1));
        assert_eq!((table.usage(ME.tenant).bytes, table.promised(PoolId(0))), (100, (100, 5)));
        assert!(table.remains(id(1)) && table.totals().is_without_leases());
        table.freed(id(1));
        table.freed(id(1));
        assert_eq!((table.usage(ME.tenant), table.promised(PoolId(0))), (Usage::default(), (0, 0)));
    }

    #[test]
    fn what_never_was_leaves_nothing() {
        let mut table = table_with([]);
        assert!(table.grant(limited(1, 100), at(0)).is_ok());
        table.forget_until_freed(id(1));
        assert_eq!((table.remains(id(1)), table.usage(ME.tenant)), (false, Usage::default()));
    }
}
