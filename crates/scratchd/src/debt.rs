//! What could not be removed yet: where, why, how often it was tried, and when it is tried again. Nothing leaves this list
//! but by being gone.
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use rustix::io::Errno;
use scratch_fs::{Blocker, DebtBook, DebtEntry, Leftover, Place, TrashName};
use scratch_lease::{BootTime, LeaseId, PoolId};

/// The first retry; doubled at each try up to the longest.
const RETRY_MIN: Duration = Duration::from_secs(1);
const RETRY_MAX: Duration = Duration::from_secs(600);

/// So many are written down for the next broker; it tries the others anew.
const BOOK_MAX: usize = 10_000;

/// After a start, what is overdue is tried again at this pace, so that the start itself is not held up.
const PACE: Duration = Duration::from_millis(10);

/// What a debt is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Subject {
    /// An ended tree of which something remains, in the trash of this pool.
    Trash(PoolId, TrashName),
    /// A lease that has ended and whose directory can't be moved into trash.
    Lease(LeaseId),
    /// A directory whose record is torn, missing or another's: whether it is dead is unknown, so it is kept. Never tried
    /// again by itself.
    Record(LeaseId),
    /// An area of a lease, by its number, in a directory that a client passed.
    Foreign(LeaseId, u32),
}

/// One debt.
#[derive(Debug, Clone)]
pub(crate) struct Debt {
    pub(crate) subject: Subject,
    pub(crate) lease: Option<LeaseId>,
    pub(crate) pool: PoolId,
    pub(crate) tenant: u32,
    pub(crate) path: PathBuf,
    pub(crate) errno: Option<Errno>,
    pub(crate) blocker: String,
    pub(crate) tries: u32,
    pub(crate) next_try: Option<BootTime>,
    pub(crate) bytes: u64,
    /// When it was first written down, since 1970.
    pub(crate) since: Duration,
    /// Of a lease that is in no table any more: which directory is to go.
    pub(crate) place: Place,
}

/// All debts.
#[derive(Debug, Default)]
pub(crate) struct Debts {
    all: BTreeMap<Subject, Debt>,
    /// Those that are tried again by themselves.
    by_time: BTreeSet<(BootTime, Subject)>,
    /// What the broker before has written down, until it is owed again.
    before: HashMap<Subject, DebtEntry>,
    /// Grows with every change.
    pub(crate) changes: u64,
}

impl Subject {
    /// As clients name it.
    pub(crate) fn id(&self) -> String {
        match self {
            // Each lease in memory counts by itself, and so does each pool.
            Self::Trash(_, name) if name.number >= 1 << 63 => {
                format!("trash-{}-{}", name.lease, name.number - (1 << 63))
            }
            Self::Trash(PoolId(0), name) => format!("trash-{}", name.number),
            Self::Trash(PoolId(pool), name) => format!("trash-{pool}-{}", name.number),
            Self::Lease(lease) => format!("lease-{lease}"),
            Self::Record(lease) => format!("record-{lease}"),
            Self::Foreign(lease, number) => format!("foreign-{lease}.{number}"),
        }
    }

    /// As page tokens name it: all of it.
    pub(crate) fn key(&self) -> String {
        match self {
            Self::Trash(PoolId(pool), name) => format!("{pool}/{name}"),
            Self::Lease(_) | Self::Record(_) | Self::Foreign(..) => self.id(),
        }
    }

    /// Of such a name.
    pub(crate) fn of_key(key: &str) -> Option<Self> {
        match key.split_once('/') {
            Some((pool, name)) => Self::of_name(PoolId(pool.parse().ok()?), name),
            None => Self::of_name(PoolId(0), key),
        }
    }

    /// As the book of its pool names it.
    fn name(&self) -> String {
        match self {
            Self::Trash(_, name) => name.to_string(),
            Self::Lease(_) | Self::Record(_) | Self::Foreign(..) => self.id(),
        }
    }

    fn of_name(pool: PoolId, name: &str) -> Option<Self> {
        match name.split_once('-') {
            Some(("lease", lease)) => lease.parse().ok().map(Self::Lease),
            Some(("record", lease)) => lease.parse().ok().map(Self::Record),
            Some(("foreign", area)) => {
                let (lease, number) = area.split_once('.')?;
                Some(Self::Foreign(lease.parse().ok()?, number.parse().ok()?))
            }
            _ => TrashName::parse(name.as_bytes()).map(|name| Self::Trash(pool, name)),
        }
    }
}

impl Debt {
    /// A debt that was not tried yet.
    pub(crate) fn new(subject: Subject, (pool, tenant): (PoolId, u32), path: PathBuf, blocker: &str) -> Self {
        let lease = match subject {
            Subject::Trash(_, name) => name.lease,
            Subject::Lease(lease) | Subject::Record(lease) | Subject::Foreign(lease, _) => lease,
        };
        Self {
            subject,
            lease: Some(lease),
            pool,
            tenant,
            path,
            errno: None,
            blocker: blocker.to_owned(),
            tries: 0,
            next_try: None,
            bytes: 0,
            since: Duration::ZERO,
            place: Place::Unknown,
        }
    }

    /// Of a tree that the walk left something of.
    pub(crate) fn of_leftover(pool: PoolId, left: &Leftover) -> Self {
        let (subject, blocker) = (Subject::Trash(pool, left.entry), left.blocker.to_string());
        let debt = Self::new(subject, (pool, left.entry.tenant), left.error.path.clone(), &blocker);
        Self { errno: Some(left.error.errno), bytes: left.bytes, ..debt }
    }

    /// Whether an admin's word lets it go.
    pub(crate) fn is_foreign(&self) -> bool {
        matches!(self.subject, Subject::Trash(..)) && self.blocker == Blocker::ForeignOwner.to_string()
    }

    fn of_entry(subject: Subject, pool: PoolId, entry: &DebtEntry) -> Self {
        let path = PathBuf::from(OsStr::from_bytes(&entry.path));
        Self {
            errno: (entry.errno != 0).then(|| Errno::from_raw_os_error(entry.errno)),
            tries: entry.tries,
            bytes: entry.bytes,
            since: Duration::from_secs(entry.since),
            ..Self::new(subject, (pool, entry.tenant), path, &entry.blocker)
        }
    }

    fn to_entry(&self) -> DebtEntry {
        DebtEntry {
            id: self.subject.name(),
            path: self.path.as_os_str().as_bytes().to_vec(),
            errno: self.errno.map_or(0, Errno::raw_os_error),
            blocker: self.blocker.clone(),
            tries: self.tries,
            next_try: self.next_try.map_or(0, |time| time.0),
            bytes: self.bytes,
            since: self.since.as_secs(),
            tenant: self.tenant,
        }
    }
}

impl Debts {
    /// Writes a debt down, or down again after another try: later each time, and never all at once.
    pub(crate) fn owe(&mut self, mut debt: Debt, now: BootTime) {
        let before = self.before.remove(&debt.subject);
        (debt.tries, debt.since) = match (self.all.get(&debt.subject), before) {
            (Some(known), _) => (known.tries + 1, known.since),
            // Found again by a start, which is no try.
            (None, Some(known)) if matches!(debt.subject, Subject::Record(_)) => {
                (known.tries, Duration::from_secs(known.since))
            }
            (None, Some(known)) => (known.tries + 1, Duration::from_secs(known.since)),
            (None, None) => (1, since_1970()),
        };
        let waits = RETRY_MIN.saturating_mul(1 << debt.tries.min(16).saturating_sub(1)).min(RETRY_MAX);
        debt.next_try = match debt.subject {
            Subject::Record(_) => None,
            subject => Some(now + waits + waits.mul_f64(fraction(&subject) / 4.0)),
        };
        self.insert(debt);
    }

    /// What the broker before has written down of a pool. Of the trees that are in trash those that it knew are owed as they were;
    /// returns the others. What is overdue, or was written in another boot, is spread.
    pub(crate) fn restore(
        &mut self,
        pool: PoolId,
        book: DebtBook,
        boot: &str,
        trees: Vec<TrashName>,
        now: BootTime,
    ) -> Vec<TrashName> {
        let same_boot = book.boot == boot;
        let count = u32::try_from(book.debts.len().min(BOOK_MAX)).unwrap_or(u32::MAX);
        let entries = book.debts.into_iter().filter_map(|entry| Some((Subject::of_name(pool, &entry.id)?, entry)));
        self.before.extend(entries.take(BOOK_MAX));
        let spread = PACE.saturating_mul(count).clamp(RETRY_MIN, RETRY_MAX);
        let mut fresh = Vec::new();
        for tree in trees {
            let subject = Subject::Trash(pool, tree);
            let Some(entry) = self.before.remove(&subject) else {
                fresh.push(tree);
                continue;
            };
            let latest = now + RETRY_MAX + RETRY_MAX / 4;
            let was_to_be = Some(BootTime(entry.next_try)).filter(|time| same_boot && *time > now && *time <= latest);
            let next_try = was_to_be.unwrap_or_else(|| now + spread.mul_f64(fraction(&subject)));
            self.insert(Debt { next_try: Some(next_try), ..Debt::of_entry(subject, pool, &entry) });
        }
        fresh
    }

    /// Those of a pool, as the next broker is to find them.
    pub(crate) fn to_book(&self, pool: PoolId, boot: &str) -> DebtBook {
        let of_pool = self.all.values().filter(|debt| debt.pool == pool);
        DebtBook { boot: boot.to_owned(), debts: of_pool.take(BOOK_MAX).map(Debt::to_entry).collect() }
    }

    fn insert(&mut self, debt: Debt) {
        self.settle(&debt.subject);
        self.changes += 1;
        self.by_time.extend(debt.next_try.map(|time| (time, debt.subject)));
        self.all.insert(debt.subject, debt);
    }

    /// It is gone.
    pub(crate) fn settle(&mut self, subject: &Subject) {
        if let Some(debt) = self.all.remove(subject) {
            self.changes += 1;
            debt.next_try.map(|time| self.by_time.remove(&(time, *subject)));
        }
    }

    /// Those whose time has come.
    pub(crate) fn due(&self, now: BootTime) -> impl Iterator<Item = Subject> {
        self.by_time.iter().take_while(move |(time, _)| *time <= now).map(|(_, subject)| *subject)
    }

    /// When the next one's time comes.
    pub(crate) fn next_try(&self) -> Option<BootTime> {
        self.by_time.first().map(|(time, _)| *time)
    }

    /// One of them.
    pub(crate) fn get(&self, subject: &Subject) -> Option<&Debt> {
        self.all.get(subject)
    }

    /// Those that sort after a subject.
    pub(crate) fn after(&self, subject: Option<Subject>) -> impl Iterator<Item = &Debt> {
        use std::ops::Bound;
        let from = subject.map_or(Bound::Unbounded, Bound::Excluded);
        self.all.range((from, Bound::Unbounded)).map(|(_, debt)| debt)
    }

    /// All of them, oldest trash first.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Debt> {
        self.all.values()
    }
}

fn since_1970() -> Duration {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default()
}

/// From 0 to 1, from the subject itself: many debts of one cause are not retried in one instant.
fn fraction(subject: &Subject) -> f64 {
    use std::hash::{DefaultHasher, Hash, Hasher};
    let mut hasher = DefaultHasher::new();
    subject.hash(&mut hasher);
    (hasher.finish() % 1024) as f64 / 1024.0
}

#[cfg(test)]
mod tests {
    use super::*;

    const POOL: PoolId = PoolId(0);

    fn debt(subject: Subject) -> Debt {
        Debt { errno: Some(Errno::BUSY), bytes: 7, ..Debt::new(subject, (POOL, 5), "/p/\u{fc}".into(), "busy") }
    }

    fn lease() -> LeaseId {
        LeaseId::from_bits([0; 10])
    }

    fn tree(number: u64) -> TrashName {
        TrashName { number, tenant: 5, lease: lease() }
    }

    fn due(debts: &Debts, now: BootTime) -> Vec<Subject> {
        debts.due(now).collect()
    }

    #[test]
    fn tries_come_later_each_time_and_never_stop() {
        let subject = Subject::Lease(lease());
        let (mut debts, mut now, mut waits) = (Debts::default(), BootTime(0), Vec::new());
        for _ in 0..20 {
            debts.owe(debt(subject), now);
            let next = debts.next_try().unwrap();
            assert_eq!(due(&debts, now), []);
            waits.push(next.duration_since(now));
            now = next;
            assert_eq!(due(&debts, now), [subject]);
        }
        assert!(waits.windows(2).all(|pair| pair[0] <= pair[1]));
        assert!(waits[19] >= RETRY_MAX && waits[19] <= RETRY_MAX * 5 / 4);
        debts.settle(&subject);
        assert_eq!((debts.iter().count(), debts.next_try()), (0, None));
    }

    #[test]
    fn what_is_unknown_waits_for_a_person() {
        let mut debts = Debts::default();
        debts.owe(debt(Subject::Record(lease())), BootTime(0));
        assert_eq!(debts.next_try(), None);
        assert_eq!(due(&debts, BootTime(u64::MAX)), []);
    }

    #[test]
    fn what_was_written_down_goes_on_as_it_was() {
        let (mut debts, now) = (Debts::default(), BootTime(1_000_000_000_000));
        let subjects = [Subject::Trash(POOL, tree(3)), Subject::Lease(lease()), Subject::Record(lease())];
        for subject in subjects.iter().chain(&subjects) {
            debts.owe(debt(*subject), now);
        }
        let was = debts.get(&subjects[0]).unwrap().clone();
        let book = DebtBook::default();
        assert_eq!(Debts::default().restore(POOL, book, "boot", vec![tree(3), tree(4)], now), [tree(3), tree(4)]);

        let mut next = Debts::default();
        assert_eq!(next.restore(POOL, debts.to_book(POOL, "boot"), "boot", vec![tree(3), tree(4)], now), [tree(4)]);
        let is = next.get(&subjects[0]).unwrap().clone();
        let known = |debt: &Debt| (debt.tries, debt.next_try, debt.bytes, debt.errno, debt.path.clone(), debt.tenant);
        assert_eq!((known(&is), is.blocker.as_str()), (known(&was), "busy"));
        assert_eq!(next.iter().count(), 1, "what is not in trash is owed when it is found");
        for (subject, tries) in [(subjects[1], 3), (subjects[2], 2)] {
            next.owe(debt(subject), now);
            assert_eq!(next.get(&subject).unwrap().tries, tries);
        }
    }

    #[test]
    fn what_is_overdue_after_a_start_is_spread() {
        let (mut debts, now) = (Debts::default(), BootTime(1_000_000_000_000));
        let trees: Vec<_> = (0..5000).map(tree).collect();
        trees.iter().for_each(|tree| debts.owe(debt(Subject::Trash(POOL, *tree)), BootTime(0)));
        for boot in ["boot", "another boot"] {
            let mut next = Debts::default();
            assert_eq!(next.restore(POOL, debts.to_book(POOL, "boot"), boot, trees.clone(), now), []);
            assert!(due(&next, now + Duration::from_secs(1)).len() < 200, "{boot}");
            assert_eq!(due(&next, now + PACE * 5000).len(), 5000, "{boot}");
        }
    }
}
