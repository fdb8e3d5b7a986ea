//! Leases in memory: their sizes follow what the table shares out.

use scratch_fs::FsError;
use scratch_lease::LeaseId;

use crate::broker::Broker;

impl Broker {
    /// Gives a lease in memory the size that the table leaves it: what leases below it have is carved out of that.
    ///
    /// # Errors
    /// ENOSPC when there is more in it.
    pub(crate) fn fit_memory(&self, id: LeaseId) -> Result<(), FsError> {
        let Some(pool) = self.pool_of(id).filter(|pool| !pool.disk.has_paths()) else { return Ok(()) };
        pool.disk.resize_memory(id, || {
            let part = self.lock().table.own_part(id)?;
            part.bytes.zip(part.inodes)
        })
    }

    /// The same for one that a lease below has left.
    pub(crate) fn widen_memory(&self, id: Option<LeaseId>) {
        if let Some(id) = id
            && let Err(error) = self.fit_memory(id)
        {
            tracing::warn!(lease = %id, %error, "a lease's memory stays smaller than its limits");
        }
    }
}
