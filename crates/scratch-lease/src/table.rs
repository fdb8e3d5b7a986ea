//! The table of all leases: looking up. What changes it stands in the files named after the verbs.

use std::collections::HashMap;

use crate::event::Log;
use crate::index::Index;
use crate::{Caller, Lease, LeaseId, LeaseState, Limits, Refusal, TenantId, Usage};

/// All leases of a broker. Decides, and does nothing itself: [`due`](Table::due) says what is to be done.
#[derive(Debug)]
pub struct Table {
    pub(crate) limits: Limits,
    pub(crate) generation: u64,
    /// Boxed, so that the map's free slots cost little.
    pub(crate) leases: HashMap<LeaseId, Box<Lease>>,
    pub(crate) index: Index,
    pub(crate) tenants: HashMap<TenantId, Usage>,
    pub(crate) totals: Usage,
    pub(crate) log: Log,
}

impl Table {
    /// An empty table. The generation tells this run of the broker from others.
    #[must_use]
    pub fn new(limits: Limits, generation: u64) -> Self {
        Self {
            limits,
            generation,
            leases: HashMap::new(),
            index: Index::default(),
            tenants: HashMap::new(),
            totals: Usage::default(),
            log: Log::default(),
        }
    }

    /// Sets other limits. What is there already stays, also beyond them.
    pub fn set_limits(&mut self, limits: Limits) {
        self.limits = limits;
    }

    /// A lease as this caller sees it, in any state but Granting.
    ///
    /// # Errors
    /// [`Refusal::LeaseUnknown`], for leases of others too.
    pub fn get(&self, id: LeaseId, caller: Caller) -> Result<&Lease, Refusal> {
        match self.leases.get(&id) {
            Some(lease) if visible(lease, caller) => Ok(lease),
            _ => Err(Refusal::LeaseUnknown),
        }
    }

    /// A lease as this caller sees it that is not about to end.
    ///
    /// # Errors
    /// As [`get`](Self::get), and [`Refusal::LeaseEnding`].
    pub fn live(&self, id: LeaseId, caller: Caller) -> Result<&Lease, Refusal> {
        let lease = self.get(id, caller)?;
        if lease.ends() { Err(Refusal::LeaseEnding) } else { Ok(lease) }
    }

    /// As [`live`](Self::live), for what is to be done in its directory.
    ///
    /// # Errors
    /// As there, and [`Refusal::LeaseLost`].
    pub fn in_place(&self, id: LeaseId, caller: Caller) -> Result<&Lease, Refusal> {
        let lease = self.live(id, caller)?;
        if lease.lost { Err(Refusal::LeaseLost) } else { Ok(lease) }
    }

    /// Says whether a lease's directory is lost. True if that is news, of a lease that is there: what is being granted or
    /// ended has its directory elsewhere by right.
    pub fn set_lost(&mut self, id: LeaseId, lost: bool) -> bool {
        match self.leases.get_mut(&id) {
            Some(lease) if lease.is_there() && lease.lost != lost => {
                lease.lost = lost;
                true
            }
            _ => false,
        }
    }

    /// How many of the leases that this caller sees are lost.
    #[must_use]
    pub fn lost(&self, caller: Caller) -> usize {
        self.leases.values().filter(|lease| lease.lost && caller.sees(lease.tenant)).count()
    }

    /// A lease in any state, for the broker itself: nobody's rights are checked.
    #[must_use]
    pub fn lease(&self, id: LeaseId) -> Option<&Lease> {
        self.leases.get(&id).map(|lease| &**lease)
    }

    /// All leases in any state and no order, Granting ones included.
    pub fn leases(&self) -> impl Iterator<Item = &Lease> {
        self.leases.values().map(|lease| &**lease)
    }

    /// The lease and all below it, each before its children. Empty if there is no such lease.
    #[must_use]
    pub fn subtree(&self, id: LeaseId) -> Vec<LeaseId> {
        let mut found = Vec::new();
        let mut open = Vec::new();
        if self.leases.contains_key(&id) {
            open.push(id);
        }
        while let Some(next) = open.pop() {
            found.push(next);
            // A lease has one parent, so a circle in adopted records can only lead back to the first.
            open.extend(self.index.children(next).filter(|child| *child != id));
        }
        found
    }
}

/// [`Table::live`] for those who change the lease, and the index beside it.
pub(crate) fn live_mut(
    leases: &mut HashMap<LeaseId, Box<Lease>>,
    id: LeaseId,
    caller: Caller,
) -> Result<&mut Lease, Refusal> {
    match leases.get_mut(&id) {
        Some(lease) if !visible(lease, caller) => Err(Refusal::LeaseUnknown),
        Some(lease) if lease.ends() => Err(Refusal::LeaseEnding),
        Some(lease) => Ok(lease),
        None => Err(Refusal::LeaseUnknown),
    }
}

fn visible(lease: &Lease, caller: Caller) -> bool {
    lease.state != LeaseState::Granting && caller.sees(lease.tenant)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::*;
    use crate::{AreaKey, AreaKind, Holder};

    #[test]
    fn a_tenant_sees_its_own_and_an_admin_all() {
        let table = table_with([grant(1, &[process(1)])]);
        assert!(table.get(id(1), ME).is_ok() && table.live(id(1), ADMIN).is_ok());
        for (number, caller) in [(1, OTHER), (2, ME), (2, ADMIN)] {
            assert_eq!(table.get(id(number), caller).err(), Some(Refusal::LeaseUnknown));
            assert_eq!(table.live(id(number), caller).err(), Some(Refusal::LeaseUnknown));
        }
        assert_eq!(table.leases().map(Lease::id).collect::<Vec<_>>(), [id(1)]);
    }

    /// The map's slot at its emptiest (one in 7/16), the lease, one holder: far below 1 KiB. An area alike.
    #[test]
    fn leases_and_areas_are_small() {
        let slot = |entry: usize| (entry + 1) * 16 / 7;
        let lease = slot(size_of::<(LeaseId, Box<Lease>)>()) + size_of::<Lease>() + size_of::<Holder>();
        assert!(lease <= 512, "{lease}");
        let area = slot(size_of::<(AreaKey, AreaKind)>()) + 32;
        assert!(area <= 100, "{area}");
    }

    #[test]
    fn a_lost_lease_takes_no_areas_and_may_be_found_again() {
        let mut table = table_with([grant(1, &[process(1)])]);
        assert!(table.set_lost(id(1), true) && !table.set_lost(id(1), true) && !table.set_lost(id(2), true));
        assert_eq!(table.in_place(id(1), ME).err(), Some(Refusal::LeaseLost));
        assert_eq!(table.in_place(id(1), OTHER).err(), Some(Refusal::LeaseUnknown));
        assert_eq!(table.reserve_areas(id(1), ME, 1).err(), Some(Refusal::LeaseLost));
        assert!(table.live(id(1), ME).is_ok_and(Lease::is_lost));
        assert!(table.set_lost(id(1), false) && table.in_place(id(1), ME).is_ok());
        table.end(id(1), crate::Reason::Revoked);
        assert_eq!(table.due(crate::BootTime(0)).len(), 1);
        assert!(!table.set_lost(id(1), true), "an ending lease has its directory elsewhere by right");
    }

    #[test]
    fn empty_maps_hold_no_memory() {
        let table = table_with([grant(1, &[process(1)])]);
        let lease = lease(&table, 1);
        assert_eq!((lease.areas.capacity(), lease.holders.capacity()), (0, 1));
    }
}
