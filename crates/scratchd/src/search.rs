//! The search for processes that still belong to a lease without holders: they name it in their environment. A thread for
//! each tenant that has something to search for, so that none can hold up another's.

use std::collections::HashMap;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::Duration;

use scratch_lease::{Lease, LeaseId, LeaseState, NewHolder};

use crate::broker::Broker;
use crate::channel::lease_key;
use crate::clock;
use crate::process::{self, HeldProcess, Wanted};

/// How long to wait before looking again where the system would not let us look.
const AGAIN_AFTER: Duration = Duration::from_secs(1);

/// Leases to search for, by tenant. A tenant that is in here has a thread.
#[derive(Debug, Default)]
pub(crate) struct Searches {
    waiting: Mutex<HashMap<u32, Vec<LeaseId>>>,
    done: Condvar,
}

impl Searches {
    fn lock(&self) -> MutexGuard<'_, HashMap<u32, Vec<LeaseId>>> {
        self.waiting.lock().expect("a thread that panics ends the process")
    }

    /// Waits until every search is over, or for `limit`.
    pub(crate) fn wait(&self, limit: Duration) {
        let waiting = self.lock();
        let under_way = |waiting: &mut HashMap<u32, Vec<LeaseId>>| !waiting.is_empty();
        let waited = self.done.wait_timeout_while(waiting, limit, under_way);
        drop(waited.expect("a thread that panics ends the process"));
    }
}

impl Broker {
    /// Searches for a lease's processes; what comes of it is settled by the tenant's search thread.
    pub(crate) fn search(self: &Arc<Self>, id: LeaseId) {
        let Some(tenant) = self.lock().table.lease(id).map(|lease| lease.tenant().0) else { return };
        let mut waiting = self.searches.lock();
        if let Some(leases) = waiting.get_mut(&tenant) {
            leases.push(id);
            return;
        }
        waiting.insert(tenant, vec![id]);
        drop(waiting);
        let broker = Arc::clone(self);
        let search = move || broker.run_searches(tenant);
        if let Err(error) = std::thread::Builder::new().name("search".to_owned()).spawn(search) {
            tracing::warn!(%error, "no thread for a search, searching here");
            self.run_searches(tenant);
        }
    }

    fn run_searches(self: &Arc<Self>, tenant: u32) {
        loop {
            let leases = {
                let mut waiting = self.searches.lock();
                let leases = waiting.get_mut(&tenant).map(std::mem::take).unwrap_or_default();
                if leases.is_empty() {
                    waiting.remove(&tenant);
                    self.searches.done.notify_all();
                    return;
                }
                leases
            };
            self.search_for(tenant, &leases);
        }
    }

    /// One pass over /proc serves all of a tenant's leases that wait for one.
    fn search_for(self: &Arc<Self>, tenant: u32, leases: &[LeaseId]) {
        let mut wanted = Wanted::new();
        {
            let state = self.lock();
            for id in leases {
                // A process names the innermost lease that it runs under, and holds all those above.
                wanted.extend(state.table.subtree(*id).into_iter().map(|named| (named, *id)));
            }
        }
        let search = loop {
            match process::search_environments(tenant, wanted.clone()) {
                Ok(found) => break found,
                // Unknown is not dead: nothing ends before it could be looked.
                Err(errno) => {
                    tracing::warn!(%errno, "the search for processes of ended leases failed, looking again");
                    std::thread::sleep(AGAIN_AFTER);
                }
            }
        };
        for (lease, process) in search {
            tracing::debug!(%lease, pid = process.id.pid, "held by what its processes left running");
            self.hold_by_process(lease, process);
        }
        let mut state = self.lock();
        for lease in leases {
            state.table.searched(*lease);
        }
        drop(state);
        self.settle();
    }

    fn hold_by_process(self: &Arc<Self>, lease: LeaseId, process: HeldProcess) {
        let attached = {
            let mut state = self.lock();
            let searched = state.table.lease(lease).map(Lease::state);
            // One that has ended meanwhile and is kept is for its tenant to bring back.
            if !matches!(searched, Some(LeaseState::Live | LeaseState::Searching)) {
                return;
            }
            state.table.attach(lease, self.own_word(), NewHolder::Process(process.id), clock::now())
        };
        match attached {
            Ok(holder) => {
                self.watch_process(lease, holder.id, process);
                let broker = Arc::clone(self);
                let tenant = self.lock().table.lease(lease).map_or(self.uid, |lease| lease.tenant().0);
                // A lease's record is written by one thread at a time.
                self.side.run(tenant, lease_key(lease.as_str()), move || {
                    if let Err(error) = broker.rewrite_record(lease) {
                        tracing::warn!(%lease, %error, "a restart will have to search for this process again");
                    }
                });
            }
            Err(refusal) => tracing::warn!(%lease, %refusal, "a process of this lease can't hold it, ignoring"),
        }
    }
}
