//! A start: what is found is decided by the real decision, and done in the broker's order.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use scratch_lease::{
    BootTime, Found, FoundRecord, Grant, Known, LeaseId, Limits, NewHolder, Parting, PoolId, RecordedHolder, Recovery,
    Share, Table,
};

use crate::broker::{Broker, Step, Subject};
use crate::disk::{Content, Fail, NEW, RECORDS, ROOT, TRASH};
use crate::record::Record;
use crate::requests::Job;
use crate::world::{Being, World, Wrong};

fn limits() -> Limits {
    Limits {
        leases_per_tenant: 30,
        areas_per_tenant: 40,
        holders_per_lease: 5,
        labels_per_lease: 1,
        label_bytes: 1,
        ttl_min: Duration::from_secs(1),
        ttl_max: Duration::from_secs(600),
        depth_max: 7,
        ..Limits::default()
    }
}

fn ids(world: &World, directory: u32) -> Vec<LeaseId> {
    world.disk.entries(directory).keys().filter_map(|name| name.parse().ok()).collect()
}

impl Broker {
    fn new(world: &World, grace: Duration) -> Broker {
        let number = |name: &String| name.split('.').next().and_then(|number| number.parse::<u64>().ok());
        let highest = world.disk.entries(TRASH).keys().filter_map(number).max();
        Broker {
            table: Table::new(limits(), 1),
            grace,
            open: BTreeSet::new(),
            watched: BTreeMap::new(),
            sockets: BTreeMap::new(),
            jobs: VecDeque::new(),
            replies: Vec::new(),
            waiting: Vec::new(),
            debts: BTreeMap::new(),
            decided_until: world.now,
            awaited_until: BootTime(0),
            armed: None,
            rearmed: false,
            set_late: false,
            suspended: world.suspended,
            next_trash: highest.map_or(0, |highest| highest + 1),
        }
    }

    pub(crate) fn start(world: &mut World, grace: Duration) -> Step<Broker> {
        let mut broker = Broker::new(world, grace);
        world.disk.step()?;
        let same_boot = world.disk.boot.is_none_or(|last| last == world.boot);
        let records = ids(world, RECORDS);
        let directories = ids(world, ROOT);
        let is_tree = |name: &&String| name.split_once('.').is_some_and(|(_, id)| id.parse::<LeaseId>().is_ok());
        let trees: Vec<String> = world.disk.entries(TRASH).keys().filter(is_tree).cloned().collect();
        broker.waiting.extend(trees.into_iter().map(Subject::Trash));
        broker.empty_new(world)?;
        if world.is(Wrong::BootSetFirst) {
            broker.set_boot(world)?;
        }
        let mut recovery = Recovery::new(grace);
        let mut found: Vec<_> = records.iter().map(|id| (*id, record(world, *id))).collect();
        found.sort_by_key(|(_, record)| record.as_ref().map_or(BootTime(0), |record| record.created));
        let unrecorded = directories.iter().filter(|id| !records.contains(id)).copied();
        for id in unrecorded {
            broker.judge(world, (&mut recovery, same_boot), id, FoundRecord::Missing, None)?;
        }
        for (id, record) in found {
            let in_trash = |record: &Record| world.disk.entries(TRASH).values().any(|inode| *inode == record.inode);
            let state = match &record {
                Some(record) if !directories.contains(&id) && in_trash(record) => FoundRecord::Ended,
                Some(_) => FoundRecord::Whole,
                None => FoundRecord::Torn,
            };
            broker.judge(world, (&mut recovery, same_boot), id, state, record)?;
        }
        broker.set_boot(world)?;
        broker.settle(world);
        while let Some(place) = broker.jobs.iter().position(|job| matches!(job, Job::Ends { .. })) {
            broker.run(world, place)?;
        }
        Ok(broker)
    }

    fn empty_new(&mut self, world: &mut World) -> Step<()> {
        let rubbish: Vec<String> = world.disk.entries(NEW).keys().cloned().collect();
        if world.is(Wrong::NewIsKept) {
            return Ok(());
        }
        for name in rubbish {
            let id = name.get(..LeaseId::LEN).and_then(|id| id.parse().ok());
            let id = id.unwrap_or_else(|| LeaseId::from_bits([0; 10]));
            if self.put_in_trash(world, (NEW, &name), id) == Err(Fail::Crash) {
                return Err(Fail::Crash);
            }
        }
        Ok(())
    }

    fn set_boot(&mut self, world: &mut World) -> Step<()> {
        world.disk.step()?;
        world.disk.step()?;
        world.disk.boot = Some(world.boot);
        Ok(())
    }

    fn judge(
        &mut self,
        world: &mut World,
        (recovery, same_boot): (&mut Recovery, bool),
        id: LeaseId,
        state: FoundRecord,
        record: Option<Record>,
    ) -> Step<()> {
        let directory = world.disk.look(ROOT, id.as_str());
        let trusting = world.is(Wrong::StrangersAreAdopted);
        let is_its_own = || trusting || directory == record.as_ref().map(|record| record.inode);
        match (recovery.found(id, same_boot, state, directory.is_some(), is_its_own), record) {
            (Found::Adopted, Some(record)) => self.adopt(world, recovery, id, &record),
            (Found::Kept(_), _) if world.is(Wrong::TornIsDead) => _ = self.end_on_disk(world, id)?,
            (Found::Kept(_), _) => self.owe(Subject::Record(id), world.now),
            (_, record) => {
                if !self.end_on_disk(world, id)?
                    && let Some(record) = record
                {
                    // Still there: the next start must not take it for one of this boot.
                    let unheld =
                        Record { holders: Vec::new(), search_environment: false, grace: Duration::ZERO, ..record };
                    self.write_record(world, id, unheld)?;
                }
            }
        }
        Ok(())
    }

    fn adopt(&mut self, world: &mut World, recovery: &Recovery, id: LeaseId, record: &Record) {
        let now = world.now;
        let grace = if world.is(Wrong::GraceForgotten) { Duration::ZERO } else { record.grace };
        let mut unwatched = Vec::new();
        let mut known = |world: &mut World, holder| match holder {
            RecordedHolder::Process(process) => look(world, Being::Process(process), &mut unwatched),
            RecordedHolder::Cgroup(cgroup) => look(world, Being::Cgroup(cgroup), &mut unwatched),
            RecordedHolder::Connection(_) | RecordedHolder::Unknown => Known::Unknown,
            RecordedHolder::Descriptor => Known::Gone(Parting::Lost),
            RecordedHolder::Hold if world.is(Wrong::HoldForgotten) => Known::Gone(Parting::Lost),
            RecordedHolder::Hold | RecordedHolder::Ttl(_) => Known::There,
        };
        let recorded: Vec<_> =
            record.holders.iter().map(|(id, holder)| (*id, (*holder, known(world, *holder)))).collect();
        let mut holders = recovery.holders(recorded, grace, now);
        if world.is(Wrong::NoGrace) {
            for adopted in &mut holders {
                if let NewHolder::LostConnection { until } = &mut adopted.holder {
                    *until = now;
                }
            }
        }
        let grant = Grant {
            id,
            tenant: record.tenant,
            pool: PoolId(0),
            nonce: record.nonce,
            parent: recovery.parent(record.parent),
            holders: Vec::new(),
            share: Share::default(),
            lifetime_max: record.lifetime_max,
            labels: BTreeMap::new(),
            search_environment: record.search_environment,
            grace,
            granted_by: None,
            preemptible: false,
        };
        self.table.adopt(grant, holders, record.holder_next, (record.created, now));
        let holders = self.table.lease(id).map(|lease| lease.holders().to_vec()).unwrap_or_default();
        for holder in holders {
            if Being::of(holder.kind).is_some_and(|being| !unwatched.contains(&being)) {
                self.watch((id, holder.id), holder.kind, None);
            }
        }
    }
}

/// What a start sees of it; what it can't look at, nobody watches.
fn look(world: &mut World, being: Being, unwatched: &mut Vec<Being>) -> Known {
    let known = match world.parting(being) {
        _ if world.refuses(50) => Known::Unknown,
        Some(how) => Known::Gone(how),
        None => Known::There,
    };
    match known {
        Known::Unknown if world.is(Wrong::UnknownIsGone) => return Known::Gone(Parting::Lost),
        Known::Gone(_) if world.is(Wrong::GoneIsAdopted) => unwatched.push(being),
        Known::Unknown => {
            unwatched.push(being);
            world.unlooked.push(being);
        }
        known => return known,
    }
    Known::Unknown
}

fn record(world: &World, id: LeaseId) -> Option<Record> {
    let inode = world.disk.look(RECORDS, id.as_str())?;
    match &world.disk.node(inode)?.content {
        Content::Record(record) => Some((**record).clone()),
        Content::Torn | Content::Directory(_) => None,
    }
}
