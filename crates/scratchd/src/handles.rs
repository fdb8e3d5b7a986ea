//! Handles of directories, as they may be given to clients.

use std::os::fd::{AsFd, OwnedFd};

use rustix::io::Errno;
use scratch_fs::FsError;
use scratch_lease::{LeaseId, Refusal};

use crate::broker::Broker;
use crate::config::Uncontained;
use crate::reason::RequestError;

impl Broker {
    /// A directory as it may be given to a client. Whoever holds a plain descriptor can climb out of it with `..`, so that
    /// the system broker gives a mount of its own; a session broker's clients are all one user, whom it keeps from nothing.
    ///
    /// # Errors
    /// HANDLE_UNCONTAINED, or of open_tree(2) and openat(2).
    pub(crate) fn contained(&self, directory: OwnedFd) -> Result<OwnedFd, RequestError> {
        if self.gives_plain() {
            return Ok(directory);
        }
        let noexec = self.settings.get().handles.noexec;
        scratch_sys::contained_directory(directory.as_fd(), noexec).map_err(|errno| match errno {
            Errno::PERM | Errno::NOSYS | Errno::INVAL => RequestError::HandleUncontained(errno),
            errno => FsError::new("open a contained handle", "", errno).into(),
        })
    }

    /// Whether a directory's handle leads out of it: decided by what this broker can do, never by one request.
    pub(crate) fn gives_plain(&self) -> bool {
        let can_contain = || {
            let root = self.pools.first().disk.root();
            *self.can_contain.get_or_init(|| scratch_sys::contained_directory(root, false).is_ok())
        };
        self.session || (self.settings.get().handles.uncontained == Uncontained::Plain && !can_contain())
    }

    /// The directory of a new lease, if the request wants it: to work in, or to attach where there is no path.
    ///
    /// # Errors
    /// As [`Broker::contained`].
    pub(crate) fn wanted_handle(
        &self,
        (handle, mount): (bool, bool),
        id: LeaseId,
    ) -> Result<Option<OwnedFd>, RequestError> {
        if mount {
            let pool = self.pool_of(id).ok_or(Refusal::LeaseUnknown)?;
            if !pool.disk.has_paths() {
                return Ok(Some(pool.disk.lease_mount(id)?));
            }
        }
        if !handle {
            return Ok(None);
        }
        self.open_lease(id).and_then(|opened| self.contained(opened)).map(Some)
    }
}
