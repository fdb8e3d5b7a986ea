//! The table of all leases: looking up. What changes it stands in the files named after the verbs.

use std::collections::HashMap;

use crate::event::Log;
use crate::index::Index;
use crate::quota::Amounts;
use crate::remains::Remains;
use crate::{BootTime, Caller, Lease, LeaseId, LeaseState, Limits, PoolId, Refusal, TenantId, Usage};

/// All leases of a broker. Decides, and does nothing itself: [`due`](Table::due) says what is to be done.
#[derive(Debug)]
pub struct Table {
    pub(crate) limits: Limits,
    /// Those of the rules, by number.
    pub(crate) rules: Vec<Limits>,
    /// When the bucket of creates is full again, of tenants whose bucket is not.
    pub(crate) full_at: HashMap<TenantId, BootTime>,
    pub(crate) generation: u64,
    /// Boxed, so that the map's free slots cost little.
    pub(crate) leases: HashMap<LeaseId, Box<Lease>>,
    pub(crate) index: Index,
    pub(crate) tenants: HashMap<TenantId, Usage>,
    pub(crate) totals: Usage,
    /// What each pool has promised to leases that are not below another that was promised it.
    pub(crate) promised: HashMap<PoolId, Amounts>,
    /// What leases still take that are here no more.
    pub(crate) remains: HashMap<LeaseId, Remains>,
    pub(crate) log: Log,
}

impl Table {
    /// An empty table. The generation tells this run of the broker from others.
    #[must_use]
    pub fn new(limits: Limits, generation: u64) -> Self {
        Self {
            limits,
            rules: Vec::new(),
            full_at: HashMap::new(),
            generation,
            leases: HashMap::new(),
            index: Index::default(),
            tenants: HashMap::new(),
            totals: Usage::default(),
            promised: HashMap::new(),
            remains: HashMap::new(),
            log: Log::default(),
        }
    }

    /// A lease as this caller sees it, in any state but Granting and Gone.
    ///
    /// # Errors
    /// [`Refusal::LeaseUnknown`], for leases of others too.
    pub fn get(&self, id: LeaseId, caller: Caller) -> Result<&Lease, Refusal> {
        match self.leases.get(&id) {
            Some(lease) if visible(&self.leases, lease, caller) => Ok(lease),
            _ => Err(Refusal::LeaseUnknown),
        }
    }

    /// A lease as this caller sees it that is not about to end.
    ///
    /// # Errors
    /// As [`get`](Self::get), [`Refusal::LeaseEnding`] and [`Refusal::LeaseKept`].
    pub fn live(&self, id: LeaseId, caller: Caller) -> Result<&Lease, Refusal> {
        let lease = self.get(id, caller)?;
        check_live(lease).map(|()| lease)
    }

    /// A lease as this caller sees it whose directory is at its path to stay: live or kept.
    ///
    /// # Errors
    /// As [`get`](Self::get), and [`Refusal::LeaseEnding`].
    pub fn present(&self, id: LeaseId, caller: Caller) -> Result<&Lease, Refusal> {
        let lease = self.get(id, caller)?;
        if lease.ends() && lease.kept_until().is_none() { Err(Refusal::LeaseEnding) } else { Ok(lease) }
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
            Some(lease) if (lease.is_there() || lease.kept_until().is_some()) && lease.lost != lost => {
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
    match leases.get(&id) {
        Some(lease) if visible(leases, lease, caller) => {}
        _ => return Err(Refusal::LeaseUnknown),
    }
    match leases.get_mut(&id) {
        Some(lease) => check_live(lease).map(|()| &mut **lease),
        None => Err(Refusal::LeaseUnknown),
    }
}

fn check_live(lease: &Lease) -> Result<(), Refusal> {
    match lease.kept_until() {
        Some(_) => Err(Refusal::LeaseKept),
        None if lease.ends() => Err(Refusal::LeaseEnding),
        None => Ok(()),
    }
}

fn visible(leases: &HashMap<LeaseId, Box<Lease>>, lease: &Lease, caller: Caller) -> bool {
    !matches!(lease.state, LeaseState::Granting | LeaseState::Gone { .. })
        && caller.sees(lease.tenant)
        && caller.confined_to.is_none_or(|top| is_within(leases, lease, top))
}

/// Whether the lease is `top` or below it. Where one between has gone, it is not: it ends, too.
fn is_within(leases: &HashMap<LeaseId, Box<Lease>>, lease: &Lease, top: LeaseId) -> bool {
    let mut next = Some(lease);
    // More than any family is deep, and circles in adopted records end.
    for _ in 0..=u8::MAX {
        match next {
            Some(lease) if lease.id == top => return true,
            Some(lease) => next = lease.parent.and_then(|parent| leases.get(&parent)).map(|parent| &**parent),
            None => return false,
        }
    }
    false
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

    #[test]
    fn who_is_confined_sees_its_lease_and_those_below() {
        let mut table = table_with([grant(1, &[process(1)]), grant(9, &[process(1)])]);
        put(&mut table, below(1, grant(2, &[process(1)])));
        put(&mut table, below(2, grant(3, &[process(1)])));
        let confined = Caller { confined_to: Some(id(2)), ..ME };
        for (number, is_there) in [(1, false), (2, true), (3, true), (9, false), (8, false)] {
            assert_eq!(table.get(id(number), confined).is_ok(), is_there, "{number}");
            assert_eq!(table.live(id(number), confined).is_ok(), is_there, "{number}");
            assert_eq!(table.reserve_areas(id(number), confined, 1).is_ok(), is_there, "{number}");
            let attached = table.attach(id(number), confined, ttl(5), at(0));
            assert_eq!(attached.err(), (!is_there).then_some(Refusal::LeaseUnknown), "{number}");
        }
        assert_eq!(table.revoke(id(1), confined), Err(Refusal::LeaseUnknown));
        let elsewhere = Caller { confined_to: Some(id(2)), ..OTHER };
        assert_eq!(table.get(id(3), elsewhere).err(), Some(Refusal::LeaseUnknown), "confined, and another tenant");
    }

    /// The map's slot at its emptiest (one in 7/16), the lease, one holder: well below 1 KiB. An area alike.
    #[test]
    fn leases_and_areas_are_small() {
        let slot = |entry: usize| (entry + 1) * 16 / 7;
        let lease = slot(size_of::<(LeaseId, Box<Lease>)>()) + size_of::<Lease>() + size_of::<Holder>();
        assert!(lease <= 640, "{lease}");
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
