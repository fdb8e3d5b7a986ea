//! Why leases went that are not there any more, for a while: so that whoever comes to find nothing can be told.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard};
use std::time::SystemTime;

use scratch_lease::{Caller, Lease, LeaseId, LeaseState, PoolId, Reason, Refusal, TenantId};
use scratch_proto::v1;

use crate::broker::Broker;
use crate::clock;
use crate::why::Held;

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
    pool: PoolId,
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
        ended.push_back(Past {
            id: lease.id(),
            tenant: lease.tenant(),
            pool: lease.pool(),
            reason,
            time: SystemTime::now(),
        });
    }

    /// Whether this caller may be told of the end of this lease.
    pub(crate) fn has(&self, id: LeaseId, caller: Caller) -> bool {
        self.find(id, caller).is_some()
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
        let (known, until) = {
            let state = self.lock();
            let lease = state.table.get(id, caller).ok();
            let known = lease.map(|lease| {
                let wire = self.wire_lease(lease, state.table.left(lease));
                // One that was brought back went for a reason, too.
                let why = why.clone().filter(|_| lease.state() == LeaseState::Ending);
                (why, wire, Held::of(&state, lease))
            });
            let until = match state.table.lease(id).map(Lease::state) {
                Some(LeaseState::Gone { until }) => Some(until),
                _ => None,
            };
            (known, until)
        };
        let gone = known.is_none();
        let with_remains = |mut why: v1::Reason| {
            why.text = format!("{}; {}", why.text, self.remains(id, gone));
            why
        };
        if let Some((why, mut wire, held)) = known {
            let is_kept = wire.state == v1::LeaseState::Kept as i32;
            let why = why.or_else(|| wire.reason.take());
            wire.reason = Some(match why {
                Some(why) if is_kept => why,
                Some(why) => with_remains(why),
                None => held.in_words(),
            });
            return Ok(wire);
        }
        let past = past.ok_or(Refusal::LeaseUnknown)?;
        let why = why.map(|mut why| match until {
            Some(until) => {
                let until = humantime::format_rfc3339_seconds(clock::wall(until));
                why.text = format!("{}; until {until} `scratch lease undelete` brings it back", why.text);
                why
            }
            None => with_remains(why),
        });
        Ok(v1::Lease {
            id: id.to_string(),
            tenant: Some(v1::Tenant { uid: past.tenant.0, name: String::new() }),
            pool: self.pools.get(past.pool).config.name.clone(),
            state: v1::LeaseState::Ended.into(),
            reason: why,
            ..v1::Lease::default()
        })
    }
}
