//! What a start finds: leases of processes that provably live are taken over, all else goes out of sight before anything is
//! served, and what is unknown is kept and told.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use rustix::io::Errno;
use scratch_fs::{Boot, FoundRecord, FsError, Record, RecordHolderKind, Torn};
use scratch_lease::{BootTime, Grant, HolderKind, LeaseId, NewHolder, ProcessId, TenantId};

use crate::broker::Broker;
use crate::clock;
use crate::debt::{Debt, Subject};
use crate::peer::Identity;
use crate::process::HeldProcess;

/// How long a start waits for searches: one that the system would not let finish goes on beside serving.
const SEARCH_FOR_MAX: Duration = Duration::from_secs(2);

/// What was done with what was found.
#[derive(Debug, Default)]
pub(crate) struct Recovered {
    pub(crate) adopted: usize,
    pub(crate) ended: usize,
    pub(crate) trash: usize,
}

/// What is known of a process of a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Known {
    Alive,
    Gone,
    /// It could not be looked at: its leases live on, unwatched, until they are revoked or the next start knows more.
    Unknown,
}

/// What a start has learned so far.
#[derive(Debug, Default)]
struct Start {
    /// Processes that were looked for once: many leases have the same.
    processes: HashMap<ProcessId, Known>,
    /// Leases that are kept because nothing is known of them.
    kept: HashSet<LeaseId>,
}

impl Broker {
    /// Goes through the pool before it is served.
    ///
    /// # Errors
    /// When records, directories or trash can't be read: then nothing is known, and nothing was ended.
    pub(crate) fn recover(self: &Arc<Self>, boot: &Boot, last: Option<&Boot>) -> Result<Recovered, FsError> {
        let same_boot = last.is_none_or(|last| last.id == boot.id);
        let records = self.pool.records()?;
        let directories: HashSet<_> = self.pool.lease_directories()?.into_iter().collect();
        let mut recovered = Recovered::default();
        for tree in self.pool.trash().entries()? {
            self.reaper.push(tree, None);
            recovered.trash += 1;
        }
        if let Err(error) = self.pool.empty_new(|tree| self.reaper.push(tree, None)) {
            tracing::warn!(%error, "what a crash left in new/ stays until the next start, ignoring");
        }
        let everything_goes = !same_boot || self.settings.get().grace.is_zero();
        let recorded: HashSet<_> = records.iter().map(|(lease, _)| *lease).collect();
        let mut start = Start::default();
        for (lease, record) in in_order_of_age(records) {
            let is_there = directories.contains(&lease);
            match record {
                Ok(record) if is_there && !everything_goes => {
                    recovered.adopted += usize::from(self.adopt(lease, &record, &mut start));
                }
                Ok(record) => {
                    self.put_away(lease, Some(record));
                    recovered.ended += usize::from(is_there);
                }
                Err(Torn) if everything_goes => self.put_away(lease, None),
                Err(Torn) => self.keep_unknown(lease, "torn record", &mut start),
            }
        }
        for lease in directories.difference(&recorded) {
            // Before a power cut the record may have been lost: then everything is dead. In the same boot it can't be.
            if everything_goes {
                self.put_away(*lease, None);
            } else {
                self.keep_unknown(*lease, "no record", &mut start);
            }
        }
        self.pool.set_boot(boot)?;
        self.end_the_dead();
        Ok(recovered)
    }

    /// Leases without a living holder go out of sight, after the search for their processes.
    fn end_the_dead(self: &Arc<Self>) {
        self.settle();
        self.searches.wait(SEARCH_FOR_MAX);
    }

    /// False: it is kept because nothing is known of it.
    fn adopt(self: &Arc<Self>, lease: LeaseId, record: &Record, start: &mut Start) -> bool {
        if self.pool.directory_identity(lease) != Ok((record.device, record.inode)) {
            self.keep_unknown(lease, "not the directory of its record", start);
            return false;
        }
        // A parent that is kept because it is unknown must not end its children.
        let parent = record.parent.parse().ok().filter(|parent| !start.kept.contains(parent));
        let now = clock::now();
        let until = now + self.settings.get().grace;
        let mut found = HashMap::new();
        let mut holders = Vec::new();
        for holder in record.holders.iter().filter_map(|holder| holder.kind.as_ref()) {
            match holder {
                RecordHolderKind::Process(process) => {
                    let id = ProcessId {
                        pid: process.pid,
                        start_time: process.start_time,
                        pidfd_inode: process.pidfd_inode,
                    };
                    let known = *start.processes.entry(id).or_insert_with(|| find(id, &mut found));
                    if known != Known::Gone {
                        holders.push(NewHolder::Process(id));
                    }
                }
                RecordHolderKind::Ttl(granted) => holders.push(NewHolder::Ttl(Duration::from_nanos(*granted))),
                RecordHolderKind::Connection(_) => holders.push(NewHolder::LostConnection { until }),
                // Gone with the broker that held it; the search of environments stands in for it.
                RecordHolderKind::Descriptor(_) => {}
            }
        }
        let identity = Identity { uid: record.uid, gid: record.gid, groups: record.groups.clone() };
        let holders = {
            let mut state = self.lock();
            state.identities.insert(lease, Arc::new(identity));
            state.table.adopt(grant_of(lease, record, holders, parent), BootTime(record.created), now);
            state.table.lease(lease).map(|lease| lease.holders().to_vec()).unwrap_or_default()
        };
        for holder in holders {
            if let HolderKind::Process(process) = holder.kind
                && !self.watch.also(process, (lease, holder.id))
                && let Some(held) = found.remove(&process)
            {
                self.watch_process(lease, holder.id, held);
            }
        }
        true
    }

    /// Out of sight; what can't be moved is owed, and its record says from now on that nobody holds it: the next start
    /// must not take it for one of this boot.
    fn put_away(&self, lease: LeaseId, record: Option<Record>) {
        let tenant = record.as_ref().map(|record| record.uid);
        let Err(debt) = self.end_on_disk(lease, tenant) else { return };
        tracing::warn!(%lease, path = %debt.path.display(), blocker = %debt.blocker, "a dead lease can't be put away yet");
        self.reaper.owe(*debt);
        if let Some(record) = record {
            let unheld = Record { holders: Vec::new(), search_environment: false, ..record };
            if let Err(error) = self.pool.write_record(lease, &unheld) {
                tracing::warn!(%lease, %error, "its record still names holders, ignoring");
            }
        }
    }

    fn keep_unknown(&self, lease: LeaseId, why: &str, start: &mut Start) {
        tracing::warn!(%lease, "{why}: whether it is dead is unknown, so it is kept; see `scratch debt`");
        start.kept.insert(lease);
        let tenant = self.pool.directory_owner(lease).unwrap_or(self.uid);
        self.reaper.owe(Debt {
            subject: Subject::Record(lease),
            lease: Some(lease),
            tenant,
            path: self.pool.lease_path(lease),
            errno: None,
            blocker: why.to_owned(),
            tries: 0,
            next_try: None,
            bytes: 0,
        });
    }
}

/// Parents come before their children, who name them.
fn in_order_of_age(mut records: Vec<FoundRecord>) -> Vec<FoundRecord> {
    records.sort_by_key(|(_, record)| record.as_ref().map_or(0, |record| record.created));
    records
}

/// The very process of a record: same number, same start.
fn find(wanted: ProcessId, found: &mut HashMap<ProcessId, HeldProcess>) -> Known {
    match HeldProcess::of_pid(wanted.pid) {
        Ok(held) if held.id == wanted => {
            found.insert(wanted, held);
            Known::Alive
        }
        Ok(_) | Err(Errno::SRCH | Errno::NOENT) => Known::Gone,
        Err(errno) => {
            tracing::warn!(pid = wanted.pid, %errno, "a process can't be looked at; its leases are kept");
            Known::Unknown
        }
    }
}

fn grant_of(id: LeaseId, record: &Record, holders: Vec<NewHolder>, parent: Option<LeaseId>) -> Grant {
    let lifetime = BootTime(record.lifetime_end).duration_since(BootTime(record.created));
    Grant {
        id,
        tenant: TenantId(record.uid),
        pool: 0,
        nonce: <[u8; 16]>::try_from(record.nonce.as_slice()).ok(),
        parent,
        holders,
        lifetime_max: (record.lifetime_end != 0).then_some(lifetime),
        labels: record.labels.clone(),
        search_environment: record.search_environment,
    }
}
