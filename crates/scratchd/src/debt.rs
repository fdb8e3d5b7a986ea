//! What could not be removed yet: where, why, how often it was tried, and when it is tried again. Nothing leaves this list
//! but by being gone.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use rustix::io::Errno;
use scratch_fs::{Leftover, TrashName};
use scratch_lease::{BootTime, LeaseId};

/// The first retry; doubled at each try up to the longest.
const RETRY_MIN: Duration = Duration::from_secs(1);
const RETRY_MAX: Duration = Duration::from_secs(600);

/// What a debt is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Subject {
    /// An ended tree of which something remains.
    Trash(TrashName),
    /// A lease that has ended and whose directory can't be moved into trash.
    Lease(LeaseId),
    /// A directory whose record is torn or missing: whether it is dead is unknown, so it is kept. Never tried again by
    /// itself; the next boot ends it.
    Record(LeaseId),
}

/// One debt.
#[derive(Debug, Clone)]
pub(crate) struct Debt {
    pub(crate) subject: Subject,
    pub(crate) lease: Option<LeaseId>,
    pub(crate) tenant: u32,
    pub(crate) path: PathBuf,
    pub(crate) errno: Option<Errno>,
    pub(crate) blocker: String,
    pub(crate) tries: u32,
    pub(crate) next_try: Option<BootTime>,
    pub(crate) bytes: u64,
}

/// All debts.
#[derive(Debug, Default)]
pub(crate) struct Debts(BTreeMap<Subject, Debt>);

impl Subject {
    /// As clients name it.
    pub(crate) fn id(&self) -> String {
        match self {
            Self::Trash(name) => format!("trash-{}", name.number),
            Self::Lease(lease) => format!("lease-{lease}"),
            Self::Record(lease) => format!("record-{lease}"),
        }
    }
}

impl Debt {
    /// Of a tree that the walk left something of.
    pub(crate) fn of_leftover(left: &Leftover) -> Self {
        Self {
            subject: Subject::Trash(left.entry),
            lease: Some(left.entry.lease),
            tenant: left.entry.tenant,
            path: left.error.path.clone(),
            errno: Some(left.error.errno),
            blocker: left.blocker.to_string(),
            tries: 0,
            next_try: None,
            bytes: left.bytes,
        }
    }
}

impl Debts {
    /// Writes a debt down, or down again after another try: later each time, and never all at once.
    pub(crate) fn owe(&mut self, mut debt: Debt, now: BootTime) {
        debt.tries = self.0.get(&debt.subject).map_or(0, |known| known.tries) + 1;
        let waits = RETRY_MIN.saturating_mul(1 << debt.tries.min(16).saturating_sub(1)).min(RETRY_MAX);
        debt.next_try = match debt.subject {
            Subject::Record(_) => None,
            subject => Some(now + waits + jitter(&subject, waits)),
        };
        self.0.insert(debt.subject, debt);
    }

    /// It is gone.
    pub(crate) fn settle(&mut self, subject: &Subject) {
        self.0.remove(subject);
    }

    /// Those whose time has come; `all`: all that can be tried.
    pub(crate) fn due(&self, now: BootTime, all: bool) -> Vec<Subject> {
        let due = |debt: &&Debt| debt.next_try.is_some_and(|time| all || time <= now);
        self.0.values().filter(due).map(|debt| debt.subject).collect()
    }

    /// When the next one's time comes.
    pub(crate) fn next_try(&self) -> Option<BootTime> {
        self.0.values().filter_map(|debt| debt.next_try).min()
    }

    /// One of them.
    pub(crate) fn get(&self, subject: &Subject) -> Option<&Debt> {
        self.0.get(subject)
    }

    /// All of them, oldest trash first.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Debt> {
        self.0.values()
    }
}

/// Up to a quarter of the wait, from the subject itself: many debts of one cause are not retried in one instant.
fn jitter(subject: &Subject, waits: Duration) -> Duration {
    use std::hash::{DefaultHasher, Hash, Hasher};
    let mut hasher = DefaultHasher::new();
    subject.hash(&mut hasher);
    waits.mul_f64((hasher.finish() % 256) as f64 / 1024.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn debt(subject: Subject) -> Debt {
        Debt {
            subject,
            lease: None,
            tenant: 0,
            path: PathBuf::new(),
            errno: Some(Errno::BUSY),
            blocker: "busy".into(),
            tries: 0,
            next_try: None,
            bytes: 0,
        }
    }

    #[test]
    fn tries_come_later_each_time_and_never_stop() {
        let subject = Subject::Lease(LeaseId::from_bits([0; 10]));
        let (mut debts, mut now, mut waits) = (Debts::default(), BootTime(0), Vec::new());
        for _ in 0..20 {
            debts.owe(debt(subject), now);
            let next = debts.next_try().unwrap();
            assert!(debts.due(now, false).is_empty());
            assert_eq!(debts.due(now, true), [subject]);
            waits.push(next.duration_since(now));
            now = next;
            assert_eq!(debts.due(now, false), [subject]);
        }
        assert!(waits.windows(2).all(|pair| pair[0] <= pair[1]));
        assert!(waits[19] >= RETRY_MAX && waits[19] <= RETRY_MAX * 5 / 4);
        debts.settle(&subject);
        assert_eq!((debts.iter().count(), debts.next_try()), (0, None));
    }

    #[test]
    fn what_is_unknown_waits_for_a_person_or_the_next_boot() {
        let mut debts = Debts::default();
        debts.owe(debt(Subject::Record(LeaseId::from_bits([0; 10]))), BootTime(0));
        assert_eq!(debts.next_try(), None);
        assert!(debts.due(BootTime(u64::MAX), true).is_empty());
    }
}
