//! The end of areas in clients' directories: on their tenant's threads, tried as often as need be, and owed where a directory
//! does not answer.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::io::Errno;
use scratch_fs::{ForeignLeft, FoundParent, FsError};
use scratch_lease::{LeaseId, PoolId};

use super::Parent;
use crate::broker::Broker;
use crate::debt::{Debt, Subject};
use crate::reaper::WhenFreed;

/// What a debt says whose directory can't be found, can't be looked at or does not answer.
const DIRECTORY: &str = "foreign directory";

/// What it says whose lease nobody knows to be dead.
const LEASE_UNKNOWN: &str = "lease unknown";

/// The directory of an area, held before or found again.
enum Held {
    Before(Arc<Parent>),
    Again(OwnedFd),
}

impl Held {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Before(parent) => parent.held.as_fd(),
            Self::Again(held) => held.as_fd(),
        }
    }
}

impl Broker {
    /// Ends one area, unless that is under way: `when_aside` is called when it is out of the name space, `when_freed` when
    /// nothing is left; both with what became debt, at the latest when its directory has had its time to answer.
    pub(crate) fn end_foreign(
        self: &Arc<Self>,
        lease: LeaseId,
        number: u32,
        when_aside: Option<WhenFreed>,
        when_freed: Option<WhenFreed>,
    ) {
        let subject = Subject::Foreign(lease, number);
        let take = || self.foreign.take((lease, number));
        if self.reaper.begin_foreign(subject, take, when_aside, when_freed) {
            self.try_foreign(subject);
        }
    }

    /// Ends all areas of a lease that has ended.
    pub(crate) fn end_foreign_of(self: &Arc<Self>, lease: LeaseId) {
        for number in self.foreign.of_lease(lease) {
            self.end_foreign(lease, number, None, None);
        }
    }

    /// One try, on a thread of its tenant; the reaper is told what came of it.
    pub(crate) fn try_foreign(self: &Arc<Self>, subject: Subject) {
        let Subject::Foreign(lease, number) = subject else { return };
        let Some((whose, path)) = self.foreign_path(lease, number) else {
            // Nothing is left, or its entry can't be read and is all there is.
            let is_there = |debt: &Debt| self.pools.get(debt.pool).disk.foreign().entry(lease, number) != Ok(None);
            let owed = self.reaper.debt(&subject).filter(is_there);
            return self.foreign_tried(subject, owed.into_iter().collect());
        };
        let is_over = Arc::new(AtomicBool::new(false));
        let (broker, over, shown) = (Arc::clone(self), Arc::clone(&is_over), path.clone());
        self.after_deadline(move |_| {
            if !over.load(Ordering::Acquire) {
                let debt = debt(subject, whose, shown, DIRECTORY, Some(Errno::TIMEDOUT));
                broker.note_debts(None, std::slice::from_ref(&debt));
                broker.reaper.late(subject, debt);
                broker.activity();
            }
        });
        let broker = Arc::clone(self);
        let job = move |there: Result<(), Errno>| {
            let tried = match there {
                Ok(()) => broker.end_foreign_now(subject),
                Err(errno) => Err(Box::new(debt(subject, whose, path, DIRECTORY, Some(errno)))),
            };
            is_over.store(true, Ordering::Release);
            let owed: Vec<_> = tried.err().map(|debt| *debt).into_iter().collect();
            for debt in &owed {
                tracing::warn!(path = %debt.path.display(), blocker = %debt.blocker, "not removed, will be tried again");
            }
            broker.foreign_tried(subject, owed);
        };
        self.run_foreign(whose.1, Box::new(job));
    }

    fn foreign_tried(&self, subject: Subject, owed: Vec<Debt>) {
        self.note_debts(Some(subject), &owed);
        self.reaper.done(subject, owed);
        self.activity();
    }

    /// May block for as long as the directory likes.
    fn end_foreign_now(&self, subject: Subject) -> Result<(), Box<Debt>> {
        let Subject::Foreign(lease, number) = subject else { return Ok(()) };
        let id = (lease, number);
        let known = {
            let known = self.foreign.lock();
            known.areas.get(&id).map(|area| (area.entry.clone(), area.pool, area.parent.clone()))
        };
        let Some((mut entry, pool, parent)) = known else { return Ok(()) };
        let (whose, book) = ((pool, entry.uid), self.pools.get(pool).disk.foreign());
        let owed = |error: &FsError, blocker: &str| {
            Box::new(debt(subject, whose, error.path.clone(), blocker, Some(error.errno)))
        };
        if self.reaper.owes_record(lease) {
            return Err(Box::new(debt(subject, whose, entry.shown(), LEASE_UNKNOWN, None)));
        }
        let same_boot = self.foreign.boot.get() == Some(&entry.boot);
        let held = match parent {
            Some(parent) => Held::Before(parent),
            None => match entry.find_parent(same_boot).map_err(|error| owed(&error, DIRECTORY))? {
                FoundParent::There(held) => Held::Again(held),
                FoundParent::Gone => {
                    book.drop_entry(lease, number).map_err(|error| owed(&error, "other"))?;
                    self.foreign.forget(id);
                    return Ok(());
                }
            },
        };
        // A file is gone as soon as that can be told.
        if entry.is_directory {
            match book.set_aside(held.as_fd(), &mut entry, same_boot) {
                Ok(true) => self.reaper.aside(subject),
                // Its client's by now, who may give it its old name again when told: it is not looked for once more.
                Ok(false) => {
                    book.drop_entry(lease, number).map_err(|error| owed(&error, "other"))?;
                    self.foreign.forget(id);
                    return Ok(());
                }
                Err(_) => {}
            }
        }
        // What failed fails again, and is told.
        let ended = book.end(held.as_fd(), &mut entry, same_boot);
        ended.map_err(|left: ForeignLeft| {
            // What the kernel says when the server behind the directory is gone.
            let is_unserved = matches!(left.error.errno, Errno::NOTCONN | Errno::CONNABORTED);
            let blocker = if is_unserved { DIRECTORY.to_owned() } else { left.blocker.to_string() };
            Box::new(Debt { bytes: left.bytes, ..*owed(&left.error, &blocker) })
        })?;
        tracing::debug!(%lease, number, "an area in a client's directory was ended");
        self.foreign.forget(id);
        Ok(())
    }

    fn foreign_path(&self, lease: LeaseId, number: u32) -> Option<((PoolId, u32), PathBuf)> {
        let known = self.foreign.lock();
        known.areas.get(&(lease, number)).map(|area| ((area.pool, area.entry.uid), area.entry.shown()))
    }
}

fn debt(subject: Subject, whose: (PoolId, u32), path: PathBuf, blocker: &str, errno: Option<Errno>) -> Debt {
    Debt { errno, ..Debt::new(subject, whose, path, blocker) }
}
