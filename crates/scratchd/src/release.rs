//! Takes areas and leases away: files by unlink, directories by one rename into trash; the reaper does the rest.

use std::ffi::CStr;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;

use rustix::fs::AtFlags;
use rustix::io::Errno;
use scratch_fs::{FsError, TrashName, open_directory_beneath, split_area_path};
use scratch_lease::{AreaKey, AreaKind, BootTime, Caller, Due, LeaseId, LeaseState, PoolId, Refusal};
use scratch_proto::v1;

use crate::broker::Broker;
use crate::client::Client;
use crate::clock;
use crate::pools::InUse;
use crate::reaper::WhenFreed;
use crate::reason::RequestError;

/// What a release left to be waited for.
#[derive(Debug)]
pub(crate) enum Released {
    /// There was nothing.
    Nothing,
    /// A file, or the charge of an anonymous area: gone at once.
    Gone,
    /// An area in a client's directory, which is to be ended.
    Foreign(LeaseId, u32),
    /// A tree, out of sight and on its way.
    Trashed(PoolId, TrashName),
}

/// Trees of one tenant that may wait to be removed where they are: each keeps a descriptor.
const IN_PLACE_MAX: usize = 256;

impl Broker {
    /// Releases an area, or a name in the lease's directory that the client made by itself.
    ///
    /// # Errors
    /// LEASE_UNKNOWN, LEASE_LOST, NAME_INVALID, or the file system's word.
    pub(crate) fn release(&self, client: &mut Client, request: &v1::ReleaseRequest) -> Result<Released, RequestError> {
        let lease = client.lease(&request.lease)?;
        if let Some(number) = area_number(&request.area) {
            let mut state = self.lock();
            state.table.in_place(lease, client.peer.caller)?;
            if let Some(kind) = state.table.remove_area(lease, &AreaKey::Number(number)) {
                state.table.at(clock::now()).released(lease);
                return Ok(match kind {
                    AreaKind::File | AreaKind::Directory => Released::Foreign(lease, number),
                    AreaKind::Anonymous | AreaKind::Memory => Released::Gone,
                });
            }
            // A client may have made a file of that name by itself.
        }
        let (parent, name) = split_area_path(&request.area)?;
        let tenant = self.lock().table.in_place(lease, client.peer.caller)?.tenant().0;
        let released = self
            .take_away(client, (lease, tenant), parent.as_deref(), &name)
            .map_err(|error| self.or_ended(client, lease, error))?;
        let mut state = self.lock();
        let kind = state.table.remove_area(lease, &AreaKey::Name(request.area.as_slice().into()));
        if matches!(released, Released::Trashed(..)) && kind != Some(AreaKind::File) {
            state.table.remove_areas_below(lease, &request.area);
        }
        if !matches!(released, Released::Nothing) {
            state.table.at(clock::now()).released(lease);
        }
        Ok(released)
    }

    fn take_away(
        &self,
        client: &mut Client,
        (lease, tenant): (LeaseId, u32),
        parent: Option<&CStr>,
        name: &CStr,
    ) -> Result<Released, RequestError> {
        let identity = self.identity_for(client, lease)?;
        let held = client.directory(self, lease)?;
        let rights =
            identity.assume(self.uid).map_err(|errno| FsError::new("take on the tenant's rights", "", errno))?;
        let opened = match parent {
            None => None,
            Some(parent) => match open_directory_beneath(held, parent) {
                Ok(opened) => Some(opened),
                Err(Errno::NOENT | Errno::NOTDIR) => return Ok(Released::Nothing),
                Err(errno) => return Err(FsError::new("open directory of lease", shown(parent), errno).into()),
            },
        };
        let directory = opened.as_ref().map_or(held, AsFd::as_fd);
        match rustix::fs::unlinkat(directory, name, AtFlags::empty()) {
            Ok(()) => return Ok(Released::Gone),
            Err(Errno::NOENT) => return Ok(Released::Nothing),
            // Said only of what the tenant may take away.
            Err(Errno::ISDIR) => {}
            // An immutable file, or somebody else's in a sticky directory.
            Err(Errno::PERM) if owner(directory, name) == Some(identity.uid) => {}
            Err(errno) => return Err(FsError::new("release", shown(name), errno).into()),
        }
        // The rename into trash is the broker's own: trash is closed to the tenant.
        drop(rights);
        self.trash(directory, name, tenant, lease)
    }

    fn trash(
        &self,
        directory: BorrowedFd<'_>,
        name: &CStr,
        tenant: u32,
        lease: LeaseId,
    ) -> Result<Released, RequestError> {
        let pool = self.pool_of(lease).ok_or(Refusal::LeaseUnknown)?;
        match self.take_tree(pool, directory, name, (lease, tenant)) {
            Ok(tree) => Ok(Released::Trashed(pool.id, tree)),
            Err(error) if error.errno == Errno::NOENT => Ok(Released::Nothing),
            Err(error) => Err(error.into()),
        }
    }

    /// Into trash, or, where that is another file system to it, aside; to be pushed to the reaper.
    pub(crate) fn take_tree(
        &self,
        pool: &InUse,
        directory: BorrowedFd<'_>,
        name: &CStr,
        (lease, tenant): (LeaseId, u32),
    ) -> Result<TrashName, FsError> {
        match pool.disk.discard(directory, name, tenant, lease) {
            Err(error) if error.errno == Errno::XDEV && self.reaper.count_in_place(tenant) >= IN_PLACE_MAX => {
                Err(FsError::new("release, while so many wait to be freed,", shown(name), Errno::MFILE))
            }
            Err(error) if error.errno == Errno::XDEV => {
                let (tree, place) = pool.disk.trash().take_in_place(directory, name, tenant, lease)?;
                self.reaper.in_place(pool.id, tree, place);
                Ok(tree)
            }
            taken => taken,
        }
    }

    /// Ends a lease now. `when_freed` is called when every name under it is unlinked, or with what became debt. Returns what
    /// ends: of their areas in clients' directories some may be on their way.
    ///
    /// # Errors
    /// LEASE_UNKNOWN.
    pub(crate) fn revoke(
        self: &Arc<Self>,
        caller: Caller,
        lease: LeaseId,
        when_freed: Option<WhenFreed>,
    ) -> Result<Vec<LeaseId>, RequestError> {
        let (due, ended) = {
            let mut state = self.lock();
            // Who waits for it to be freed means one that could be brought back, too.
            if when_freed.is_none() || !state.table.free_gone(lease, caller) {
                state.table.revoke(lease, caller)?;
            }
            // Nothing else that is due by time may end here: only what was read up to now counts for that.
            let ended = state.table.subtree(lease);
            (state.table.due(BootTime(self.decided_until())), ended)
        };
        let mut when_freed = when_freed.map(|then| self.with_foreign(ended.clone(), then));
        for one in due {
            match one {
                Due::End { id, reason } if id == lease => self.end(id, reason, when_freed.take()),
                Due::End { id, reason } => self.end(id, reason, None),
                Due::Keep { id, reason } => self.keep_ended(id, reason),
                Due::Search(id) => self.search(id),
                Due::Grace(id) => self.wait_for_holder(id),
            }
        }
        if let Some(when_freed) = when_freed {
            // It was ending already: out of sight first, children before it, then freed by whoever has taken it over.
            for child in self.ending_below(lease) {
                // What can't be moved is owed by whoever began.
                let _ = self.end_on_disk(child, None);
            }
            match self.end_on_disk(lease, None) {
                Ok(()) => self.reaper.when_lease_is_freed(lease, when_freed),
                Err(debt) => when_freed(vec![debt.subject.id()]),
            }
        }
        self.settle();
        Ok(ended)
    }

    /// Waits for these leases' areas in clients' directories, too.
    fn with_foreign(self: &Arc<Self>, leases: Vec<LeaseId>, then: WhenFreed) -> WhenFreed {
        let broker = Arc::clone(self);
        Box::new(move |mut debt| {
            let all = Box::new(move |more| {
                debt.extend(more);
                debt.sort_unstable();
                debt.dedup();
                then(debt);
            });
            broker.reaper.when_foreign(&leases, true, all);
        })
    }

    /// What ends with a lease, each before its parent.
    fn ending_below(&self, lease: LeaseId) -> Vec<LeaseId> {
        let state = self.lock();
        // One that is to be kept is seen to by whoever began.
        let ends = |id: &LeaseId| {
            let lease = state.table.lease(*id);
            lease.is_some_and(|lease| lease.state() == LeaseState::Ending && lease.keep().is_none())
        };
        state.table.subtree(lease).into_iter().skip(1).rev().filter(ends).collect()
    }
}

/// `#` and a number: an area without a name.
pub(crate) fn area_number(area: &[u8]) -> Option<u32> {
    let digits = area.strip_prefix(b"#").filter(|rest| rest.iter().all(u8::is_ascii_digit))?;
    std::str::from_utf8(digits).ok()?.parse().ok()
}

fn owner(directory: BorrowedFd<'_>, name: &CStr) -> Option<u32> {
    rustix::fs::statat(directory, name, AtFlags::SYMLINK_NOFOLLOW).ok().map(|found| found.st_uid)
}

fn shown(name: &CStr) -> &Path {
    Path::new(std::ffi::OsStr::from_bytes(name.to_bytes()))
}
