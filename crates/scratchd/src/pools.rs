//! The pools of a broker: each a storage root of its own, numbered by its place in the configuration.

use std::sync::atomic::AtomicBool;

use scratch_fs::{Place, Pool};
use scratch_lease::{LeaseId, PoolId};

use crate::broker::Broker;
use crate::config::PoolConfig;
use crate::high_water::Fullness;

/// One pool, open and locked.
#[derive(Debug)]
pub(crate) struct InUse {
    pub(crate) id: PoolId,
    pub(crate) config: PoolConfig,
    pub(crate) disk: Pool,
    /// The pool, or part of it, is not where its path says: nothing is granted in it.
    pub(crate) lost: AtomicBool,
    /// How full it was when it was looked at last.
    pub(crate) fullness: Fullness,
}

/// All pools; the first is whose name nobody gives.
#[derive(Debug)]
pub(crate) struct Pools(Vec<InUse>);

impl Pools {
    /// In the order of the configuration, which has one at least.
    pub(crate) fn new(pools: impl IntoIterator<Item = (PoolConfig, Pool)>) -> Self {
        let in_use = |(number, (config, disk))| InUse {
            id: PoolId(number),
            config,
            disk,
            lost: AtomicBool::new(false),
            fullness: Fullness::default(),
        };
        Self((0..).zip(pools).map(in_use).collect())
    }

    pub(crate) fn iter(&self) -> impl ExactSizeIterator<Item = &InUse> {
        self.0.iter()
    }

    /// The one of this number, which a lease has from here.
    pub(crate) fn get(&self, id: PoolId) -> &InUse {
        &self.0[usize::from(id.0)]
    }

    pub(crate) fn first(&self) -> &InUse {
        &self.0[0]
    }

    pub(crate) fn named(&self, name: &str) -> Option<&InUse> {
        self.0.iter().find(|pool| pool.config.name == name)
    }

    /// The one with this uuid.
    pub(crate) fn of_uuid(&self, uuid: &str) -> Option<&InUse> {
        self.0.iter().find(|pool| pool.disk.uuid() == uuid)
    }
}

impl Broker {
    /// The pool that a lease of the table lies in.
    pub(crate) fn pool_of(&self, lease: LeaseId) -> Option<&InUse> {
        let pool = self.lock().table.lease(lease)?.pool();
        Some(self.pools.get(pool))
    }

    /// That, and the directory that was made for it there.
    pub(crate) fn site_of(&self, lease: LeaseId) -> Option<(&InUse, Place)> {
        let state = self.lock();
        let pool = state.table.lease(lease)?.pool();
        Some((self.pools.get(pool), *state.places.get(&lease)?))
    }
}
