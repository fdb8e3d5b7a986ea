//! Takes holders away from leases on request.

use std::sync::Arc;

use scratch_lease::{Caller, HolderKind, Refusal};
use scratch_proto::v1;

use crate::broker::Broker;
use crate::clock;
use crate::reason::RequestError;
use crate::side::NOBODYS;
use crate::translate::lease_id;

impl Broker {
    /// Takes a holder away, and out of the lease's record before the reply. A lease whose last one it was ends. Runs on a
    /// side thread, one lease's in order.
    ///
    /// # Errors
    /// LEASE_UNKNOWN, LEASE_ENDING, HOLDER_UNKNOWN; the record's writing.
    pub(crate) fn detach(self: &Arc<Self>, caller: Caller, request: &v1::DetachRequest) -> Result<(), RequestError> {
        let id = lease_id(&request.lease)?;
        let (holder, goes) = {
            let mut state = self.lock();
            let lease = state.table.live(id, caller)?;
            let found = lease.holders().iter().find(|holder| holder.id == request.holder);
            let holder = *found.ok_or(Refusal::HolderUnknown)?;
            // One that is searched for stays for that long: a start must not find the holder in its record.
            let goes = lease.holders().len() == 1 && !lease.search_environment();
            state.table.at(clock::now()).detach(id, caller, holder.id)?;
            (holder, goes)
        };
        let process = match holder.kind {
            HolderKind::Process(process) => Some(process),
            _ => None,
        };
        self.side.close(NOBODYS, self.watch.forget((id, holder.id), process).into_iter().collect());
        // A lease that goes takes its record with it.
        let written = if goes { Ok(()) } else { self.rewrite_record(id) };
        self.settle();
        let is_kept = self.lock().table.lease(id).is_some_and(|lease| lease.kept_until().is_some());
        // Else a restart would take what was detached for a holder.
        if is_kept { self.rewrite_record(id) } else { written }
    }
}
