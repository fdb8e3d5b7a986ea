//! One lease: what was granted, what holds it, what is in it.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use crate::carve::Accounts;
use crate::{
    AreaKey, AreaKind, BootTime, Holder, HolderId, HolderKind, Keep, Last, LeaseId, NewHolder, Parting, PoolId, Reason,
    Share, TenantId,
};

/// What is asked for.
#[derive(Clone, Debug)]
pub struct Grant {
    /// Random, made by the broker.
    pub id: LeaseId,
    /// Whose lease it will be.
    pub tenant: TenantId,
    /// The pool it lies in.
    pub pool: PoolId,
    /// Made by the client, so that a grant sent again is not granted twice.
    pub nonce: Option<[u8; 16]>,
    /// The lease it can't outlive.
    pub parent: Option<LeaseId>,
    /// What holds it from the start.
    pub holders: Vec<NewHolder>,
    /// Its own limits of bytes and inodes.
    pub share: Share,
    /// It ends then, whatever holds it.
    pub lifetime_max: Option<Duration>,
    /// Free text of the client.
    pub labels: BTreeMap<String, String>,
    /// Whether processes are to be searched by their environment when the last holder has gone.
    pub search_environment: bool,
    /// How long it waits for another holder when the last one has gone by itself.
    pub grace: Duration,
    /// Who asks for it, where that is not the tenant.
    pub granted_by: Option<TenantId>,
    /// It may end when its pool is too full.
    pub preemptible: bool,
}

/// How far a lease is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LeaseState {
    /// Counted, but not there for anybody yet.
    Granting,
    /// There.
    Live,
    /// There, without holders; a search for processes that use it is under way.
    Searching,
    /// On its way out of the name space, or about to be kept.
    Ending,
    /// Ended, and its directory stays where it is until then.
    Kept {
        /// When it goes for good.
        until: BootTime,
    },
    /// Ended and out of the name space; it can be brought back until then, and is there for nobody.
    Gone {
        /// When it is to be freed.
        until: BootTime,
    },
}

/// A lease in the table.
#[derive(Debug)]
pub struct Lease {
    pub(crate) id: LeaseId,
    pub(crate) tenant: TenantId,
    pub(crate) pool: PoolId,
    pub(crate) state: LeaseState,
    pub(crate) search_environment: bool,
    /// Searches asked for and not yet over; more than one if holders came and went meanwhile.
    pub(crate) searches: u32,
    /// Since its last holder went, the search has found nothing.
    pub(crate) searched: bool,
    pub(crate) grace: Duration,
    /// Set while it has no holder and waits for one.
    pub(crate) grace_end: Option<BootTime>,
    /// Its grace is over and nobody came; what it still waits for is a last search.
    pub(crate) waited: bool,
    pub(crate) nonce: Option<[u8; 16]>,
    pub(crate) parent: Option<LeaseId>,
    pub(crate) accounts: Accounts,
    /// In the order of their ids.
    pub(crate) holders: Vec<Holder>,
    pub(crate) holder_next: HolderId,
    pub(crate) labels: BTreeMap<String, String>,
    pub(crate) areas: HashMap<AreaKey, AreaKind>,
    pub(crate) number_next: u32,
    /// Area numbers went once around: from then on a number may be in use.
    pub(crate) numbers_wrapped: bool,
    pub(crate) created: BootTime,
    pub(crate) lifetime_end: Option<BootTime>,
    /// Set once it is decided that the lease ends.
    pub(crate) reason: Option<Reason>,
    /// Why it would end if nothing came any more: how the holder went that went last.
    pub(crate) loss: Reason,
    /// What is to become of it at its end.
    pub(crate) keep: Option<Keep>,
    /// Kept or gone, and due to go for good.
    pub(crate) over: bool,
    /// Its directory was taken away, or replaced, by somebody else.
    pub(crate) lost: bool,
    pub(crate) granted_by: Option<TenantId>,
    pub(crate) preemptible: bool,
}

impl Lease {
    /// A lease in the making. The same subject named twice is one holder.
    pub(crate) fn new(grant: Grant, accounts: Accounts, created: BootTime, now: BootTime) -> Self {
        let mut lease = Self {
            id: grant.id,
            tenant: grant.tenant,
            pool: grant.pool,
            state: LeaseState::Granting,
            search_environment: grant.search_environment,
            searches: 0,
            searched: false,
            grace: grant.grace,
            grace_end: None,
            waited: false,
            nonce: grant.nonce,
            parent: grant.parent,
            accounts,
            holders: Vec::with_capacity(grant.holders.len()),
            holder_next: 1,
            labels: grant.labels,
            areas: HashMap::new(),
            number_next: 1,
            numbers_wrapped: false,
            created,
            lifetime_end: grant.lifetime_max.map(|lifetime_max| created + lifetime_max),
            reason: None,
            loss: Reason::HoldersGone { last: None, grace: Duration::ZERO },
            keep: None,
            over: false,
            lost: false,
            granted_by: grant.granted_by,
            preemptible: grant.preemptible,
        };
        for holder in grant.holders {
            if lease.find(holder).is_none() {
                lease.push(holder.kind(now));
            }
        }
        lease
    }

    /// The holder that is this very subject.
    pub(crate) fn find(&self, holder: NewHolder) -> Option<Holder> {
        self.holders.iter().copied().find(|old| holder.is(old.kind))
    }

    pub(crate) fn push(&mut self, kind: HolderKind) -> Holder {
        let holder = Holder { id: self.holder_next, kind };
        self.holder_next += 1;
        self.holders.push(holder);
        holder
    }

    /// A holder with the id that it had; without one, or where another has it, with the next.
    pub(crate) fn put_back(&mut self, id: HolderId, kind: HolderKind) -> HolderId {
        self.holder_next = self.holder_next.max(id.saturating_add(1));
        match self.holders.binary_search_by_key(&id, |holder| holder.id) {
            Err(place) if id != 0 => {
                self.holders.insert(place, Holder { id, kind });
                id
            }
            _ => self.push(kind).id,
        }
    }

    pub(crate) fn take(&mut self, id: HolderId) -> Option<Holder> {
        let place = self.holders.binary_search_by_key(&id, |holder| holder.id).ok()?;
        Some(self.holders.remove(place))
    }

    /// Every ttl holder gets its full TTL again; the smallest one granted.
    pub(crate) fn restart_ttls(&mut self, now: BootTime) -> Option<Duration> {
        let mut smallest = None;
        for holder in &mut self.holders {
            if let HolderKind::Ttl { granted, deadline } = &mut holder.kind {
                *deadline = now + *granted;
                smallest = Some(smallest.map_or(*granted, |smallest| (*granted).min(smallest)));
            }
        }
        smallest
    }

    /// Why it ends when a deadline of the whole lease has passed.
    pub(crate) fn reason_at(&self, now: BootTime) -> Reason {
        if self.lifetime_end.is_some_and(|end| end <= now) { Reason::LifetimeMax } else { self.reason_waited() }
    }

    /// Why it ends when it has waited.
    pub(crate) fn reason_waited(&self) -> Reason {
        match self.loss {
            Reason::HoldersGone { last, .. } => Reason::HoldersGone { last, grace: self.grace },
            loss => loss,
        }
    }

    /// Whether it waits before it ends: not where somebody took the last holder away, nor where one was waited for already.
    pub(crate) fn may_wait(&self) -> bool {
        let detached = matches!(self.loss, Reason::HoldersGone { last: Some(Last { how: Parting::Detached, .. }), .. });
        !self.grace.is_zero() && !self.waited && !detached && self.loss != Reason::RestartGrace
    }

    /// Connections that are waited for may come at least until then.
    pub(crate) fn wait_until(&mut self, time: BootTime) {
        for holder in &mut self.holders {
            if let HolderKind::LostConnection { until } | HolderKind::AwaitedConnection { until } = &mut holder.kind {
                *until = (*until).max(time);
            }
        }
    }

    /// Connections that are still to come get so much more time.
    pub(crate) fn wait_longer(&mut self, time: Duration) {
        for holder in &mut self.holders {
            if let HolderKind::AwaitedConnection { until } = &mut holder.kind {
                *until = *until + time;
            }
        }
    }

    /// Whether it is decided that it ends.
    pub(crate) fn ends(&self) -> bool {
        self.reason.is_some()
    }

    /// Whether its directory was taken away by somebody else: nothing can be done in it, and it ends with its holders.
    #[must_use]
    pub fn is_lost(&self) -> bool {
        self.lost
    }

    /// Whether it is there for its tenant and not yet on its way out.
    pub(crate) fn is_there(&self) -> bool {
        matches!(self.state, LeaseState::Live | LeaseState::Searching)
    }

    /// Its name.
    #[must_use]
    pub fn id(&self) -> LeaseId {
        self.id
    }

    /// Whose it is.
    #[must_use]
    pub fn tenant(&self) -> TenantId {
        self.tenant
    }

    /// The pool it lies in.
    #[must_use]
    pub fn pool(&self) -> PoolId {
        self.pool
    }

    /// Whether it may end when its pool is too full.
    #[must_use]
    pub fn is_preemptible(&self) -> bool {
        self.preemptible
    }

    /// Who has asked for it, where that was not the tenant.
    #[must_use]
    pub fn granted_by(&self) -> Option<TenantId> {
        self.granted_by
    }

    /// The lease it can't outlive.
    #[must_use]
    pub fn parent(&self) -> Option<LeaseId> {
        self.parent
    }

    /// Its own limits of bytes and inodes.
    #[must_use]
    pub fn share(&self) -> Share {
        self.accounts.share()
    }

    /// What the client made up to send its grant again.
    #[must_use]
    pub fn nonce(&self) -> Option<[u8; 16]> {
        self.nonce
    }

    /// What is to become of it at its end.
    #[must_use]
    pub fn keep(&self) -> Option<Keep> {
        self.keep
    }

    /// Until when it is kept, if it is.
    #[must_use]
    pub fn kept_until(&self) -> Option<BootTime> {
        match self.state {
            LeaseState::Kept { until } if !self.over => Some(until),
            _ => None,
        }
    }

    /// How far it is. Ending from the moment that [`Table::due`](crate::Table::due) said so.
    #[must_use]
    pub fn state(&self) -> LeaseState {
        self.state
    }

    /// What holds it, in the order of the ids.
    #[must_use]
    pub fn holders(&self) -> &[Holder] {
        &self.holders
    }

    /// The client's free text.
    #[must_use]
    pub fn labels(&self) -> &BTreeMap<String, String> {
        &self.labels
    }

    /// The id that the next holder will have.
    #[must_use]
    pub fn holder_next(&self) -> HolderId {
        self.holder_next
    }

    /// How many areas are in it.
    #[must_use]
    pub fn areas(&self) -> usize {
        self.areas.len()
    }

    /// The areas in it, in no order.
    pub fn area_keys(&self) -> impl Iterator<Item = (&AreaKey, AreaKind)> {
        self.areas.iter().map(|(key, kind)| (key, *kind))
    }

    /// What this area is, if it is in it.
    #[must_use]
    pub fn area_kind(&self, key: &AreaKey) -> Option<AreaKind> {
        self.areas.get(key).copied()
    }

    /// The largest TTL of its ttl holders.
    #[must_use]
    pub fn granted_ttl(&self) -> Option<Duration> {
        self.ttls().map(|(granted, _)| granted).max()
    }

    /// The latest deadline of its ttl holders; without one, the end of its lifetime.
    #[must_use]
    pub fn expire_time(&self) -> Option<BootTime> {
        self.ttls().map(|(_, deadline)| deadline).max().or(self.lifetime_end)
    }

    /// When it was granted.
    #[must_use]
    pub fn created(&self) -> BootTime {
        self.created
    }

    /// When it ends whatever holds it.
    #[must_use]
    pub fn lifetime_end(&self) -> Option<BootTime> {
        self.lifetime_end
    }

    /// Whether a search comes before its end.
    #[must_use]
    pub fn search_environment(&self) -> bool {
        self.search_environment
    }

    /// How long it waits for another holder when the last one has gone.
    #[must_use]
    pub fn grace(&self) -> Duration {
        self.grace
    }

    /// Until when it waits for another holder, and why it has none; while it does.
    #[must_use]
    pub fn waits_until(&self) -> Option<(BootTime, Reason)> {
        Some((self.grace_end?, self.loss))
    }

    /// Why it ends; set as soon as that is decided.
    #[must_use]
    pub fn reason(&self) -> Option<Reason> {
        self.reason
    }

    fn ttls(&self) -> impl Iterator<Item = (Duration, BootTime)> {
        self.holders.iter().filter_map(|holder| match holder.kind {
            HolderKind::Ttl { granted, deadline } => Some((granted, deadline)),
            _ => None,
        })
    }
}
