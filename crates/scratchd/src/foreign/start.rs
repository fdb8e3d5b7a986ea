//! What a start does with the areas in clients' directories that the broker before has left in a pool's book: those of leases
//! that live are theirs again, all others are ended, in this boot and in any other. Nothing of a client's is looked at here.

use std::sync::Arc;

use scratch_fs::{ForeignEntry, FoundForeign, Torn};
use scratch_lease::{AreaKey, LeaseId, LeaseState, PoolId};

use super::{Area, kind_of};
use crate::broker::Broker;
use crate::debt::{Debt, Subject};

impl Broker {
    /// Says which boot this is; before anything is made.
    pub(crate) fn know_boot(&self, boot: &str) {
        // A start is made once.
        let _ = self.foreign.boot.set(boot.to_owned());
    }

    /// Takes over what stands in the book, once it is known which leases live.
    pub(crate) fn recover_foreign(self: &Arc<Self>, found: Vec<(PoolId, FoundForeign)>) {
        for (pool, (lease, number, entry)) in found {
            match entry {
                Ok(entry) => {
                    let lives = self.adopt_foreign(lease, number, &entry);
                    // Whatever the limit is by now: it is there.
                    let _ = self.foreign.reserve(entry.uid, usize::MAX);
                    self.foreign.enter((lease, number), Area { entry, pool, parent: None, ends: !lives });
                    if !lives {
                        self.reaper.push_foreign(Subject::Foreign(lease, number));
                    }
                }
                Err(Torn) => {
                    let inside = self.pools.get(pool).disk.path().join(".scratch/foreign");
                    let path = inside.join(format!("{lease}.{number}"));
                    tracing::error!(path = %path.display(), "a torn entry: what it was about stays; see `scratch debt`");
                    self.owe(Debt::new(Subject::Foreign(lease, number), (pool, self.uid), path, "torn record"));
                }
            }
        }
    }

    /// False: it is to go. In a lease that lives its number is not given to another area as long as something has it.
    fn adopt_foreign(&self, lease: LeaseId, number: u32, entry: &ForeignEntry) -> bool {
        let mut state = self.lock();
        let found = state.table.lease(lease).map(scratch_lease::Lease::state);
        let is_there = found.is_some_and(|state| !matches!(state, LeaseState::Ending | LeaseState::Gone { .. }));
        let was_told = entry.is_named && !entry.has_ended;
        // A kept lease takes no areas any more, and has this one all the same.
        if state.table.adopt_area(lease, AreaKey::Number(number), kind_of(entry)) && !was_told {
            state.table.remove_area(lease, &AreaKey::Number(number));
        }
        is_there && was_told
    }
}
