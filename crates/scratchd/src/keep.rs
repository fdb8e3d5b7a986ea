//! Keeps leases past their end. Their content is measured once, by a thread that is there while there is something to measure.

use std::collections::VecDeque;
use std::os::fd::AsFd;
use std::sync::{Arc, Mutex, MutexGuard};

use scratch_lease::{Caller, Keep, LeaseId, Reason};
use scratch_proto::v1;

use crate::broker::Broker;
use crate::channel::lease_key;
use crate::clock;
use crate::reason::RequestError;
use crate::translate::{duration, lease_id};

/// Names below one lease that are looked at; one that has more is over every budget.
const NAMES_MAX: usize = 1_000_000;

/// Kept leases that are to be measured; while there are some, there is a thread for them.
#[derive(Debug, Default)]
pub(crate) struct Measures(Mutex<Option<VecDeque<LeaseId>>>);

impl Measures {
    fn lock(&self) -> MutexGuard<'_, Option<VecDeque<LeaseId>>> {
        self.0.lock().expect("a thread that panics ends the process")
    }
}

impl Broker {
    /// Notes that a lease is to be kept at its end, in its record too before the reply; of one that is kept, until when. Runs
    /// on a side thread, one lease's in order.
    ///
    /// # Errors
    /// LEASE_UNKNOWN, LEASE_ENDING, LIMIT_KEEP; the record's writing. Nothing has changed then.
    pub(crate) fn keep(self: &Arc<Self>, caller: Caller, request: &v1::KeepRequest) -> Result<v1::Lease, RequestError> {
        let id = lease_id(&request.lease)?;
        let time = request.keep_for.map(duration).transpose()?.unwrap_or_default();
        let wanted = Keep { time, bytes: request.bytes };
        let (before, until) = {
            let mut state = self.lock();
            let until = state.table.get(id, caller)?.kept_until();
            (state.table.keep(id, caller, wanted, clock::now())?, until)
        };
        if let Err(error) = self.rewrite_record(id) {
            self.lock().table.set_keep(id, before, until);
            self.settle();
            return Err(error);
        }
        self.settle();
        let state = self.lock();
        let lease = state.table.get(id, caller)?;
        Ok(self.wire_lease(lease, state.table.left(lease)))
    }

    /// Keeps a lease that has ended; one of too many goes.
    pub(crate) fn keep_ended(self: &Arc<Self>, id: LeaseId, reason: Reason) {
        let above = self.quota_above(id);
        let kept = self.lock().table.keep_ended(id, clock::now());
        above.into_iter().for_each(|above| self.fit_or_tell(above));
        let Some(holders) = kept else {
            let why = self.lock().table.lease(id).and_then(scratch_lease::Lease::reason);
            self.end(id, why.unwrap_or(reason), None);
            return;
        };
        let tenant = self.lock().table.lease(id).map_or(self.uid, |lease| lease.tenant().0);
        tracing::info!(lease = %id, reason = reason.code(), "lease has ended and is kept: {reason}");
        self.cgroups.kill(id, &holders);
        self.let_go(id, &holders);
        self.arm_timer();
        self.activity();
        let broker = Arc::clone(self);
        self.side.run(tenant, lease_key(id.as_str()), move || {
            if let Err(error) = broker.rewrite_record(id) {
                tracing::warn!(lease = %id, %error, "a restart will keep this lease for its full time again");
            }
            broker.measure(id);
        });
    }

    /// Ends a kept lease if there is too much in it; on a thread that is there only while something is to be measured.
    pub(crate) fn measure(self: &Arc<Self>, id: LeaseId) {
        {
            let mut waiting = self.measures.lock();
            if let Some(waiting) = waiting.as_mut() {
                waiting.push_back(id);
                return;
            }
            *waiting = Some(VecDeque::from([id]));
        }
        let broker = Arc::clone(self);
        let run = move || broker.measure_all();
        if let Err(error) = std::thread::Builder::new().name("measure".to_owned()).spawn(run) {
            tracing::warn!(%error, "no thread to measure what is kept, measuring here");
            self.measure_all();
        }
    }

    fn measure_all(self: &Arc<Self>) {
        loop {
            let next = {
                let mut waiting = self.measures.lock();
                let next = waiting.as_mut().and_then(VecDeque::pop_front);
                if next.is_none() {
                    *waiting = None;
                }
                next
            };
            let Some(id) = next else { return };
            if self.is_over_budget(id) {
                tracing::info!(lease = %id, "more is in a lease than is to be kept of it");
                self.lock().table.end_kept(id, Reason::KeepBudget);
                self.settle();
            }
        }
    }

    /// What is not known to be too much stays.
    fn is_over_budget(&self, id: LeaseId) -> bool {
        let keep =
            self.lock().table.lease(id).filter(|lease| lease.kept_until().is_some()).and_then(|lease| lease.keep());
        let Some(keep) = keep.filter(|keep| keep.bytes < u64::MAX) else { return false };
        match self.open_lease(id) {
            Ok(directory) => {
                let usage = scratch_fs::usage_within(directory.as_fd(), NAMES_MAX);
                usage.is_none_or(|usage| usage.bytes > keep.bytes)
            }
            Err(error) => {
                tracing::warn!(lease = %id, %error, "how much is in a kept lease is unknown, so it stays");
                false
            }
        }
    }
}
