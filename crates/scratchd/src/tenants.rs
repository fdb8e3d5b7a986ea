//! What each tenant has of what it may have.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use scratch_lease::{Caller, TenantId, Usage};
use scratch_proto::v1;

use crate::broker::Broker;
use crate::load::InUse;
use crate::peer::Identity;
use crate::reaper::Owed;
use crate::rules::Place;

/// Tenants that are shown at most.
const SHOWN_MAX: usize = 4096;

impl Broker {
    /// Those that this caller may see, by uid, without their names; and how many more there are.
    pub(crate) fn tenants(&self, caller: Caller) -> (Vec<v1::TenantStatus>, u64) {
        let mut known: BTreeMap<u32, (Usage, Option<Arc<Identity>>)> = {
            let state = self.lock();
            let mut known: BTreeMap<_, _> =
                state.table.tenants().map(|(tenant, usage)| (tenant.0, (usage, None))).collect();
            for identity in state.identities.values() {
                known.entry(identity.uid).and_modify(|(_, of)| *of = Some(Arc::clone(identity)));
            }
            known
        };
        let owed = self.reaper.owed_by_tenant();
        let others: BTreeSet<u32> = self.loads.all().into_iter().chain(owed.keys().copied()).collect();
        for tenant in others.into_iter().chain([caller.tenant.0]) {
            known.entry(tenant).or_default();
        }
        known.retain(|tenant, _| caller.sees(TenantId(*tenant)));
        let left_out = known.len().saturating_sub(SHOWN_MAX) as u64;
        let row = |(tenant, (usage, identity)): (u32, (Usage, Option<Arc<Identity>>))| {
            let rule = if tenant == caller.tenant.0 { caller.rule } else { self.rule_of_tenant(tenant, identity) };
            let held = Caller { rule, ..Caller::of(TenantId(tenant)) };
            self.tenant_status(held, usage, owed.get(&tenant).copied().unwrap_or_default())
        };
        (known.into_iter().take(SHOWN_MAX).map(row).collect(), left_out)
    }

    /// That of its last connection, else the one that fits whose leases there are.
    fn rule_of_tenant(&self, tenant: u32, identity: Option<Arc<Identity>>) -> Option<u16> {
        let nobody = || Arc::new(Identity { uid: tenant, gid: u32::MAX, groups: Vec::new() });
        match self.loads.rule(tenant) {
            Some(rule) => rule,
            None => self.settings.get().first_fit(&identity.unwrap_or_else(nobody), Place::Nowhere),
        }
    }

    fn tenant_status(&self, held: Caller, usage: Usage, owed: Owed) -> v1::TenantStatus {
        let tenant = held.tenant.0;
        let settings = self.settings.get();
        let limits = settings.limits_of(held);
        let InUse { connections, calls, watches, unread } = self.loads.in_use(tenant);
        let of = |key: &str, used: usize, limit: usize| of_size(key, used as u64, Some(limit as u64));
        let some = |limit: u64| Some(limit).filter(|limit| *limit > 0);
        v1::TenantStatus {
            tenant: Some(v1::Tenant { uid: tenant, name: String::new() }),
            uses: vec![
                of("leases", usage.leases, limits.leases),
                of("areas", usage.areas, limits.areas),
                of_size("bytes", usage.bytes, some(limits.bytes)),
                of_size("inodes", usage.inodes, some(limits.inodes)),
                of("connections", connections, limits.connections),
                of("calls", calls, limits.calls),
                of("watches", watches, limits.watches),
                of("tickets", self.tickets.open(tenant), limits.tickets),
                of("unread_descriptors", unread, limits.unread_descriptors),
                of("keep.leases_max", usage.kept, self.lock().table.limits_of(held).kept_per_tenant),
            ],
            trash: owed.trash as u64,
            debt: owed.debts as u64,
            debt_bytes: owed.bytes,
        }
    }
}

fn of_size(key: &str, used: u64, limit: Option<u64>) -> v1::Use {
    v1::Use { key: key.to_owned(), used, limit }
}
