//! What is around the broker: the clock, processes, connections, descriptors, and what clients have sent.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use scratch_lease::{BootTime, Caller, CgroupId, ConnectionId, HolderKind, LeaseId, Parting, ProcessId, TenantId};
use scratch_tests::Random;

use crate::disk::Disk;

/// Ways in which a broker could be wrong: each has to be found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wrong {
    ParentsEndFirst,
    NoRearm,
    NothingReadBeforeExpiry,
    GoneIsAdopted,
    UnknownIsGone,
    NoGrace,
    TornIsDead,
    StrangersAreAdopted,
    RecordDroppedFirst,
    NamedBeforeRecorded,
    AnsweredBeforeRecorded,
    DetachedBeforeRecorded,
    NotSearched,
    BootSetFirst,
    DebtForgotten,
    OwedKeepsHolders,
    NonceForgotten,
    NewIsKept,
    GraceForgotten,
    GraceUntimed,
    HoldForgotten,
    AlwaysRearmed,
}

impl Wrong {
    pub(crate) const ALL: [Wrong; 22] = [
        Wrong::ParentsEndFirst,
        Wrong::NoRearm,
        Wrong::NothingReadBeforeExpiry,
        Wrong::GoneIsAdopted,
        Wrong::UnknownIsGone,
        Wrong::NoGrace,
        Wrong::TornIsDead,
        Wrong::StrangersAreAdopted,
        Wrong::RecordDroppedFirst,
        Wrong::NamedBeforeRecorded,
        Wrong::AnsweredBeforeRecorded,
        Wrong::DetachedBeforeRecorded,
        Wrong::NotSearched,
        Wrong::BootSetFirst,
        Wrong::DebtForgotten,
        Wrong::OwedKeepsHolders,
        Wrong::NonceForgotten,
        Wrong::NewIsKept,
        Wrong::GraceForgotten,
        Wrong::GraceUntimed,
        Wrong::HoldForgotten,
        Wrong::AlwaysRearmed,
    ];
}

#[derive(Debug, Clone, Copy)]
pub(crate) struct Process {
    pub(crate) id: ProcessId,
    pub(crate) tenant: TenantId,
    /// SCRATCHD_LEASE in its environment.
    pub(crate) names: Option<LeaseId>,
}

/// What the system tells the end of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Being {
    Process(ProcessId),
    Cgroup(CgroupId),
}

impl Being {
    pub(crate) fn of(kind: HolderKind) -> Option<Being> {
        match kind {
            HolderKind::Process(process) => Some(Being::Process(process)),
            HolderKind::Cgroup(cgroup) => Some(Being::Cgroup(cgroup)),
            _ => None,
        }
    }
}

/// A renewal on its way.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Mail {
    pub(crate) lease: LeaseId,
    pub(crate) caller: Caller,
}

#[derive(Debug)]
pub(crate) struct World {
    pub(crate) now: BootTime,
    pub(crate) suspended: Duration,
    pub(crate) boot: u32,
    pub(crate) disk: Disk,
    /// Those that run, by number.
    pub(crate) processes: BTreeMap<i32, Process>,
    /// Those that are there, and whether a process is in each. Empty once, they stay so.
    pub(crate) cgroups: BTreeMap<CgroupId, bool>,
    /// Open at the client's end.
    pub(crate) connections: BTreeSet<ConnectionId>,
    /// Open at the client's end.
    pub(crate) descriptors: BTreeSet<u64>,
    pub(crate) mail: Vec<Mail>,
    /// The system does all that it is asked for.
    pub(crate) is_willing: bool,
    /// What a start could not look at.
    pub(crate) unlooked: Vec<Being>,
    /// Dead leases that can't be put away, and whose record could not be changed either: a start may take them for living ones.
    pub(crate) unwritten: Vec<LeaseId>,
    pub(crate) wrong: Option<Wrong>,
    pub(crate) random: Random,
    next: u64,
}

/// So few, that numbers are used again soon.
const PIDS: i32 = 40;

impl World {
    pub(crate) fn new(random: Random, wrong: Option<Wrong>) -> World {
        World {
            now: BootTime(1_000_000_000),
            suspended: Duration::ZERO,
            boot: 1,
            disk: Disk::new(),
            processes: BTreeMap::new(),
            cgroups: BTreeMap::new(),
            connections: BTreeSet::new(),
            descriptors: BTreeSet::new(),
            mail: Vec::new(),
            is_willing: false,
            unlooked: Vec::new(),
            unwritten: Vec::new(),
            wrong,
            random,
            next: 1,
        }
    }

    pub(crate) fn is(&self, wrong: Wrong) -> bool {
        self.wrong == Some(wrong)
    }

    pub(crate) fn number(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    pub(crate) fn chance(&mut self, of: u64) -> bool {
        self.random.below(of) == 0
    }

    /// The system refuses what it can refuse at any time.
    pub(crate) fn refuses(&mut self, of: u64) -> bool {
        !self.is_willing && self.chance(of)
    }

    pub(crate) fn any<T: Copy>(&mut self, of: &[T]) -> Option<T> {
        let place = self.random.below(of.len().max(1) as u64);
        of.get(usize::try_from(place).unwrap_or(0)).copied()
    }

    pub(crate) fn is_alive(&self, being: Being) -> bool {
        self.parting(being).is_none()
    }

    /// How it has ended, if it has.
    pub(crate) fn parting(&self, being: Being) -> Option<Parting> {
        match being {
            Being::Process(process) => {
                let runs = self.processes.get(&process.pid).is_some_and(|running| running.id == process);
                (!runs).then_some(Parting::Gone)
            }
            Being::Cgroup(cgroup) => match self.cgroups.get(&cgroup) {
                Some(true) => None,
                Some(false) => Some(Parting::Unpopulated),
                None => Some(Parting::Removed),
            },
        }
    }

    /// One with a process in it, new or old.
    pub(crate) fn populated(&mut self) -> CgroupId {
        let populated: Vec<CgroupId> =
            self.cgroups.iter().filter(|(_, is_populated)| **is_populated).map(|(cgroup, _)| *cgroup).collect();
        if (populated.len() > 3 || self.chance(2))
            && let Some(cgroup) = self.any(&populated)
        {
            return cgroup;
        }
        let cgroup = CgroupId(self.number());
        self.cgroups.insert(cgroup, true);
        cgroup
    }

    /// A process with a free number, if there is one.
    pub(crate) fn start_process(&mut self, tenant: TenantId, names: Option<LeaseId>) -> Option<ProcessId> {
        let free: Vec<i32> = (1..=PIDS).filter(|pid| !self.processes.contains_key(pid)).collect();
        let pid = self.any(&free)?;
        let start_time = self.number();
        // Kernels before 6.9 tell no inode.
        let pidfd_inode = if self.chance(2) { start_time } else { 0 };
        let id = ProcessId { pid, start_time, pidfd_inode };
        self.processes.insert(pid, Process { id, tenant, names });
        Some(id)
    }

    pub(crate) fn connect(&mut self) -> ConnectionId {
        let connection = ConnectionId(self.number());
        self.connections.insert(connection);
        connection
    }

    /// Processes, connections and time end with the boot.
    pub(crate) fn boot_anew(&mut self) {
        self.boot += 1;
        self.now = BootTime(1_000_000_000);
        self.suspended = Duration::ZERO;
        self.processes.clear();
        self.cgroups.clear();
        self.connections.clear();
        self.descriptors.clear();
        self.mail.clear();
    }
}
