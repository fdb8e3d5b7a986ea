//! High water: looks how full pools are, and ends what may end for that. Waits on: the next second, where a pool is to have
//! leases ended.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use scratch_lease::{BootTime, HighWater, Resource, Space};

use crate::broker::Broker;
use crate::clock;
use crate::pools::InUse;
use crate::reason::RequestError;

/// How often a pool is looked at, at most.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// What was seen when a pool was looked at last.
#[derive(Debug, Default)]
pub(crate) struct Fullness(Mutex<Option<Look>>);

#[derive(Debug, Clone, Copy)]
struct Look {
    at: BootTime,
    /// What there was too much of, and the mark that it had passed.
    passed: Option<(Resource, u8)>,
}

impl InUse {
    /// What there is too much of in it, and the mark that it has passed, as of a second ago at most.
    pub(crate) fn above_high_water(&self) -> Option<(Resource, u8)> {
        let known = *self.fullness.0.lock().expect("a thread that panics ends the process");
        match known.filter(|look| clock::now().duration_since(look.at) < LOOK_EVERY) {
            Some(look) => look.passed,
            None => self.look_how_full(),
        }
    }

    /// The same as of now.
    fn look_how_full(&self) -> Option<(Resource, u8)> {
        let marks = HighWater { bytes: self.config.high_water.bytes, inodes: self.config.high_water.inodes };
        if marks == HighWater::default() {
            return None;
        }
        let now = clock::now();
        let passed = match self.disk.space() {
            Ok(space) => {
                let bytes = |blocks: u64| blocks.saturating_mul(space.f_frsize);
                let (used, inodes_used) =
                    (space.f_blocks.saturating_sub(space.f_bfree), space.f_files.saturating_sub(space.f_ffree));
                marks.passed(Space {
                    bytes: bytes(used.saturating_add(space.f_bavail)),
                    bytes_free: bytes(space.f_bavail),
                    inodes: inodes_used.saturating_add(space.f_favail),
                    inodes_free: space.f_favail,
                })
            }
            Err(error) => {
                tracing::warn!(%error, "how full the pool is is not known, granting on");
                None
            }
        };
        *self.fullness.0.lock().expect("a thread that panics ends the process") = Some(Look { at: now, passed });
        passed
    }
}

impl Broker {
    /// Refuses a grant in a pool that is above its high water.
    ///
    /// # Errors
    /// POOL_FULL.
    pub(crate) fn check_high_water(&self, pool: &InUse) -> Result<(), RequestError> {
        match pool.above_high_water() {
            None => Ok(()),
            Some((resource, percent)) => {
                Err(RequestError::PoolFull { pool: pool.config.name.clone(), resource: resource.name(), percent })
            }
        }
    }

    /// Ends preemptible leases of pools that are above their high water, one at a time: the next one when what the last one
    /// had is freed, and that was not enough. Never returns.
    pub(crate) async fn keep_below_high_water(self: Arc<Self>) {
        let watched = |pool: &&InUse| pool.config.high_water.end_preemptible;
        if self.pools.iter().filter(watched).count() == 0 {
            return;
        }
        let mut last = HashMap::new();
        loop {
            tokio::time::sleep(LOOK_EVERY).await;
            for pool in self.pools.iter().filter(watched) {
                // Before the look: what it had may just have been freed.
                if last.get(&pool.id).is_some_and(|lease| self.reaper.has_trash_of(*lease)) {
                    continue;
                }
                let Some((resource, percent)) = pool.look_how_full() else { continue };
                let ended = self.lock().table.preempt(pool.id);
                if let Some(lease) = ended {
                    last.insert(pool.id, lease);
                    let (pool, resource) = (&pool.config.name, resource.name());
                    tracing::warn!(%lease, pool, resource, percent, "the pool is too full: a preemptible lease ends");
                    self.settle();
                }
            }
        }
    }
}
