//! What happened to leases and tenants, kept for watchers for a while.
//!
//! Nobody's events push out another's: of n tenants each keeps its newest `EVENTS_MAX` / n. What comes in floods is told once,
//! and then together with all that follows within a second.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::time::Duration;

use crate::{BootTime, Caller, Excess, Holder, HolderId, HolderKind, LeaseId, LeaseState, Reason, Table, TenantId};

/// So many events are kept.
const EVENTS_MAX: usize = 4_096;
/// So long what happens again is counted, and not told one by one.
const TOGETHER_FOR: Duration = Duration::from_secs(1);

/// One thing that happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// Counts up by one from 1 within a generation.
    pub revision: u64,
    /// When.
    pub time: BootTime,
    /// Whose it is; `None`: everybody's.
    pub tenant: Option<TenantId>,
    /// The lease it happened to, if it was one.
    pub lease: Option<LeaseId>,
    /// What happened.
    pub kind: EventKind,
    /// The holder that came or went.
    pub holder: Option<HolderKind>,
}

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EventKind {
    /// The broker began: the first event of each generation.
    Restarted,
    /// It is there.
    Granted,
    /// It was taken over from the broker before.
    Adopted,
    /// A holder came.
    Attached(HolderId),
    /// A holder was taken away on request.
    Detached(HolderId),
    /// A holder ended by itself.
    HolderGone(HolderId),
    /// It takes nothing new and is about to go.
    Ending(Reason),
    /// It has left the name space.
    Ended(Reason),
    /// So many of its areas, or names of it, were released.
    Released(u64),
    /// So many ended trees of it were freed.
    Reaped {
        /// The trees.
        trees: u64,
        /// The names in them.
        names: u64,
    },
    /// Something of it can't be removed yet.
    Owed {
        /// The debt's id.
        debt: Box<str>,
        /// What stands in the way.
        blocker: Box<str>,
        /// What the kernel said; 0: nothing.
        errno: i32,
    },
    /// A debt is gone.
    Settled(Box<str>),
    /// A limit refused so many requests.
    Refused {
        /// The reason that was answered.
        reason: Box<str>,
        /// The requests.
        requests: u64,
    },
    /// It has ended, and its directory stays for a while.
    Kept(Reason),
    /// It was brought back into the name space, and is kept.
    Undeleted,
    /// The meter has found it to have more than it may, or that no more.
    Metered(Option<Excess>),
}

/// Events after the revision asked for are no longer kept, or it is not of this generation: list anew.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("events after this revision are no longer kept")]
pub struct Compacted;

/// The newest events.
#[derive(Debug, Default)]
pub(crate) struct Log {
    now: BootTime,
    revision: u64,
    events: BTreeMap<u64, Event>,
    shares: HashMap<Option<TenantId>, Share>,
    /// The newest event that is kept no more, of those of anybody.
    dropped: u64,
    /// The same, of those who have no share any more.
    dropped_of_others: u64,
    gathered: HashMap<Flood, Counts>,
    /// When each is told, the earliest first.
    told_at: VecDeque<(BootTime, Flood)>,
}

/// One tenant's events.
#[derive(Debug, Default)]
struct Share {
    kept: VecDeque<u64>,
    dropped: u64,
}

/// What may happen any number of times a second.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Flood {
    tenant: TenantId,
    lease: Option<LeaseId>,
    what: What,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum What {
    Released,
    Reaped,
    Refused(Box<str>),
}

/// How often it happened since it was told.
#[derive(Clone, Copy, Debug, Default)]
struct Counts {
    times: u64,
    names: u64,
}

impl What {
    fn event(self, counts: Counts) -> EventKind {
        match self {
            Self::Released => EventKind::Released(counts.times),
            Self::Reaped => EventKind::Reaped { trees: counts.times, names: counts.names },
            Self::Refused(reason) => EventKind::Refused { reason, requests: counts.times },
        }
    }
}

impl Log {
    /// Something happened to a lease.
    pub(crate) fn push(&mut self, lease: LeaseId, tenant: TenantId, kind: EventKind) {
        if matches!(kind, EventKind::Ending(_)) {
            // What was released goes before the end.
            self.tell(&Flood { tenant, lease: Some(lease), what: What::Released });
        }
        let has_ended = matches!(kind, EventKind::Ended(_));
        self.add(Some(tenant), Some(lease), kind, None);
        if has_ended {
            // What was freed meanwhile comes after it.
            self.tell(&Flood { tenant, lease: Some(lease), what: What::Reaped });
        }
    }

    /// A holder came or went.
    pub(crate) fn push_holder(&mut self, lease: LeaseId, tenant: TenantId, kind: EventKind, holder: Holder) {
        self.add(Some(tenant), Some(lease), kind, Some(holder.kind));
    }

    /// The time that events have from now on. What was gathered up to then is told.
    pub(crate) fn at(&mut self, now: BootTime) {
        self.now = self.now.max(now);
        while self.told_at.front().is_some_and(|(time, _)| *time <= self.now) {
            let Some((_, flood)) = self.told_at.pop_front() else { return };
            self.tell(&flood);
        }
    }

    /// Told at once if it is the first for a while.
    fn gather(&mut self, flood: Flood, counts: Counts) {
        if let Some(gathered) = self.gathered.get_mut(&flood) {
            gathered.times += counts.times;
            gathered.names += counts.names;
            return;
        }
        self.add(Some(flood.tenant), flood.lease, flood.what.clone().event(counts), None);
        self.gather_untold(flood, Counts::default());
    }

    fn gather_untold(&mut self, flood: Flood, counts: Counts) {
        self.gathered.insert(flood.clone(), counts);
        self.told_at.push_back((self.now + TOGETHER_FOR, flood));
    }

    fn tell(&mut self, flood: &Flood) {
        if let Some(counts) = self.gathered.remove(flood)
            && counts.times > 0
        {
            self.add(Some(flood.tenant), flood.lease, flood.what.clone().event(counts), None);
        }
    }

    fn add(&mut self, tenant: Option<TenantId>, lease: Option<LeaseId>, kind: EventKind, holder: Option<HolderKind>) {
        if self.events.len() >= EVENTS_MAX {
            self.drop_one(tenant);
        }
        self.revision += 1;
        let event = Event { revision: self.revision, time: self.now, tenant, lease, kind, holder };
        self.events.insert(self.revision, event);
        let dropped = self.dropped_of_others;
        let share = self.shares.entry(tenant).or_insert_with(|| Share { kept: VecDeque::new(), dropped });
        share.kept.push_back(self.revision);
    }

    /// Makes room for one of this tenant: by its own oldest if it has its share, else by that of who has most.
    fn drop_one(&mut self, tenant: Option<TenantId>) {
        let fair = EVENTS_MAX / self.shares.len().max(1);
        let has_its_share = self.shares.get(&tenant).is_some_and(|share| share.kept.len() >= fair);
        let most = || self.shares.iter().max_by_key(|(_, share)| share.kept.len()).map(|(tenant, _)| *tenant);
        let Some(whose) = (if has_its_share { Some(tenant) } else { most() }) else { return };
        let Some(share) = self.shares.get_mut(&whose) else { return };
        let Some(oldest) = share.kept.pop_front() else { return };
        share.dropped = oldest;
        self.dropped = self.dropped.max(oldest);
        self.events.remove(&oldest);
        if share.kept.is_empty() {
            self.dropped_of_others = self.dropped_of_others.max(oldest);
            self.shares.remove(&whose);
        }
    }

    fn dropped_for(&self, caller: Caller) -> u64 {
        if caller.admin {
            return self.dropped;
        }
        self.shares.get(&Some(caller.tenant)).map_or(self.dropped_of_others, |share| share.dropped)
    }
}

impl Table {
    /// Which run of the broker this is.
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// The revision of the newest event; 0 before the first.
    #[must_use]
    pub fn revision(&self) -> u64 {
        self.log.revision
    }

    /// The revision before the oldest event that this caller can still see.
    #[must_use]
    pub fn oldest_revision(&self, caller: Caller) -> u64 {
        self.log.dropped_for(caller)
    }

    /// The events after `revision` that this caller may see, oldest first.
    ///
    /// # Errors
    /// Some of them are no longer kept, or the revision has not been reached.
    pub fn events_since(&self, revision: u64, caller: Caller) -> Result<impl Iterator<Item = &Event>, Compacted> {
        if revision > self.log.revision || revision < self.log.dropped_for(caller) {
            return Err(Compacted);
        }
        let seen = move |event: &&Event| event.tenant.is_none_or(|tenant| caller.sees(tenant));
        Ok(self.log.events.range(revision + 1..).map(|(_, event)| event).filter(seen))
    }

    /// The time that events have from now on. What happened often is told when its second is over.
    pub fn at(&mut self, now: BootTime) -> &mut Self {
        self.log.at(now);
        self
    }

    /// When [`at`](Self::at) will have something to tell; `None`: nothing was gathered.
    #[must_use]
    pub fn tells_at(&self) -> Option<BootTime> {
        self.log.told_at.front().map(|(time, _)| *time)
    }

    /// The broker begins.
    pub fn started(&mut self) {
        self.log.add(None, None, EventKind::Restarted, None);
    }

    /// An area of a lease, or a name of it, was released.
    pub fn released(&mut self, id: LeaseId) {
        let Some(tenant) = self.leases.get(&id).map(|lease| lease.tenant) else { return };
        let flood = Flood { tenant, lease: Some(id), what: What::Released };
        self.log.gather(flood, Counts { times: 1, names: 0 });
    }

    /// A tree that was a lease's, or an area of it, is freed.
    pub fn reaped(&mut self, lease: LeaseId, tenant: TenantId, names: u64) {
        let flood = Flood { tenant, lease: Some(lease), what: What::Reaped };
        let counts = Counts { times: 1, names };
        // Its tree may be freed before the lease is known to have left the name space: that is told first.
        let ends = self.leases.get(&lease).is_some_and(|lease| lease.state == LeaseState::Ending);
        if ends && !self.log.gathered.contains_key(&flood) {
            self.log.gather_untold(flood, counts);
        } else {
            self.log.gather(flood, counts);
        }
    }

    /// Something of this tenant can't be removed yet.
    pub fn owed(&mut self, lease: Option<LeaseId>, tenant: TenantId, debt: &str, why: (&str, i32)) {
        let (blocker, errno) = why;
        let kind = EventKind::Owed { debt: debt.into(), blocker: blocker.into(), errno };
        self.log.add(Some(tenant), lease, kind, None);
    }

    /// What was owed is gone.
    pub fn settled(&mut self, lease: Option<LeaseId>, tenant: TenantId, debt: &str) {
        self.log.add(Some(tenant), lease, EventKind::Settled(debt.into()), None);
    }

    /// A limit has refused a request of this tenant.
    pub fn refused(&mut self, tenant: TenantId, reason: &str) {
        let flood = Flood { tenant, lease: None, what: What::Refused(reason.into()) };
        self.log.gather(flood, Counts { times: 1, names: 0 });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::*;

    fn revisions(table: &Table, after: u64) -> Result<Vec<u64>, Compacted> {
        revisions_of(table, after, ME)
    }

    fn revisions_of(table: &Table, after: u64, caller: Caller) -> Result<Vec<u64>, Compacted> {
        table.events_since(after, caller).map(|events| events.map(|event| event.revision).collect())
    }

    #[test]
    fn watchers_go_on_where_they_were() {
        let mut table = table_with([grant(1, &[process(1)]), grant(2, &[process(1)])]);
        assert_eq!((table.generation(), table.revision()), (1, 2));
        assert_eq!(revisions(&table, 0), Ok(vec![1, 2]));
        assert_eq!(revisions(&table, 2), Ok(vec![]));
        table.holder_gone(id(1), 1);
        assert_eq!(revisions(&table, 2), Ok(vec![3]));
    }

    #[test]
    fn a_revision_that_is_not_kept_or_not_reached_is_compacted() {
        let mut table = table_with([grant(1, &[process(1)])]);
        assert_eq!(revisions(&table, 2), Err(Compacted));
        for _ in 0..EVENTS_MAX {
            table.log.push(id(1), ME.tenant, EventKind::Granted);
        }
        assert_eq!(revisions(&table, 0), Err(Compacted));
        assert_eq!(table.oldest_revision(ME), 1);
        assert_eq!(revisions(&table, 1).map(|kept| (kept.len(), kept[0])), Ok((EVENTS_MAX, 2)));
    }

    #[test]
    fn everybody_sees_a_restart_and_nobody_what_others_do() {
        let mut table = table();
        table.at(at(1)).started();
        put(&mut table, grant(1, &[process(1)]));
        table.refused(OTHER.tenant, "LIMIT_LEASES");
        assert_eq!(revisions_of(&table, 0, ME), Ok(vec![1, 2]));
        assert_eq!(revisions_of(&table, 0, OTHER), Ok(vec![1, 3]));
        assert_eq!(revisions_of(&table, 0, ADMIN), Ok(vec![1, 2, 3]));
    }

    #[test]
    fn a_flood_of_one_tenant_takes_nothing_from_another() {
        let mut table = table_with([grant(1, &[process(1)])]);
        for _ in 0..3 * EVENTS_MAX {
            table.log.push(id(2), OTHER.tenant, EventKind::Granted);
        }
        assert_eq!(revisions_of(&table, 0, ME), Ok(vec![1]));
        assert_eq!(revisions_of(&table, 0, OTHER), Err(Compacted));
        assert_eq!(revisions_of(&table, 0, ADMIN), Err(Compacted));
        // Whoever comes late gets a share, down to which the flood gives way.
        for _ in 0..EVENTS_MAX {
            table.log.push(id(1), ME.tenant, EventKind::Granted);
        }
        let kept = |caller| {
            let oldest = table.oldest_revision(caller);
            table.events_since(oldest, caller).map(Iterator::count)
        };
        assert_eq!((kept(ME), kept(OTHER)), (Ok(EVENTS_MAX / 2), Ok(EVENTS_MAX / 2)));
        assert_eq!(table.log.events.len(), EVENTS_MAX);
    }

    #[test]
    fn with_more_tenants_than_room_the_log_stays_bounded() {
        let mut table = table();
        for tenant in 0..2 * EVENTS_MAX {
            let tenant = TenantId(u32::try_from(tenant).expect("it is small"));
            table.log.push(id(1), tenant, EventKind::Granted);
        }
        assert_eq!((table.log.events.len(), table.log.shares.len()), (EVENTS_MAX, EVENTS_MAX));
        let gone = Caller::of(TenantId(u32::MAX));
        assert_eq!(revisions_of(&table, 0, gone), Err(Compacted), "what was dropped may have been theirs");
    }

    #[test]
    fn what_comes_in_floods_is_told_once_and_then_together() {
        let mut table = table_with([grant(1, &[process(1)])]);
        for _ in 0..100 {
            table.at(at(5)).released(id(1));
            table.refused(ME.tenant, "LIMIT_AREAS");
        }
        table.reaped(id(1), ME.tenant, 7);
        assert_eq!(table.tells_at(), Some(at(6)));
        let kinds = |table: &Table, after: u64| -> Vec<EventKind> {
            table.events_since(after, ME).expect("all are kept").map(|event| event.kind.clone()).collect()
        };
        let refused = |requests| EventKind::Refused { reason: "LIMIT_AREAS".into(), requests };
        let first = [EventKind::Released(1), refused(1), EventKind::Reaped { trees: 1, names: 7 }];
        assert_eq!(kinds(&table, 1), first);
        assert_eq!(kinds(table.at(at(6)), 4), [EventKind::Released(99), refused(99)]);
        assert_eq!(table.tells_at(), None);
        // And once more from the beginning.
        table.released(id(1));
        assert_eq!(kinds(&table, 6), [EventKind::Released(1)]);
    }

    #[test]
    fn that_a_tree_is_freed_is_told_after_its_lease_has_ended() {
        let mut table = table_with([grant(1, &[process(1)])]);
        table.revoke(id(1), ME).expect("it is mine");
        table.due(at(1));
        table.reaped(id(1), ME.tenant, 7);
        table.at(at(1)).forget_until_freed(id(1));
        let told = [EventKind::Ended(Reason::Revoked), EventKind::Reaped { trees: 1, names: 7 }];
        assert_eq!(events(&table, 1)[2..], told);
        // One that can't be put away for long says so in time.
        put(&mut table, grant(2, &[process(1)]));
        table.revoke(id(2), ME).expect("it is mine");
        table.due(at(1));
        let before = table.revision();
        table.reaped(id(2), ME.tenant, 7);
        assert_eq!(table.revision(), before);
        table.at(at(2));
        assert_eq!(table.revision(), before + 1);
    }

    #[test]
    fn what_was_released_is_told_before_the_lease_ends() {
        let mut table = table_with([grant(1, &[process(1)])]);
        table.at(at(1)).released(id(1));
        table.released(id(1));
        table.revoke(id(1), ME).expect("it is mine");
        table.due(at(1));
        let told = [EventKind::Granted, EventKind::Released(1), EventKind::Released(1)];
        assert_eq!(events(&table, 1)[..3], told);
        assert_eq!(events(&table, 1)[3], EventKind::Ending(Reason::Revoked));
    }

    #[test]
    fn events_have_their_time_and_their_holder() {
        let mut table = table_with([grant(1, &[process(1)])]);
        table.at(at(9)).holder_gone(id(1), 1);
        let last = table.events_since(1, ME).expect("it is kept").next().expect("a holder went");
        assert_eq!((last.time, last.kind.clone()), (at(9), EventKind::HolderGone(1)));
        assert!(matches!(last.holder, Some(HolderKind::Process(process)) if process.pid == 1));
        // An older time changes nothing: events are in their order.
        table.at(at(3)).holder_gone(id(1), 1);
        assert_eq!(table.log.now, at(9));
    }
}
