//! What others do to a pool while it is in use: a lease's directory that is taken away is lost, a pool that is moved away
//! grants nothing. Noticed and told, never mended. Waits on: inotify. See docs/decisions/0009.

use std::collections::BTreeSet;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::sync::atomic::Ordering;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::inotify::{ReadFlags, Reader};
use rustix::io::Errno;
use scratch_fs::{FsError, Misplaced, TamperWatches};
use scratch_lease::{LeaseId, PoolId, Refusal};

use crate::broker::{Broker, State};
use crate::pools::InUse;
use crate::reason::RequestError;

/// How long names are left to gather before they are looked at: each lease that ends is one, and is nobody's tampering.
const GATHER: Duration = Duration::from_millis(100);

/// What inotify has told of.
#[derive(Debug, Default)]
struct Seen {
    leases: BTreeSet<LeaseId>,
    records: BTreeSet<LeaseId>,
    /// Something of the pool's own, or so much that not all was told.
    pool: bool,
    all: bool,
}

impl Broker {
    /// The thread's life. Where inotify can't be had, loss is noticed by health, by verify, and where it is met.
    pub(crate) fn watch_tampering(&self, pool: PoolId) {
        let pool = self.pools.get(pool);
        match pool.disk.watch_tampering() {
            Ok((inotify, watches)) => {
                // Before the watches were there nothing was told.
                self.check_pool(pool);
                self.follow(pool, &inotify, watches);
            }
            Err(error) => tracing::warn!(%error, "tampering with the pool is noticed late: nothing tells of it"),
        }
    }

    fn follow(&self, pool: &InUse, inotify: &OwnedFd, watches: TamperWatches) {
        let mut buffer = Box::new_uninit_slice(64 << 10);
        loop {
            let mut inotify_only = [PollFd::new(inotify, PollFlags::IN)];
            match poll(&mut inotify_only, None) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(errno) => return tracing::error!(%errno, "tampering with the pool is noticed late from now on"),
            }
            std::thread::sleep(GATHER);
            self.judge(pool, &read(inotify, watches, &mut buffer));
        }
    }

    fn judge(&self, pool: &InUse, seen: &Seen) {
        let is_live = |state: &State, id: &LeaseId| {
            state.table.lease(*id).is_some_and(|lease| lease.pool() == pool.id && lease.reason().is_none())
        };
        if seen.pool || seen.all {
            self.check_pool(pool);
        }
        let live: Vec<LeaseId> = {
            let state = self.lock();
            let is_live = |id: &LeaseId| is_live(&state, id);
            if seen.all {
                state.table.leases().map(scratch_lease::Lease::id).filter(is_live).collect()
            } else {
                seen.leases.iter().copied().filter(is_live).collect()
            }
        };
        live.into_iter().for_each(|id| _ = self.is_lost(id));
        for id in &seen.records {
            let is_missing = matches!(pool.disk.record(*id), Ok(None));
            if is_missing && is_live(&self.lock(), id) {
                let path = pool.disk.record_path(*id);
                tracing::error!(lease = %id, path = %path.display(), "somebody has taken away the record of a live lease");
            }
        }
    }

    /// Looks for a lease's directory. What can't be looked at is not lost.
    pub(crate) fn is_lost(&self, id: LeaseId) -> bool {
        let Some((pool, place)) = self.site_of(id) else { return false };
        let lost = match pool.disk.is_in_place(id, place) {
            Ok(is_in_place) => !is_in_place,
            Err(error) => {
                tracing::warn!(lease = %id, %error, "whether it is lost can't be told, ignoring");
                return false;
            }
        };
        // After the look: one that was ended meanwhile has its directory elsewhere by right.
        let is_news = self.lock().table.set_lost(id, lost);
        let path = pool.disk.lease_path(id);
        match (is_news, lost) {
            (true, true) => tracing::error!(lease = %id, path = %path.display(), "lost: somebody has taken it away"),
            (true, false) => tracing::info!(lease = %id, path = %path.display(), "it is back in its place"),
            (false, _) => {}
        }
        self.lock().table.lease(id).is_some_and(scratch_lease::Lease::is_lost)
    }

    /// Opens a lease's directory: that one, whatever has its name.
    ///
    /// # Errors
    /// LEASE_UNKNOWN, LEASE_LOST, or of openat(2).
    pub(crate) fn open_lease(&self, id: LeaseId) -> Result<OwnedFd, RequestError> {
        let (pool, place) = self.site_of(id).ok_or(Refusal::LeaseUnknown)?;
        if !pool.disk.reaches(id) {
            return Err(RequestError::MemoryLost);
        }
        match pool.disk.open_lease(id, place) {
            Err(FsError { errno: Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::STALE, .. })
                if self.is_lost(id) =>
            {
                Err(Refusal::LeaseLost.into())
            }
            opened => Ok(opened?),
        }
    }

    /// What of a pool is not where its path says. Nothing is granted while there is any; what can't be looked at counts as
    /// before.
    pub(crate) fn check_pool(&self, pool: &InUse) -> Vec<Misplaced> {
        let misplaced = match pool.disk.misplaced() {
            Ok(misplaced) => misplaced,
            Err(error) => {
                tracing::warn!(%error, "whether the pool is where its path says can't be told, ignoring");
                return Vec::new();
            }
        };
        let was_lost = pool.lost.swap(!misplaced.is_empty(), Ordering::AcqRel);
        match misplaced.first() {
            Some(first) if !was_lost => {
                tracing::error!(path = %first.path.display(), "{}: nothing is granted any more", problem(first));
            }
            None if was_lost => tracing::info!(pool = pool.config.name, "the pool is back in its place"),
            _ => {}
        }
        misplaced
    }
}

/// In words.
pub(crate) fn problem(misplaced: &Misplaced) -> String {
    let what = if misplaced.is_gone { "is gone" } else { "is something else than this broker holds" };
    format!("{} {what}", misplaced.path.display())
}

/// All that there is to be read.
fn read(inotify: &OwnedFd, watches: TamperWatches, buffer: &mut [MaybeUninit<u8>]) -> Seen {
    let mut seen = Seen::default();
    let mut events = Reader::new(inotify, buffer);
    loop {
        let event = match events.next() {
            Ok(event) => event,
            Err(Errno::INTR) => continue,
            Err(_) => return seen,
        };
        let lease = event.file_name().and_then(|name| LeaseId::from_bytes(name.to_bytes()).ok());
        match lease {
            _ if event.events().contains(ReadFlags::QUEUE_OVERFLOW) => seen.all = true,
            Some(lease) if event.wd() == watches.root => _ = seen.leases.insert(lease),
            Some(lease) if event.wd() == watches.records => _ = seen.records.insert(lease),
            // Other names may be anybody's; `.scratch` in the root is the pool's own, as is what has no name.
            _ => seen.pool = true,
        }
    }
}
