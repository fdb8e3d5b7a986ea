//! Why leases went that are not there any more, for a while: so that whoever comes to find nothing can be told.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard};
use std::time::SystemTime;

use scratch_lease::{Caller, Lease, LeaseId, Reason, Refusal, TenantId};
use scratch_proto::v1;

use crate::broker::Broker;

/// So many are remembered, and so many of one tenant.
const ENDED_MAX: usize = 4096;
const OF_TENANT_MAX: usize = 1024;

/// The leases that ended last, the oldest first.
#[derive(Debug, Default)]
pub(crate) struct Ended(Mutex<VecDeque<Past>>);

/// A lease that was.
#[derive(Debug, Clone, Copy)]
struct Past {
    id: LeaseId,
    tenant: TenantId,
    reason: Reason,
    time: SystemTime,
}

impl Ended {
    /// A lease ends for this reason.
    pub(crate) fn note(&self, lease: &Lease, reason: Reason) {
        let mut ended = self.lock();
        // A tenant pushes out its own, and only a full list those of all.
        let own = |past: &&Past| past.tenant == lease.tenant();
        if ended.len() >= OF_TENANT_MAX && ended.iter().filter(own).count() >= OF_TENANT_MAX {
            let oldest = ended.iter().position(|past| past.tenant == lease.tenant());
            oldest.and_then(|oldest| ended.remove(oldest));
        } else if ended.len() == ENDED_MAX {
            ended.pop_front();
        }
        ended.push_back(Past { id: lease.id(), tenant: lease.tenant(), reason, time: SystemTime::now() });
    }

    fn find(&self, id: LeaseId, caller: Caller) -> Option<Past> {
        let ended = self.lock();
        ended.iter().rev().find(|past| past.id == id && caller.sees(past.tenant)).copied()
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<Past>> {
        self.0.lock().expect("a thread that panics ends the process")
    }
}

impl Broker {
    /// One lease and why it is there, or why it went.
    ///
    /// # Errors
    /// LEASE_UNKNOWN.
    pub(crate) fn explained(&self, id: LeaseId, caller: Caller) -> Result<v1::Lease, Refusal> {
        let past = self.ended.find(id, caller);
        let why = past.map(|past| v1::Reason {
            code: past.reason.code().to_owned(),
            text: past.reason.to_string(),
            time: Some(past.time.into()),
        });
        if let Ok(lease) = self.lock().table.get(id, caller) {
            let mut wire = self.wire_lease(lease);
            wire.reason = why.or(wire.reason).or_else(|| Some(held(lease, wire.create_time)));
            return Ok(wire);
        }
        let past = past.ok_or(Refusal::LeaseUnknown)?;
        Ok(v1::Lease {
            id: id.to_string(),
            tenant: Some(v1::Tenant { uid: past.tenant.0, name: String::new() }),
            pool: self.config.pool[0].name.clone(),
            state: v1::LeaseState::Ended.into(),
            reason: why,
            ..v1::Lease::default()
        })
    }
}

/// Why a lease is there.
fn held(lease: &Lease, since: Option<prost_types::Timestamp>) -> v1::Reason {
    let kinds = lease.holders().iter().map(|holder| match holder.kind {
        scratch_lease::HolderKind::Process(process) => format!("process {}", process.pid),
        kind => format!("a {}", kind.name()),
    });
    let mut shown: Vec<String> = kinds.take(3).collect();
    match lease.holders().len() {
        0 => shown.push("nobody: its processes are being searched for".to_owned()),
        count if count > 3 => shown.push(format!("{} more", count - 3)),
        _ => {}
    }
    let lost = if lease.is_lost() { "lost, since somebody has taken its directory away; " } else { "" };
    v1::Reason { code: "HELD".to_owned(), text: format!("{lost}held by {}", shown.join(", ")), time: since }
}
