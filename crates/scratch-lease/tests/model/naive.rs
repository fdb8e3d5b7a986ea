//! The naive model: a Vec of leases with a Vec of holders, everything found by looking at all of it.

use std::time::Duration;

use scratch_lease::{
    AreaKey, BootTime, Caller, ConnectionId, Due, Grant, Granted, HolderId, HolderKind, Last, LeaseId, LeaseState,
    Limits, NewHolder, Parting, Reason, Refusal, ReservedAreas, Resource, TenantId, Usage,
};

pub(crate) struct NaiveLease {
    pub(crate) grant: Grant,
    pub(crate) state: LeaseState,
    /// It has left the table.
    pub(crate) gone: bool,
    pub(crate) holders: Vec<(HolderId, HolderKind)>,
    pub(crate) reason: Option<Reason>,
    pub(crate) searches: usize,
    pub(crate) areas: Vec<AreaKey>,
    /// The nearest leases above it that have a limit of bytes, of inodes.
    above: [Option<LeaseId>; 2],
    next: HolderId,
    created: BootTime,
    lifetime_end: Option<BootTime>,
    loss: Reason,
}

pub(crate) struct Naive {
    pub(crate) limits: Limits,
    pub(crate) leases: Vec<NaiveLease>,
    pub(crate) now: BootTime,
    /// Reserved areas that have not become real.
    pub(crate) reserved: Vec<Reserved>,
}

/// One area's room, and whose limit of inodes it was taken from.
pub(crate) struct Reserved {
    pub(crate) room: ReservedAreas,
    pub(crate) payer: Option<LeaseId>,
}

impl NaiveLease {
    pub(crate) fn is_there(&self) -> bool {
        !self.gone && matches!(self.state, LeaseState::Live | LeaseState::Searching)
    }

    fn position(&self, new: NewHolder) -> Option<usize> {
        self.holders.iter().position(|(_, kind)| match (new, kind) {
            (NewHolder::Connection(new), HolderKind::Connection(old)) => new == *old,
            (NewHolder::Process(new), HolderKind::Process(old)) => new == *old,
            _ => false,
        })
    }

    fn push(&mut self, kind: HolderKind) -> HolderId {
        self.holders.push((self.next, kind));
        self.next += 1;
        self.next - 1
    }

    fn restart(&mut self, now: BootTime) {
        for (_, kind) in &mut self.holders {
            if let HolderKind::Ttl { granted, deadline } = kind {
                *deadline = now + *granted;
            }
        }
    }

    fn limits(&self) -> [Option<u64>; 2] {
        [self.grant.share.bytes, self.grant.share.inodes]
    }

    /// Whose limit of inodes its areas are taken from.
    pub(crate) fn payer(&self) -> Option<LeaseId> {
        if self.grant.share.inodes.is_some() { Some(self.grant.id) } else { self.above[1] }
    }

    /// Removes the holders that match; true if there was one.
    pub(crate) fn lose(&mut self, how: Parting, which: impl Fn(HolderId, HolderKind) -> bool) -> bool {
        let before = self.holders.len();
        if let Some((_, kind)) = self.holders.iter().rev().find(|(id, kind)| which(*id, *kind)) {
            self.loss = gone(*kind, how);
        }
        self.holders.retain(|(id, kind)| !which(*id, *kind));
        self.holders.len() < before
    }
}

fn gone(kind: HolderKind, how: Parting) -> Reason {
    let pid = if let HolderKind::Process(process) = kind { Some(process.pid) } else { None };
    Reason::HoldersGone { last: Some(Last { kind: kind.name(), pid, how }), grace: Duration::ZERO }
}

fn kind(new: NewHolder, now: BootTime) -> HolderKind {
    match new {
        NewHolder::Connection(connection) => HolderKind::Connection(connection),
        NewHolder::LostConnection { until } => HolderKind::LostConnection { until },
        NewHolder::AwaitedConnection { until } => HolderKind::AwaitedConnection { until },
        NewHolder::Process(process) => HolderKind::Process(process),
        NewHolder::Ttl(granted) => HolderKind::Ttl { granted, deadline: now + granted },
        NewHolder::Descriptor => HolderKind::Descriptor,
        NewHolder::Unknown => HolderKind::Unknown,
        NewHolder::Cgroup(cgroup) => HolderKind::Cgroup(cgroup),
        NewHolder::Hold => HolderKind::Hold,
    }
}

impl Naive {
    pub(crate) fn place(&self, id: LeaseId) -> Option<usize> {
        self.leases.iter().position(|lease| !lease.gone && lease.grant.id == id)
    }

    /// Where a lease is that this caller may change.
    pub(crate) fn live(&self, id: LeaseId, caller: Caller) -> Result<usize, Refusal> {
        let place = self.place(id).ok_or(Refusal::LeaseUnknown)?;
        let lease = &self.leases[place];
        let sees = caller.admin || caller.tenant == lease.grant.tenant;
        match lease.state {
            LeaseState::Granting => Err(Refusal::LeaseUnknown),
            _ if !sees => Err(Refusal::LeaseUnknown),
            _ if lease.reason.is_some() => Err(Refusal::LeaseEnding),
            _ => Ok(place),
        }
    }

    pub(crate) fn insert(&mut self, grant: Grant, created: BootTime, state: LeaseState) {
        let lifetime_end = grant.lifetime_max.map(|lifetime_max| created + lifetime_max);
        let loss = Reason::HoldersGone { last: None, grace: Duration::ZERO };
        let above = self.above(grant.parent);
        let mut lease = NaiveLease {
            grant,
            state,
            gone: false,
            holders: vec![],
            reason: None,
            searches: 0,
            areas: vec![],
            above,
            next: 1,
            created,
            lifetime_end,
            loss,
        };
        for new in lease.grant.holders.clone() {
            if lease.position(new).is_none() {
                lease.push(kind(new, self.now));
            }
        }
        self.leases.push(lease);
    }

    /// As granted, but times are longer by up to a quarter and 10 s.
    pub(crate) fn adopt(&mut self, grant: Grant) {
        let (id, now) = (grant.id, self.now);
        self.insert(grant, now, LeaseState::Live);
        let Some(adopted) = self.leases.last_mut() else { return };
        let longer = |time: Duration| id.part_of((time / 4).min(Duration::from_secs(10)));
        for (_, kind) in &mut adopted.holders {
            match kind {
                HolderKind::Ttl { granted, deadline } => *deadline = *deadline + longer(*granted),
                HolderKind::LostConnection { until } => *until = *until + longer(until.duration_since(now)),
                _ => {}
            }
        }
    }

    pub(crate) fn grant(&mut self, grant: Grant) -> Result<Granted, Refusal> {
        let same = |lease: &&NaiveLease| lease.grant.tenant == grant.tenant && lease.grant.nonce == grant.nonce;
        let mut live = self.leases.iter().filter(|lease| !lease.gone && grant.nonce.is_some()).filter(same);
        // Of several with the same nonce only the last can be one that is not about to end.
        if let Some(first) = live.next_back() {
            match (first.state, first.reason) {
                (LeaseState::Granting, _) => return Err(Refusal::NonceBusy),
                (_, None) => return Ok(Granted::Existing(first.grant.id)),
                _ => (),
            }
        }
        if grant.holders.is_empty() {
            return Err(Refusal::NoHolder);
        }
        if grant.holders.len() > self.limits.holders_per_lease {
            return Err(Refusal::LimitHolders { limit: self.limits.holders_per_lease });
        }
        grant.holders.iter().try_for_each(|holder| self.check(*holder))?;
        if let Some(parent) = grant.parent {
            let caller = Caller::of(grant.tenant);
            self.live(parent, caller).map_err(|_| Refusal::LeaseUnknown)?;
            if self.depth(parent) + 1 > self.limits.depth_max {
                return Err(Refusal::Depth { limit: self.limits.depth_max });
            }
        }
        if self.usage(grant.tenant).leases >= self.limits.leases_per_tenant {
            return Err(Refusal::LimitLeases { limit: self.limits.leases_per_tenant });
        }
        let above = self.above(grant.parent);
        let wanted = [grant.share.bytes.unwrap_or(0), grant.share.inodes.unwrap_or(1)];
        for (index, resource) in [Resource::Bytes, Resource::Inodes].into_iter().enumerate() {
            if let Some((limit, left)) = above[index].and_then(|payer| self.left(payer, index))
                && wanted[index] > left
            {
                return Err(Refusal::LimitShare { resource, limit, left });
            }
        }
        self.insert(grant, self.now, LeaseState::Granting);
        Ok(Granted::New)
    }

    fn above(&self, parent: Option<LeaseId>) -> [Option<LeaseId>; 2] {
        let Some(place) = parent.and_then(|parent| self.place(parent)) else { return [None; 2] };
        let parent = &self.leases[place];
        [0, 1].map(|index| if parent.limits()[index].is_some() { Some(parent.grant.id) } else { parent.above[index] })
    }

    /// A limit of this lease's own, and what nobody has of it.
    pub(crate) fn left(&self, payer: LeaseId, index: usize) -> Option<(u64, u64)> {
        let limit = self.leases[self.place(payer)?].limits()[index]?;
        let there = || self.leases.iter().filter(|lease| !lease.gone);
        let below = there().filter(|lease| lease.above[index] == Some(payer));
        let mut spent: u64 = below.map(|lease| lease.limits()[index].unwrap_or(index as u64)).sum();
        if index == 1 {
            let areas = there().filter(|lease| lease.payer() == Some(payer)).map(|lease| lease.areas.len());
            let reserved = self.reserved.iter().filter(|reserved| reserved.payer == Some(payer)).count();
            spent += (areas.sum::<usize>() + reserved) as u64;
        }
        Some((limit, limit.saturating_sub(spent)))
    }

    /// What is left to a lease.
    pub(crate) fn left_to(&self, lease: &NaiveLease) -> [Option<u64>; 2] {
        [0, 1].map(|index| {
            let payer = if lease.limits()[index].is_some() { Some(lease.grant.id) } else { lease.above[index] };
            payer.and_then(|payer| self.left(payer, index)).map(|(_, left)| left)
        })
    }

    fn depth(&self, id: LeaseId) -> usize {
        let parent = self.place(id).and_then(|place| self.leases[place].grant.parent);
        parent.map_or(0, |parent| 1 + self.depth(parent))
    }

    fn check(&self, new: NewHolder) -> Result<(), Refusal> {
        let Limits { ttl_min, ttl_max, .. } = self.limits;
        match new {
            NewHolder::Ttl(ttl) if ttl < ttl_min => Err(Refusal::TtlTooShort { limit: ttl_min }),
            NewHolder::Ttl(ttl) if ttl > ttl_max => Err(Refusal::TtlTooLong { limit: ttl_max }),
            _ => Ok(()),
        }
    }

    pub(crate) fn commit(&mut self, place: usize) {
        let lease = &mut self.leases[place];
        lease.state = LeaseState::Live;
        lease.restart(self.now);
        let made_for = self.now.duration_since(lease.created);
        for (_, kind) in &mut lease.holders {
            if let HolderKind::AwaitedConnection { until } = kind {
                *until = *until + made_for;
            }
        }
    }

    pub(crate) fn attach(&mut self, id: LeaseId, caller: Caller, new: NewHolder) -> Result<HolderId, Refusal> {
        let place = self.live(id, caller)?;
        if let Some(old) = self.leases[place].position(new) {
            return Ok(self.leases[place].holders[old].0);
        }
        self.check(new)?;
        let (now, limit) = (self.now, self.limits.holders_per_lease);
        let lease = &mut self.leases[place];
        let lost = lease.holders.iter().position(|(_, kind)| kind.waits_for_connection());
        if let (Some(lost), NewHolder::Connection(_)) = (lost, new) {
            lease.holders[lost].1 = kind(new, now);
            return Ok(lease.holders[lost].0);
        }
        if lease.holders.len() >= limit {
            return Err(Refusal::LimitHolders { limit });
        }
        lease.state = LeaseState::Live;
        Ok(lease.push(kind(new, now)))
    }

    pub(crate) fn close(&mut self, connection: ConnectionId) {
        for lease in self.leases.iter_mut().filter(|lease| !lease.gone) {
            lease.lose(Parting::Gone, |_, kind| kind == HolderKind::Connection(connection));
        }
    }

    pub(crate) fn renew(&mut self, id: LeaseId, caller: Caller) -> Result<Duration, Refusal> {
        let place = self.live(id, caller)?;
        let granted = self.leases[place].holders.iter().filter_map(|(_, kind)| match kind {
            HolderKind::Ttl { granted, .. } => Some(*granted),
            _ => None,
        });
        let smallest = granted.min().ok_or(Refusal::NoTtl)?;
        self.leases[place].restart(self.now);
        Ok(smallest)
    }

    pub(crate) fn rearm(&mut self, grace: Duration) {
        for lease in self.leases.iter_mut().filter(|lease| lease.is_there()) {
            lease.restart(self.now);
            for (_, kind) in &mut lease.holders {
                if let HolderKind::LostConnection { until } | HolderKind::AwaitedConnection { until } = kind {
                    *until = (*until).max(self.now + grace);
                }
            }
        }
    }

    pub(crate) fn revoke(&mut self, id: LeaseId, caller: Caller) -> Result<(), Refusal> {
        match self.live(id, caller) {
            Ok(place) => self.leases[place].reason = Some(Reason::Revoked),
            Err(Refusal::LeaseEnding) => {
                // What is about to end by itself is not kept either.
                let ending = self.leases.iter_mut().filter(|lease| lease.grant.id == id && lease.is_there());
                ending.for_each(|lease| lease.reason = Some(Reason::Revoked));
            }
            Err(refusal) => return Err(refusal),
        }
        Ok(())
    }

    pub(crate) fn searched(&mut self, place: usize) {
        let lease = &mut self.leases[place];
        lease.searches = lease.searches.saturating_sub(1);
        if lease.is_there() && lease.state == LeaseState::Searching && lease.searches == 0 {
            lease.reason.get_or_insert(lease.loss);
        }
    }

    pub(crate) fn usage(&self, tenant: TenantId) -> Usage {
        let leases = self.leases.iter().filter(|lease| !lease.gone && lease.grant.tenant == tenant);
        let reserved = self.reserved.iter().filter(|reserved| reserved.room.tenant == tenant).count();
        let areas = leases.clone().map(|lease| lease.areas.len()).sum::<usize>() + reserved;
        let [bytes, inodes] = [0, 1].map(|index| {
            let roots = leases.clone().filter(|lease| lease.above[index].is_none());
            roots.filter_map(|lease| lease.limits()[index]).sum()
        });
        Usage { leases: leases.count(), areas, bytes, inodes, ..Usage::default() }
    }

    /// Whether the parent, if it has one, is there and not about to end.
    fn parent_lives(&self, lease: &NaiveLease) -> bool {
        lease.grant.parent.is_none_or(|parent| {
            self.place(parent)
                .is_some_and(|parent| self.leases[parent].is_there() && self.leases[parent].reason.is_none())
        })
    }

    pub(crate) fn next_deadline(&self) -> Option<BootTime> {
        let there = || self.leases.iter().filter(|lease| lease.is_there());
        let unheld = |lease: &NaiveLease| lease.holders.is_empty() && lease.state == LeaseState::Live;
        if there().any(|lease| lease.reason.is_some() || unheld(lease) || !self.parent_lives(lease)) {
            return Some(BootTime(0));
        }
        let holders = there().flat_map(|lease| lease.holders.iter().filter_map(|(_, kind)| kind.deadline()));
        holders.chain(there().filter_map(|lease| lease.lifetime_end)).min()
    }

    /// Lets time take its holders and lifetimes.
    pub(crate) fn expire(&mut self) {
        let now = self.now;
        for lease in self.leases.iter_mut().filter(|lease| lease.is_there()) {
            let passed = |kind: HolderKind| kind.deadline().filter(|deadline| *deadline <= now);
            let latest = lease
                .holders
                .iter()
                .filter_map(|(id, kind)| Some((passed(*kind)?, *id, *kind)))
                .max_by_key(|(deadline, id, _)| (*deadline, *id));
            lease.lose(Parting::Expired, |_, kind| passed(kind).is_some());
            lease.loss = match latest {
                Some((_, _, HolderKind::LostConnection { .. })) => Reason::RestartGrace,
                Some((_, _, kind)) => gone(kind, Parting::Expired),
                None => lease.loss,
            };
            if lease.lifetime_end.is_some_and(|end| end <= now) {
                lease.reason.get_or_insert(Reason::LifetimeMax);
            }
        }
    }

    /// Whether a lease is to end now: for its own sake or with one above it.
    pub(crate) fn must_end(&self, lease: &NaiveLease) -> bool {
        let search_helps = lease.grant.search_environment && lease.reason.is_none();
        let parent_ends = || match lease.grant.parent.map(|parent| self.place(parent)) {
            None => false,
            Some(None) => true,
            Some(Some(parent)) => {
                let parent = &self.leases[parent];
                !parent.is_there() || self.must_end(parent)
            }
        };
        lease.is_there() && (lease.reason.is_some() || lease.holders.is_empty() && !search_helps || parent_ends())
    }

    /// Whether this reason may be given for the end of a lease that must end.
    pub(crate) fn may_say(&self, lease: &NaiveLease, reason: Reason) -> bool {
        match (lease.reason, reason) {
            (Some(own), given) => own == given,
            (None, Reason::ParentEnded(parent)) => {
                let ends = |place: usize| !self.leases[place].is_there() || self.must_end(&self.leases[place]);
                lease.grant.parent == Some(parent) && self.place(parent).is_none_or(ends)
            }
            (None, given) => lease.holders.is_empty() && given == lease.loss,
        }
    }

    /// Takes over what the table said is due, once it was found right.
    pub(crate) fn apply(&mut self, due: &[Due]) {
        for what in due {
            let (Due::Search(id) | Due::Grace(id) | Due::End { id, .. } | Due::Keep { id, .. }) = what;
            let Some(place) = self.place(*id) else { continue };
            match what {
                Due::Search(_) => {
                    self.leases[place].state = LeaseState::Searching;
                    self.leases[place].searches += 1;
                }
                Due::Grace(_) => panic!("no lease of this model has a grace"),
                Due::Keep { .. } => unreachable!("the model keeps nothing"),
                Due::End { reason, .. } => {
                    self.leases[place].state = LeaseState::Ending;
                    self.leases[place].reason = Some(*reason);
                    let children = self.leases.iter_mut().filter(|child| child.grant.parent == Some(*id));
                    for child in children.filter(|child| child.state == LeaseState::Granting) {
                        child.reason = Some(Reason::ParentEnded(*id));
                    }
                }
            }
        }
    }
}
