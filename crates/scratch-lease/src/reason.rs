//! Why a lease ends.

use std::fmt;
use std::time::Duration;

use crate::{Last, LeaseId};

/// Why a lease ends or has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// Nothing holds it any more.
    HoldersGone {
        /// The holder that went last; none if there never was one.
        last: Option<Last>,
        /// How long the lease has waited then for another one.
        grace: Duration,
    },
    /// Somebody who may do so revoked it.
    Revoked,
    /// Its agreed longest life is over.
    LifetimeMax,
    /// Its parent ends.
    ParentEnded(LeaseId),
    /// `restart.grace` passed without its client coming back, or is "0s".
    RestartGrace,
    /// The machine was started anew.
    NewBoot,
    /// The time for which it was kept is over.
    KeepOver,
    /// It was to be kept, and more was in it than its budget.
    KeepBudget,
    /// It was to be kept, and its tenant had as many kept leases as it may.
    LimitKeep,
    /// The time in which it could be brought back is over.
    UndeleteOver,
    /// Its pool is too full, and it was marked as one that may end for that.
    Preempted,
}

impl Reason {
    /// The stable word for programs.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::HoldersGone { .. } => "HOLDERS_GONE",
            Self::Revoked => "REVOKED",
            Self::LifetimeMax => "LIFETIME_MAX",
            Self::ParentEnded(_) => "PARENT_ENDED",
            Self::RestartGrace => "RESTART_GRACE",
            Self::NewBoot => "NEW_BOOT",
            Self::KeepOver => "KEEP_OVER",
            Self::KeepBudget => "KEEP_BUDGET",
            Self::LimitKeep => "LIMIT_KEEP",
            Self::UndeleteOver => "UNDELETE_OVER",
            Self::Preempted => "PREEMPTED",
        }
    }

    /// Whether a lease that is to be kept is kept when it ends so. Revoke means now; the others are of what had ended.
    pub(crate) fn may_keep(self) -> bool {
        match self {
            Self::HoldersGone { .. } | Self::LifetimeMax | Self::ParentEnded(_) | Self::RestartGrace => true,
            Self::Revoked
            | Self::NewBoot
            | Self::KeepOver
            | Self::KeepBudget
            | Self::LimitKeep
            | Self::UndeleteOver
            | Self::Preempted => false,
        }
    }

    /// Whether a lease that ends so can be brought back for a while, where that is configured: not what had its time, nor what ended for its space.
    pub(crate) fn may_undelete(self) -> bool {
        !matches!(self, Self::NewBoot | Self::KeepOver | Self::UndeleteOver | Self::Preempted)
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::HoldersGone { last, grace } => {
                match last {
                    Some(last) => write!(f, "its last holder, {last}")?,
                    None => f.write_str("nothing holds it")?,
                }
                if grace.is_zero() { Ok(()) } else { write!(f, "; nobody came back within its grace of {grace:?}") }
            }
            Self::Revoked => f.write_str("it was revoked"),
            Self::LifetimeMax => f.write_str("its longest life is over"),
            Self::ParentEnded(parent) => write!(f, "its parent {parent} ended"),
            Self::RestartGrace => f.write_str("the broker restarted and nobody came back within restart.grace"),
            Self::NewBoot => f.write_str("the machine was started anew"),
            Self::KeepOver => f.write_str("the time for which it was kept is over"),
            Self::KeepBudget => f.write_str("it ended and was not kept: more was in it than was to be kept"),
            Self::LimitKeep => f.write_str("it ended and was not kept: its tenant has as many kept leases as it may"),
            Self::UndeleteOver => f.write_str("the time in which it could be brought back is over"),
            Self::Preempted => f.write_str("its pool is too full, and it was granted as preemptible"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Parting;

    #[test]
    fn every_reason_has_its_code_and_text() {
        let parent = LeaseId::from_bits([0; 10]);
        let last = |kind, pid, how| Reason::HoldersGone { last: Some(Last { kind, pid, how }), grace: Duration::ZERO };
        let waited = Reason::HoldersGone { last: None, grace: Duration::from_secs(30) };
        for (reason, code, text) in [
            (waited, "HOLDERS_GONE", "nothing holds it; nobody came back within its grace of 30s"),
            (last("ttl", None, Parting::Expired), "HOLDERS_GONE", "its last holder, a ttl, expired"),
            (last("process", Some(7), Parting::Gone), "HOLDERS_GONE", "its last holder, process 7, ended"),
            (last("connection", None, Parting::Gone), "HOLDERS_GONE", "its last holder, a connection, was closed"),
            (
                last("connection", None, Parting::Expired),
                "HOLDERS_GONE",
                "its last holder, a connection, did not come in time",
            ),
            (last("descriptor", None, Parting::Gone), "HOLDERS_GONE", "its last holder, a descriptor, was closed"),
            (
                last("cgroup", None, Parting::Unpopulated),
                "HOLDERS_GONE",
                "its last holder, a cgroup, has no process left",
            ),
            (last("cgroup", None, Parting::Removed), "HOLDERS_GONE", "its last holder, a cgroup, was removed"),
            (last("hold", None, Parting::Detached), "HOLDERS_GONE", "its last holder, a hold, was detached"),
            (
                last("process", Some(7), Parting::Lost),
                "HOLDERS_GONE",
                "its last holder, process 7, was gone after a restart of the broker",
            ),
            (
                last("descriptor", None, Parting::Lost),
                "HOLDERS_GONE",
                "its last holder, a descriptor, was lost with the broker before",
            ),
            (Reason::Revoked, "REVOKED", "it was revoked"),
            (Reason::LifetimeMax, "LIFETIME_MAX", "its longest life is over"),
            (Reason::ParentEnded(parent), "PARENT_ENDED", "its parent aaaaaaaaaaaaaaaa ended"),
            (Reason::RestartGrace, "RESTART_GRACE", "the broker restarted and nobody came back within restart.grace"),
            (Reason::NewBoot, "NEW_BOOT", "the machine was started anew"),
            (Reason::KeepOver, "KEEP_OVER", "the time for which it was kept is over"),
            (Reason::KeepBudget, "KEEP_BUDGET", "it ended and was not kept: more was in it than was to be kept"),
            (
                Reason::LimitKeep,
                "LIMIT_KEEP",
                "it ended and was not kept: its tenant has as many kept leases as it may",
            ),
            (Reason::UndeleteOver, "UNDELETE_OVER", "the time in which it could be brought back is over"),
            (Reason::Preempted, "PREEMPTED", "its pool is too full, and it was granted as preemptible"),
        ] {
            assert_eq!((reason.code(), reason.to_string().as_str()), (code, text));
        }
    }
}
