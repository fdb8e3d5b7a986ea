//! Areas: reserved against the tenant's limit before they are made, then kept by key in their lease.

use crate::table::live_mut;
use crate::{Caller, Lease, LeaseId, Refusal, Resource, Table, TenantId};

/// What an area is called in its lease.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum AreaKey {
    /// The path below the lease's directory.
    Name(Box<[u8]>),
    /// Anonymous, memory and foreign ones.
    Number(u32),
}

/// What an area is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AreaKind {
    /// A file with a name.
    File,
    /// A directory.
    Directory,
    /// A file without a name.
    Anonymous,
    /// A memory file.
    Memory,
}

/// Room for areas, to be turned into real ones or given back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReservedAreas {
    /// Against whom they are counted.
    pub tenant: TenantId,
    /// Whose limit of inodes they are taken from.
    pub(crate) payer: Option<LeaseId>,
    /// The first of as many numbers as were reserved, in a row, unique in the lease.
    pub first_number: u32,
}

impl Table {
    /// Counts `count` areas against the lease's tenant and its limit of inodes before they are made.
    ///
    /// # Errors
    /// As [`in_place`](Self::in_place), [`Refusal::LimitAreas`] and [`Refusal::LimitShare`].
    pub fn reserve_areas(&mut self, id: LeaseId, caller: Caller, count: usize) -> Result<ReservedAreas, Refusal> {
        let limit = self.limits_of(caller).areas_per_tenant;
        let tenant = self.in_place(id, caller)?.tenant;
        let used = self.tenants.get(&tenant).map_or(0, |usage| usage.areas);
        if count > limit.saturating_sub(used) {
            return Err(Refusal::LimitAreas { limit });
        }
        let numbers = u32::try_from(count).map_err(|_| Refusal::LimitAreas { limit })?;
        let payer = self.payer_of_areas(id);
        self.check_left(payer, Resource::Inodes, count as u64)?;
        let first_number = next_numbers(live_mut(&mut self.leases, id, caller)?, numbers);
        self.spend(payer, Resource::Inodes, count as u64);
        self.count(tenant, |usage| usage.areas += count);
        Ok(ReservedAreas { tenant, payer, first_number })
    }

    /// Gives back what was reserved and has not become an area.
    pub fn unreserve_areas(&mut self, reserved: ReservedAreas, count: usize) {
        self.uncount_areas(reserved.tenant, reserved.payer, count);
    }

    pub(crate) fn uncount_areas(&mut self, tenant: TenantId, payer: Option<LeaseId>, count: usize) {
        self.count(tenant, |usage| usage.areas = usage.areas.saturating_sub(count));
        self.give_back(payer, Resource::Inodes, count as u64);
    }

    /// Turns one reserved area into a real one. False if the lease is gone or ends: the caller then unreserves and
    /// undoes. If the key was there before (a request sent again), the reservation is given back.
    pub fn add_area(&mut self, id: LeaseId, key: AreaKey, kind: AreaKind) -> bool {
        let Some(lease) = self.leases.get_mut(&id).filter(|lease| !lease.ends()) else { return false };
        let tenant = lease.tenant;
        if lease.areas.insert(key, kind).is_some() {
            self.uncount_areas(tenant, self.payer_of_areas(id), 1);
        }
        true
    }

    /// Takes over an area of the broker before: counted, but not checked against the limit. False if the lease is
    /// gone or ends.
    pub fn adopt_area(&mut self, id: LeaseId, key: AreaKey, kind: AreaKind) -> bool {
        let Some(lease) = self.leases.get_mut(&id).filter(|lease| !lease.ends()) else { return false };
        if let AreaKey::Number(number) = key {
            lease.number_next = lease.number_next.max(number.saturating_add(1));
        }
        let tenant = lease.tenant;
        if lease.areas.insert(key, kind).is_none() {
            self.count(tenant, |usage| usage.areas += 1);
            self.spend(self.payer_of_areas(id), Resource::Inodes, 1);
        }
        true
    }

    /// Forgets an area and gives its count back; what it was, if it was there.
    pub fn remove_area(&mut self, id: LeaseId, key: &AreaKey) -> Option<AreaKind> {
        let lease = self.leases.get_mut(&id)?;
        let (tenant, kind) = (lease.tenant, lease.areas.remove(key)?);
        self.uncount_areas(tenant, self.payer_of_areas(id), 1);
        Some(kind)
    }

    /// Forgets the areas below a directory that is gone, and gives their count back.
    pub fn remove_areas_below(&mut self, id: LeaseId, directory: &[u8]) {
        let Some(lease) = self.leases.get_mut(&id) else { return };
        let is_below = |key: &AreaKey| match key {
            AreaKey::Name(path) => path.strip_prefix(directory).is_some_and(|rest| rest.starts_with(b"/")),
            AreaKey::Number(_) => false,
        };
        let before = lease.areas.len();
        lease.areas.retain(|key, _| !is_below(key));
        let (tenant, count) = (lease.tenant, before - lease.areas.len());
        self.uncount_areas(tenant, self.payer_of_areas(id), count);
    }
}

/// As many numbers in a row that no area of the lease has. At 10 000 areas a second they have gone once around after
/// five days.
fn next_numbers(lease: &mut Lease, count: u32) -> u32 {
    let mut first = lease.number_next;
    loop {
        let Some(end) = first.checked_add(count) else {
            lease.numbers_wrapped = true;
            first = 1;
            continue;
        };
        let taken = |number: &u32| lease.numbers_wrapped && lease.areas.contains_key(&AreaKey::Number(*number));
        match (first..end).rev().find(taken) {
            Some(number) => first = number + 1,
            None => {
                lease.number_next = end;
                return first;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::*;

    fn name(text: &str) -> AreaKey {
        AreaKey::Name(text.as_bytes().into())
    }

    #[test]
    fn areas_count_from_reservation_to_removal() {
        let mut table = table_with([grant(1, &[process(1)])]);
        let areas = |table: &Table| (table.usage(ME.tenant).areas, table.totals().areas, lease(table, 1).areas());
        let reserved = ReservedAreas { tenant: ME.tenant, payer: None, first_number: 1 };
        assert_eq!(table.reserve_areas(id(1), ADMIN, 3), Ok(reserved));
        assert_eq!(areas(&table), (3, 3, 0));
        assert!(table.add_area(id(1), name("a"), AreaKind::File));
        assert!(table.add_area(id(1), AreaKey::Number(2), AreaKind::Memory));
        table.unreserve_areas(reserved, 1);
        assert_eq!(areas(&table), (2, 2, 2));
        assert_eq!(table.remove_area(id(1), &name("a")), Some(AreaKind::File));
        assert_eq!(table.remove_area(id(1), &name("a")), None);
        assert_eq!(table.remove_area(id(9), &name("a")), None);
        assert_eq!(lease(&table, 1).area_keys().collect::<Vec<_>>(), [(&AreaKey::Number(2), AreaKind::Memory)]);
        assert_eq!(areas(&table), (1, 1, 1));
    }

    #[test]
    fn what_lay_below_a_directory_goes_with_it() {
        let mut table = table_with([grant(1, &[process(1)])]);
        assert!(table.reserve_areas(id(1), ME, 5).is_ok());
        for path in ["d", "d/x", "d/e/y", "dx", "z/d/x"] {
            assert!(table.add_area(id(1), name(path), AreaKind::File));
        }
        table.remove_areas_below(id(1), b"d");
        assert_eq!((table.totals().areas, lease(&table, 1).areas()), (3, 3));
        assert_eq!(table.remove_area(id(1), &name("d/x")), None);
        assert_eq!(table.remove_area(id(1), &name("dx")), Some(AreaKind::File));
    }

    #[test]
    fn an_area_sent_again_counts_once() {
        let mut table = table_with([grant(1, &[process(1)])]);
        for _ in 0..2 {
            assert!(table.reserve_areas(id(1), ME, 1).is_ok());
            assert!(table.add_area(id(1), name("a"), AreaKind::Directory));
        }
        assert_eq!((table.totals().areas, lease(&table, 1).areas()), (1, 1));
    }

    #[test]
    fn reserving_refuses() {
        let mut table = table_with([grant(1, &[process(1)]), grant(2, &[process(1)])]);
        assert_eq!(table.reserve_areas(id(1), OTHER, 1), Err(Refusal::LeaseUnknown));
        assert!(table.reserve_areas(id(1), ME, 7).is_ok());
        assert_eq!(table.reserve_areas(id(2), ME, 2), Err(Refusal::LimitAreas { limit: 8 }));
        assert_eq!(table.reserve_areas(id(2), ME, usize::MAX), Err(Refusal::LimitAreas { limit: 8 }));
        assert!(table.reserve_areas(id(2), ME, 1).is_ok());
        assert_eq!(table.revoke(id(1), ME), Ok(()));
        assert_eq!(table.reserve_areas(id(1), ME, 0), Err(Refusal::LeaseEnding));
    }

    #[test]
    fn an_area_of_a_lease_that_went_meanwhile_is_undone() {
        let mut table = table_with([grant(1, &[process(1)])]);
        let reserved = table.reserve_areas(id(1), ME, 2).expect("there is room");
        assert!(table.add_area(id(1), name("a"), AreaKind::File));
        assert_eq!(table.revoke(id(1), ME), Ok(()));
        assert!(!table.add_area(id(1), name("b"), AreaKind::File));
        table.due(at(0));
        table.forget(id(1));
        assert!(!table.add_area(id(1), name("b"), AreaKind::File));
        assert_eq!(table.totals().areas, 1);
        table.unreserve_areas(reserved, 1);
        assert_eq!(table.totals(), Default::default());
    }

    #[test]
    fn adopted_areas_count_beyond_the_limit_and_keep_their_numbers() {
        let mut table = table_with([grant(1, &[process(1)])]);
        for number in [5, 5, 6, 7, 8, 9, 10, 11, 12, 13] {
            assert!(table.adopt_area(id(1), AreaKey::Number(number), AreaKind::Anonymous));
        }
        assert!(!table.adopt_area(id(9), AreaKey::Number(1), AreaKind::Anonymous));
        assert_eq!(table.totals().areas, 9);
        assert_eq!(table.reserve_areas(id(1), ME, 1), Err(Refusal::LimitAreas { limit: 8 }));
        (7..=9).for_each(|number| _ = table.remove_area(id(1), &AreaKey::Number(number)));
        assert_eq!(table.reserve_areas(id(1), ME, 2).map(|reserved| reserved.first_number), Ok(14));
    }

    #[test]
    fn numbers_that_went_once_around_pass_over_those_in_use() {
        let mut table = table_with([grant(1, &[process(1)])]);
        for number in [2, u32::MAX - 2] {
            assert!(table.adopt_area(id(1), AreaKey::Number(number), AreaKind::Anonymous));
        }
        let mut first = |count| table.reserve_areas(id(1), ME, count).map(|reserved| reserved.first_number);
        assert_eq!((first(1), first(2), first(1)), (Ok(u32::MAX - 1), Ok(3), Ok(5)));
    }
}
