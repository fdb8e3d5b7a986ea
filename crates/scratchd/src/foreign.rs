//! Areas in directories that clients pass: which there are, how many a tenant may have, and the threads that work on them.
//! Such a directory may never answer, so that each tenant has a few threads of its own and only its own wait.

mod end;
mod make;
mod start;

pub(crate) use make::Made;

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, Weak};
use std::time::Duration;

use rustix::io::Errno;
use scratch_fs::ForeignEntry;
use scratch_lease::{AreaKind, LeaseId, PoolId};

use crate::broker::Broker;
use crate::reason::RequestError;

/// One area: its lease and its number there.
type AreaId = (LeaseId, u32);

/// What is done on a tenant's threads; with the error when there is none for it.
type Job = Box<dyn FnOnce(Result<(), Errno>) + Send>;

/// All areas in clients' directories.
#[derive(Debug, Default)]
pub(crate) struct Foreign {
    known: Mutex<Known>,
    /// The boot that this broker runs in.
    boot: OnceLock<String>,
}

#[derive(Debug, Default)]
struct Known {
    /// By lease: what a lease has is found without a look at all others'.
    areas: BTreeMap<AreaId, Area>,
    tenants: HashMap<u32, Tenant>,
}

/// An area that stands in a pool's book.
#[derive(Debug)]
struct Area {
    entry: ForeignEntry,
    /// In whose book it stands.
    pool: PoolId,
    /// Held while this broker runs; one of the broker before is looked for when the area is to go.
    parent: Option<Arc<Parent>>,
    /// It is to go, or on its way.
    ends: bool,
}

/// A client's directory.
#[derive(Debug)]
struct Parent {
    held: OwnedFd,
}

/// What tells a held directory from others: it keeps its mount from going, so that none of these is given away meanwhile.
type ParentKey = (u64, u64, u64);

/// One tenant's.
#[derive(Default)]
struct Tenant {
    areas: usize,
    parents: HashMap<ParentKey, Weak<Parent>>,
    waiting: VecDeque<Job>,
    /// Threads, those that wait for a directory included.
    running: usize,
}

impl std::fmt::Debug for Tenant {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tenant").field("areas", &self.areas).field("running", &self.running).finish_non_exhaustive()
    }
}

impl Foreign {
    /// Where an area is and what it is; None for one that is not there, or is to go.
    pub(crate) fn shown(&self, lease: LeaseId, number: u32) -> Option<(AreaKind, PathBuf)> {
        let known = self.lock();
        let area = known.areas.get(&(lease, number)).filter(|area| !area.ends)?;
        Some((kind_of(&area.entry), area.entry.shown()))
    }

    /// The areas of a lease that are there.
    fn of_lease(&self, lease: LeaseId) -> Vec<u32> {
        let known = self.lock();
        let of_lease = known.areas.range((lease, 0)..=(lease, u32::MAX));
        of_lease.filter(|(_, area)| !area.ends).map(|((_, number), _)| *number).collect()
    }

    /// One area that from now on is to go. False: it is already, or is not there.
    fn take(&self, id: AreaId) -> bool {
        let mut known = self.lock();
        known.areas.get_mut(&id).is_some_and(|area| !std::mem::replace(&mut area.ends, true))
    }

    /// Counts an area before it is made: nobody may end it while that is under way.
    fn reserve(&self, tenant: u32, limit: usize) -> Result<(), RequestError> {
        let mut known = self.lock();
        let tenant = known.tenants.entry(tenant).or_default();
        if tenant.areas >= limit {
            return Err(RequestError::LimitForeign { what: "areas in directories of its own", limit });
        }
        tenant.areas += 1;
        Ok(())
    }

    /// One that was counted was not made.
    fn unreserve(&self, uid: u32) {
        let mut known = self.lock();
        if let Some(tenant) = known.tenants.get_mut(&uid) {
            tenant.areas -= 1;
            known.clean(uid);
        }
    }

    /// One that was counted is there.
    fn enter(&self, id: AreaId, area: Area) {
        self.lock().areas.insert(id, area);
    }

    /// Nothing is left of an area.
    fn forget(&self, id: AreaId) {
        let area = self.lock().areas.remove(&id);
        if let Some(area) = area {
            let uid = area.entry.uid;
            // Closed outside of the lock: what it held may never answer.
            drop(area);
            self.unreserve(uid);
        }
    }

    /// The same directory is held once.
    fn hold(&self, tenant: u32, key: ParentKey, held: OwnedFd, limit: usize) -> Result<Arc<Parent>, RequestError> {
        let mut known = self.lock();
        let parents = &mut known.tenants.entry(tenant).or_default().parents;
        if let Some(parent) = parents.get(&key).and_then(Weak::upgrade) {
            drop(known);
            return Ok(parent);
        }
        parents.retain(|_, parent| parent.strong_count() > 0);
        if parents.len() >= limit {
            drop(known);
            return Err(RequestError::LimitForeign { what: "directories of its own", limit });
        }
        let parent = Arc::new(Parent { held });
        parents.insert(key, Arc::downgrade(&parent));
        Ok(parent)
    }

    fn lock(&self) -> MutexGuard<'_, Known> {
        self.known.lock().expect("a thread that panics ends the process")
    }
}

impl Known {
    /// A tenant of whom there is nothing takes no memory.
    fn clean(&mut self, uid: u32) {
        let is_empty = |tenant: &Tenant| {
            tenant.areas == 0
                && tenant.running == 0
                && tenant.waiting.is_empty()
                && tenant.parents.values().all(|parent| parent.strong_count() == 0)
        };
        if self.tenants.get(&uid).is_some_and(is_empty) {
            self.tenants.remove(&uid);
        }
    }
}

impl Broker {
    /// Does something on one of a tenant's threads, in order of arrival as far as there are threads.
    fn run_foreign(self: &Arc<Self>, tenant: u32, job: Job) {
        {
            let mut known = self.foreign.lock();
            let tenant = known.tenants.entry(tenant).or_default();
            tenant.waiting.push_back(job);
            if tenant.running >= self.settings.get().foreign.threads {
                return;
            }
            tenant.running += 1;
        }
        let broker = Arc::clone(self);
        let thread = std::thread::Builder::new().name("foreign".to_owned());
        let Err(error) = thread.spawn(move || broker.work_for(tenant)) else { return };
        let errno = Errno::from_io_error(&error).unwrap_or(Errno::AGAIN);
        let refused = {
            let mut known = self.foreign.lock();
            let found = known.tenants.entry(tenant).or_default();
            found.running -= 1;
            // Another thread of the tenant gets to it.
            let refused = if found.running == 0 { std::mem::take(&mut found.waiting) } else { VecDeque::new() };
            known.clean(tenant);
            refused
        };
        refused.into_iter().for_each(|job| job(Err(errno)));
    }

    /// A thread's life: as long as there is something to do.
    fn work_for(&self, tenant: u32) {
        loop {
            let job = {
                let mut known = self.foreign.lock();
                let found = known.tenants.entry(tenant).or_default();
                let job = found.waiting.pop_front();
                if job.is_none() {
                    found.running -= 1;
                    known.clean(tenant);
                }
                job
            };
            let Some(job) = job else { return };
            job(Ok(()));
        }
    }

    /// Calls `then` when a directory has had the time that it may take to answer.
    fn after_deadline(&self, then: impl FnOnce(Duration) + Send + 'static) {
        let deadline = self.settings.get().foreign.deadline;
        // Only unit tests have none.
        if let Some(tokio) = self.tokio.get() {
            tokio.spawn(async move {
                tokio::time::sleep(deadline).await;
                then(deadline);
            });
        }
    }
}

fn kind_of(entry: &ForeignEntry) -> AreaKind {
    if entry.is_directory { AreaKind::Directory } else { AreaKind::File }
}
