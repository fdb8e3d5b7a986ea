//! Why a lease ends.

use std::fmt;

use crate::LeaseId;

/// Why a lease ends or has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// Nothing holds it any more.
    HoldersGone {
        /// The kind of the holder that went last: "process", "connection", "ttl", "descriptor", or "none" if there
        /// never was one.
        last: &'static str,
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
            Self::HoldersGone { last: "none" } => f.write_str("nothing holds it"),
            Self::HoldersGone { last } => write!(f, "its last holder, a {last}, is gone"),
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

    #[test]
    fn every_reason_has_its_code_and_text() {
        let parent = LeaseId::from_bits([0; 10]);
        for (reason, code, text) in [
            (Reason::HoldersGone { last: "none" }, "HOLDERS_GONE", "nothing holds it"),
            (Reason::HoldersGone { last: "ttl" }, "HOLDERS_GONE", "its last holder, a ttl, is gone"),
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
