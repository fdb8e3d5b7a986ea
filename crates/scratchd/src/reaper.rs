//! The reaper: threads that free ended trees, and retry what is owed. Waits on: new trash, the time of the next retry.

mod foreign;
mod work;

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use scratch_fs::{DebtBook, Leftover, Trash, TrashName};
use scratch_lease::{BootTime, LeaseId, PoolId};

use crate::broker::Dead;
use crate::cgroup::KnownCgroup;
use crate::clock;
use crate::debt::{Debt, Debts, Subject};
use crate::reaper::foreign::{Apart, Gather};
use crate::turns::Turns;

/// How long a thread waits for more before it begins with a few trees that nobody waits for.
const LINGER: Duration = Duration::from_millis(3);

/// Trees that are not left waiting.
const MANY: usize = 64;

/// How long a tree is worked on while other tenants' wait. Twice as long at each turn that it needs, so that it gets further
/// however long it takes to find out where it was.
const TURN: Duration = Duration::from_millis(100);
const TURNS_DOUBLED_MAX: u32 = 8;

/// How long killed processes are waited for, and how often they are looked at.
const DIES_WITHIN: Duration = Duration::from_secs(10);
const LOOK_EVERY: Duration = Duration::from_millis(5);

/// How often the book of debts is written at most.
const BOOK_EVERY: Duration = Duration::from_secs(1);

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
    waiting: Turns<Subject>,
    /// Debts among those: many may become due at once.
    again: HashSet<Subject>,
    working: HashSet<Subject>,
    /// To be entered whoever owns what is in them, this once.
    foreign: HashSet<Subject>,
    /// Of those whose turn was over before they were gone.
    rests: HashMap<Subject, Rest>,
    debts: Debts,
    book: Book,
    when_freed: HashMap<Subject, Vec<WhenFreed>>,
    /// Trees whose processes are dying, among those that are worked on; and when they are looked at next.
    held_back: Vec<HeldBack>,
    next_look: BootTime,
    /// Trees that are removed where they are, in a subvolume.
    in_place: HashMap<Subject, Arc<Trash>>,
    /// Of areas in clients' directories.
    apart: Apart,
    /// A thread looks again by itself in a moment.
    lingering: bool,
}

/// What is still to be done for a tree, and what has come of it so far.
#[derive(Debug, Default)]
struct Rest {
    entries: Vec<TrashName>,
    left: Vec<Leftover>,
    names_removed: u64,
    turns: u32,
}

/// A tree that is not freed before these cgroups are empty, or for so long.
struct HeldBack {
    pool: PoolId,
    tree: TrashName,
    dying: Vec<Arc<KnownCgroup>>,
    until: BootTime,
}

/// How far the debts on disk are those in memory.
#[derive(Default)]
struct Book {
    boot: String,
    pools: Vec<PoolId>,
    /// Up to this change.
    written: u64,
    next: BootTime,
    being_written: bool,
}

/// What a reaper thread is to do.
enum Task {
    /// Try this. `alone`: nothing else is waiting; `foreign`: whoever owns what is in it.
    Try { subject: Subject, alone: bool, foreign: bool },
    /// Look whether the processes of these are dead.
    Look(Vec<HeldBack>),
    /// Write down what is owed, in each pool.
    Write(Vec<(PoolId, DebtBook)>),
}

/// Whose trash and debt, in figures.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Owed {
    /// Trees that are ended and not yet freed.
    pub(crate) trash: usize,
    pub(crate) debts: usize,
    pub(crate) bytes: u64,
}

impl std::fmt::Debug for Reaper {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Reaper").finish_non_exhaustive()
    }
}

impl Reaper {
    /// Takes over what the broker before has left in a pool's trash, and what it knew of it.
    pub(crate) fn begin(&self, pool: PoolId, trees: Vec<TrashName>, book: DebtBook, boot: &str) {
        let mut queue = self.lock();
        boot.clone_into(&mut queue.book.boot);
        queue.book.pools.push(pool);
        let fresh = queue.debts.restore(pool, book, boot, trees, clock::now());
        fresh.into_iter().for_each(|tree| queue.waiting.push(tree.tenant, Subject::Trash(pool, tree)));
        drop(queue);
        self.changed.notify_one();
    }

    /// Hands over an ended tree.
    pub(crate) fn push(&self, pool: PoolId, tree: TrashName, when_freed: Option<WhenFreed>) {
        let subject = Subject::Trash(pool, tree);
        let mut queue = self.lock();
        let urgent = when_freed.is_some() || queue.waiting.len() >= MANY;
        if let Some(when_freed) = when_freed {
            queue.when_freed.entry(subject).or_default().push(when_freed);
        }
        queue.waiting.push(tree.tenant, subject);
        let wake = urgent || !queue.lingering;
        drop(queue);
        if wake {
            self.changed.notify_one();
        }
    }

    /// Hands over an ended tree whose processes were killed and may not be dead yet.
    pub(crate) fn hold_back(&self, pool: PoolId, tree: TrashName, dying: Vec<Arc<KnownCgroup>>) {
        let mut queue = self.lock();
        queue.working.insert(Subject::Trash(pool, tree));
        queue.held_back.push(HeldBack { pool, tree, dying, until: clock::now() + DIES_WITHIN });
        drop(queue);
        self.changed.notify_one();
    }

    /// What was looked at: freed, or held back for longer.
    fn looked_at(&self, held_back: Vec<HeldBack>) {
        let now = clock::now();
        let is_over = |held: &HeldBack| held.until <= now || !held.dying.iter().any(|cgroup| cgroup.has_to_die());
        let (over, still): (Vec<_>, Vec<_>) = held_back.into_iter().partition(is_over);
        let mut queue = self.lock();
        for held in over {
            let subject = Subject::Trash(held.pool, held.tree);
            queue.working.remove(&subject);
            queue.waiting.push(held.tree.tenant, subject);
        }
        queue.held_back.extend(still);
        queue.next_look = now + LOOK_EVERY;
        drop(queue);
        self.changed.notify_one();
    }

    /// How many trees of this tenant are to be removed where they are: each has a descriptor.
    pub(crate) fn count_in_place(&self, tenant: u32) -> usize {
        let of_tenant = |subject: &&Subject| matches!(subject, Subject::Trash(_, tree) if tree.tenant == tenant);
        self.lock().in_place.keys().filter(of_tenant).count()
    }

    /// A tree that is about to be pushed is to be removed where it is.
    pub(crate) fn in_place(&self, pool: PoolId, tree: TrashName, place: Trash) {
        self.lock().in_place.insert(Subject::Trash(pool, tree), Arc::new(place));
    }

    /// Waits for the trees of a lease that are on their way; what has become debt by now is told as such.
    pub(crate) fn when_lease_is_freed(&self, lease: LeaseId, when_freed: WhenFreed) {
        let mut queue = self.lock();
        let of_lease = |subject: &&Subject| matches!(subject, Subject::Trash(_, tree) if tree.lease == lease);
        let under_way = queue.working.iter().chain(queue.waiting.iter()).filter(of_lease);
        let under_way: HashSet<_> = under_way.copied().collect();
        if under_way.is_empty() {
            let owed = queue.debts.iter().filter(|debt| debt.lease == Some(lease));
            let owed = owed.map(|debt| debt.subject.id()).collect();
            drop(queue);
            return when_freed(owed);
        }
        let gather = Gather::new(under_way.len(), Vec::new(), when_freed);
        for subject in under_way {
            queue.when_freed.entry(subject).or_default().push(gather.one());
        }
    }

    /// Writes down what can't be removed now.
    pub(crate) fn owe(&self, debt: Debt) {
        self.lock().debts.owe(debt, clock::now());
        self.changed.notify_one();
    }

    /// What is known of a lease that is in no table any more.
    fn dead(&self, subject: &Subject) -> Option<Dead> {
        self.lock().debts.get(subject).map(|debt| Dead { pool: debt.pool, tenant: debt.tenant, place: debt.place })
    }

    /// A copy of one debt.
    pub(crate) fn debt(&self, subject: &Subject) -> Option<Debt> {
        self.lock().debts.get(subject).cloned()
    }

    /// Copies of one lease's debts.
    pub(crate) fn debts_of(&self, lease: LeaseId) -> Vec<Debt> {
        self.lock().debts.iter().filter(|debt| debt.lease == Some(lease)).cloned().collect()
    }

    /// Copies of the debts of one tenant or of all, those that sort after a subject, `limit` at most.
    pub(crate) fn debts(&self, tenant: Option<u32>, after: Option<Subject>, limit: usize) -> Vec<Debt> {
        let queue = self.lock();
        let wanted = |debt: &&Debt| tenant.is_none_or(|tenant| tenant == debt.tenant);
        queue.debts.after(after).filter(wanted).take(limit).cloned().collect()
    }

    /// How many debts one tenant has, or all have.
    pub(crate) fn owed(&self, tenant: Option<u32>) -> Owed {
        let queue = self.lock();
        let of_tenant = queue.debts.iter().filter(|debt| tenant.is_none_or(|tenant| tenant == debt.tenant));
        of_tenant.fold(Owed::default(), |owed, debt| Owed {
            debts: owed.debts + 1,
            bytes: owed.bytes.saturating_add(debt.bytes),
            ..owed
        })
    }

    /// What there is of each tenant that there is anything of.
    pub(crate) fn owed_by_tenant(&self) -> HashMap<u32, Owed> {
        let queue = self.lock();
        let mut all: HashMap<u32, Owed> = HashMap::new();
        for subject in queue.waiting.iter().chain(&queue.working) {
            if let Subject::Trash(_, tree) = subject {
                all.entry(tree.tenant).or_default().trash += 1;
            }
        }
        for debt in queue.debts.iter() {
            let owed = all.entry(debt.tenant).or_default();
            owed.debts += 1;
            owed.bytes = owed.bytes.saturating_add(debt.bytes);
        }
        all
    }

    /// Whether this tree is on its way, or owed. A part of a tree that is being removed may be lifted out of it under a name
    /// of its own, by its lease.
    pub(crate) fn knows(&self, pool: PoolId, tree: TrashName) -> bool {
        let queue = self.lock();
        let subject = Subject::Trash(pool, tree);
        let of_lease = |subject: &Subject| matches!(subject, Subject::Trash(_, other) if other.lease == tree.lease);
        queue.debts.get(&subject).is_some()
            || queue.waiting.iter().any(|waiting| *waiting == subject)
            || queue.working.iter().chain(queue.rests.keys()).any(of_lease)
    }

    /// The debts of those of these leases whose directories could not be moved out of the name space.
    pub(crate) fn in_their_place(&self, leases: &[LeaseId]) -> Vec<String> {
        let queue = self.lock();
        let owed =
            leases.iter().map(|lease| Subject::Lease(*lease)).filter(|subject| queue.debts.get(subject).is_some());
        owed.map(|subject| subject.id()).collect()
    }

    /// Whether the directory of this lease is owed.
    pub(crate) fn owes(&self, lease: LeaseId) -> bool {
        let queue = self.lock();
        [Subject::Lease(lease), Subject::Record(lease)].iter().any(|subject| queue.debts.get(subject).is_some())
    }

    /// What [`Self::retry`] would try.
    pub(crate) fn would_try(&self, foreign: bool) -> Vec<Debt> {
        self.lock().debts.iter().filter(|debt| !foreign || debt.is_foreign()).cloned().collect()
    }

    /// Trees that are ended and not yet freed, of one tenant or of all; debts do not count.
    pub(crate) fn trash(&self, tenant: Option<u32>) -> usize {
        let queue = self.lock();
        let wanted = |subject: &&Subject| match subject {
            Subject::Trash(_, tree) => tenant.is_none_or(|tenant| tenant == tree.tenant),
            Subject::Lease(_) | Subject::Record(_) | Subject::Foreign(..) => false,
        };
        queue.waiting.iter().chain(&queue.working).filter(wanted).count()
    }

    /// Whether a tree that was this lease's, or an area of it, waits to be freed or is being freed.
    pub(crate) fn has_trash_of(&self, lease: LeaseId) -> bool {
        let queue = self.lock();
        let of_lease = |subject: &Subject| matches!(subject, Subject::Trash(_, tree) if tree.lease == lease);
        queue.waiting.iter().chain(&queue.working).any(of_lease)
    }

    /// Whether a tree that was this lease's is on its way or owed.
    fn has_any_of(&self, lease: LeaseId) -> bool {
        let is_owed = |debt: &Debt| matches!(debt.subject, Subject::Trash(_, tree) if tree.lease == lease);
        self.has_trash_of(lease) || self.lock().debts.iter().any(is_owed)
    }

    /// Whether nothing is left that this broker could still free.
    pub(crate) fn is_idle(&self) -> bool {
        let queue = self.lock();
        queue.waiting.is_empty() && queue.working.is_empty() && queue.debts.next_try().is_none()
    }

    /// Whether nothing is being freed or about to be; what is owed does not count.
    pub(crate) fn is_done(&self) -> bool {
        let queue = self.lock();
        queue.waiting.is_empty() && queue.working.iter().all(|subject| queue.apart.is_late(subject))
    }

    /// Tries all debts now, or with `foreign` those that wait for an admin's word, which this is; `when_tried` gets the ids
    /// of what is left when the last try is over. Returns how many are tried.
    pub(crate) fn retry(&self, foreign: bool, when_tried: WhenFreed) -> usize {
        let mut queue = self.lock();
        let due = queue.debts.iter().filter(|debt| !foreign || debt.is_foreign()).map(|debt| debt.subject);
        let due: Vec<_> = due.filter(|subject| !queue.is_under_way(subject)).collect();
        if due.is_empty() {
            drop(queue);
            when_tried(Vec::new());
            return 0;
        }
        let gather = Gather::new(due.len(), Vec::new(), when_tried);
        for subject in &due {
            queue.when_freed.entry(*subject).or_default().push(gather.one());
            queue.try_again(*subject);
            if foreign {
                queue.foreign.insert(*subject);
            }
        }
        drop(queue);
        self.changed.notify_all();
        due.len()
    }

    /// What to do next; waits until there is something.
    fn next(&self) -> Task {
        let mut queue = self.lock();
        let mut linger = queue.waiting.is_empty();
        loop {
            let now = clock::now();
            if let Some(books) = queue.books_to_write(now) {
                return Task::Write(books);
            }
            if !queue.held_back.is_empty() && queue.next_look <= now {
                return Task::Look(std::mem::take(&mut queue.held_back));
            }
            for subject in queue.debts.due(now).collect::<Vec<_>>() {
                if !queue.is_under_way(&subject) {
                    queue.try_again(subject);
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
            if let Some(subject) = queue.waiting.pop() {
                queue.again.remove(&subject);
                queue.working.insert(subject);
                let alone = queue.waiting.is_empty() && queue.working.len() == 1;
                let foreign = queue.foreign.remove(&subject);
                return Task::Try { subject, alone, foreign };
            }
            let overdue_is_under_way = Duration::from_secs(1);
            let retry = queue.debts.next_try().map(|time| time.duration_since(now).max(overdue_is_under_way));
            let write = queue.is_book_behind().then(|| queue.book.next.duration_since(now));
            let look = (!queue.held_back.is_empty()).then(|| queue.next_look.duration_since(now));
            let wait = retry.into_iter().chain(write).chain(look).min();
            linger = true;
            queue = match wait {
                None => self.changed.wait(queue).expect("a thread that panics ends the process"),
                Some(time) => self.changed.wait_timeout(queue, time).expect("a thread that panics ends the process").0,
            };
        }
    }

    /// What was to be written of the debts is.
    fn book_is_written(&self) {
        self.lock().book.being_written = false;
    }

    /// Where a tree is that is to be removed in its place.
    fn take_place(&self, pool: PoolId, tree: TrashName) -> Option<Arc<Trash>> {
        self.lock().in_place.remove(&Subject::Trash(pool, tree))
    }

    /// What remains of a tree in its place is still to be removed there.
    fn put_places(&self, pool: PoolId, trees: impl Iterator<Item = TrashName>, place: &Arc<Trash>) {
        let there = trees.map(|tree| (Subject::Trash(pool, tree), Arc::clone(place)));
        self.lock().in_place.extend(there);
    }

    /// Where the last turn of this tree has left off.
    fn take_rest(&self, pool: PoolId, tree: TrashName) -> Rest {
        let rest = self.lock().rests.remove(&Subject::Trash(pool, tree));
        rest.unwrap_or_else(|| Rest { entries: vec![tree], ..Rest::default() })
    }

    /// Whether a tree's turn is over: its time is, and other tenants wait.
    fn is_over(&self, tree: TrashName, begun: Instant, turns: u32) -> bool {
        begun.elapsed() >= TURN * (1 << turns.min(TURNS_DOUBLED_MAX)) && self.lock().waiting.others_wait(tree.tenant)
    }

    /// A turn is over before its tree is gone: the others' are next.
    fn put_back(&self, (pool, tree): (PoolId, TrashName), rest: Rest, foreign: bool) {
        let subject = Subject::Trash(pool, tree);
        let mut queue = self.lock();
        queue.working.remove(&subject);
        queue.rests.insert(subject, rest);
        if foreign {
            queue.foreign.insert(subject);
        }
        queue.try_again(subject);
        drop(queue);
        self.changed.notify_one();
    }

    /// One try is over: `owed` is what remains.
    pub(crate) fn done(&self, subject: Subject, owed: Vec<Debt>) {
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
        let mut waiters = queue.apart.over(&subject);
        waiters.extend(queue.when_freed.remove(&subject).unwrap_or_default());
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

    /// Of a debt: only those are asked for.
    fn is_under_way(&self, subject: &Subject) -> bool {
        self.working.contains(subject) || self.again.contains(subject)
    }

    fn try_again(&mut self, subject: Subject) {
        self.again.insert(subject);
        let tenant = match subject {
            Subject::Trash(_, tree) => tree.tenant,
            Subject::Lease(_) | Subject::Record(_) | Subject::Foreign(..) => {
                self.debts.get(&subject).map_or(0, |debt| debt.tenant)
            }
        };
        self.waiting.push(tenant, subject);
    }

    fn is_book_behind(&self) -> bool {
        !self.book.being_written && self.book.written != self.debts.changes
    }

    fn books_to_write(&mut self, now: BootTime) -> Option<Vec<(PoolId, DebtBook)>> {
        if !self.is_book_behind() || self.book.next > now {
            return None;
        }
        self.book.being_written = true;
        self.book.written = self.debts.changes;
        self.book.next = now + BOOK_EVERY;
        let book = |pool: &PoolId| (*pool, self.debts.to_book(*pool, &self.book.boot));
        Some(self.book.pools.iter().map(book).collect())
    }
}
