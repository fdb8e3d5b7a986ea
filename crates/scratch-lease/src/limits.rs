//! The limits, and the checks that need nothing but them.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::{Caller, Grant, NewHolder, Rate, Refusal, Table};

/// How much a tenant, a lease or a label may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Leases of one tenant, ending ones included.
    pub leases_per_tenant: usize,
    /// Areas of one tenant, reserved ones included.
    pub areas_per_tenant: usize,
    /// Bytes that the leases of one tenant may be granted together.
    pub bytes_per_tenant: Option<u64>,
    /// Inodes, alike.
    pub inodes_per_tenant: Option<u64>,
    /// How fast one tenant may have leases and areas made.
    pub creates: Option<Rate>,
    /// Holders of one lease.
    pub holders_per_lease: usize,
    /// Labels of one lease.
    pub labels_per_lease: usize,
    /// Bytes of one label, key and value together.
    pub label_bytes: usize,
    /// The shortest TTL.
    pub ttl_min: Duration,
    /// The longest TTL.
    pub ttl_max: Duration,
    /// The longest grace.
    pub grace_max: Duration,
    /// Parents above one lease.
    pub depth_max: usize,
    /// Kept leases of one tenant.
    pub kept_per_tenant: usize,
    /// The longest that a lease is kept.
    pub keep_time_max: Duration,
    /// The most bytes of a lease that is kept.
    pub keep_bytes_max: u64,
    /// How long a lease can be brought back after its end; zero: not at all.
    pub undelete_window: Duration,
    /// Leases of one tenant that can be brought back; what ends beyond that can't.
    pub gone_per_tenant: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            leases_per_tenant: 10_000,
            areas_per_tenant: 1_000_000,
            bytes_per_tenant: None,
            inodes_per_tenant: None,
            creates: None,
            holders_per_lease: 1_024,
            labels_per_lease: 64,
            label_bytes: 1_024,
            ttl_min: Duration::from_secs(1),
            ttl_max: Duration::from_secs(7 * 24 * 60 * 60),
            grace_max: Duration::from_secs(60 * 60),
            depth_max: 16,
            kept_per_tenant: 16,
            keep_time_max: Duration::from_secs(24 * 60 * 60),
            keep_bytes_max: 10 << 30,
            undelete_window: Duration::ZERO,
            gone_per_tenant: 1_000,
        }
    }
}

impl Table {
    /// What this caller is held to.
    #[must_use]
    pub fn limits_of(&self, caller: Caller) -> &Limits {
        caller.rule.and_then(|rule| self.rules.get(usize::from(rule))).unwrap_or(&self.limits)
    }

    /// Sets other limits, and those of the rules that callers name by number. What is there already stays, also beyond them.
    pub fn set_limits(&mut self, limits: Limits, rules: Vec<Limits>) {
        (self.limits, self.rules) = (limits, rules);
    }
}

impl Limits {
    /// Refuses what no table would grant.
    pub(crate) fn check_grant(&self, grant: &Grant) -> Result<(), Refusal> {
        if grant.holders.is_empty() {
            return Err(Refusal::NoHolder);
        }
        if grant.holders.len() > self.holders_per_lease {
            return Err(Refusal::LimitHolders { limit: self.holders_per_lease });
        }
        if grant.grace > self.grace_max {
            return Err(Refusal::GraceTooLong { limit: self.grace_max });
        }
        grant.holders.iter().try_for_each(|holder| self.check_holder(*holder))?;
        self.check_labels(&grant.labels)
    }

    /// Refuses too many labels, and those that are too long.
    pub(crate) fn check_labels(&self, labels: &BTreeMap<String, String>) -> Result<(), Refusal> {
        if labels.len() > self.labels_per_lease {
            return Err(Refusal::LimitLabels { limit: self.labels_per_lease });
        }
        if labels.iter().any(|(key, value)| key.len() + value.len() > self.label_bytes) {
            return Err(Refusal::LabelTooLong { limit: self.label_bytes });
        }
        Ok(())
    }

    /// Refuses a TTL out of bounds and a process that has no number here.
    pub(crate) fn check_holder(&self, holder: NewHolder) -> Result<(), Refusal> {
        match holder {
            NewHolder::Ttl(ttl) if ttl < self.ttl_min => Err(Refusal::TtlTooShort { limit: self.ttl_min }),
            NewHolder::Ttl(ttl) if ttl > self.ttl_max => Err(Refusal::TtlTooLong { limit: self.ttl_max }),
            // The kernel gives 0 for a process outside of our pid namespace; nobody could watch it.
            NewHolder::Process(process) if process.pid <= 0 => Err(Refusal::HolderKind("process")),
            _ => Ok(()),
        }
    }
}
