//! Who a lease belongs to, who asks, and what a tenant has in the table.

use crate::{LeaseId, LeaseState, Refusal, Table};

/// The kernel-authenticated owner of leases: a uid.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TenantId(pub u32);

/// The one who asks. An admin may see and act on every lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Caller {
    /// The tenant that the kernel vouches for.
    pub tenant: TenantId,
    /// Root or a member of the admin group.
    pub admin: bool,
    /// It came by a delegated channel: only this lease and those below it exist for it.
    pub confined_to: Option<LeaseId>,
    /// Which rule's limits it is held to; none: to those of all.
    pub rule: Option<u16>,
}

impl Caller {
    /// The tenant itself.
    #[must_use]
    pub fn of(tenant: TenantId) -> Self {
        Self { tenant, admin: false, confined_to: None, rule: None }
    }

    /// Whether leases of `tenant` may exist for this caller, unless it is confined.
    #[must_use]
    pub fn sees(self, tenant: TenantId) -> bool {
        self.admin || self.tenant == tenant
    }
}

/// What is counted against a tenant's limits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Leases in whatever state, but for the two below.
    pub leases: usize,
    /// Leases that are kept past their end.
    pub kept: usize,
    /// Leases that are out of the name space and can be brought back.
    pub gone: usize,
    /// Areas, reserved ones included.
    pub areas: usize,
    /// Bytes that leases were granted, but for those that were carved out of another one's.
    pub bytes: u64,
    /// Inodes, alike.
    pub inodes: u64,
}

impl Usage {
    /// Whether there is no lease, in whatever state.
    #[must_use]
    pub fn is_without_leases(&self) -> bool {
        self.leases == 0 && self.kept == 0 && self.gone == 0
    }

    /// Where a lease in this state is counted.
    pub(crate) fn of(&mut self, state: LeaseState) -> &mut usize {
        match state {
            LeaseState::Granting | LeaseState::Live | LeaseState::Searching | LeaseState::Ending => &mut self.leases,
            LeaseState::Kept { .. } => &mut self.kept,
            LeaseState::Gone { .. } => &mut self.gone,
        }
    }
}

impl Table {
    /// What this tenant has.
    #[must_use]
    pub fn usage(&self, tenant: TenantId) -> Usage {
        self.tenants.get(&tenant).copied().unwrap_or_default()
    }

    /// What all tenants together have.
    #[must_use]
    pub fn totals(&self) -> Usage {
        self.totals
    }

    /// Refuses one more lease than the tenant may have.
    pub(crate) fn check_lease_limit(&self, tenant: TenantId, caller: Caller) -> Result<(), Refusal> {
        let limit = self.limits_of(caller).leases_per_tenant;
        if self.usage(tenant).leases >= limit { Err(Refusal::LimitLeases { limit }) } else { Ok(()) }
    }

    /// A lease goes from one state to another.
    pub(crate) fn count_state(&mut self, tenant: TenantId, from: LeaseState, to: LeaseState) {
        self.count(tenant, |usage| {
            let left = usage.of(from);
            *left = left.saturating_sub(1);
            *usage.of(to) += 1;
        });
    }

    /// The tenants that have anything, with what that is.
    pub fn tenants(&self) -> impl Iterator<Item = (TenantId, Usage)> {
        self.tenants.iter().map(|(tenant, usage)| (*tenant, *usage))
    }

    /// Applies one change to the tenant's count and to the total alike.
    pub(crate) fn count(&mut self, tenant: TenantId, change: impl Fn(&mut Usage)) {
        let usage = self.tenants.entry(tenant).or_default();
        change(usage);
        if *usage == Usage::default() {
            self.tenants.remove(&tenant);
        }
        change(&mut self.totals);
    }

    /// Whether this lease is there and not about to end.
    pub(crate) fn lives(&self, id: LeaseId) -> bool {
        self.leases.get(&id).is_some_and(|lease| lease.is_there() && !lease.ends())
    }
}
