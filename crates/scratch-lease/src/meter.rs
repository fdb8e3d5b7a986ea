//! What the meter's readings lead to: of limits that nothing enforces, and of quotas that somebody has stepped out of.

use crate::quota::Quota;
use crate::{BootTime, EventKind, Lease, LeaseId, Reason, Refusal, Resource, Share, Table};

/// What follows when a lease has more than it may.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Consequence {
    /// It is told.
    #[default]
    Report,
    /// The broker makes nothing more in it.
    Refuse,
    /// It ends.
    End,
}

/// What is wrong with what a lease has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Excess {
    /// More of this than its limit.
    Over(Resource),
    /// Part of it is not counted in its quota any more.
    Evaded,
}

impl Excess {
    /// In words.
    #[must_use]
    pub fn text(self) -> &'static str {
        match self {
            Self::Over(Resource::Bytes) => "it has more bytes than its limit",
            Self::Over(Resource::Inodes) => "it has more inodes than its limit",
            Self::Evaded => "part of it was taken out of its quota",
        }
    }
}

/// What was found in a lease and those that share its limits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reading {
    /// Bytes.
    pub bytes: u64,
    /// Inodes, but for leases' own directories.
    pub inodes: u64,
    /// Part of it is not counted in its quota.
    pub evaded: bool,
}

impl Table {
    /// The leases that have limits of their own, each with those whose content counts for it: itself, and those below that
    /// share one.
    #[must_use]
    pub fn to_meter(&self) -> Vec<(LeaseId, Vec<LeaseId>)> {
        let limited = |lease: &&Lease| lease.is_there() && !lease.ends() && lease.share() != Share::default();
        let sharing = |lease: &Lease| {
            let shares = |id: &LeaseId| {
                let other = self.leases.get(id);
                other.is_some_and(|other| {
                    Resource::ALL.iter().any(|one| other.accounts.of(*one).payer(other.id) == Some(lease.id))
                })
            };
            (lease.id, self.subtree(lease.id).into_iter().filter(shares).collect())
        };
        self.leases().filter(limited).map(sharing).collect()
    }

    /// Judges a reading of a lease that has limits. What is news is told; what ends by it is due.
    pub fn metered(&mut self, id: LeaseId, reading: Reading, consequence: Consequence, now: BootTime) {
        let Some(lease) = self.leases.get(&id).filter(|lease| lease.is_there() && !lease.ends()) else { return };
        let excess = self.excess(lease, reading);
        let (tenant, before) = (lease.tenant, lease.excess.map(|(excess, _)| excess));
        if let Some(lease) = self.leases.get_mut(&id) {
            lease.excess = excess.map(|excess| (excess, consequence));
        }
        if before != excess {
            self.at(now).log.push(id, tenant, EventKind::Metered(excess));
        }
        if let (Some(excess), Consequence::End) = (excess, consequence) {
            self.end(id, Reason::Meter(excess));
        }
    }

    fn excess(&self, lease: &Lease, reading: Reading) -> Option<Excess> {
        let over = |resource, found: u64| {
            let limit = lease.accounts.of(resource).limit?;
            // What a quota counts it also holds to its limit; a limit that became less since is no fault of the tenant's.
            let held = lease.quota == Quota::Own && lease.enforced.has(resource);
            let below: u64 = self.carved(lease.id, resource);
            (!held && found > limit.saturating_sub(below)).then_some(Excess::Over(resource))
        };
        if reading.evaded {
            return Some(Excess::Evaded);
        }
        over(Resource::Bytes, reading.bytes).or_else(|| over(Resource::Inodes, reading.inodes))
    }

    /// What leases below have of a lease's limit as limits of their own.
    fn carved(&self, id: LeaseId, resource: Resource) -> u64 {
        let below = self.subtree(id).into_iter().skip(1).filter_map(|lower| self.leases.get(&lower));
        let accounts = below.map(|lower| lower.accounts.of(resource)).filter(|account| account.above == Some(id));
        accounts.filter_map(|account| account.limit).fold(0, u64::saturating_add)
    }

    /// Refuses to make anything in a lease, or one that shares its limits, that has more than it may.
    pub(crate) fn check_meter(&self, lease: &Lease) -> Result<(), Refusal> {
        for resource in Resource::ALL {
            let payer = lease.accounts.of(resource).payer(lease.id).and_then(|payer| self.leases.get(&payer));
            if let Some(payer) = payer
                && let Some((_, Consequence::Refuse)) = payer.excess
            {
                let limit = payer.accounts.of(resource).limit.unwrap_or(0);
                return Err(Refusal::LimitShare { resource, limit, left: 0 });
            }
        }
        Ok(())
    }
}

impl Lease {
    /// What the meter has found wrong with it last.
    #[must_use]
    pub fn excess(&self) -> Option<Excess> {
        self.excess.map(|(excess, _)| excess)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::*;
    use crate::{Due, Grant};

    fn limited(number: u8, bytes: u64) -> Grant {
        Grant { share: Share { bytes: Some(bytes), inodes: Some(5) }, ..grant(number, &[process(1)]) }
    }

    fn reading(bytes: u64, inodes: u64) -> Reading {
        Reading { bytes, inodes, evaded: false }
    }

    #[test]
    fn what_is_over_is_told_once_and_so_is_its_end() {
        let mut table = table_with([limited(1, 100), grant(2, &[process(1)])]);
        for (found, consequence) in [
            (reading(100, 5), Consequence::Refuse),
            (reading(101, 5), Consequence::Refuse),
            (reading(101, 6), Consequence::Refuse),
        ] {
            table.metered(id(1), found, consequence, at(1));
        }
        let over = Excess::Over(Resource::Bytes);
        assert_eq!(lease(&table, 1).excess(), Some(over));
        let refusal = Refusal::LimitShare { resource: Resource::Bytes, limit: 100, left: 0 };
        assert_eq!(table.reserve_areas(id(1), ME, 1), Err(refusal));
        table.metered(id(1), reading(1, 1), Consequence::Refuse, at(2));
        assert!(table.reserve_areas(id(1), ME, 1).is_ok());
        let told = [EventKind::Granted, EventKind::Metered(Some(over)), EventKind::Metered(None)];
        assert_eq!(events(&table, 1), told);
        table.metered(id(2), reading(1 << 40, 1 << 40), Consequence::End, at(3));
        assert_eq!(table.due(at(3)), []);
    }

    #[test]
    fn children_count_by_their_limits_or_by_what_they_have() {
        let share = crate::Share { bytes: Some(60), inodes: Some(2) };
        let child = crate::Grant { share, ..limited(2, 60) };
        let mut table = table_with([limited(1, 100), below(1, child), below(1, grant(3, &[process(1)]))]);
        let mut to_meter = table.to_meter();
        to_meter.sort();
        to_meter.iter_mut().for_each(|(_, sharing)| sharing.sort());
        assert_eq!(to_meter, [(id(1), vec![id(1), id(3)]), (id(2), vec![id(2)])]);
        table.metered(id(1), reading(40, 0), Consequence::Report, at(1));
        assert_eq!(lease(&table, 1).excess(), None);
        table.metered(id(1), reading(41, 0), Consequence::Report, at(1));
        assert!(lease(&table, 1).excess().is_some());
        assert!(table.reserve_areas(id(3), ME, 1).is_ok());
    }

    #[test]
    fn only_where_it_is_to_end_does_it_end() {
        let mut table = table_with([limited(1, 100)]);
        let evaded = Reading { evaded: true, ..Reading::default() };
        for consequence in [Consequence::Report, Consequence::Refuse] {
            table.metered(id(1), evaded, consequence, at(1));
            assert_eq!(table.due(at(1)), []);
        }
        table.metered(id(1), evaded, Consequence::End, at(2));
        assert_eq!(table.due(at(2)), [Due::End { id: id(1), reason: Reason::Meter(Excess::Evaded) }]);
    }
}
