//! The entries that one removal still has to remove, shared by its workers. Says who is out of work, so that the others
//! give some of theirs away.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use crate::trash::TrashName;

/// A stack, not a line: what was lifted last is gone first, so that few entries wait however deep the tree is.
pub(crate) struct Queue {
    state: Mutex<State>,
    changed: Condvar,
    /// A copy of [`State::is_hungry`] for those who would not take the lock to ask.
    hungry: AtomicBool,
}

struct State {
    waiting: Vec<TrashName>,
    /// Entries waiting or at work; at 0 everybody goes home.
    unfinished: usize,
    idle: usize,
    /// The turn is over: nobody begins with another entry.
    is_over: bool,
}

impl State {
    fn is_hungry(&self) -> bool {
        self.idle > self.waiting.len()
    }
}

impl Queue {
    pub(crate) fn new(entries: Vec<TrashName>) -> Self {
        let state = State { unfinished: entries.len(), waiting: entries, idle: 0, is_over: false };
        Self { state: Mutex::new(state), changed: Condvar::new(), hungry: AtomicBool::new(false) }
    }

    /// Adds an entry. Only by who is at work on one, else the others may have gone home.
    pub(crate) fn push(&self, entry: TrashName) {
        let mut state = self.lock();
        state.waiting.push(entry);
        state.unfinished += 1;
        self.settle(&state);
        self.changed.notify_one();
    }

    /// The next entry, waited for; None when all work is done. Each one is followed by a [`Self::finish`].
    pub(crate) fn next(&self) -> Option<TrashName> {
        let mut state = self.lock();
        loop {
            if state.is_over {
                return None;
            }
            if let Some(entry) = state.waiting.pop() {
                self.settle(&state);
                return Some(entry);
            }
            if state.unfinished == 0 {
                return None;
            }
            state.idle += 1;
            self.settle(&state);
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
            state.idle -= 1;
        }
    }

    /// The work on an entry is done.
    pub(crate) fn finish(&self) {
        let mut state = self.lock();
        state.unfinished -= 1;
        if state.unfinished == 0 {
            self.changed.notify_all();
        }
    }

    /// The turn is over, in the middle of this entry: everybody goes home once done with the one at hand.
    pub(crate) fn put_off(&self, entry: TrashName) {
        let mut state = self.lock();
        state.waiting.push(entry);
        state.is_over = true;
        self.changed.notify_all();
    }

    /// What nobody has finished.
    pub(crate) fn into_unfinished(self) -> Vec<TrashName> {
        self.state.into_inner().unwrap_or_else(PoisonError::into_inner).waiting
    }

    /// Whether somebody waits for work that is not there.
    pub(crate) fn is_hungry(&self) -> bool {
        self.hungry.load(Ordering::Relaxed)
    }

    fn settle(&self, state: &State) {
        self.hungry.store(state.is_hungry(), Ordering::Relaxed);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing between lock and unlock can panic half-way.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
