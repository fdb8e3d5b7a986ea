//! Who a lease belongs to, who asks, and what a tenant has in the table.

use crate::{LeaseId, Refusal, Table};

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
}

impl Caller {
    /// The tenant itself.
    #[must_use]
    pub fn of(tenant: TenantId) -> Self {
        Self { tenant, admin: false, confined_to: None }
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
    /// Leases in the table, in whatever state.
    pub leases: usize,
    /// Areas, reserved ones included.
    pub areas: usize,
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
    pub(crate) fn check_lease_limit(&self, tenant: TenantId) -> Result<(), Refusal> {
        let limit = self.limits.leases_per_tenant;
        if self.usage(tenant).leases >= limit { Err(Refusal::LimitLeases { limit }) } else { Ok(()) }
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
