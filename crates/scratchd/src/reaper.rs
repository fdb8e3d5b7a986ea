//! The reaper: threads that free ended trees, and retry what is owed. Waits on: new trash, the time of the next retry.

use std::collections::{HashMap, HashSet, VecDeque};
use std::num::NonZeroUsize;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::Duration;

use scratch_fs::{Rights, TrashName};
use scratch_lease::LeaseId;

use crate::broker::Broker;
use crate::clock;
use crate::debt::{Debt, Debts, Subject};

/// How long a thread waits for more before it begins with a few trees that nobody waits for.
const LINGER: Duration = Duration::from_millis(3);

/// Trees that are not left waiting.
const MANY: usize = 64;

const TWO_WORKERS: NonZeroUsize = NonZeroUsize::MIN.saturating_add(1);

/// Called when a tree is freed, or with the ids of what became debt.
pub(crate) type WhenFreed = Box<dyn FnOnce(Vec<String>) + Send>;

/// The queue of ended trees, and the debts.
#[derive(Default)]
pub(crate) struct Reaper {
    queue: Mutex<Queue>,
    changed: Condvar,
}

#[derive(Default)]
struct Queue {
    waiting: VecDeque<Subject>,
    working: HashSet<Subject>,
    debts: Debts,
    when_freed: HashMap<Subject, Vec<WhenFreed>>,
    /// A thread looks again by itself in a moment.
    lingering: bool,
}

impl std::fmt::Debug for Reaper {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Reaper").finish_non_exhaustive()
    }
}

impl Reaper {
    /// Hands over an ended tree.
    pub(crate) fn push(&self, tree: TrashName, when_freed: Option<WhenFreed>) {
        let subject = Subject::Trash(tree);
        let mut queue = self.lock();
        let urgent = when_freed.is_some() || queue.waiting.len() >= MANY;
        if let Some(when_freed) = when_freed {
            queue.when_freed.entry(subject).or_default().push(when_freed);
        }
        queue.waiting.push_back(subject);
        let wake = urgent || !queue.lingering;
        drop(queue);
        if wake {
            self.changed.notify_one();
        }
    }

    /// Waits for the trees of a lease that are on their way; what has become debt by now is told as such.
    pub(crate) fn when_lease_is_freed(&self, lease: LeaseId, when_freed: WhenFreed) {
        let mut queue = self.lock();
        let of_lease = |subject: &&Subject| matches!(subject, Subject::Trash(tree) if tree.lease == lease);
        match queue.working.iter().chain(&queue.waiting).filter(of_lease).max().copied() {
            Some(subject) => queue.when_freed.entry(subject).or_default().push(when_freed),
            None => {
                let owed = queue.debts.iter().filter(|debt| debt.lease == Some(lease));
                let owed = owed.map(|debt| debt.subject.id()).collect();
                drop(queue);
                when_freed(owed);
            }
        }
    }

    /// Writes down what can't be removed now.
    pub(crate) fn owe(&self, debt: Debt) {
        self.lock().debts.owe(debt, clock::now());
        self.changed.notify_one();
    }

    /// Whose debt it is.
    fn tenant_of(&self, subject: &Subject) -> Option<u32> {
        self.lock().debts.get(subject).map(|debt| debt.tenant)
    }

    /// A copy of all debts.
    pub(crate) fn debts(&self) -> Vec<Debt> {
        self.lock().debts.iter().cloned().collect()
    }

    /// Trees that are ended and not yet freed, of one tenant or of all; debts do not count.
    pub(crate) fn trash(&self, tenant: Option<u32>) -> usize {
        let queue = self.lock();
        let wanted = |subject: &&Subject| match subject {
            Subject::Trash(tree) => tenant.is_none_or(|tenant| tenant == tree.tenant),
            Subject::Lease(_) | Subject::Record(_) => false,
        };
        queue.waiting.iter().chain(&queue.working).filter(wanted).count()
    }

    /// Whether nothing is left that this broker could still free.
    pub(crate) fn is_idle(&self) -> bool {
        let queue = self.lock();
        queue.waiting.is_empty() && queue.working.is_empty() && queue.debts.next_try().is_none()
    }

    /// Whether nothing is being freed or about to be; what is owed does not count.
    pub(crate) fn is_done(&self) -> bool {
        let queue = self.lock();
        queue.waiting.is_empty() && queue.working.is_empty()
    }

    /// Tries all retryable debts now; `when_tried` gets the ids of what is left when the last try is over. Returns how many
    /// are tried.
    pub(crate) fn retry_all(&self, when_tried: WhenFreed) -> usize {
        let mut queue = self.lock();
        let due = queue.debts.due(clock::now(), true);
        let due: Vec<_> = due.into_iter().filter(|subject| !queue.is_under_way(subject)).collect();
        if due.is_empty() {
            drop(queue);
            when_tried(Vec::new());
            return 0;
        }
        let gather = Arc::new(Mutex::new((due.len(), Vec::new(), Some(when_tried))));
        for subject in &due {
            let gather = Arc::clone(&gather);
            let one_is_over: WhenFreed = Box::new(move |left| {
                let mut all = gather.lock().expect("a thread that panics ends the process");
                all.0 -= 1;
                all.1.extend(left);
                if all.0 == 0
                    && let Some(when_tried) = all.2.take()
                {
                    when_tried(std::mem::take(&mut all.1));
                }
            });
            queue.when_freed.entry(*subject).or_default().push(one_is_over);
            queue.waiting.push_back(*subject);
        }
        drop(queue);
        self.changed.notify_all();
        due.len()
    }

    /// The next tree or debt to work on; waits until there is one. True: no other one is waiting.
    fn next(&self) -> (Subject, bool) {
        let mut queue = self.lock();
        let mut linger = queue.waiting.is_empty();
        loop {
            let now = clock::now();
            for subject in queue.debts.due(now, false) {
                if !queue.is_under_way(&subject) {
                    queue.waiting.push_back(subject);
                }
            }
            if linger && !queue.lingering && queue.is_calm() {
                // Whoever releases many small trees is not to pay for a wake-up with each.
                queue.lingering = true;
                queue = self.changed.wait_timeout(queue, LINGER).expect("a thread that panics ends the process").0;
                queue.lingering = false;
                linger = false;
                continue;
            }
            if let Some(subject) = queue.waiting.pop_front() {
                queue.working.insert(subject);
                let alone = queue.waiting.is_empty() && queue.working.len() == 1;
                return (subject, alone);
            }
            let overdue_is_under_way = Duration::from_secs(1);
            let wait = queue.debts.next_try().map(|time| time.duration_since(now).max(overdue_is_under_way));
            linger = true;
            queue = match wait {
                None => self.changed.wait(queue).expect("a thread that panics ends the process"),
                Some(time) => self.changed.wait_timeout(queue, time).expect("a thread that panics ends the process").0,
            };
        }
    }

    /// One try is over: `owed` is what remains.
    fn done(&self, subject: Subject, owed: Vec<Debt>) {
        let ids: Vec<_> = owed.iter().map(|debt| debt.subject.id()).collect();
        let mut queue = self.lock();
        queue.working.remove(&subject);
        if !owed.iter().any(|debt| debt.subject == subject) {
            queue.debts.settle(&subject);
        }
        let now = clock::now();
        for debt in owed {
            queue.debts.owe(debt, now);
        }
        let waiters = queue.when_freed.remove(&subject).unwrap_or_default();
        drop(queue);
        for when_freed in waiters {
            when_freed(ids.clone());
        }
        self.changed.notify_one();
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().expect("a thread that panics ends the process")
    }
}

impl Queue {
    /// Nobody waits for anything in here, and there is little of it.
    fn is_calm(&self) -> bool {
        self.waiting.len() < MANY && !self.waiting.iter().any(|subject| self.when_freed.contains_key(subject))
    }

    fn is_under_way(&self, subject: &Subject) -> bool {
        self.working.contains(subject) || self.waiting.contains(subject)
    }
}

impl Broker {
    /// One reaper thread's life.
    pub(crate) fn reap(&self) -> ! {
        loop {
            let (subject, alone) = self.reaper.next();
            let owed = match subject {
                // A second worker is of use only while no other tree waits for its thread.
                Subject::Trash(tree) => self.free(tree, if alone { TWO_WORKERS } else { NonZeroUsize::MIN }),
                Subject::Lease(lease) => {
                    let owed = self.end_on_disk(lease, self.reaper.tenant_of(&subject)).err();
                    owed.map(|debt| *debt).into_iter().collect()
                }
                Subject::Record(_) => self.reaper.lock().debts.get(&subject).cloned().into_iter().collect(),
            };
            for debt in &owed {
                tracing::warn!(path = %debt.path.display(), blocker = %debt.blocker, "not removed, will be tried again");
            }
            self.reaper.done(subject, owed);
            self.activity();
        }
    }

    fn free(&self, tree: TrashName, workers: NonZeroUsize) -> Vec<Debt> {
        let rights = if self.uid == 0 { Rights::TakeOver } else { Rights::Own };
        let removal = scratch_fs::remove(self.pool.trash(), tree, rights, workers);
        tracing::debug!(tree = %tree, names = removal.names_removed, left = removal.left.len(), "reaped");
        removal.left.iter().map(Debt::of_leftover).collect()
    }
}
