//! The meter: looks at intervals at what leases with limits have, where nothing holds them to those, and whether quotas still
//! count them. A thread of its own, since it walks trees. Waits on: the interval.

use std::collections::HashMap;
use std::os::fd::AsFd;
use std::sync::Arc;

use scratch_fs::{QuotaId, Usage};
use scratch_lease::{LeaseId, Quota, Reading};

use crate::broker::Broker;
use crate::clock;

/// Names below one lease that are looked at in one round; of one that has more it is only known what its quota counts.
const NAMES_MAX: usize = 1_000_000;

impl Broker {
    /// The meter's life.
    pub(crate) fn meter(self: &Arc<Self>) -> ! {
        loop {
            std::thread::park_timeout(self.settings.get().meter.interval);
            self.meter_all();
        }
    }

    fn meter_all(self: &Arc<Self>) {
        let leases = self.lock().table.to_meter();
        // Nobody gets round the limits of what is in memory.
        let on_disk = |id| self.pool_of(id).is_some_and(|pool| pool.disk.has_paths());
        // One may share the limits of several.
        let mut walked = HashMap::new();
        for (id, sharing) in leases.into_iter().filter(|(id, _)| on_disk(*id)) {
            let mut reading = Reading::default();
            let mut known = true;
            for lease in sharing {
                let found = *walked.entry(lease).or_insert_with(|| self.walk(lease));
                known &= found.is_some();
                let found = found.unwrap_or_default();
                reading.bytes = reading.bytes.saturating_add(found.bytes);
                reading.inodes = reading.inodes.saturating_add(found.inodes);
                reading.evaded |= found.evaded;
            }
            // Unknown is not over: it stays as it was found last.
            if known || reading.evaded {
                let consequence = self.settings.get().meter.consequence.into();
                self.lock().table.metered(id, reading, consequence, clock::now());
            }
        }
        self.settle();
    }

    /// What one lease has; None where that can't be told.
    fn walk(&self, id: LeaseId) -> Option<Reading> {
        let (quota, own) = {
            let state = self.lock();
            let own = matches!(state.table.lease(id)?.quota(), Quota::Own | Quota::Of(_));
            (state.quotas.get(&id).copied().unwrap_or_default(), own)
        };
        let directory = self.open_lease(id).ok()?;
        let quota = if own { quota } else { QuotaId::None };
        let walked = scratch_fs::usage_in_quota(directory.as_fd(), quota, NAMES_MAX)?;
        let Usage { bytes, inodes } = walked.usage;
        Some(Reading { bytes, inodes: inodes.saturating_sub(1), evaded: walked.evaded })
    }
}
