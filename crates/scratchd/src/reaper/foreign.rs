//! The reaper's part in areas of clients' directories: who waits for them, and what is owed. The work itself is done on
//! threads of their tenants, never on the reaper's: such a directory may not answer.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex};

use scratch_lease::LeaseId;

use super::{Queue, Reaper, WhenFreed};
use crate::clock;
use crate::debt::{Debt, Subject};

/// What is known of such areas besides what is known of trees.
#[derive(Default)]
pub(super) struct Apart {
    /// On their way, for the first time.
    begun: HashSet<Subject>,
    /// Being ended, and out of the name space.
    aside: HashSet<Subject>,
    /// Being tried, by a thread that may never come back: owed meanwhile.
    late: HashSet<Subject>,
    when_aside: HashMap<Subject, Vec<WhenFreed>>,
}

impl Apart {
    /// Whether what is worked on is owed already.
    pub(super) fn is_late(&self, subject: &Subject) -> bool {
        self.late.contains(subject)
    }

    /// A try is over: whom to tell.
    pub(super) fn over(&mut self, subject: &Subject) -> Vec<WhenFreed> {
        self.begun.remove(subject);
        self.aside.remove(subject);
        self.late.remove(subject);
        self.when_aside.remove(subject).unwrap_or_default()
    }
}

impl Reaper {
    /// Begins with an area that is to go, if that is the caller's to do, and notes who waits for it; `take` says so, when
    /// nobody can ask in between. False: somebody else is at it, or was.
    pub(crate) fn begin_foreign(
        &self,
        subject: Subject,
        take: impl FnOnce() -> bool,
        when_aside: Option<WhenFreed>,
        when_freed: Option<WhenFreed>,
    ) -> bool {
        let mut queue = self.lock();
        let is_mine = take();
        if is_mine {
            queue.working.insert(subject);
            queue.apart.begun.insert(subject);
        } else if !queue.is_on_its_way(&subject) {
            let owed: Vec<_> = queue.debts.get(&subject).map(|debt| debt.subject.id()).into_iter().collect();
            drop(queue);
            when_aside.into_iter().chain(when_freed).for_each(|then| then(owed.clone()));
            return false;
        }
        queue.apart.when_aside.entry(subject).or_default().extend(when_aside);
        queue.when_freed.entry(subject).or_default().extend(when_freed);
        is_mine
    }

    /// Hands over an area of the broker before.
    pub(crate) fn push_foreign(&self, subject: Subject) {
        let mut queue = self.lock();
        queue.apart.begun.insert(subject);
        queue.try_again(subject);
        drop(queue);
        self.changed.notify_one();
    }

    /// An area is out of the name space, and being removed.
    pub(crate) fn aside(&self, subject: Subject) {
        let mut queue = self.lock();
        queue.apart.aside.insert(subject);
        let waiters = queue.apart.when_aside.remove(&subject).unwrap_or_default();
        drop(queue);
        waiters.into_iter().for_each(|then| then(Vec::new()));
    }

    /// A directory has had its time and has not answered: its area is owed, and nobody waits for it any more.
    pub(crate) fn late(&self, subject: Subject, debt: Debt) {
        let mut queue = self.lock();
        if !queue.working.contains(&subject) {
            return;
        }
        queue.apart.late.insert(subject);
        queue.debts.owe(debt, clock::now());
        let mut waiters = queue.apart.when_aside.remove(&subject).unwrap_or_default();
        waiters.extend(queue.when_freed.remove(&subject).unwrap_or_default());
        drop(queue);
        waiters.into_iter().for_each(|then| then(vec![subject.id()]));
        self.changed.notify_one();
    }

    /// Waits for the areas of these leases that are on their way, until they are out of the name space or, with `freed`, gone.
    pub(crate) fn when_foreign(&self, leases: &[LeaseId], freed: bool, then: WhenFreed) {
        let mut queue = self.lock();
        let of_leases = |subject: &&Subject| matches!(subject, Subject::Foreign(lease, _) if leases.contains(lease));
        let under_way = queue.apart.begun.iter().filter(of_leases).copied();
        let under_way: Vec<_> = under_way.filter(|subject| freed || !queue.apart.aside.contains(subject)).collect();
        let (owed, under_way): (Vec<_>, Vec<_>) =
            under_way.into_iter().partition(|subject| queue.debts.get(subject).is_some());
        let owed: Vec<_> = owed.iter().map(Subject::id).collect();
        if under_way.is_empty() {
            drop(queue);
            then(owed);
            return;
        }
        let gather = Gather::new(under_way.len(), owed, then);
        let Queue { apart, when_freed, .. } = &mut *queue;
        let waiters = if freed { when_freed } else { &mut apart.when_aside };
        for subject in under_way {
            waiters.entry(subject).or_default().push(gather.one());
        }
    }

    /// Whether areas of these leases are on their way.
    pub(crate) fn has_foreign(&self, leases: &[LeaseId]) -> bool {
        let queue = self.lock();
        let of_leases = |subject: &Subject| matches!(subject, Subject::Foreign(lease, _) if leases.contains(lease));
        queue.apart.begun.iter().any(of_leases)
    }

    /// Whether nothing is known of this lease but that it is there, so that its areas stay.
    pub(crate) fn owes_record(&self, lease: LeaseId) -> bool {
        self.lock().debts.get(&Subject::Record(lease)).is_some()
    }
}

impl Queue {
    /// Somebody will say what came of it.
    fn is_on_its_way(&self, subject: &Subject) -> bool {
        let is_worked_on = self.working.contains(subject) && !self.apart.is_late(subject);
        is_worked_on || self.waiting.iter().any(|waiting| waiting == subject)
    }
}

/// Waits for several, and tells of all at once.
pub(super) struct Gather(Arc<Mutex<Gathered>>);

struct Gathered {
    missing: usize,
    left: Vec<String>,
    then: Option<WhenFreed>,
}

impl Gather {
    pub(super) fn new(missing: usize, left: Vec<String>, then: WhenFreed) -> Self {
        Self(Arc::new(Mutex::new(Gathered { missing, left, then: Some(then) })))
    }

    /// To be called when one of them is over.
    pub(super) fn one(&self) -> WhenFreed {
        let gathered = Arc::clone(&self.0);
        Box::new(move |left| {
            let mut all = gathered.lock().expect("a thread that panics ends the process");
            all.missing -= 1;
            all.left.extend(left);
            if all.missing == 0
                && let Some(then) = all.then.take()
            {
                then(std::mem::take(&mut all.left));
            }
        })
    }
}
