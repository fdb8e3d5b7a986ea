//! Quotas on disk follow the table's word: what a lease is held to is taken off those above it before it is made, and given
//! back when it is forgotten.

use scratch_fs::{Firmness, FsError, NewQuota, QuotaId};
use scratch_lease::{Lease, LeaseId, Quota, Refusal, Share, Terms};
use scratch_proto::v1;

use crate::broker::Broker;
use crate::pools::InUse;
use crate::reason::RequestError;
use crate::translate::wire_firmness;

/// What a lease that goes leaves to be seen to on disk.
#[derive(Debug)]
pub(crate) struct Loosened {
    /// Its own quota.
    own: QuotaId,
    /// The lease whose quota may have more again.
    above: Option<LeaseId>,
}

impl Broker {
    /// On what terms a lease with these limits is granted in a pool.
    ///
    /// # Errors
    /// Of fstatvfs(3).
    pub(crate) fn terms(&self, pool: &InUse, share: Share, soft: bool) -> Result<Terms, FsError> {
        if share == Share::default() {
            return Ok(Terms { enforced: pool.disk.enforced(), room: Share::default(), soft });
        }
        pool.disk.look_at_quotas();
        Ok(Terms { enforced: pool.disk.enforced(), room: room(pool)?, soft })
    }

    /// What the directory of a lease that is being granted is to be counted in. What it has of its own is taken off the
    /// quota above first, so that both together never have more than that one had.
    ///
    /// # Errors
    /// LIMIT_BYTES and LIMIT_INODES where the leases above have used too much by now.
    pub(crate) fn new_quota(&self, pool: &InUse, id: LeaseId) -> Result<NewQuota, RequestError> {
        let state = self.lock();
        let lease = state.table.lease(id).ok_or(Refusal::LeaseUnknown)?;
        match lease.quota() {
            Quota::Unlimited | Quota::Metered => Ok(NewQuota::None),
            Quota::Of(above) => Ok(NewQuota::Of(state.quotas.get(&above).copied().unwrap_or_default())),
            Quota::Own => {
                let limits = state.table.quota_limits(lease);
                let above = state.table.quota_above(lease);
                drop(state);
                if let Some(above) = above {
                    self.make_room(pool, id, above)?;
                }
                Ok(NewQuota::Own(limits))
            }
        }
    }

    /// Sets the quota above to what is left of it. What is used there by now is not to be had any more.
    fn make_room(&self, pool: &InUse, id: LeaseId, above: LeaseId) -> Result<(), RequestError> {
        self.fit(above)?;
        let quota = self.lock().quotas.get(&above).copied().unwrap_or_default();
        let Some(used) = pool.disk.quota_usage(quota)? else { return Ok(()) };
        let state = self.lock();
        let lease = state.table.lease(id).ok_or(Refusal::LeaseUnknown)?;
        Ok(state.table.check_used(lease, Share { bytes: Some(used.bytes), inodes: used.inodes })?)
    }

    /// Sets a lease's own quota to what the table leaves to it. Of two threads the later one has the last word.
    pub(crate) fn fit(&self, id: LeaseId) -> Result<(), FsError> {
        let _one_by_one = self.fitting.lock().expect("a thread that panics ends the process");
        let (pool, quota, limits) = {
            let state = self.lock();
            let Some(lease) = state.table.lease(id).filter(|lease| lease.quota() == Quota::Own) else { return Ok(()) };
            let quota = state.quotas.get(&id).copied().unwrap_or_default();
            (lease.pool(), quota, state.table.quota_limits(lease))
        };
        self.pools.get(pool).disk.set_limits(quota, limits)
    }

    /// As [`Self::fit`], where nobody waits for the answer.
    pub(crate) fn fit_or_tell(&self, id: LeaseId) {
        if let Err(error) = self.fit(id) {
            tracing::error!(lease = %id, %error, "a lease is held to other limits than it has");
        }
    }

    /// Whether a lease is counted in a quota.
    pub(crate) fn is_counted(&self, id: LeaseId) -> bool {
        self.lock().quotas.get(&id).is_some_and(|quota| *quota != QuotaId::None)
    }

    /// What the quota that a lease is counted in has; nothing where that is not known.
    pub(crate) fn used(&self, id: LeaseId) -> Option<v1::Used> {
        let quota = self.lock().quotas.get(&id).copied()?;
        let used = self.pool_of(id)?.disk.quota_usage(quota).ok().flatten()?;
        Some(v1::Used { bytes: Some(used.bytes), inodes: used.inodes })
    }

    /// The lease above whose quota this one's was taken off.
    pub(crate) fn quota_above(&self, id: LeaseId) -> Option<LeaseId> {
        let state = self.lock();
        state.table.quota_above(state.table.lease(id)?)
    }

    /// What is to be seen to when this lease is forgotten.
    pub(crate) fn loosened(&self, id: LeaseId) -> Option<Loosened> {
        let state = self.lock();
        let lease = state.table.lease(id).filter(|lease| lease.quota() == Quota::Own)?;
        let own = state.quotas.get(&id).copied().unwrap_or_default();
        Some(Loosened { own, above: state.table.quota_above(lease) })
    }

    /// A lease has been forgotten: the quota above may have more, and the number of its own is free when its trash is.
    pub(crate) fn loosen(&self, pool: &InUse, loosened: &Loosened) {
        pool.disk.give_back_quota(loosened.own);
        if let Some(above) = loosened.above {
            self.fit_or_tell(above);
        }
    }

    /// Changes a lease's limits, on disk too.
    ///
    /// # Errors
    /// What the table refuses; those of the quota. Nothing has changed then.
    pub(crate) fn resize(&self, caller: scratch_lease::Caller, id: LeaseId, wanted: Share) -> Result<(), RequestError> {
        let pool = self.pool_of(id).ok_or(Refusal::LeaseUnknown)?;
        let room = room(pool)?;
        let (before, above) = {
            let mut state = self.lock();
            let before = state.table.update_limits(id, caller, wanted, room)?;
            (before, state.table.lease(id).and_then(|lease| state.table.quota_above(lease)))
        };
        let grows = |before: Option<u64>, wanted: Option<u64>| wanted > before;
        let grows = grows(before.bytes, wanted.bytes) || grows(before.inodes, wanted.inodes);
        let more = |wanted: Option<u64>, before| {
            wanted.zip(before).map_or(0, |(wanted, before)| wanted.saturating_sub(before))
        };
        let more = (more(wanted.bytes, before.bytes), more(wanted.inodes, before.inodes));
        let fit = || self.fit_resized(pool, id, above.filter(|_| grows), above.filter(|_| !grows));
        // What is carved out of another lease is there already.
        let fitted = match above {
            Some(_) => fit(),
            None => pool.disk.with_memory(more, fit).map_err(RequestError::from).flatten(),
        };
        if fitted.is_err() {
            self.lock().table.restore_limits(id, before);
            above.into_iter().chain([id]).for_each(|lease| self.fit_or_tell(lease));
        }
        fitted
    }

    /// What is to have less goes first, the quota above or the lease's own.
    fn fit_resized(
        &self,
        pool: &InUse,
        id: LeaseId,
        first: Option<LeaseId>,
        last: Option<LeaseId>,
    ) -> Result<(), RequestError> {
        if let Some(above) = first {
            self.make_room(pool, id, above)?;
        }
        self.fit(id)?;
        last.map_or(Ok(()), |above| Ok(self.fit(above)?))
    }
}

/// What a pool may promise: what its configuration says, else what its file system has, where that holds leases to it.
fn room(pool: &InUse) -> Result<Share, FsError> {
    // A pool in memory sees to that itself.
    if !pool.disk.has_paths() {
        return Ok(Share::default());
    }
    let (size, inodes, enforced) = (pool.config.size, pool.config.inodes, pool.disk.enforced());
    let space = pool.disk.space()?;
    let found = |has: bool, figure: u64| Some(figure).filter(|figure| has && *figure != 0);
    Ok(Share {
        bytes: size.or_else(|| found(enforced.bytes, space.f_blocks.saturating_mul(space.f_frsize))),
        inodes: inodes.or_else(|| found(enforced.inodes, space.f_files)),
    })
}

/// How firm a lease's limits are: as the least firm of those that it has.
pub(crate) fn firmness(pool: &InUse, lease: &Lease) -> v1::Firmness {
    if pool.disk.firmness() == Firmness::Hard {
        return v1::Firmness::Hard;
    }
    let share = lease.share();
    let is_shared = matches!(lease.quota(), Quota::Of(_)) && share != Share::default();
    if lease.quota() == Quota::Metered || is_shared {
        return v1::Firmness::Soft;
    }
    let bytes = pool.disk.firmness();
    wire_firmness(share.inodes.map_or(bytes, |_| bytes.min(pool.disk.inodes_firmness())))
}
