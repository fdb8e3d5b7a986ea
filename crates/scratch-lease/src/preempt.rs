//! High water: when a pool is too full to grant in, and which lease ends for it.

use crate::{Lease, LeaseId, LeaseState, PoolId, Reason, Resource, Table};

/// How full a pool may be before nothing more is granted in it, in percent. `None`: to the brim.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HighWater {
    /// Of bytes.
    pub bytes: Option<u8>,
    /// Of inodes.
    pub inodes: Option<u8>,
}

/// What a pool's file system has. A total of 0: it does not count them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Space {
    /// Used and free together.
    pub bytes: u64,
    /// Free for tenants.
    pub bytes_free: u64,
    /// Used and free together.
    pub inodes: u64,
    /// Free for tenants.
    pub inodes_free: u64,
}

impl HighWater {
    /// What there is too much of, and its mark.
    #[must_use]
    pub fn passed(self, space: Space) -> Option<(Resource, u8)> {
        let of = |resource, mark: Option<u8>, total: u64, free: u64| {
            let mark = mark?;
            let used = u128::from(total.saturating_sub(free));
            (total > 0 && used * 100 >= u128::from(total) * u128::from(mark)).then_some((resource, mark))
        };
        of(Resource::Bytes, self.bytes, space.bytes, space.bytes_free)
            .or_else(|| of(Resource::Inodes, self.inodes, space.inodes, space.inodes_free))
    }
}

impl Table {
    /// Ends one lease of a pool that may be ended for others: the youngest, which has the least to lose, so that the oldest come
    /// to their end. What nobody has marked never ends so, and neither does a lease that has such a one below it.
    pub fn preempt(&mut self, pool: PoolId) -> Option<LeaseId> {
        let may_end = |lease: &&&Lease| {
            lease.pool == pool
                && lease.is_there()
                && !lease.ends()
                && self.subtree(lease.id).iter().all(|id| self.is_marked(*id))
        };
        let leases: Vec<&Lease> =
            self.leases.values().map(|lease| &**lease).filter(|lease| lease.preemptible).collect();
        let id = leases.iter().filter(may_end).max_by_key(|lease| (lease.created, lease.id))?.id;
        self.end(id, Reason::Preempted);
        Some(id)
    }

    fn is_marked(&self, id: LeaseId) -> bool {
        self.leases.get(&id).is_none_or(|lease| lease.preemptible || matches!(lease.state, LeaseState::Ending))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::*;
    use crate::{Grant, Granted};

    fn marked(number: u8) -> Grant {
        Grant { preemptible: true, ..grant(number, &[process(i32::from(number))]) }
    }

    fn granted(grants: impl IntoIterator<Item = Grant>) -> Table {
        let mut table = table_with([]);
        for (second, grant) in (0..).zip(grants) {
            let id = grant.id;
            assert_eq!(table.grant(grant, at(second)), Ok(Granted::New));
            table.commit(id, at(second));
        }
        table
    }

    #[test]
    fn the_youngest_marked_one_goes_and_never_an_unmarked_one() {
        let mut table = granted([marked(2), marked(1), grant(3, &[process(3)])]);
        assert_eq!(table.preempt(PoolId(1)), None, "another pool's");
        assert_eq!(table.preempt(PoolId(0)), Some(id(1)));
        assert_eq!(table.due(at(9)), [end(1, Reason::Preempted)]);
        assert_eq!(table.preempt(PoolId(0)), Some(id(2)));
        assert_eq!(table.preempt(PoolId(0)), None);
    }

    #[test]
    fn what_has_an_unmarked_lease_below_it_stays() {
        let mut table = granted([marked(1), below(1, grant(2, &[process(2)])), below(1, marked(3))]);
        assert_eq!(table.preempt(PoolId(0)), Some(id(3)));
        assert_eq!(table.preempt(PoolId(0)), None);
        let mut table = granted([marked(1), below(1, marked(2))]);
        table.end(id(2), Reason::Revoked);
        table.due(at(5));
        assert_eq!(table.preempt(PoolId(0)), Some(id(1)));
    }

    #[test]
    fn it_is_neither_kept_nor_brought_back() {
        assert!(!Reason::Preempted.may_keep() && !Reason::Preempted.may_undelete());
    }

    #[test]
    fn a_mark_is_passed_when_it_is_reached() {
        let space = |free| Space { bytes: 1000, bytes_free: free, inodes: 0, inodes_free: 0 };
        let mark = HighWater { bytes: Some(90), inodes: Some(1) };
        assert_eq!(mark.passed(space(101)), None);
        assert_eq!(mark.passed(space(100)), Some((Resource::Bytes, 90)));
        assert_eq!(HighWater::default().passed(space(0)), None);
        let few = Space { bytes: 0, bytes_free: 0, inodes: u64::MAX, inodes_free: 0 };
        assert_eq!(mark.passed(few), Some((Resource::Inodes, 1)));
    }
}
