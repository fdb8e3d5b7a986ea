//! Attaches holders to leases, and keeps a lease's record true.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use scratch_fs::{FsError, Place};
use scratch_lease::{Holder, HolderKind, LeaseId, NewHolder, Refusal};
use scratch_proto::v1;

use crate::broker::Broker;
use crate::clock;
use crate::grant::CLOSED;
use crate::holders::{Asking, Passed, Watched};
use crate::reason::RequestError;
use crate::side::NOBODYS;
use crate::translate::lease_id;

impl Broker {
    /// Adds a holder to a lease, and to its record before the reply. Runs on a side thread, one lease's in order.
    ///
    /// # Errors
    /// What the table refuses; a process that is gone; the record's writing.
    pub(crate) fn attach(
        self: &Arc<Self>,
        mut asking: Asking,
        request: &v1::AttachRequest,
        descriptors: Vec<OwnedFd>,
    ) -> Result<v1::AttachResponse, RequestError> {
        let mut passed = Passed { side: &self.side, tenant: asking.caller.tenant.0, rest: descriptors.into_iter() };
        let id = lease_id(&request.lease)?;
        let spec = request.holder.as_ref().ok_or(RequestError::Holder("Attach needs a holder"))?;
        let (new, watched, _) = asking.holder(spec, &mut passed)?;
        let (holder, was_there) = match self.attach_to(id, &asking, new, &watched) {
            Ok(attached) => attached,
            Err(error) => {
                watched.discard(&self.side);
                return Err(error);
            }
        };
        if was_there {
            watched.discard(&self.side);
        } else {
            let watching = self.start_watching(id, holder.id, watched);
            let kept = watching
                .map_err(|errno| FsError::new("watch holder of lease", id.as_str(), errno).into())
                .and_then(|()| self.rewrite_record(id));
            if let Err(error) = kept {
                self.take_holder_back(id, holder);
                return Err(error);
            }
        }
        self.settle();
        Ok(v1::AttachResponse { holder: Some(self.wire_holder(id, &holder)) })
    }

    /// True: the record has it already, as this holder or as a connection that was waited for.
    fn attach_to(
        &self,
        id: LeaseId,
        asking: &Asking,
        new: NewHolder,
        watched: &Watched,
    ) -> Result<(Holder, bool), RequestError> {
        let mut state = self.lock();
        if new == NewHolder::Connection(asking.connection) && !state.open.contains(&asking.connection) {
            return Err(RequestError::Holder(CLOSED));
        }
        let before = state.table.present(id, asking.caller)?.holders().to_vec();
        let holder = state.table.attach(id, asking.caller, new, clock::now())?;
        let was_there = before.iter().any(|old| old.id == holder.id);
        if let (Some(cgroup), false, Some(lease)) = (watched.known(), was_there, state.table.lease(id)) {
            self.cgroups.add(lease, cgroup);
        }
        Ok((holder, was_there))
    }

    fn take_holder_back(self: &Arc<Self>, id: LeaseId, holder: Holder) {
        let process = match holder.kind {
            HolderKind::Process(process) => Some(process),
            _ => None,
        };
        self.side.close(NOBODYS, self.watch.forget((id, holder.id), process).into_iter().collect());
        self.lock().table.at(clock::now()).holder_gone(id, holder.id);
        self.settle();
    }

    /// Writes down who holds a lease now. If it has ended meanwhile, nothing of it is left behind.
    ///
    /// # Errors
    /// Of the file system; LEASE_UNKNOWN for a lease that is gone.
    pub(crate) fn rewrite_record(&self, id: LeaseId) -> Result<(), RequestError> {
        let pool = &self.pool_of(id).ok_or(Refusal::LeaseUnknown)?.disk;
        loop {
            let mut record = self.record(id).ok_or(Refusal::LeaseUnknown)?;
            // By what was made, not by what has its name now.
            if let Some(Place::This { device, inode }) = self.lock().places.get(&id) {
                (record.device, record.inode) = (*device, *inode);
            }
            pool.write_record(id, &record)?;
            let ends = self.lock().table.lease(id).map(|lease| lease.reason().is_some());
            match ends {
                None => {
                    pool.drop_record(id)?;
                    return Err(Refusal::LeaseUnknown.into());
                }
                // Decided since: its record must not be left naming holders.
                Some(true) if !record.holders.is_empty() => {}
                Some(_) => return Ok(()),
            }
        }
    }
}
