//! What can happen: requests, deaths, time, restarts, faults, strangers. One of them is one step.

use std::collections::BTreeMap;
use std::time::Duration;

use scratch_lease::{Caller, Grant, Holder, LeaseId, NewHolder, Parting, PoolId, Share};

use crate::broker::{LATE, STREAM_COMES_WITHIN};
use crate::disk::{Content, Owner, RECORDS, ROOT, TRASH};
use crate::requests::Job;
use crate::run::{GRACE, Run, ahead, goes_with};
use crate::truth::{Claim, Lease, Subject};
use crate::world::{Being, Mail, Process};

impl Run {
    pub(crate) fn act(&mut self) -> Result<(), String> {
        let choice = self.world.random.below(100);
        if self.broker.is_none() {
            match choice {
                0..40 => return self.restart(),
                40..60 => self.something_dies(),
                60..70 => self.time_without_a_broker(),
                70..76 => self.damage(),
                _ => self.stray(),
            }
            return Ok(());
        }
        match choice {
            0..40 => self.work(),
            40..52 => self.grant(),
            52..59 => self.attach(),
            59..62 => self.detach(),
            62..66 => self.renew(),
            66..73 => self.something_dies(),
            73..78 => self.something_is_told(),
            78..84 => self.time_passes(),
            84..86 => self.time_stands_still(),
            86 => self.revoke(),
            87..91 => self.area(),
            91..93 => self.mount(),
            93 => self.fill_up(),
            94 => self.world.disk.sync(),
            95 => self.goes(),
            96..98 => self.start_process(),
            98 => self.stray(),
            _ => {
                self.come_to_rest()?;
                self.prune();
            }
        }
        Ok(())
    }

    /// A piece of what the broker has to do.
    fn work(&mut self) {
        let runnable = self.broker.as_ref().map(|broker| broker.runnable()).unwrap_or_default();
        if runnable.is_empty() || self.world.chance(8) {
            return self.reap();
        }
        let Some(place) = self.world.any(&runnable) else { return };
        if let Some(job) = self.broker.as_ref().and_then(|broker| broker.jobs.get(place)) {
            let text = format!("{job:?}");
            self.tried.searches += u64::from(matches!(job, Job::Search(_)));
            self.note(text);
        }
        self.with_broker(|broker, world| broker.run(world, place));
    }

    fn reap(&mut self) {
        self.tried.debts = self.tried.debts.max(self.owed() as u64);
        self.with_broker(|broker, world| {
            let overdue = broker.overdue(world.now);
            let subject = broker.waiting.first().cloned().or_else(|| overdue.into_iter().next());
            subject.map_or(Ok(()), |subject| broker.reap(world, subject))
        });
    }

    fn restart(&mut self) -> Result<(), String> {
        if self.world.chance(2) {
            self.world.disk.fuse = Some(self.world.random.below(30));
        }
        let grace = if self.world.chance(12) { Duration::ZERO } else { GRACE };
        self.note(format!("start in boot {} with grace {grace:?}", self.world.boot));
        self.start(grace)
    }

    fn goes(&mut self) {
        if !self.world.chance(6) {
            return;
        }
        self.note("the broker is stopped");
        self.go_down();
        if self.world.chance(4) {
            self.note("the power is cut");
            self.tried.power_cuts += 1;
            self.power_was_cut = true;
            self.world.disk.cut_power(&mut self.world.random);
            self.world.boot_anew();
            self.truth.everything_goes(false);
            for lease in self.truth.leases.values_mut() {
                lease.is_damaged = true;
            }
        }
    }

    fn a_subject(&mut self, lease: &mut (Vec<NewHolder>, Vec<u64>), kind: u64) -> Option<Claim> {
        let number = self.world.number();
        let now = self.world.now;
        let tenants: Vec<Process> = self.world.processes.values().copied().collect();
        let (holder, subject) = match kind {
            0 => {
                let process = self.world.any(&tenants)?.id;
                (NewHolder::Process(process), Subject::Being(Being::Process(process)))
            }
            1 => {
                let connection = self.connection()?;
                (NewHolder::Connection(connection), Subject::Connection(connection))
            }
            2 => {
                // No two are alike, so that they can be told apart.
                let granted = Duration::new(1 + self.world.random.below(40), u32::try_from(number).unwrap_or(0));
                let until = now + granted;
                let subject = Subject::Ttl { granted, lives_until: until, ends_by: until, is_renewed: false };
                (NewHolder::Ttl(granted), subject)
            }
            3 => {
                self.world.descriptors.insert(number);
                lease.1.push(number);
                (NewHolder::Descriptor, Subject::Descriptor(number))
            }
            4 => {
                let cgroup = self.world.populated();
                (NewHolder::Cgroup(cgroup), Subject::Being(Being::Cgroup(cgroup)))
            }
            5 => (NewHolder::Hold, Subject::Hold),
            _ => {
                let until = now + STREAM_COMES_WITHIN;
                (NewHolder::AwaitedConnection { until }, Subject::Waited { lives_until: until, ends_by: until })
            }
        };
        let twice = lease.0.contains(&holder) && !matches!(holder, NewHolder::Descriptor);
        if twice {
            return None;
        }
        lease.0.push(holder);
        Some(Claim::new(number, subject, true))
    }

    fn connection(&mut self) -> Option<scratch_lease::ConnectionId> {
        let broker = self.broker.as_mut()?;
        let open: Vec<_> = broker.open.intersection(&self.world.connections).copied().collect();
        if open.len() > 6 || (!open.is_empty() && self.world.chance(2)) {
            return self.world.any(&open);
        }
        let connection = self.world.connect();
        broker.open.insert(connection);
        Some(connection)
    }

    fn grant(&mut self) {
        if self.truth.leases.len() > 40 {
            return;
        }
        let resent = if self.world.chance(5) { self.sent_before() } else { None };
        let mut bits = [0; 10];
        bits[..8].copy_from_slice(&self.world.number().wrapping_mul(0x9e37_79b9_7f4a_7c15).to_be_bytes());
        let id = LeaseId::from_bits(bits);
        let parent = if self.world.chance(2) { self.some_lease() } else { None };
        let tenant = resent.map(|(tenant, _)| tenant).or_else(|| Some(self.client_of(parent?)?.tenant));
        let tenant = tenant.unwrap_or_else(|| self.tenant());
        let mut holders = (Vec::new(), Vec::new());
        let mut claims = Vec::new();
        for _ in 0..=self.world.random.below(3) {
            let kind = self.world.random.below(7);
            claims.extend(self.a_subject(&mut holders, kind));
        }
        let nonce = resent.map(|(_, nonce)| nonce).or_else(|| self.world.chance(2).then_some([0; 16])).map(|nonce| {
            let mut fresh = nonce;
            if resent.is_none() {
                fresh[..10].copy_from_slice(&bits);
            }
            fresh
        });
        let lifetime_max = self.world.chance(8).then(|| Duration::from_secs(1 + self.world.random.below(100)));
        let search_environment = self.world.chance(3);
        let grace = Duration::from_secs(if self.world.chance(3) { 1 + self.world.random.below(60) } else { 0 });
        self.note(format!(
            "grant {id} below {parent:?}: {:?}, searched: {search_environment}, grace {grace:?}",
            holders.0
        ));
        let lease = Lease {
            id,
            tenant,
            nonce,
            parent,
            search_environment,
            lifetime_end: lifetime_max.map(|time| self.world.now + time),
            claims,
            grace,
            held: None,
            waits_until: None,
            inode: None,
            areas: BTreeMap::new(),
            must: true,
            may: true,
            is_damaged: false,
        };
        self.truth.leases.insert(id, lease);
        let grant = Grant {
            id,
            tenant,
            pool: PoolId(0),
            nonce,
            parent,
            holders: holders.0,
            share: Share::default(),
            lifetime_max,
            labels: BTreeMap::new(),
            search_environment,
            grace,
            granted_by: None,
            preemptible: false,
        };
        let caller = Caller::of(tenant);
        let first = self.lives_by_nonce(id);
        self.with_broker(|broker, world| {
            broker.grant(world, caller, grant, holders.1);
            if let Some(first) = first.filter(|_| broker.table.lease(id).is_some()) {
                world.disk.violation = Some(format!("{id} was granted though {first} of the same nonce lives"));
            }
            Ok(())
        });
    }

    /// The lease that a grant sent again has to get.
    fn lives_by_nonce(&self, again: LeaseId) -> Option<LeaseId> {
        let again = self.truth.leases.get(&again).filter(|again| again.nonce.is_some())?;
        let same = |lease: &&Lease| {
            lease.id != again.id && lease.tenant == again.tenant && lease.nonce == again.nonce && !lease.is_damaged
        };
        let mut same = self.truth.leases.values().filter(same).map(|lease| lease.id);
        same.find(|id| self.truth.must_live(&self.world, *id, false))
    }

    /// A grant that is sent once more.
    fn sent_before(&mut self) -> Option<(scratch_lease::TenantId, [u8; 16])> {
        let sent: Vec<_> = self.truth.leases.values().filter_map(|lease| Some((lease.tenant, lease.nonce?))).collect();
        self.world.any(&sent)
    }

    fn attach(&mut self) {
        let Some(id) = self.some_lease() else { return };
        let Some(caller) = self.client_of(id) else { return };
        let mut holders = (Vec::new(), Vec::new());
        let kind = self.world.random.below(6);
        let Some(mut claim) = self.a_subject(&mut holders, kind) else { return };
        claim.must = false;
        let Some(lease) = self.truth.leases.get_mut(&id) else { return };
        if claim.subject == Subject::Hold
            && lease.claims.iter().any(|other| other.may && other.subject == Subject::Hold)
        {
            return;
        }
        if let Subject::Connection(_) = claim.subject {
            if lease.claims.iter().any(|other| other.may && other.subject == claim.subject) {
                return;
            }
            // It takes the place of one that is waited for; it can't be known of which.
            let waited = |claim: &&mut Claim| claim.must && matches!(claim.subject, Subject::Waited { .. });
            if let Some(waited) = lease.claims.iter_mut().filter(waited).max_by_key(|claim| match claim.subject {
                Subject::Waited { lives_until, .. } => lives_until,
                _ => ahead(scratch_lease::BootTime(0), 0),
            }) {
                waited.must = false;
            }
        }
        let (new, descriptor, number) = (holders.0[0], holders.1.first().copied(), claim.number);
        lease.claims.push(claim);
        self.note(format!("attach to {id}: {new:?}"));
        self.with_broker(|broker, _| {
            broker.jobs.push_back(Job::Attach { id, caller, new, descriptor, number });
            Ok(())
        });
    }

    fn detach(&mut self) {
        let Some(id) = self.some_lease() else { return };
        let Some(broker) = self.broker.as_ref() else { return };
        let holders = broker.table.lease(id).map(|lease| lease.holders().to_vec()).unwrap_or_default();
        let Some(holder) = self.world.any(&holders) else { return };
        self.detach_one(id, holder);
    }

    pub(crate) fn detach_one(&mut self, id: LeaseId, holder: Holder) {
        let (Some(caller), Some(broker)) = (self.client_of(id), self.broker.as_ref()) else { return };
        let goes = goes_with(broker, id, holder.id, holder.kind);
        self.truth.detaches(id, holder.id, goes);
        self.note(format!("detach from {id}: {holder:?}"));
        let holder = holder.id;
        self.with_broker(|broker, _| {
            broker.jobs.push_back(Job::Detach { id, caller, holder });
            Ok(())
        });
    }

    fn renew(&mut self) {
        let Some(lease) = self.some_lease() else { return };
        let Some(caller) = self.client_of(lease) else { return };
        let now = self.world.now;
        if let Some(truth) = self.truth.leases.get_mut(&lease) {
            for claim in &mut truth.claims {
                if let Subject::Ttl { lives_until, is_renewed, .. } = &mut claim.subject {
                    *is_renewed |= now < *lives_until;
                }
            }
        }
        self.note(format!("renew {lease}"));
        self.world.mail.push(Mail { lease, caller });
    }

    fn revoke(&mut self) {
        let Some(id) = self.some_lease() else { return };
        let Some(caller) = self.client_of(id) else { return };
        if let Some(lease) = self.truth.leases.get_mut(&id) {
            lease.must = false;
        }
        self.note(format!("revoke {id}"));
        self.with_broker(|broker, world| {
            broker.revoke(world, id, caller);
            Ok(())
        });
    }

    fn area(&mut self) {
        let Some(id) = self.some_lease() else { return };
        let Some(caller) = self.client_of(id) else { return };
        if !self.truth.must_live(&self.world, id, false) {
            return;
        }
        let Some(lease) = self.truth.leases.get_mut(&id) else { return };
        let Some(inode) = lease.inode else { return };
        if let Some((name, _)) = lease.areas.pop_first().filter(|_| self.world.chance(2)) {
            self.note(format!("release {name} of {id}"));
            return self.with_broker(|broker, world| broker.release(world, id, caller, &name));
        }
        let name = format!("area-{}", self.world.number());
        let made = self.world.disk.put(inode, &name, Owner::Client, Content::Directory(BTreeMap::new()));
        lease.areas.insert(name, made);
    }

    fn mount(&mut self) {
        let Some(id) = self.some_lease() else { return };
        let lease = &self.truth.leases[&id];
        let inodes: Vec<u32> = lease.inode.into_iter().chain(lease.areas.values().copied()).collect();
        let is_busy = !self.world.chance(3);
        let inode = self.world.any(&inodes);
        self.note(format!("mounted on {inode:?} of {id}: {is_busy}"));
        if !is_busy {
            self.world.disk.free_all();
        } else if let Some(inode) = inode {
            self.world.disk.set_busy(inode, true);
        }
    }

    fn fill_up(&mut self) {
        self.world.disk.is_full = !self.world.disk.is_full && self.world.chance(3);
        self.note(format!("the disk is full: {}", self.world.disk.is_full));
    }

    fn something_dies(&mut self) {
        let pids: Vec<i32> = self.world.processes.keys().copied().collect();
        let connections: Vec<_> = self.world.connections.iter().copied().collect();
        let descriptors: Vec<_> = self.world.descriptors.iter().copied().collect();
        match self.world.random.below(4) {
            3 => {
                let cgroups: Vec<_> = self.world.cgroups.keys().copied().collect();
                let Some(cgroup) = self.world.any(&cgroups) else { return };
                let is_removed = self.world.chance(2) || self.world.cgroups.get(&cgroup) == Some(&false);
                if is_removed {
                    self.world.cgroups.remove(&cgroup);
                } else {
                    self.world.cgroups.insert(cgroup, false);
                }
                self.note(format!("{cgroup:?} is empty, and removed: {is_removed}"));
            }
            0 => {
                let Some(pid) = self.world.any(&pids) else { return };
                self.world.processes.remove(&pid);
                self.note(format!("process {pid} ends"));
            }
            1 => {
                let Some(connection) = self.world.any(&connections) else { return };
                self.world.connections.remove(&connection);
                self.note(format!("{connection:?} closes"));
            }
            _ => {
                let Some(descriptor) = self.world.any(&descriptors) else { return };
                self.world.descriptors.remove(&descriptor);
                self.note(format!("descriptor {descriptor} closes"));
            }
        }
    }

    /// The broker hears of one of those that ended, in any order and any time later.
    fn something_is_told(&mut self) {
        let Some(broker) = self.broker.as_ref() else { return };
        let (beings, sockets, connections) = broker.ended(&self.world);
        match self.world.random.below(4) {
            0 => {
                let Some(being) = self.world.any(&beings) else { return };
                self.note(format!("the broker hears of {being:?}"));
                self.with_broker(|broker, world| {
                    let holders = broker.watched.remove(&being).unwrap_or_default();
                    broker.jobs.extend(world.parting(being).map(|how| Job::Gone(holders, how)));
                    Ok(())
                });
            }
            1 => {
                let Some(holder) = self.world.any(&sockets) else { return };
                self.with_broker(|broker, _| {
                    broker.sockets.remove(&holder);
                    broker.jobs.push_back(Job::Gone(vec![holder], Parting::Gone));
                    Ok(())
                });
            }
            2 => {
                let Some(connection) = self.world.any(&connections) else { return };
                self.note(format!("the broker hears of {connection:?}"));
                self.with_broker(|broker, _| {
                    broker.open.remove(&connection);
                    broker.table.connection_closed(connection);
                    broker.jobs.push_back(Job::Settle);
                    Ok(())
                });
            }
            _ => self.with_broker(|broker, world| {
                broker.read_mail(world);
                Ok(())
            }),
        }
    }

    fn some_time(&mut self) -> Duration {
        let longest = [50, 2_000, 30_000, 120_000][usize::try_from(self.world.random.below(4)).unwrap_or(0)];
        Duration::from_millis(1 + self.world.random.below(longest))
    }

    fn time_passes(&mut self) {
        let time = self.some_time();
        self.note(format!("{time:?} pass"));
        self.pass_time(time);
    }

    /// The broker is stopped by a signal, or the machine sleeps.
    fn time_stands_still(&mut self) {
        let (time, sleeps) = (self.some_time(), self.world.chance(2));
        self.note(format!("nobody is served for {time:?}, asleep: {sleeps}"));
        let before = self.world.now;
        self.world.now = before + time;
        self.stood_still = true;
        if sleeps {
            self.world.suspended += time;
        }
        self.truth.was_stalled(before, self.world.now, LATE, sleeps && time > LATE);
        self.fire();
    }

    fn time_without_a_broker(&mut self) {
        let time = self.some_time();
        self.note(format!("{time:?} pass without a broker"));
        self.world.now = self.world.now + time;
    }

    fn start_process(&mut self) {
        let lease = self.some_lease().filter(|_| self.world.random.below(2) == 0);
        let names = lease.filter(|id| self.truth.must_live(&self.world, *id, false));
        let tenant = match names.and_then(|id| self.client_of(id)) {
            Some(caller) => caller.tenant,
            None => self.tenant(),
        };
        let process = self.world.start_process(tenant, names);
        if names.is_some() {
            self.truth.may_be_found();
        }
        self.note(format!("{process:?} starts, names {names:?}"));
    }

    fn stray(&mut self) {
        let place = self.world.any(&[ROOT, RECORDS, TRASH]).unwrap_or(ROOT);
        let name = format!("stray-{}", self.world.random.below(5));
        if self.world.disk.look(place, &name).is_none() {
            self.world.disk.put(place, &name, Owner::Stranger, Content::Directory(BTreeMap::new()));
        }
    }

    /// While no broker looks, somebody has a hand in the pool.
    fn damage(&mut self) {
        let Some(id) = self.some_lease() else { return };
        let name = id.as_str();
        let Some(record) = self.world.disk.look(RECORDS, name) else { return };
        self.tried.damages += 1;
        let Some(lease) = self.truth.leases.get_mut(&id) else { return };
        let how = self.world.random.below(4);
        match how {
            0 => self.world.disk.tear(record),
            1 => self.world.disk.take(RECORDS, name),
            2 => {
                self.world.disk.take(ROOT, name);
                self.world.disk.put(ROOT, name, Owner::Stranger, Content::Directory(BTreeMap::new()));
                // Its client has lost it already.
                lease.must = false;
            }
            _ => {
                // A copy under another name, which has no directory.
                let content = self.world.disk.node(record).map(|node| node.content.clone());
                let copy = LeaseId::from_bits([u8::try_from(self.world.random.below(256)).unwrap_or(0); 10]);
                if let Some(content) = content {
                    self.world.disk.put(RECORDS, copy.as_str(), Owner::Broker, content);
                }
                return;
            }
        }
        lease.is_damaged = true;
        self.note(format!("somebody damages {id}: {how}"));
    }
}
