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
        }
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
        ] {
            assert_eq!((reason.code(), reason.to_string().as_str()), (code, text));
        }
    }
}
