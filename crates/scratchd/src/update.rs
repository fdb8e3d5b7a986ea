//! Changes a lease's labels.

use scratch_lease::Caller;
use scratch_proto::v1;

use crate::broker::Broker;
use crate::reason::RequestError;
use crate::translate::lease_id;

impl Broker {
    /// Changes labels, in the lease's record too before the reply. Runs on a side thread, one lease's in order.
    ///
    /// # Errors
    /// LEASE_UNKNOWN, LEASE_ENDING, LIMIT_LABELS; the record's writing.
    pub(crate) fn update(&self, caller: Caller, request: v1::UpdateLeaseRequest) -> Result<v1::Lease, RequestError> {
        let id = lease_id(&request.lease)?;
        if request.limits.is_some_and(|limits| limits.bytes != 0 || limits.inodes != 0) {
            return Err(RequestError::Unimplemented("a limit of bytes or inodes"));
        }
        let labels = request.labels.into_iter().collect();
        self.lock().table.update_labels(id, caller, labels, &request.remove_labels)?;
        self.rewrite_record(id)?;
        let state = self.lock();
        let lease = state.table.get(id, caller)?;
        Ok(self.wire_lease(lease, state.table.left(lease)))
    }
}
