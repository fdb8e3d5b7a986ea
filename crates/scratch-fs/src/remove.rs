//! Removes an ended tree from the trash for good: what goes, goes; what can't is named with the reason and stays in the
//! trash for another try. This file has the outside and the workers, walk.rs the walk.

use std::num::NonZeroUsize;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;

use scratch_lease::LeaseId;

use crate::FsError;
use crate::blocker::Blocker;
use crate::queue::Queue;
use crate::trash::{Trash, TrashName};
use crate::usage::usage_of;
use crate::walk::{Walked, Worker};

/// With whose rights a tree is removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rights {
    /// With those that the thread has; nothing changes its owner. For session brokers and foreign areas.
    Own,
    /// The system broker's, root with CAP_CHOWN and CAP_DAC_OVERRIDE: each directory of the tenant becomes the broker's
    /// before it is listed, so that nothing in it can be swapped or added any more.
    TakeOver,
    /// As [`Self::TakeOver`], whoever owns a directory: an admin has said so. Links are not followed and mounts not crossed
    /// all the same.
    TakeOverForeign,
}

/// A trash entry that remains.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Leftover {
    /// Its name; other than the one that was to be removed where a part of the tree was lifted out of it.
    pub entry: TrashName,
    /// The first error below it, with the path of what could not be removed.
    pub error: FsError,
    /// What stands in the way there.
    pub blocker: Blocker,
    /// Bytes on disk of all that remains below it.
    pub bytes: u64,
}

/// What came of a removal.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Removal {
    /// Names that are gone, directories included.
    pub names_removed: u64,
    /// The entries that remain, by number; empty when all is gone.
    pub left: Vec<Leftover>,
    /// Entries that were not come to, or only begun with, when the turn was over.
    pub unfinished: Vec<TrashName>,
}

/// Removes one entry, on at most `workers` threads. Returns when all that can be removed is; an entry that is not there is
/// removed. Helping threads have the identity of the calling one.
pub fn remove(trash: &Trash, entry: TrashName, rights: Rights, workers: NonZeroUsize) -> Removal {
    remove_in_turns(trash, vec![entry], rights, workers, &|| false)
}

/// As [`remove`], of several entries and only until `is_over` says that the turn is: it is asked after each bufferful of names
/// and each directory. What is unfinished then is to be given again, with what was lifted out of it.
pub fn remove_in_turns(
    trash: &Trash,
    entries: Vec<TrashName>,
    rights: Rights,
    workers: NonZeroUsize,
    is_over: &(dyn Fn() -> bool + Sync),
) -> Removal {
    let work = Work::new(trash, entries, rights, is_over);
    thread::scope(|scope| {
        let call_help = || {
            for _ in 1..workers.get() {
                // Ignoring: with fewer hands, or none, the same work is done.
                let _ = thread::Builder::new().name("remove".into()).spawn_scoped(scope, || work.run(None));
            }
        };
        work.run(Some(&call_help));
    });
    work.into_removal()
}

/// Removes what is in a directory of one tenant's lease that is not in the trash, and can't be moved there for want of room:
/// that takes none. The directory stays, and with it what can't be removed; of what is lifted out of it that is told.
pub(crate) fn empty(
    trash: &Trash,
    directory: OwnedFd,
    (tenant, lease): (u32, LeaseId),
    rights: Rights,
) -> Vec<Leftover> {
    let entry = trash.fresh(tenant, lease);
    let work = Work::new(trash, vec![entry], rights, &|| false);
    if let Some(entry) = work.queue.next() {
        Worker::new(trash, rights, &work.queue, None).empty(directory, entry);
        work.queue.finish();
    }
    work.run(None);
    work.into_removal().left
}

struct Work<'a> {
    trash: &'a Trash,
    rights: Rights,
    queue: Queue,
    is_over: &'a (dyn Fn() -> bool + Sync),
    left: Mutex<Vec<Leftover>>,
    names_removed: AtomicU64,
}

impl<'a> Work<'a> {
    fn new(trash: &'a Trash, entries: Vec<TrashName>, rights: Rights, is_over: &'a (dyn Fn() -> bool + Sync)) -> Self {
        let queue = Queue::new(entries);
        Self { trash, rights, queue, is_over, left: Mutex::new(Vec::new()), names_removed: AtomicU64::new(0) }
    }

    fn into_removal(self) -> Removal {
        let mut left = self.left.into_inner().unwrap_or_else(PoisonError::into_inner);
        left.sort_unstable_by_key(|leftover| leftover.entry);
        Removal { names_removed: self.names_removed.into_inner(), left, unfinished: self.queue.into_unfinished() }
    }

    /// One worker's share, until nothing is left to do.
    fn run(&self, call_help: Option<&dyn Fn()>) {
        let mut worker = Worker::new(self.trash, self.rights, &self.queue, call_help);
        while let Some(entry) = self.queue.next() {
            let walked = worker.remove(entry, self.is_over);
            if matches!(walked, Walked::Unfinished) {
                self.queue.put_off(entry);
                break;
            }
            // Others may have removed, or a lift have moved, what failed: what counts is what is there.
            if let Walked::Left(error, blocker) = walked
                && let Some(usage) = usage_of(self.trash.directory(), &entry.to_cstring())
            {
                let bytes = usage.bytes;
                let mut left = self.left.lock().unwrap_or_else(PoisonError::into_inner);
                left.push(Leftover { entry, error, blocker, bytes });
            }
            self.queue.finish();
        }
        self.names_removed.fetch_add(worker.names_removed, Ordering::Relaxed);
    }
}
