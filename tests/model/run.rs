//! One run of a seed: clients, crashes, mounts, strangers and time act at random; after each step the invariants are looked at.

use std::time::Duration;

use scratch_lease::{BootTime, ConnectionId, HolderKind, LeaseId, TenantId};
use scratch_tests::Random;

use crate::broker::{Broker, LATE, STREAM_COMES_WITHIN, Step, Subject as Owed};
use crate::check;
use crate::disk::{Fail, ROOT};
use crate::requests::{Job, Reply};
use crate::truth::{Claim, Subject, Truth};
use crate::world::{Being, World, Wrong};

pub(crate) const GRACE: Duration = Duration::from_secs(20);

/// How much was tried.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Tried {
    pub(crate) steps: u64,
    pub(crate) granted: u64,
    pub(crate) ended: u64,
    pub(crate) starts: u64,
    pub(crate) crashes: u64,
    pub(crate) crashes_in_starts: u64,
    pub(crate) power_cuts: u64,
    pub(crate) graceless: u64,
    pub(crate) damages: u64,
    pub(crate) debts: u64,
    pub(crate) searches: u64,
}

impl Tried {
    pub(crate) fn add(&mut self, other: Tried) {
        self.steps += other.steps;
        self.granted += other.granted;
        self.ended += other.ended;
        self.starts += other.starts;
        self.crashes += other.crashes;
        self.crashes_in_starts += other.crashes_in_starts;
        self.power_cuts += other.power_cuts;
        self.graceless += other.graceless;
        self.damages += other.damages;
        self.debts += other.debts;
        self.searches += other.searches;
    }
}

#[derive(Debug)]
pub(crate) struct Run {
    pub(crate) world: World,
    pub(crate) truth: Truth,
    pub(crate) broker: Option<Broker>,
    /// What was done, one line each.
    pub(crate) trail: Vec<String>,
    pub(crate) tried: Tried,
    /// Since the timer fired last, the broker stood still or the machine slept.
    pub(crate) stood_still: bool,
    /// The next start finds another boot.
    pub(crate) power_was_cut: bool,
}

impl Run {
    pub(crate) fn new(seed: u64, wrong: Option<Wrong>) -> Run {
        Run {
            world: World::new(Random::of(seed), wrong),
            truth: Truth::default(),
            broker: None,
            trail: Vec::new(),
            tried: Tried::default(),
            stood_still: false,
            power_was_cut: false,
        }
    }

    pub(crate) fn note(&mut self, text: impl Into<String>) {
        self.trail.push(format!("{:>6} {:>9.3} {}", self.tried.steps, self.world.now.0 as f64 / 1e9, text.into()));
    }

    /// Random steps, then the end of everything.
    pub(crate) fn go(&mut self, steps: u64) -> Result<(), String> {
        while self.tried.steps < steps {
            self.step()?;
        }
        self.wind_down()
    }

    fn step(&mut self) -> Result<(), String> {
        self.tried.steps += 1;
        if self.broker.is_some() && self.world.disk.fuse.is_none() && self.world.chance(60) {
            self.world.disk.fuse = Some(self.world.random.below(10));
        }
        let before = check::in_sight(&self.world, &self.truth);
        let was_up = self.broker.is_some();
        self.act()?;
        self.told();
        if let Some(broker) = self.broker.as_ref().filter(|_| was_up) {
            check::children_first(&self.world, &self.truth, broker, &before)?;
        }
        self.truth.sees(&self.world, self.broker.is_none());
        check::the_living(&self.world, &mut self.truth, self.broker.is_none())
    }

    /// Runs something of the broker's; it may die in it.
    pub(crate) fn with_broker(&mut self, work: impl FnOnce(&mut Broker, &mut World) -> Step<()>) {
        let Some(mut broker) = self.broker.take() else { return };
        let done = work(&mut broker, &mut self.world);
        self.broker = Some(broker);
        if done == Err(Fail::Crash) {
            self.tried.crashes += 1;
            self.note("the broker dies in it");
            self.go_down();
        }
        self.told();
    }

    pub(crate) fn go_down(&mut self) {
        self.told();
        self.truth.goes_down(&self.world);
        self.broker = None;
        self.world.connections.clear();
        self.world.mail.clear();
        self.world.disk.fuse = None;
    }

    pub(crate) fn start(&mut self, grace: Duration) -> Result<(), String> {
        let other_boot = self.world.disk.boot.is_some_and(|last| last != self.world.boot);
        let everything_goes = other_boot || grace.is_zero();
        if everything_goes {
            self.truth.everything_goes(false);
            self.world.disk.is_full = false;
            self.tried.graceless += u64::from(!other_boot);
        }
        self.world.disk.everything_goes = everything_goes;
        self.truth.unlooked.clear();
        let started = Broker::start(&mut self.world, grace);
        self.world.disk.everything_goes = false;
        self.world.disk.fuse = None;
        self.tried.starts += 1;
        let Ok(broker) = started else {
            self.tried.crashes_in_starts += 1;
            self.note("the broker dies in its start");
            return Ok(());
        };
        self.truth.unlooked = std::mem::take(&mut self.world.unlooked);
        self.broker = Some(broker);
        self.truth.comes_up(self.world.now, grace);
        if everything_goes || self.power_was_cut {
            self.power_was_cut = false;
            self.truth.everything_goes(true);
            let left = self.world.disk.entries(ROOT).iter().find(|(name, inode)| {
                name.parse::<LeaseId>().is_ok() && self.world.disk.node(**inode).is_some_and(|node| !node.is_busy)
            });
            if let Some((name, _)) = left {
                return Err(format!("{name} is of another life and there after the start"));
            }
        }
        Ok(())
    }

    /// What clients were told becomes true.
    fn told(&mut self) {
        for id in std::mem::take(&mut self.world.unwritten) {
            self.truth.leases.entry(id).and_modify(|lease| lease.is_damaged = true);
        }
        let Some(broker) = self.broker.as_mut() else { return };
        let (replies, rearmed) = (std::mem::take(&mut broker.replies), std::mem::take(&mut broker.rearmed));
        if rearmed {
            let is_right = std::mem::take(&mut broker.set_late) || self.stood_still;
            self.extend();
            if !is_right {
                self.world.disk.violation = Some("the broker served all the time and gave time again".to_owned());
            }
        }
        for reply in replies {
            self.one_told(&reply);
        }
    }

    fn one_told(&mut self, reply: &Reply) {
        let now = self.world.now;
        match reply {
            Reply::Granted(asked, None, _) => {
                if let Some(lease) = self.truth.leases.get_mut(asked) {
                    lease.claims.iter_mut().for_each(|claim| (claim.must, claim.may) = (false, false));
                }
            }
            Reply::Granted(asked, Some(id), at) => self.granted(*asked, *id, *at),
            Reply::Attached(id, number, holder) => {
                let detached =
                    self.truth.detaching.iter().any(|(lease, other, _)| lease == id && Some(*other) == *holder);
                let Some(lease) = self.truth.leases.get_mut(id) else { return };
                let Some(claim) = lease.claims.iter_mut().find(|claim| claim.number == *number) else { return };
                (claim.must, claim.may) = (holder.is_some() && !detached, holder.is_some());
                match &mut claim.subject {
                    Subject::Ttl { granted, ends_by, .. } => *ends_by = now + *granted,
                    Subject::Connection(_) if holder.is_some() => {
                        // It has taken the place of one that was waited for.
                        let taken = |claim: &&mut Claim| !claim.must && matches!(claim.subject, Subject::Waited { .. });
                        if let Some(taken) = lease.claims.iter_mut().find(taken) {
                            taken.may = false;
                        }
                    }
                    _ => {}
                }
                // Also one that could not stay was a holder: the wait begins again.
                lease.waits_until = None;
            }
            Reply::Detached(id, holder, is_done) => {
                let found = self.truth.detaching.iter().position(|(lease, other, _)| lease == id && other == holder);
                let Some(found) = found else { return };
                let (_, _, numbers) = self.truth.detaching.remove(found);
                if let Some(lease) = self.truth.leases.get_mut(id).filter(|_| *is_done) {
                    let gone = |claim: &&mut Claim| numbers.contains(&claim.number);
                    lease.claims.iter_mut().filter(gone).for_each(|claim| claim.may = false);
                }
            }
            Reply::Revoked(id) => {
                if let Some(lease) = self.truth.leases.get_mut(id) {
                    lease.may = false;
                }
            }
            Reply::Renewed(id, is_done) => {
                if let Some(lease) = self.truth.leases.get_mut(id) {
                    lease.renewed(now, *is_done);
                }
            }
        }
    }

    fn granted(&mut self, asked: LeaseId, id: LeaseId, at: BootTime) {
        let inode = self.world.disk.look(ROOT, id.as_str());
        if asked != id
            && let Some(again) = self.truth.leases.get_mut(&asked)
        {
            again.claims.iter_mut().for_each(|claim| (claim.must, claim.may) = (false, false));
        }
        let Some(lease) = self.truth.leases.get_mut(&id) else { return };
        if lease.inode.is_none() {
            lease.inode = inode;
            if asked == id {
                lease.granted(at);
            }
            self.tried.granted += 1;
        }
    }

    /// What was done last, and before that all that names the same lease as what was found.
    pub(crate) fn story(&self, found: &str) -> String {
        let mut leases: Vec<LeaseId> =
            found.split_whitespace().next().and_then(|id| id.parse().ok()).into_iter().collect();
        while let Some(parent) = leases.last().and_then(|id| self.truth.leases.get(id)?.parent) {
            leases.push(parent);
        }
        let first = self.trail.len().saturating_sub(15);
        let names = |line: &String| leases.iter().any(|id| line.contains(id.as_str()));
        let told = self.trail.iter().enumerate().filter(|(place, line)| *place >= first || names(line));
        let mut story: String = told.map(|(_, line)| format!("{line}\n")).collect();
        for id in leases.into_iter().skip(1) {
            let (is_there, held) = (self.world.disk.look(ROOT, id.as_str()), self.truth.leases.get(&id));
            story += &format!("above it {id}: in sight: {is_there:?}, {held:?}\n");
        }
        story + found
    }

    pub(crate) fn client_of(&self, id: LeaseId) -> Option<scratch_lease::Caller> {
        self.truth.leases.get(&id).map(|lease| scratch_lease::Caller::of(lease.tenant))
    }

    /// All that has happened is told, and all that is to be done is done. Time stands still.
    pub(crate) fn come_to_rest(&mut self) -> Result<(), String> {
        self.note("everything is told and done");
        for _ in 0..10_000 {
            let Some(mut broker) = self.broker.take() else { return Ok(()) };
            let world = &mut self.world;
            let (beings, sockets, connections) = broker.ended(world);
            let is_timer = broker.runnable().is_empty()
                && broker.waiting.is_empty()
                && broker.armed.is_some_and(|time| time <= world.now);
            let work = if let Some(place) = broker.runnable().first().copied() {
                broker.run(world, place)
            } else if let Some(subject) = broker.waiting.first().cloned() {
                broker.reap(world, subject)
            } else if is_timer {
                broker.fire(world);
                Ok(())
            } else if !beings.is_empty() || !sockets.is_empty() || !connections.is_empty() {
                tell_of(&mut broker, world, (&beings, &sockets, &connections));
                Ok(())
            } else if !world.mail.is_empty() {
                broker.read_mail(world);
                Ok(())
            } else if let Some(subject) = broker.overdue(world.now).into_iter().next() {
                broker.reap(world, subject)
            } else {
                self.broker = Some(broker);
                self.told();
                check::the_living(&self.world, &mut self.truth, false)?;
                self.truth.all_is_told(&self.world);
                let Some(broker) = self.broker.as_ref() else { return Ok(()) };
                return check::the_dead(&self.world, &self.truth, broker);
            };
            self.broker = Some(broker);
            self.told();
            self.stood_still &= !is_timer;
            if work.is_err() {
                self.tried.crashes += 1;
                self.note("the broker dies in it");
                self.go_down();
            }
            check::the_living(&self.world, &mut self.truth, self.broker.is_none())?;
        }
        Err("it never comes to rest".to_owned())
    }

    /// The broker has given everybody their time again.
    pub(crate) fn extend(&mut self) {
        let now = self.world.now;
        self.truth.leases.values_mut().for_each(|lease| lease.extend(now, GRACE.max(STREAM_COMES_WITHIN)));
    }

    /// Time passes while the broker serves: its timer is in time.
    pub(crate) fn pass_time(&mut self, time: Duration) {
        let target = self.world.now + time;
        loop {
            self.read_on();
            let next = self.broker.as_ref().and_then(|broker| broker.armed).filter(|armed| *armed <= target);
            let Some(next) = next else { break };
            let late = Duration::from_millis(self.world.random.below(900)).min(LATE);
            self.world.now = self.world.now.max(next + late);
            self.fire();
        }
        self.world.now = self.world.now.max(target);
    }

    /// A broker that runs reads what is readable at once.
    fn read_on(&mut self) {
        let is_pass = |job: &Job| matches!(job, Job::Pass(_));
        while let Some(place) = self.broker.as_ref().and_then(|broker| broker.jobs.iter().position(is_pass)) {
            self.with_broker(|broker, world| broker.run(world, place));
        }
    }

    pub(crate) fn fire(&mut self) {
        let is_due = self.broker.as_ref().is_some_and(|broker| broker.armed.is_some_and(|at| at <= self.world.now));
        if is_due {
            self.with_broker(|broker, world| {
                broker.fire(world);
                Ok(())
            });
            self.stood_still = false;
        }
    }

    /// Everything that holds goes, everything that is in the way goes: then nothing may be left but what is unknown; and after
    /// another boot nothing at all.
    fn wind_down(&mut self) -> Result<(), String> {
        self.note("the end of everything");
        self.world.disk.fuse = None;
        self.world.disk.is_full = false;
        self.world.disk.free_all();
        while self.broker.is_none() {
            self.start(GRACE)?;
        }
        self.come_to_rest()?;
        self.world.processes.clear();
        self.world.cgroups.clear();
        self.world.connections.clear();
        self.world.descriptors.clear();
        // A start that can look at everything.
        self.world.is_willing = true;
        self.go_down();
        self.start(GRACE)?;
        self.let_go();
        for _ in 0..6 {
            self.pass_time(Duration::from_secs(1000));
            self.come_to_rest()?;
        }
        self.world.boot_anew();
        self.go_down();
        self.start(GRACE)?;
        self.pass_time(Duration::from_secs(1000));
        self.come_to_rest()?;
        let left = self.world.disk.entries(ROOT).keys().find(|name| name.parse::<LeaseId>().is_ok());
        match left {
            Some(name) => Err(format!("{name} is left after the end of everything")),
            None => Ok(()),
        }
    }

    /// What nothing but a request ends.
    fn let_go(&mut self) {
        let Some(broker) = &self.broker else { return };
        let leases = self.truth.leases.keys().filter_map(|id| broker.table.lease(*id));
        let holds: Vec<_> = leases
            .flat_map(|lease| lease.holders().iter().map(|holder| (lease.id(), *holder)))
            .filter(|(_, holder)| holder.kind == HolderKind::Hold)
            .collect();
        holds.into_iter().for_each(|(id, holder)| self.detach_one(id, holder));
    }

    pub(crate) fn some_lease(&mut self) -> Option<LeaseId> {
        let leases: Vec<LeaseId> =
            self.truth.leases.values().filter(|lease| lease.inode.is_some()).map(|lease| lease.id).collect();
        self.world.any(&leases)
    }

    pub(crate) fn tenant(&mut self) -> TenantId {
        TenantId(1000 + u32::from(self.world.chance(4)))
    }

    /// Those that can be no more, in truth and on disk, are of no interest.
    pub(crate) fn prune(&mut self) {
        let (world, truth) = (&self.world, &self.truth);
        let on_disk = |id: LeaseId| {
            world.disk.look(ROOT, id.as_str()).is_some() || world.disk.look(crate::disk::RECORDS, id.as_str()).is_some()
        };
        let is_needed = |id: LeaseId| {
            truth.leases.values().any(|lease| lease.parent == Some(id))
                || world.processes.values().any(|process| process.names == Some(id))
        };
        let in_table = |id| self.broker.as_ref().is_none_or(|broker| broker.table.lease(id).is_some());
        let over: Vec<LeaseId> = truth
            .leases
            .keys()
            .copied()
            .filter(|id| !on_disk(*id) && !is_needed(*id) && !in_table(*id) && !truth.must_live(world, *id, false))
            .collect();
        for id in over {
            self.truth.leases.remove(&id);
            self.tried.ended += 1;
        }
    }

    pub(crate) fn owed(&self) -> usize {
        let Some(broker) = &self.broker else { return 0 };
        broker.debts.keys().filter(|subject| !matches!(subject, Owed::Record(_))).count()
    }
}

fn tell_of(
    broker: &mut Broker,
    world: &World,
    (beings, sockets, connections): (&[Being], &[(LeaseId, u32)], &[ConnectionId]),
) {
    for being in beings {
        world.parting(*being).into_iter().for_each(|how| broker.has_ended(*being, how));
    }
    for holder in sockets {
        broker.sockets.remove(holder);
        broker.table.holder_gone(holder.0, holder.1);
    }
    for connection in connections {
        broker.open.remove(connection);
        broker.table.connection_closed(*connection);
    }
    broker.settle(world);
}

/// Which claims a holder of the table is.
pub(crate) fn goes_with(
    broker: &Broker,
    id: LeaseId,
    holder: u32,
    kind: HolderKind,
) -> impl Fn(&Subject) -> bool + use<> {
    let socket = broker.sockets.get(&(id, holder)).copied();
    move |subject| match (kind, *subject) {
        (kind, Subject::Being(other)) => Being::of(kind) == Some(other),
        (HolderKind::Hold, Subject::Hold) => true,
        (HolderKind::Connection(connection), Subject::Connection(other)) => connection == other,
        (HolderKind::LostConnection { .. } | HolderKind::AwaitedConnection { .. }, Subject::Waited { .. }) => true,
        (HolderKind::Ttl { granted, .. }, Subject::Ttl { granted: other, .. }) => granted == other,
        (HolderKind::Descriptor, Subject::Descriptor(other)) => socket == Some(other),
        _ => false,
    }
}

/// A point that lies so far ahead of now.
pub(crate) fn ahead(now: BootTime, seconds: u64) -> BootTime {
    now + Duration::from_secs(seconds)
}
