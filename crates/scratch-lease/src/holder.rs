//! Holders: the proofs of life that keep a lease.

use std::fmt;
use std::time::Duration;

use crate::BootTime;

/// Unique in a lease, from 1, never reused.
pub type HolderId = u32;

/// A connection of this run of the broker.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConnectionId(pub u64);

/// A process that can't be mistaken for a later one with its number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ProcessId {
    /// The number in the broker's pid namespace.
    pub pid: i32,
    /// Clock ticks since boot, field 22 of /proc/pid/stat.
    pub start_time: u64,
    /// The inode of its pidfd, unique in one boot; 0 where the kernel has none (before Linux 6.9).
    pub pidfd_inode: u64,
}

/// A cgroup that can't be mistaken for a later one at its path: its inode, which the kernel gives once in a boot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CgroupId(pub u64);

/// What keeps the lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HolderKind {
    /// Lives until the connection closes.
    Connection(ConnectionId),
    /// The connection of a broker that is gone; its client may come back until then.
    LostConnection {
        /// End of the grace.
        until: BootTime,
    },
    /// A connection that is still to come, until then.
    AwaitedConnection {
        /// When it is too late.
        until: BootTime,
    },
    /// Lives until the process has ended.
    Process(ProcessId),
    /// Lives until the deadline, which each renewal moves.
    Ttl {
        /// What a renewal grants.
        granted: Duration,
        /// When it passes.
        deadline: BootTime,
    },
    /// Lives until the other end of a passed descriptor is closed.
    Descriptor,
    /// Of a kind that a later version wrote down: when it ends is unknown, so it holds.
    Unknown,
    /// Lives until the cgroup's last process has gone, or the cgroup itself.
    Cgroup(CgroupId),
    /// Lives until it is detached.
    Hold,
}

/// How a holder went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Parting {
    /// It was taken away on request.
    Detached,
    /// Its subject has ended: the process, the connection, the other end of the descriptor.
    Gone,
    /// Its deadline has passed.
    Expired,
    /// No process is left in the cgroup.
    Unpopulated,
    /// The cgroup was removed.
    Removed,
    /// It was gone after a restart of the broker, or could not outlive the one before.
    Lost,
}

/// The holder that went last, and how.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Last {
    /// What it was, by [`HolderKind::name`].
    pub kind: &'static str,
    /// Of a process.
    pub pid: Option<i32>,
    /// How it went.
    pub how: Parting,
}

impl Last {
    pub(crate) fn of(kind: HolderKind, how: Parting) -> Self {
        let pid = match kind {
            HolderKind::Process(process) => Some(process.pid),
            _ => None,
        };
        Self { kind: kind.name(), pid, how }
    }
}

impl fmt::Display for Last {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.pid {
            Some(pid) => write!(f, "{} {pid}", self.kind)?,
            None => write!(f, "a {}", self.kind)?,
        }
        f.write_str(match (self.kind, self.how) {
            (_, Parting::Detached) => ", was detached",
            ("connection" | "descriptor", Parting::Gone) => ", was closed",
            (_, Parting::Gone) => ", ended",
            ("connection", Parting::Expired) => ", did not come in time",
            (_, Parting::Expired) => ", expired",
            (_, Parting::Unpopulated) => ", has no process left",
            (_, Parting::Removed) => ", was removed",
            ("descriptor", Parting::Lost) => ", was lost with the broker before",
            (_, Parting::Lost) => ", was gone after a restart of the broker",
        })
    }
}

impl HolderKind {
    /// The word for it in reasons and listings.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Connection(_) | Self::LostConnection { .. } | Self::AwaitedConnection { .. } => "connection",
            Self::Process(_) => "process",
            Self::Ttl { .. } => "ttl",
            Self::Descriptor => "descriptor",
            Self::Cgroup(_) => "cgroup",
            Self::Hold => "hold",
            Self::Unknown => "unknown",
        }
    }

    /// When it ends by itself, if it does.
    #[must_use]
    pub fn deadline(self) -> Option<BootTime> {
        match self {
            Self::LostConnection { until } | Self::AwaitedConnection { until } => Some(until),
            Self::Ttl { deadline, .. } => Some(deadline),
            Self::Connection(_)
            | Self::Process(_)
            | Self::Descriptor
            | Self::Cgroup(_)
            | Self::Hold
            | Self::Unknown => None,
        }
    }

    /// Whether a connection can take its place.
    #[must_use]
    pub fn waits_for_connection(self) -> bool {
        matches!(self, Self::LostConnection { .. } | Self::AwaitedConnection { .. })
    }
}

/// One holder of a lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Holder {
    /// What Detach takes.
    pub id: HolderId,
    /// What keeps the lease.
    pub kind: HolderKind,
}

/// A holder to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NewHolder {
    /// See [`HolderKind::Connection`].
    Connection(ConnectionId),
    /// See [`HolderKind::LostConnection`].
    LostConnection {
        /// End of the grace.
        until: BootTime,
    },
    /// See [`HolderKind::AwaitedConnection`].
    AwaitedConnection {
        /// When it is too late.
        until: BootTime,
    },
    /// See [`HolderKind::Process`].
    Process(ProcessId),
    /// See [`HolderKind::Ttl`].
    Ttl(Duration),
    /// See [`HolderKind::Descriptor`].
    Descriptor,
    /// See [`HolderKind::Unknown`].
    Unknown,
    /// See [`HolderKind::Cgroup`].
    Cgroup(CgroupId),
    /// See [`HolderKind::Hold`].
    Hold,
}

impl NewHolder {
    pub(crate) fn kind(self, now: BootTime) -> HolderKind {
        match self {
            Self::Connection(connection) => HolderKind::Connection(connection),
            Self::LostConnection { until } => HolderKind::LostConnection { until },
            Self::AwaitedConnection { until } => HolderKind::AwaitedConnection { until },
            Self::Process(process) => HolderKind::Process(process),
            Self::Ttl(granted) => HolderKind::Ttl { granted, deadline: now + granted },
            Self::Descriptor => HolderKind::Descriptor,
            Self::Unknown => HolderKind::Unknown,
            Self::Cgroup(cgroup) => HolderKind::Cgroup(cgroup),
            Self::Hold => HolderKind::Hold,
        }
    }

    /// Whether `kind` is this very subject, which can't hold a lease twice.
    pub(crate) fn is(self, kind: HolderKind) -> bool {
        match (self, kind) {
            (Self::Connection(new), HolderKind::Connection(old)) => new == old,
            (Self::Process(new), HolderKind::Process(old)) => new == old,
            (Self::Cgroup(new), HolderKind::Cgroup(old)) => new == old,
            _ => false,
        }
    }
}
