//! What a start finds: leases of processes that provably live are taken over, all else goes out of sight before anything is
//! served, and what is unknown is kept and told.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use rustix::io::Errno;
use scratch_fs::{
    Boot, DebtBook, FsError, GoneName, Place, QuotaId, Record, RecordHolder, RecordHolderKind, Torn, TrashName,
};
use scratch_lease::{
    BootTime, CgroupId, Enforced, Found, FoundRecord, Grant, Holder, HolderKind, Keep, Known, LeaseId, LeaseState,
    Parting, PoolId, ProcessId, Reason, RecordedHolder, Recovery, TenantId, Terms,
};
use scratch_proto::v1;

use crate::broker::{Broker, Dead};
use crate::cgroup::{self, Cgroup, KnownCgroup, Mounts};
use crate::clock;
use crate::debt::{Debt, Subject};
use crate::parked::Survived;
use crate::peer::Identity;
use crate::pools::InUse;
use crate::process::HeldProcess;
use crate::side::NOBODYS;
use crate::translate;

/// How long a start waits for searches: one that the system would not let finish goes on beside serving.
const SEARCH_FOR_MAX: Duration = Duration::from_secs(2);

/// What a debt is called whose directory is not the one that was made for its lease.
const NOT_ITS_DIRECTORY: &str = "not the directory of its record";

/// What was done with what was found.
#[derive(Debug, Default)]
pub(crate) struct Recovered {
    pub(crate) adopted: usize,
    pub(crate) ended: usize,
    pub(crate) trash: usize,
}

/// What a start has learned so far.
#[derive(Debug)]
struct Start {
    recovery: Recovery,
    /// Processes that were looked for once: many leases have the same.
    processes: HashMap<ProcessId, Known>,
    /// What has survived the broker before.
    survived: Survived,
    /// Where cgroups are looked for; read once.
    mounts: Option<Mounts>,
    /// Adopted, and past their end.
    kept: Vec<LeaseId>,
}

/// What a start finds in one pool.
#[derive(Debug)]
struct Ground<'a> {
    pool: &'a InUse,
    /// Its leases are of this boot.
    same_boot: bool,
    directories: HashSet<LeaseId>,
    trees: Vec<TrashName>,
    /// Leases that can be brought back.
    gone: HashMap<LeaseId, GoneName>,
}

/// A lease's name, and its record if it has one.
type Named = (LeaseId, Option<Result<Record, Torn>>);

/// What was found of one lease's holders.
#[derive(Debug, Default)]
struct Evidence {
    processes: HashMap<ProcessId, HeldProcess>,
    cgroups: HashMap<CgroupId, Cgroup>,
    /// What is to be written into its record again, also of those that could not be looked at.
    known: Vec<Arc<KnownCgroup>>,
}

impl Broker {
    /// Goes through the pool before it is served.
    ///
    /// # Errors
    /// When records, directories or trash can't be read: then nothing is known, and nothing was ended.
    pub(crate) fn recover(
        self: &Arc<Self>,
        boot: &Boot,
        last: &[Option<Boot>],
        survived: Survived,
    ) -> Result<Recovered, FsError> {
        let recovery = Recovery::new(self.settings.get().grace);
        let start = Start { recovery, processes: HashMap::new(), survived, mounts: None, kept: Vec::new() };
        let (mut start, mut recovered) = (start, Recovered::default());
        let mut grounds = Vec::new();
        let mut found = Vec::new();
        self.know_boot(&boot.id);
        let mut foreign = Vec::new();
        for (pool, last) in self.pools.iter().zip(last) {
            foreign.extend(pool.disk.foreign().entries()?.into_iter().map(|found| (pool.id, found)));
            let same_boot = last.as_ref().is_none_or(|last| last.id == boot.id);
            let (ground, records) = self.survey(pool, same_boot, boot)?;
            recovered.trash += ground.trees.len();
            grounds.push(ground);
            found.extend(records.into_iter().map(|(lease, record)| (pool.id, lease, record)));
        }
        // Parents come before their children, who name them; and before all what nothing is known of.
        found.sort_by_key(|(_, _, record)| record.as_ref().and_then(|found| found.as_ref().ok()).map(|it| it.created));
        for (pool, lease, record) in found {
            self.take_up(lease, record, &mut grounds[usize::from(pool.0)], &mut start, &mut recovered);
        }
        for ground in &mut grounds {
            std::mem::take(&mut ground.gone).into_values().for_each(|name| self.discard(ground.pool.id, name, None));
        }
        self.recover_foreign(foreign);
        self.side.close(NOBODYS, start.survived.descriptors.into_values().collect());
        self.end_forgotten_memories();
        self.pools.iter().try_for_each(|pool| pool.disk.set_boot(boot))?;
        self.end_the_dead();
        // In case the broker before ended between two of them.
        let adopted: Vec<_> = self.lock().table.leases().map(scratch_lease::Lease::id).collect();
        adopted.into_iter().for_each(|lease| self.fit_or_tell(lease));
        // Perhaps they were not measured yet.
        start.kept.into_iter().for_each(|lease| self.measure(lease));
        Ok(recovered)
    }

    /// What one pool has, with its trash handed over: every name of a lease, with its record if there is one.
    fn survey<'a>(&self, pool: &'a InUse, same_boot: bool, boot: &Boot) -> Result<(Ground<'a>, Vec<Named>), FsError> {
        let records = pool.disk.records()?;
        let directories: HashSet<_> = pool.disk.lease_directories()?.into_iter().collect();
        let trees = pool.disk.trash().entries()?;
        let book = pool.disk.debts().unwrap_or_else(|error| {
            tracing::warn!(%error, "what was owed is tried anew");
            DebtBook::default()
        });
        self.reaper.begin(pool.id, trees.clone(), book, &boot.id);
        if let Err(error) = pool.disk.empty_new(|tree| self.reaper.push(pool.id, tree, None)) {
            tracing::warn!(%error, "what a crash left in new/ stays until the next start, ignoring");
        }
        let gone = pool.disk.gone().entries()?.into_iter().map(|name| (name.lease, name)).collect();
        let recorded: HashSet<_> = records.iter().map(|(lease, _)| *lease).collect();
        let unrecorded = directories.difference(&recorded).map(|lease| (*lease, None));
        let found = unrecorded.chain(records.into_iter().map(|(lease, record)| (lease, Some(record)))).collect();
        Ok((Ground { pool, same_boot, directories, trees, gone }, found))
    }

    /// What becomes of one lease.
    fn take_up(
        self: &Arc<Self>,
        lease: LeaseId,
        record: Option<Result<Record, Torn>>,
        ground: &mut Ground<'_>,
        start: &mut Start,
        recovered: &mut Recovered,
    ) {
        // What is in memory is there, whatever has become of its place in the pool.
        let in_memory = !ground.pool.disk.has_paths() && ground.pool.disk.reaches(lease);
        let (pool, is_there) = (ground.pool, in_memory || ground.directories.contains(&lease));
        let (state, record) = match record {
            Some(Ok(record)) if !is_there && ground.was_ended(lease, &record) => (FoundRecord::Ended, Some(record)),
            Some(Ok(record)) => (FoundRecord::Whole, Some(record)),
            Some(Err(Torn)) => (FoundRecord::Torn, None),
            None => (FoundRecord::Missing, None),
        };
        if let Some(record) = &record
            && !is_there
            && ground.same_boot
            && !self.settings.get().grace.is_zero()
            && let Some(name) = ground.gone.remove(&lease)
        {
            self.adopt_ended((pool.id, lease), record, LeaseState::Gone { until: BootTime(name.until) });
            return;
        }
        let is_its_own =
            || record.as_ref().is_some_and(|record| pool.disk.is_in_place(lease, place_of(record)) == Ok(true));
        match (start.recovery.found(lease, ground.same_boot, state, is_there, is_its_own), record) {
            (Found::Adopted, Some(record)) => {
                self.adopt((pool.id, lease), &record, start);
                recovered.adopted += 1;
            }
            (Found::Kept(why), _) => self.keep_unknown(pool, lease, why),
            (_, record) => {
                recovered.ended += usize::from(is_there && record.is_some());
                self.put_away(pool, lease, record, ground.same_boot);
            }
        }
    }

    /// What the broker before has held in memory, of leases of which nothing else is left. One of which nothing is known has
    /// its directory still.
    fn end_forgotten_memories(&self) {
        for pool in self.pools.iter() {
            for (lease, _) in pool.disk.memories() {
                let is_known = self.lock().table.lease(lease).is_some();
                // What is owed as unknown is kept, also where its place in the pool was taken away.
                if is_known || self.reaper.owes(lease) || !matches!(pool.disk.directory(lease), Ok(None)) {
                    continue;
                }
                match pool.disk.end_memory(lease, self.uid) {
                    Ok(tree) => tree.into_iter().for_each(|tree| self.reaper.push(pool.id, tree, None)),
                    Err(error) => tracing::error!(%lease, %error, "what a dead lease has in memory can't be freed"),
                }
            }
        }
    }

    /// Leases without a living holder go out of sight, after the search for their processes.
    fn end_the_dead(self: &Arc<Self>) {
        self.settle();
        self.searches.wait(SEARCH_FOR_MAX);
    }

    fn adopt(self: &Arc<Self>, (pool, lease): (PoolId, LeaseId), record: &Record, start: &mut Start) {
        if record.kept_until != 0 {
            self.adopt_ended((pool, lease), record, LeaseState::Kept { until: BootTime(record.kept_until) });
            start.kept.push(lease);
            return;
        }
        let parent = self.parent_of(record, &mut start.recovery);
        let now = clock::now();
        let mut found = Evidence::default();
        let identity = Identity { uid: record.uid, gid: record.gid, groups: record.groups.clone() };
        let mut look = |holder| start.recorded_holder((lease, &identity, self.uid), holder, &mut found);
        let recorded: Vec<_> = record.holders.iter().map(|holder| (holder.id, look(holder))).collect();
        let holders = start.recovery.holders(recorded, Duration::from_nanos(record.grace), now);
        let (quota, enforced) = self.adopt_quota((pool, lease), record);
        let holders = {
            let mut state = self.lock();
            state.identities.insert(lease, Arc::new(identity));
            let times = (BootTime(record.created), now);
            state.places.insert(lease, place_of(record));
            state.table.adopt(grant_of((pool, lease), record, enforced, parent), holders, record.holder_next, times);
            state.quotas.insert(lease, quota);
            state.table.set_keep(lease, keep_of(record), None);
            let adopted = state.table.lease(lease);
            if let Some(lease) = adopted {
                found.known.iter().for_each(|cgroup| self.cgroups.add(lease, cgroup));
            }
            adopted.map(|lease| lease.holders().to_vec()).unwrap_or_default()
        };
        for holder in holders {
            self.watch_again(lease, holder, &mut found, start);
        }
    }

    fn watch_again(&self, lease: LeaseId, holder: Holder, found: &mut Evidence, start: &mut Start) {
        let key = (lease, holder.id);
        match holder.kind {
            HolderKind::Process(process) if !self.watch.also(process, key) => {
                let held = found.processes.remove(&process);
                held.into_iter().for_each(|held| self.watch_process(lease, holder.id, held));
            }
            HolderKind::Cgroup(id) => {
                let cgroup = found.cgroups.remove(&id);
                cgroup.into_iter().for_each(|cgroup| self.watch_cgroup(lease, holder.id, cgroup));
            }
            HolderKind::Descriptor => {
                let socket = start.survived.descriptors.remove(&key);
                if let Some(Err((errno, socket))) = socket.map(|socket| self.watch.socket(socket, key)) {
                    tracing::error!(%lease, %errno, "a passed socket can't be watched; its lease lives until it is revoked");
                    self.side.close(NOBODYS, vec![socket]);
                }
            }
            _ => {}
        }
    }

    /// The parent of an adopted lease: one in a pool that is not configured any more is unknown.
    fn parent_of(&self, record: &Record, recovery: &mut Recovery) -> Option<LeaseId> {
        let parent = record.parent.parse().ok()?;
        if !record.parent_pool.is_empty() && self.pools.of_uuid(&record.parent_pool).is_none() {
            recovery.unknown(parent);
        }
        recovery.parent(Some(parent))
    }

    /// What an adopted lease can be held to: where it was granted without, to nothing.
    fn adopt_quota(&self, (pool, lease): (PoolId, LeaseId), record: &Record) -> (QuotaId, Enforced) {
        let disk = &self.pools.get(pool).disk;
        let quota = disk.quota_of(lease, record);
        disk.adopt_quota(quota);
        let has_any = quota != QuotaId::None && disk.reaches(lease);
        (quota, if has_any { disk.enforced() } else { Enforced::default() })
    }

    /// A lease that had ended and has not had its time.
    fn adopt_ended(&self, (pool, lease): (PoolId, LeaseId), record: &Record, ended: LeaseState) {
        let identity = Identity { uid: record.uid, gid: record.gid, groups: record.groups.clone() };
        let (quota, enforced) = self.adopt_quota((pool, lease), record);
        let mut state = self.lock();
        state.identities.insert(lease, Arc::new(identity));
        state.places.insert(lease, place_of(record));
        state.table.adopt_ended(grant_of((pool, lease), record, enforced, None), BootTime(record.created), ended);
        state.quotas.insert(lease, quota);
        state.table.set_keep(lease, keep_of(record), None);
        if let (LeaseState::Gone { .. }, Some(adopted)) = (ended, state.table.lease(lease)) {
            self.ended
                .note(adopted, adopted.reason().unwrap_or(Reason::HoldersGone { last: None, grace: Duration::ZERO }));
        }
    }

    /// Out of sight; what can't be moved is owed, and its record says from now on that nobody holds it: the next start
    /// must not take it for one of this boot.
    fn put_away(&self, pool: &InUse, lease: LeaseId, record: Option<Record>, same_boot: bool) {
        let tenant = record.as_ref().map_or_else(|| self.owner_of(pool, lease), |record| record.uid);
        let place = match &record {
            None => Place::Unknown,
            Some(record) if same_boot => place_of(record),
            Some(record) => Place::OfAnotherBoot { inode: record.inode },
        };
        let Err(debt) = self.end_on_disk(lease, Some(Dead { pool: pool.id, tenant, place })) else { return };
        tracing::warn!(%lease, path = %debt.path.display(), blocker = %debt.blocker, "a dead lease can't be put away yet");
        self.owe(*debt);
        let found = pool.disk.directory(lease).ok().flatten();
        let renewed = record.map(|record| match found {
            // The device's number may be another in this boot; the next start of it compares both.
            Some(found) if !same_boot && found.st_ino == record.inode => Record { device: found.st_dev, ..record },
            _ => record,
        });
        write_unheld(pool, lease, renewed);
    }

    /// An ended lease whose name stands for something else now, which is not ours to take away. Its record stays, and says
    /// so to the next start.
    pub(crate) fn keep_replaced(&self, lease: LeaseId, dead: Dead) {
        let pool = self.pools.get(dead.pool);
        let path = pool.disk.lease_path(lease);
        tracing::error!(%lease, path = %path.display(), "its name stands for something else, which is kept");
        write_unheld(pool, lease, pool.disk.record(lease).ok().flatten().and_then(|(_, record)| record.ok()));
        self.owe_unknown(pool, lease, dead.tenant, NOT_ITS_DIRECTORY);
    }

    fn keep_unknown(&self, pool: &InUse, lease: LeaseId, why: &str) {
        tracing::warn!(%lease, "{why}: whether it is dead is unknown, so it is kept; see `scratch debt`");
        self.owe_unknown(pool, lease, self.owner_of(pool, lease), why);
    }

    fn owe_unknown(&self, pool: &InUse, lease: LeaseId, tenant: u32, why: &str) {
        let path = pool.disk.lease_path(lease);
        self.owe(Debt::new(Subject::Record(lease), (pool.id, tenant), path, why));
    }

    fn owner_of(&self, pool: &InUse, lease: LeaseId) -> u32 {
        pool.disk.directory(lease).ok().flatten().map_or(self.uid, |found| found.st_uid)
    }
}

/// The next start must not take it for one that is held.
fn write_unheld(pool: &InUse, lease: LeaseId, record: Option<Record>) {
    let Some(record) = record else { return };
    let unheld = Record {
        holders: Vec::new(),
        search_environment: false,
        grace: 0,
        keep_for: 0,
        kept_until: 0,
        keep_bytes: 0,
        ..record
    };
    if let Err(error) = pool.disk.write_record(lease, &unheld) {
        tracing::warn!(%lease, %error, "its record still names holders, ignoring");
    }
}

impl Ground<'_> {
    /// Whether its directory lies in trash: no reaper has begun yet, and the record goes before one is told.
    fn was_ended(&self, lease: LeaseId, record: &Record) -> bool {
        self.trees.iter().any(|tree| tree.lease == lease && self.pool.disk.is_whole(*tree, place_of(record)))
    }
}

impl Start {
    /// A holder as its record names it, with what is known of it now; of a lease of this tenant, by this user's broker.
    fn recorded_holder(
        &mut self,
        (lease, tenant, broker): (LeaseId, &Identity, u32),
        holder: &RecordHolder,
        found: &mut Evidence,
    ) -> (RecordedHolder, Known) {
        let key = (lease, holder.id);
        match &holder.kind {
            Some(RecordHolderKind::Process(process)) => {
                let id =
                    ProcessId { pid: process.pid, start_time: process.start_time, pidfd_inode: process.pidfd_inode };
                let known = *self.processes.entry(id).or_insert_with(|| find(id, &mut found.processes));
                (RecordedHolder::Process(id), known)
            }
            Some(RecordHolderKind::Cgroup(cgroup)) => {
                let known = match Cgroup::find(self.mounts.get_or_insert_with(Mounts::read), cgroup, (tenant, broker)) {
                    cgroup::Found::There(cgroup) => {
                        found.known.push(Arc::clone(&cgroup.known));
                        found.cgroups.insert(CgroupId(cgroup.known.record.inode), cgroup);
                        Known::There
                    }
                    cgroup::Found::Gone(how) => Known::Gone(how),
                    cgroup::Found::Unknown => {
                        let known = KnownCgroup::of(cgroup);
                        tracing::warn!(path = %known.path.display(), "a cgroup can't be looked at; its leases are kept");
                        found.known.push(Arc::new(known));
                        Known::Unknown
                    }
                };
                (RecordedHolder::Cgroup(CgroupId(cgroup.inode)), known)
            }
            Some(RecordHolderKind::Ttl(granted)) => (RecordedHolder::Ttl(Duration::from_nanos(*granted)), Known::There),
            Some(RecordHolderKind::Connection(_)) => {
                (RecordedHolder::Connection(self.survived.connections.get(&key).copied()), Known::Unknown)
            }
            Some(RecordHolderKind::Descriptor(_)) => {
                let survived = self.survived.descriptors.contains_key(&key);
                // Else gone with the broker that held it; the search of environments stands in for it.
                (RecordedHolder::Descriptor, if survived { Known::There } else { Known::Gone(Parting::Lost) })
            }
            Some(RecordHolderKind::Hold(_)) => (RecordedHolder::Hold, Known::There),
            None => {
                tracing::warn!(%lease, holder = holder.id, "held by what a later version knows: kept until revoked");
                (RecordedHolder::Unknown, Known::Unknown)
            }
        }
    }
}

/// The very process of a record: same number, same start.
fn find(wanted: ProcessId, found: &mut HashMap<ProcessId, HeldProcess>) -> Known {
    match HeldProcess::of_pid(wanted.pid) {
        Ok(held) if held.id == wanted => {
            found.insert(wanted, held);
            Known::There
        }
        Ok(_) | Err(Errno::SRCH | Errno::NOENT) => Known::Gone(Parting::Lost),
        Err(errno) => {
            tracing::warn!(pid = wanted.pid, %errno, "a process can't be looked at; its leases are kept");
            Known::Unknown
        }
    }
}

/// The directory that a record is about, in the boot that it is of.
fn place_of(record: &Record) -> Place {
    Place::This { device: record.device, inode: record.inode }
}

fn keep_of(record: &Record) -> Option<Keep> {
    let keep = Keep { time: Duration::from_nanos(record.keep_for), bytes: record.keep_bytes };
    (record.keep_for != 0).then_some(keep)
}

fn grant_of((pool, id): (PoolId, LeaseId), record: &Record, enforced: Enforced, parent: Option<LeaseId>) -> Grant {
    let lifetime = BootTime(record.lifetime_end).duration_since(BootTime(record.created));
    Grant {
        id,
        tenant: TenantId(record.uid),
        pool,
        nonce: <[u8; 16]>::try_from(record.nonce.as_slice()).ok(),
        parent,
        holders: Vec::new(),
        share: translate::share(Some(v1::Limits { bytes: record.bytes_limit, inodes: record.inodes_limit })),
        terms: Terms { enforced, ..Terms::default() },
        lifetime_max: (record.lifetime_end != 0).then_some(lifetime),
        labels: record.labels.clone(),
        search_environment: record.search_environment,
        grace: Duration::from_nanos(record.grace),
        granted_by: record.granted_by.map(TenantId),
        preemptible: record.preemptible,
    }
}
