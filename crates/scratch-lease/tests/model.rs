//! Random plans against the lease table and a naive model of it, compared after every step.

#[path = "model/naive.rs"]
mod naive;
#[path = "model/plan.rs"]
mod plan;

use std::time::Duration;

use naive::{Naive, NaiveLease, Reserved};
use plan::{Hold, Step, Wish, step};
use proptest::prelude::*;
use proptest::sample::Index;
use scratch_lease::{
    AreaKey, AreaKind, BootTime, Caller, ConnectionId, Due, EventKind, Grant, Granted, LeaseId, LeaseState, Limits,
    NewHolder, Parting, PoolId, ProcessId, Share, Table, TenantId, Usage,
};

/// How long a connection has to come back when the broker did not run.
const GRACE: Duration = Duration::from_secs(7);

const LIMITS: Limits = Limits {
    leases_per_tenant: 6,
    areas_per_tenant: 5,
    bytes_per_tenant: None,
    inodes_per_tenant: None,
    creates: None,
    holders_per_lease: 3,
    labels_per_lease: 1,
    label_bytes: 1,
    ttl_min: Duration::from_secs(2),
    ttl_max: Duration::from_secs(15),
    grace_max: Duration::from_secs(3600),
    depth_max: 2,
    kept_per_tenant: 0,
    keep_time_max: Duration::ZERO,
    keep_bytes_max: 0,
    undelete_window: Duration::ZERO,
    gone_per_tenant: 0,
};

/// Ids in an order that has nothing to do with that of the grants.
fn id(number: usize) -> LeaseId {
    let mixed = (number as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let mut bits = [0; 10];
    bits[..8].copy_from_slice(&mixed.to_be_bytes());
    LeaseId::from_bits(bits)
}

fn key(number: u8) -> AreaKey {
    AreaKey::Name([number].into())
}

struct Pair {
    table: Table,
    naive: Naive,
    /// Ids given out, those of refused grants included.
    ids: usize,
}

impl Pair {
    fn new() -> Self {
        let naive = Naive { limits: LIMITS, leases: vec![], now: BootTime(0), reserved: vec![] };
        Self { table: Table::new(LIMITS, 1), naive, ids: 0 }
    }

    /// Any lease that is in the table, the last that left it, or one that never was.
    fn any(&self, index: Index) -> LeaseId {
        let leases = &self.naive.leases;
        let there = leases.iter().filter(|lease| !lease.gone).chain(leases.iter().rfind(|lease| lease.gone));
        let ids: Vec<_> = there.map(|lease| lease.grant.id).chain([id(usize::MAX - 1)]).collect();
        *index.get(&ids)
    }

    /// One of the leases that fit.
    fn one(&self, index: Index, fits: impl Fn(&NaiveLease) -> bool) -> Option<(usize, LeaseId)> {
        let leases = self.naive.leases.iter().enumerate().filter(|(_, lease)| !lease.gone && fits(lease));
        let places: Vec<_> = leases.map(|(place, lease)| (place, lease.grant.id)).collect();
        (!places.is_empty()).then(|| *index.get(&places))
    }

    fn holder(&self, hold: Hold) -> NewHolder {
        match hold {
            Hold::Connection(number) => NewHolder::Connection(ConnectionId(number)),
            Hold::Lost(seconds) => NewHolder::LostConnection { until: self.naive.now + Duration::from_secs(seconds) },
            Hold::Awaited(seconds) => {
                NewHolder::AwaitedConnection { until: self.naive.now + Duration::from_secs(seconds) }
            }
            Hold::Process(pid) => NewHolder::Process(ProcessId { pid, start_time: 1, pidfd_inode: 0 }),
            Hold::Ttl(seconds) => NewHolder::Ttl(Duration::from_secs(seconds)),
            Hold::Descriptor => NewHolder::Descriptor,
        }
    }

    fn wanted(&mut self, wish: Wish) -> Grant {
        self.ids += 1;
        Grant {
            id: id(self.ids),
            tenant: TenantId(wish.tenant),
            pool: PoolId(0),
            nonce: wish.nonce.map(|nonce| [nonce; 16]),
            parent: wish.parent.map(|parent| self.any(parent)),
            holders: wish.holders.into_iter().map(|hold| self.holder(hold)).collect(),
            share: Share { bytes: wish.bytes, inodes: wish.inodes },
            lifetime_max: wish.lifetime_max.map(Duration::from_secs),
            labels: Default::default(),
            search_environment: wish.search_environment,
            grace: Duration::ZERO,
            granted_by: None,
            preemptible: false,
        }
    }

    fn commit(&mut self, lease: Option<(usize, LeaseId)>) {
        if let Some((place, id)) = lease {
            self.table.commit(id, self.naive.now);
            self.naive.commit(place);
        }
    }

    fn step(&mut self, step: Step) {
        let now = self.naive.now;
        match step {
            Step::Grant { wish, commit } => {
                let grant = self.wanted(wish);
                let granted = self.table.grant(grant.clone(), now);
                assert_eq!(granted, self.naive.grant(grant));
                if commit && granted == Ok(Granted::New) {
                    self.commit(Some((self.naive.leases.len() - 1, id(self.ids))));
                }
            }
            // What is adopted stems from an earlier run: no nonce and no parent of a grant under way.
            Step::Adopt(wish) => {
                let mut grant = self.wanted(Wish { nonce: None, ..wish });
                let granting = |parent: &LeaseId| {
                    self.table.lease(*parent).is_some_and(|parent| parent.state() == LeaseState::Granting)
                };
                grant.parent = grant.parent.filter(|parent| !granting(parent));
                self.table.adopt(grant.clone(), [], 1, (now, now));
                self.naive.adopt(grant);
            }
            Step::Commit(lease) => self.commit(self.one(lease, |lease| lease.state == LeaseState::Granting)),
            Step::Forget(lease) => {
                if let Some((place, id)) = self.one(lease, |lease| !lease.is_there()) {
                    self.table.forget(id);
                    self.naive.leases[place].gone = true;
                }
            }
            Step::Advance(seconds) => self.naive.now = now + Duration::from_secs(seconds),
            Step::Due => self.due(),
            Step::Searched(lease) => {
                if let Some((place, id)) = self.one(lease, |lease| lease.searches > 0) {
                    self.table.searched(id);
                    self.naive.searched(place);
                }
            }
            Step::Rearm => {
                self.table.rearm(now, GRACE);
                self.naive.rearm(GRACE);
            }
            step => self.step_of_a_tenant(step),
        }
    }

    fn step_of_a_tenant(&mut self, step: Step) {
        let now = self.naive.now;
        match step {
            Step::Attach(lease, caller, hold) => {
                let (id, holder) = (self.any(lease), self.holder(hold));
                let attached = self.table.attach(id, caller, holder, now).map(|holder| holder.id);
                assert_eq!(attached, self.naive.attach(id, caller, holder));
            }
            Step::Detach(lease, caller, holder) => {
                let id = self.any(lease);
                let detached = self.table.detach(id, caller, holder).is_ok();
                let place = self.naive.live(id, caller);
                assert_eq!(
                    detached,
                    place.is_ok_and(|place| self.naive.leases[place].lose(Parting::Detached, |id, _| id == holder))
                );
            }
            Step::Gone(lease, holder) => {
                let id = self.any(lease);
                self.table.holder_gone(id, holder);
                if let Some(place) = self.naive.place(id) {
                    self.naive.leases[place].lose(Parting::Gone, |id, _| id == holder);
                }
            }
            Step::Close(connection) => {
                self.table.connection_closed(ConnectionId(connection));
                self.naive.close(ConnectionId(connection));
            }
            Step::Renew(lease, caller) => {
                let id = self.any(lease);
                assert_eq!(self.table.renew(id, caller, now), self.naive.renew(id, caller));
            }
            Step::Revoke(lease, caller) => {
                let id = self.any(lease);
                assert_eq!(self.table.revoke(id, caller), self.naive.revoke(id, caller));
            }
            step => self.step_of_an_area(step),
        }
    }

    fn step_of_an_area(&mut self, step: Step) {
        match step {
            Step::Reserve(lease, caller, count) => {
                let id = self.any(lease);
                let reserved = self.table.reserve_areas(id, caller, count).ok();
                let lease = self.naive.live(id, caller).map(|place| &self.naive.leases[place]);
                let payer = lease.as_ref().ok().and_then(|lease| lease.payer());
                let fits = |lease: &&NaiveLease| {
                    let left = lease.payer().and_then(|payer| self.naive.left(payer, 1));
                    self.naive.usage(lease.grant.tenant).areas + count <= LIMITS.areas_per_tenant
                        && left.is_none_or(|(_, left)| count as u64 <= left)
                };
                assert_eq!(reserved.is_some(), lease.filter_ok(fits).is_some());
                for room in reserved.into_iter().flat_map(|room| std::iter::repeat_n(room, count)) {
                    self.naive.reserved.push(Reserved { room, payer });
                }
            }
            Step::Unreserve(which) if !self.naive.reserved.is_empty() => {
                let which = which.index(self.naive.reserved.len());
                self.table.unreserve_areas(self.naive.reserved.swap_remove(which).room, 1);
            }
            Step::Add(lease, number) => self.add(lease, number),
            Step::Remove(lease, number) => {
                let id = self.any(lease);
                let removed = self.table.remove_area(id, &key(number)).is_some();
                let areas = self.naive.place(id).map(|place| &mut self.naive.leases[place].areas);
                let place = areas.and_then(|areas| Some((areas.iter().position(|area| *area == key(number))?, areas)));
                assert_eq!(removed, place.is_some());
                if let Some((place, areas)) = place {
                    areas.remove(place);
                }
            }
            _ => (),
        }
    }

    /// Adds an area to a lease whose tenant has one reserved.
    fn add(&mut self, lease: Index, number: u8) {
        let Some(place) = self.naive.place(self.any(lease)) else { return };
        let lease = &mut self.naive.leases[place];
        let fits = |reserved: &Reserved| (reserved.room.tenant, reserved.payer) == (lease.grant.tenant, lease.payer());
        let Some(reserved) = self.naive.reserved.iter().position(fits) else { return };
        let added = self.table.add_area(lease.grant.id, key(number), AreaKind::File);
        assert_eq!(added, lease.reason.is_none());
        if added {
            self.naive.reserved.remove(reserved);
            lease.areas.retain(|area| *area != key(number));
            lease.areas.push(key(number));
        }
    }

    /// What is due is what the model finds by looking at everything; children before their parents.
    fn due(&mut self) {
        let due = self.table.due(self.naive.now);
        self.naive.expire();
        let naive = &self.naive;
        let mut ended = vec![];
        let mut searched = vec![];
        for what in &due {
            match what {
                Due::Search(id) => searched.push(*id),
                Due::Grace(_) => panic!("no lease of this model has a grace"),
                Due::Keep { id, .. } => panic!("{id} was not to be kept"),
                Due::End { id, reason } => {
                    let lease = &naive.leases[naive.place(*id).expect("only what is there ends")];
                    assert!(lease.is_there() && naive.must_end(lease), "{id} was to live, not to end: {reason}");
                    assert!(naive.may_say(lease, *reason), "{id} did not end because {reason}");
                    assert!(!lease.grant.parent.is_some_and(|parent| ended.contains(&parent)), "{id} after its parent");
                    ended.push(*id);
                }
            }
        }
        let of = |fits: &dyn Fn(&NaiveLease) -> bool| {
            let mut ids: Vec<_> = naive.leases.iter().filter(|lease| fits(lease)).map(|lease| lease.grant.id).collect();
            ids.sort();
            ids
        };
        let unheld = |lease: &NaiveLease| lease.state == LeaseState::Live && lease.holders.is_empty();
        ended.sort();
        searched.sort();
        assert_eq!(ended, of(&|lease| naive.must_end(lease)), "ended, and to end");
        assert_eq!(searched, of(&|lease| !lease.gone && unheld(lease) && !naive.must_end(lease)), "searched for");
        self.naive.apply(&due);
        assert_eq!(self.table.due(self.naive.now), []);
    }

    /// Both have the same leases, holders, counts and next deadline.
    fn compare(&self) {
        assert_eq!(self.table.next_deadline(), self.naive.next_deadline(), "next deadline");
        let usage = [1, 2].map(|tenant| self.naive.usage(TenantId(tenant)));
        assert_eq!([1, 2].map(|tenant| self.table.usage(TenantId(tenant))), usage);
        let [one, two] = usage;
        let totals = Usage {
            leases: one.leases + two.leases,
            areas: one.areas + two.areas,
            bytes: one.bytes + two.bytes,
            inodes: one.inodes + two.inodes,
            ..Usage::default()
        };
        assert_eq!(self.table.totals(), totals);
        for lease in &self.naive.leases {
            let same = self.table.lease(lease.grant.id);
            assert_eq!(same.is_none(), lease.gone);
            let Some(same) = same else { continue };
            assert_eq!((same.state(), same.reason()), (lease.state, lease.reason));
            let holders: Vec<_> = same.holders().iter().map(|holder| (holder.id, holder.kind)).collect();
            assert_eq!(holders, lease.holders);
            let left = self.table.left(same);
            assert_eq!([left.bytes, left.inodes], self.naive.left_to(lease), "left of {}", lease.grant.id);
        }
    }

    /// Of each lease: first that it is there, once that it ends, and nothing after that but that it has ended.
    fn check_events(&self) {
        for lease in &self.naive.leases {
            let everybody = Caller { admin: true, ..Caller::of(TenantId(0)) };
            let events = self.table.events_since(0, everybody).expect("all events are kept");
            let of_lease = events.filter(|event| event.lease == Some(lease.grant.id));
            let kinds: Vec<_> = of_lease.map(|event| event.kind.clone()).collect();
            let begins = |kind: &EventKind| matches!(kind, EventKind::Granted | EventKind::Adopted);
            let ends = |kind: &EventKind| matches!(kind, EventKind::Ending(_) | EventKind::Ended(_));
            assert!(kinds.iter().skip(1).all(|kind| !begins(kind)) && kinds.first().is_none_or(begins), "{kinds:?}");
            let last = &kinds[kinds.iter().position(ends).unwrap_or(kinds.len())..];
            let wanted = match (lease.state, lease.gone) {
                (LeaseState::Ending, false) => 1,
                (LeaseState::Ending, true) => 2,
                _ => 0,
            };
            assert_eq!(last.len(), wanted, "{kinds:?}");
        }
    }
}

/// `Option` of what is fine and fits.
trait FilterOk<T> {
    fn filter_ok(self, fits: impl Fn(&T) -> bool) -> Option<T>;
}

impl<T, E> FilterOk<T> for Result<T, E> {
    fn filter_ok(self, fits: impl Fn(&T) -> bool) -> Option<T> {
        self.ok().filter(fits)
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 600, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_table_is_the_model(steps in prop::collection::vec(step(), 1..80)) {
        let mut pair = Pair::new();
        for step in steps {
            pair.step(step);
            pair.compare();
        }
        pair.check_events();
    }
}
