//! Leases that have ended, are out of sight, and can be brought back for a while.

use std::sync::Arc;

use scratch_fs::{FsError, GoneName};
use scratch_lease::{BootTime, Caller, LeaseId, LeaseState, PoolId, Refusal};
use scratch_proto::v1;

use crate::broker::{Broker, Dead};
use crate::clock;
use crate::reason::RequestError;
use crate::translate::lease_id;

impl Broker {
    /// Takes an ended lease out of sight, so that it can be brought back; its record stays. False: it is to be freed.
    pub(crate) fn put_aside(&self, id: LeaseId) -> bool {
        let Some(until) = self.lock().table.undeletable(id, clock::now()) else { return false };
        let Some((pool, place)) = self.site_of(id) else { return false };
        // What is in memory goes back to all.
        if !pool.disk.has_paths() {
            return false;
        }
        let name = name(id, until);
        match pool.disk.gone().take(pool.disk.root(), name, place) {
            Ok(true) => {}
            Ok(false) => return false,
            Err(error) => {
                tracing::warn!(lease = %id, %error, "a lease that has ended can't be put aside, so it is freed");
                return false;
            }
        }
        let above = self.quota_above(id);
        let gone = self.lock().table.gone(id, until);
        above.into_iter().for_each(|above| self.fit_or_tell(above));
        let Some(holders) = gone else {
            // Somebody wanted it freed meanwhile, found nothing at its path and forgot it.
            self.discard(pool.id, name, None);
            return true;
        };
        self.cgroups.kill(id, &holders);
        self.let_go(id, &holders);
        self.arm_timer();
        self.activity();
        true
    }

    /// Frees a lease that is out of sight. False: it is not.
    ///
    /// # Errors
    /// When its directory can't be moved.
    pub(crate) fn free_gone(&self, id: LeaseId, dead: Dead) -> Result<bool, FsError> {
        let state = self.lock().table.lease(id).map(scratch_lease::Lease::state);
        let Some(LeaseState::Gone { until }) = state else { return Ok(false) };
        let pool = &self.pools.get(dead.pool).disk;
        let tree = pool.gone().discard(name(id, until), dead.tenant, pool.trash())?;
        tree.into_iter().for_each(|tree| self.reaper.push(dead.pool, tree, None));
        Ok(true)
    }

    /// Makes trash of what nobody can bring back.
    pub(crate) fn discard(&self, pool: PoolId, name: GoneName, tenant: Option<u32>) {
        let disk = &self.pools.get(pool).disk;
        let tenant = tenant.or_else(|| disk.gone().owner(name).ok()).unwrap_or(self.uid);
        match disk.gone().discard(name, tenant, disk.trash()) {
            Ok(tree) => tree.into_iter().for_each(|tree| self.reaper.push(pool, tree, None)),
            Err(error) => tracing::warn!(%error, "what can't be brought back any more stays until the next start"),
        }
    }

    /// Brings a lease back to its path, where it is kept; its record says so before the reply. Runs on a side thread, one
    /// lease's in order.
    ///
    /// # Errors
    /// LEASE_UNKNOWN, UNDELETE_OVER, LEASE_ENDING, LIMIT_KEEP; the file system's. It is as it was then.
    pub(crate) fn undelete(self: &Arc<Self>, caller: Caller, lease: &str) -> Result<v1::Lease, RequestError> {
        let id = lease_id(lease)?;
        let undeleted = self.lock().table.undelete(id, caller, clock::now());
        match undeleted {
            Ok(Some(until)) => self.give_back(id, until)?,
            Ok(None) => {}
            Err(Refusal::LeaseUnknown) if self.ended.has(id, caller) => return Err(RequestError::UndeleteOver),
            Err(refusal) => return Err(refusal.into()),
        }
        let state = self.lock();
        let lease = state.table.get(id, caller)?;
        Ok(self.wire_lease(lease, state.table.left(lease)))
    }

    fn give_back(self: &Arc<Self>, id: LeaseId, until: BootTime) -> Result<(), RequestError> {
        let name = name(id, until);
        self.arm_timer();
        let (pool, place) = self.site_of(id).ok_or(Refusal::LeaseUnknown)?;
        let given = pool.disk.gone().give_back(name, pool.disk.root()).map_err(RequestError::from);
        let Err(error) = given.and_then(|()| self.rewrite_record(id)) else {
            tracing::info!(lease = %id, "brought back");
            return Ok(());
        };
        if let Err(error) = pool.disk.gone().take(pool.disk.root(), name, place) {
            // Its record is the old one: the next start ends it, or finds it held.
            tracing::error!(lease = %id, %error, "a lease is half brought back");
        }
        let (is_back, state) = {
            let mut state = self.lock();
            let is_back = state.table.undelete_failed(id, until);
            (is_back, state.table.lease(id).map(scratch_lease::Lease::state))
        };
        // Revoked meanwhile, when there was nothing at its path.
        if !is_back && matches!(state, None | Some(LeaseState::Ending)) {
            self.discard(pool.id, name, None);
        }
        self.settle();
        Err(error)
    }
}

fn name(lease: LeaseId, until: BootTime) -> GoneName {
    GoneName { until: until.0, lease }
}
