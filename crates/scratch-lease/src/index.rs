//! The roads into the table that are not a lease's id: deadlines, connections, children, nonces, what is pending.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use crate::{BootTime, ConnectionId, Holder, HolderId, HolderKind, Lease, LeaseId, LeaseState, TenantId};

/// What comes to its end by time: a holder, or without one the whole lease.
type Deadline = (BootTime, LeaseId, Option<HolderId>);

/// Kept in step with the leases by everything that changes them.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Index {
    /// Of leases that are there, kept or gone; one in the making or ending has none.
    deadlines: BTreeSet<Deadline>,
    connections: HashMap<ConnectionId, BTreeMap<LeaseId, HolderId>>,
    children: HashMap<LeaseId, BTreeSet<LeaseId>>,
    nonces: HashMap<(TenantId, [u8; 16]), LeaseId>,
    /// Leases that the next `due` must look at.
    pub(crate) pending: BTreeSet<LeaseId>,
}

impl Index {
    /// A new lease: everything but its deadlines.
    pub(crate) fn add(&mut self, lease: &Lease) {
        if let Some(parent) = lease.parent {
            self.children.entry(parent).or_default().insert(lease.id);
        }
        if let Some(nonce) = lease.nonce {
            self.nonces.insert((lease.tenant, nonce), lease.id);
        }
        for holder in &lease.holders {
            self.add_connection(lease.id, *holder);
        }
    }

    /// A lease that leaves the table.
    pub(crate) fn remove(&mut self, lease: &Lease) {
        self.retire(lease);
        for holder in &lease.holders {
            self.remove_connection(lease.id, *holder);
        }
        self.remove_child(lease);
    }

    /// A lease that stands alone from now on.
    pub(crate) fn remove_child(&mut self, lease: &Lease) {
        if let Some(parent) = lease.parent
            && let Some(children) = self.children.get_mut(&parent)
        {
            children.remove(&lease.id);
            if children.is_empty() {
                self.children.remove(&parent);
            }
        }
    }

    /// A lease that ends: nothing is waited for any more, and its nonce is free.
    pub(crate) fn retire(&mut self, lease: &Lease) {
        self.pending.remove(&lease.id);
        self.disarm(lease);
        if let Some(nonce) = lease.nonce
            && self.nonces.get(&(lease.tenant, nonce)) == Some(&lease.id)
        {
            self.nonces.remove(&(lease.tenant, nonce));
        }
    }

    /// Waits for all deadlines of this lease.
    pub(crate) fn arm(&mut self, lease: &Lease) {
        self.deadlines.extend(deadlines(lease));
    }

    /// Waits for none of them.
    pub(crate) fn disarm(&mut self, lease: &Lease) {
        for deadline in deadlines(lease) {
            self.deadlines.remove(&deadline);
        }
    }

    /// A holder of a lease that is there.
    pub(crate) fn add_holder(&mut self, lease: LeaseId, holder: Holder) {
        self.deadlines.extend(holder.kind.deadline().map(|deadline| (deadline, lease, Some(holder.id))));
        self.add_connection(lease, holder);
    }

    pub(crate) fn remove_holder(&mut self, lease: LeaseId, holder: Holder) {
        if let Some(deadline) = holder.kind.deadline() {
            self.deadlines.remove(&(deadline, lease, Some(holder.id)));
        }
        self.remove_connection(lease, holder);
    }

    /// The lease as a whole has an end, or one no more.
    pub(crate) fn add_end(&mut self, lease: LeaseId, end: BootTime) {
        self.deadlines.insert((end, lease, None));
    }

    pub(crate) fn remove_end(&mut self, lease: LeaseId, end: BootTime) {
        self.deadlines.remove(&(end, lease, None));
    }

    /// The next deadline that has passed, which is waited for no more.
    pub(crate) fn pop_deadline(&mut self, now: BootTime) -> Option<(LeaseId, Option<HolderId>)> {
        if self.deadlines.first()?.0 > now {
            return None;
        }
        self.deadlines.pop_first().map(|(_, lease, holder)| (lease, holder))
    }

    /// The earliest deadline; while a lease is pending, a time that is over.
    pub(crate) fn next_deadline(&self) -> Option<BootTime> {
        if self.pending.is_empty() { self.deadlines.first().map(|first| first.0) } else { Some(BootTime(0)) }
    }

    /// All that this connection holds.
    pub(crate) fn take_connection(&mut self, connection: ConnectionId) -> BTreeMap<LeaseId, HolderId> {
        self.connections.remove(&connection).unwrap_or_default()
    }

    pub(crate) fn children(&self, parent: LeaseId) -> impl Iterator<Item = LeaseId> {
        self.children.get(&parent).into_iter().flatten().copied()
    }

    pub(crate) fn nonce(&self, tenant: TenantId, nonce: [u8; 16]) -> Option<LeaseId> {
        self.nonces.get(&(tenant, nonce)).copied()
    }

    fn add_connection(&mut self, lease: LeaseId, holder: Holder) {
        if let HolderKind::Connection(connection) = holder.kind {
            self.connections.entry(connection).or_default().insert(lease, holder.id);
        }
    }

    fn remove_connection(&mut self, lease: LeaseId, holder: Holder) {
        if let HolderKind::Connection(connection) = holder.kind
            && let Some(leases) = self.connections.get_mut(&connection)
        {
            leases.remove(&lease);
            if leases.is_empty() {
                self.connections.remove(&connection);
            }
        }
    }
}

/// One that has ended has nothing to wait for but the end of its time.
fn deadlines(lease: &Lease) -> impl Iterator<Item = Deadline> {
    let (holders, ends) = match lease.state {
        LeaseState::Kept { until } | LeaseState::Gone { until } => (&[][..], [Some(until), None]),
        _ => (&lease.holders[..], [lease.lifetime_end, lease.grace_end]),
    };
    let holders = holders.iter().filter_map(|holder| Some((holder.kind.deadline()?, lease.id, Some(holder.id))));
    holders.chain(ends.into_iter().flatten().map(|end| (end, lease.id, None)))
}
