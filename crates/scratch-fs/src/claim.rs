//! Which directories a removal may enter, and how the system broker makes them its own first: then nobody else can add,
//! swap or rename anything in them, and the walk is alone.

use std::ffi::CStr;
use std::os::fd::BorrowedFd;

use rustix::fs::{AtFlags, Gid, Mode, Uid};
use rustix::io::Errno;

use crate::remove::Rights;
use crate::repair::clear_flags;

/// Anything for group and others.
const OTHERS: u32 = 0o077;

/// What a removal with [`Rights`] may do to the directories of one tenant.
#[derive(Clone, Copy)]
pub(crate) struct Claim {
    rights: Rights,
    tenant: u32,
    uid: Uid,
    gid: Gid,
}

/// Why a directory could not be claimed.
pub(crate) enum Unclaimed {
    /// It is neither the tenant's nor ours.
    Foreign,
    /// The system refused.
    Refused(Errno),
}

impl Claim {
    pub(crate) fn new(rights: Rights, tenant: u32) -> Self {
        Self { rights, tenant, uid: rustix::process::geteuid(), gid: rustix::process::getegid() }
    }

    /// Makes an open directory ours alone, but for [`Rights::Own`]: there every directory is taken as it is.
    pub(crate) fn take(&self, directory: BorrowedFd<'_>) -> Result<(), Unclaimed> {
        if self.rights == Rights::Own {
            return Ok(());
        }
        let found = rustix::fs::fstat(directory).map_err(Unclaimed::Refused)?;
        if !self.covers(found.st_uid) {
            return Err(Unclaimed::Foreign);
        }
        if found.st_uid == self.uid.as_raw() && found.st_mode & OTHERS == 0 {
            return Ok(());
        }
        match self.make_ours(directory) {
            Err(Errno::PERM) => clear_flags(directory).and_then(|()| self.make_ours(directory)),
            // A subvolume that its owner has made read-only.
            Err(Errno::ROFS) if scratch_sys::make_subvolume_writable(directory).is_ok() => self.make_ours(directory),
            result => result,
        }
        .map_err(Unclaimed::Refused)
    }

    /// Whether `name` may be moved elsewhere as a whole. Judged by name: its directory was claimed before, so that nobody
    /// swaps it in between.
    pub(crate) fn check(&self, directory: BorrowedFd<'_>, name: &CStr) -> Result<(), Unclaimed> {
        if self.rights == Rights::Own {
            return Ok(());
        }
        let found = rustix::fs::statat(directory, name, AtFlags::SYMLINK_NOFOLLOW).map_err(Unclaimed::Refused)?;
        if self.covers(found.st_uid) { Ok(()) } else { Err(Unclaimed::Foreign) }
    }

    fn covers(&self, owner: u32) -> bool {
        self.rights == Rights::TakeOverForeign || owner == self.tenant || owner == self.uid.as_raw()
    }

    /// Owner before mode: the other way round the tenant could undo the mode in between.
    fn make_ours(&self, directory: BorrowedFd<'_>) -> Result<(), Errno> {
        rustix::fs::fchown(directory, Some(self.uid), Some(self.gid))?;
        rustix::fs::fchmod(directory, Mode::RWXU)
    }
}
