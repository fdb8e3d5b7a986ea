//! What a reaper thread does: frees an ended tree, tries again what is owed, writes down what remains.

use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Instant;

use rustix::io::Errno;
use scratch_fs::{Removal, Rights, TrashName};
use scratch_lease::{LeaseId, LeaseState, PoolId};

use super::{Rest, Task};
use crate::broker::{Broker, Dead};
use crate::debt::{Debt, Subject};

const TWO_WORKERS: NonZeroUsize = NonZeroUsize::MIN.saturating_add(1);

impl Broker {
    /// One reaper thread's life.
    pub(crate) fn reap(self: &Arc<Self>) -> ! {
        loop {
            match self.reaper.next() {
                Task::Try { subject, alone, foreign } => self.try_once(subject, alone, foreign),
                Task::Look(held_back) => self.reaper.looked_at(held_back),
                Task::Write(books) => {
                    for (pool, book) in books {
                        if let Err(error) = self.pools.get(pool).disk.write_debts(&book) {
                            tracing::warn!(%error, "what is owed is not written down: the next broker tries it anew");
                        }
                    }
                    self.reaper.book_is_written();
                }
            }
        }
    }

    fn try_once(self: &Arc<Self>, subject: Subject, alone: bool, foreign: bool) {
        let owed = match subject {
            // A second worker is of use only while no other tree waits for its thread.
            Subject::Trash(pool, tree) => {
                match self.free((pool, tree), if alone { TWO_WORKERS } else { NonZeroUsize::MIN }, foreign) {
                    Some(owed) => owed,
                    None => return,
                }
            }
            Subject::Lease(lease) => self.end_again(lease, self.reaper.dead(&subject)),
            Subject::Record(lease) => {
                let debt = self.reaper.debt(&subject);
                debt.filter(|debt| !self.is_settled(debt.pool, lease)).into_iter().collect()
            }
            // On a thread of its tenant, which says itself what came of it.
            Subject::Foreign(..) => return self.try_foreign(subject),
        };
        for debt in &owed {
            tracing::warn!(path = %debt.path.display(), blocker = %debt.blocker, "not removed, will be tried again");
        }
        self.note_debts(Some(subject), &owed);
        self.reaper.done(subject, owed);
        if let Subject::Trash(_, tree) = subject {
            self.count_what_is_left(tree.lease);
        }
        self.activity();
    }

    /// The limits of a lease that is there no more count until nothing of it is left, which may be now.
    pub(crate) fn count_what_is_left(&self, lease: LeaseId) {
        if self.lock().table.remains(lease) && !self.reaper.has_any_of(lease) {
            self.lock().table.freed(lease);
        }
    }

    /// Of a lease that could not be put away. Where that was for want of room, it is emptied in its place, which needs none.
    fn end_again(&self, lease: LeaseId, dead: Option<Dead>) -> Vec<Debt> {
        let Err(owed) = self.end_on_disk(lease, dead) else { return Vec::new() };
        let can_come_back = self.lock().table.lease(lease).is_some_and(|lease| lease.state() != LeaseState::Ending);
        if can_come_back || !matches!(owed.errno, Some(Errno::NOSPC | Errno::DQUOT)) {
            return vec![*owed];
        }
        let disk = &self.pools.get(owed.pool).disk;
        let mut all = match disk.empty_lease(lease, owed.tenant, owed.place, self.rights(false)) {
            Ok(left) => left.iter().map(|left| Debt::of_leftover(owed.pool, left)).collect(),
            Err(error) => {
                tracing::debug!(%lease, %error, "can't be emptied where it is");
                Vec::new()
            }
        };
        all.extend(self.end_on_disk(lease, dead).err().map(|owed| *owed));
        all
    }

    /// With what rights a tree is removed; `foreign`: whoever owns what is in it.
    fn rights(&self, foreign: bool) -> Rights {
        match (self.uid, foreign) {
            (0, false) => Rights::TakeOver,
            (0, true) => Rights::TakeOverForeign,
            _ => Rights::Own,
        }
    }

    /// Whether somebody has taken away the directory of which nothing was known. Its record goes then.
    fn is_settled(&self, pool: PoolId, lease: LeaseId) -> bool {
        let pool = &self.pools.get(pool).disk;
        let is_gone = matches!(pool.directory(lease), Ok(None));
        is_gone && pool.drop_record(lease).is_ok()
    }

    /// What remains of a tree; `None` where its turn was over before that is known.
    fn free(&self, (pool, tree): (PoolId, TrashName), workers: NonZeroUsize, foreign: bool) -> Option<Vec<Debt>> {
        let rights = self.rights(foreign);
        let mut rest = self.reaper.take_rest(pool, tree);
        let begun = Instant::now();
        let (entries, turns) = (std::mem::take(&mut rest.entries), rest.turns);
        let is_over = || self.reaper.is_over(tree, begun, turns);
        let disk = &self.pools.get(pool).disk;
        let in_place = self.reaper.take_place(pool, tree);
        let quota = disk.quota_of_tree(tree);
        let Removal { names_removed, left, unfinished } = match &in_place {
            Some(place) => scratch_fs::remove_in_turns(place, entries, rights, workers, &is_over),
            None => disk.remove(tree, entries, rights, workers, &is_over),
        };
        rest.names_removed += names_removed;
        rest.left.extend(left);
        if let Some(in_place) = in_place {
            let again = (!unfinished.is_empty()).then_some(tree);
            self.reaper.put_places(pool, rest.left.iter().map(|left| left.entry).chain(again), &in_place);
        }
        if !unfinished.is_empty() {
            tracing::debug!(tree = %tree, names = names_removed, "not yet reaped, others have their turn");
            self.reaper.put_back((pool, tree), Rest { entries: unfinished, turns: rest.turns + 1, ..rest }, foreign);
            return None;
        }
        tracing::debug!(tree = %tree, names = rest.names_removed, left = rest.left.len(), "reaped");
        if rest.left.is_empty() {
            disk.drop_quota(quota);
            self.note_reaped(tree, rest.names_removed);
        }
        Some(rest.left.iter().map(|left| Debt::of_leftover(pool, left)).collect())
    }
}
