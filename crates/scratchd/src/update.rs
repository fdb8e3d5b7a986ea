//! Changes a lease's labels and limits.

use scratch_lease::{Caller, Share};
use scratch_proto::v1;

use crate::broker::Broker;
use crate::reason::RequestError;
use crate::translate::{self, lease_id};

impl Broker {
    /// Changes limits and labels, in the lease's record too before the reply. Runs on a side thread, one lease's in order.
    ///
    /// # Errors
    /// LEASE_UNKNOWN, LEASE_ENDING, NO_LIMIT, LIMIT_BYTES, LIMIT_INODES, POOL_PROMISED, LIMIT_LABELS, those of the quota:
    /// nothing has changed then. The record's writing.
    pub(crate) fn update(&self, caller: Caller, request: v1::UpdateLeaseRequest) -> Result<v1::Lease, RequestError> {
        let id = lease_id(&request.lease)?;
        let wanted = translate::share(request.limits);
        let labels = request.labels.into_iter().collect();
        let before = self.lock().table.update_labels(id, caller, labels, &request.remove_labels)?;
        if wanted != Share::default()
            && let Err(error) = self.resize(caller, id, wanted)
        {
            self.lock().table.restore_labels(id, before);
            return Err(error);
        }
        self.rewrite_record(id)?;
        let state = self.lock();
        let lease = state.table.get(id, caller)?;
        Ok(self.wire_lease(lease, state.table.left(lease)))
    }
}
