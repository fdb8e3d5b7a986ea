//! The end of a lease on disk: its directory goes into trash, and nothing but its directory. Whatever else has its name by
//! then is somebody else's.

use std::os::fd::AsFd;

use rustix::fs::{AtFlags, RenameFlags, Stat, StatxAttributes, StatxFlags};
use rustix::io::Errno;
use scratch_lease::LeaseId;

use crate::descend::{LIST, descend};
use crate::pool::name_of;
use crate::remove::empty;
use crate::{FsError, Leftover, Pool, Rights, TrashName};

/// Which directory a lease's name stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// This very one.
    This {
        /// Its st_dev.
        device: u64,
        /// Its st_ino.
        inode: u64,
    },
    /// This one, made in another boot: device numbers may have changed since.
    OfAnotherBoot {
        /// Its st_ino.
        inode: u64,
    },
    /// Nobody knows: its record is lost, and all of its boot are dead.
    Unknown,
}

/// What ending a lease on disk came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// Its directory is in trash.
    Trashed(TrashName),
    /// There was nothing of its name.
    Gone,
    /// Something else has its name, and has it still.
    Replaced,
}

impl Place {
    pub(crate) fn is(self, found: &Stat) -> bool {
        match self {
            Self::This { device, inode } => (found.st_dev, found.st_ino) == (device, inode),
            Self::OfAnotherBoot { inode } => found.st_ino == inode,
            Self::Unknown => true,
        }
    }
}

impl Pool {
    /// Ends a lease on disk: its directory into trash. The record is dropped after that, so that a crash in between leaves
    /// a record without directory.
    ///
    /// # Errors
    /// When the directory can't be moved; the record must stay then.
    pub fn end_lease(&self, lease: LeaseId, tenant: u32, place: Place) -> Result<Ended, FsError> {
        let name = name_of(lease);
        match self.directory(lease)? {
            None => return Ok(Ended::Gone),
            Some(found) if !place.is(&found) && !self.is_covered(lease)? => return Ok(Ended::Replaced),
            Some(_) => {}
        }
        let tree = match self.trash.take(self.root.as_fd(), &name, tenant, lease) {
            Ok(tree) => tree,
            // Also said where it is the trash that has gone.
            Err(error) if error.errno == Errno::NOENT && self.directory(lease)?.is_none() => return Ok(Ended::Gone),
            // An empty directory needs no room to go.
            Err(FsError { errno: Errno::NOSPC | Errno::DQUOT, .. })
                if rustix::fs::unlinkat(&self.root, &name, AtFlags::REMOVEDIR).is_ok() =>
            {
                return Ok(Ended::Gone);
            }
            Err(error) => return Err(FsError { path: self.lease_path(lease), ..error }),
        };
        let moved = rustix::fs::statat(self.trash.directory(), tree.to_cstring(), AtFlags::SYMLINK_NOFOLLOW);
        if moved.is_ok_and(|moved| place.is(&moved)) {
            return Ok(Ended::Trashed(tree));
        }
        self.put_back(lease, tree)?;
        // Where it can't be told whose it is, it is tried again later.
        moved.map_err(FsError::on("look at what was renamed into", self.trash.shown()))?;
        Ok(Ended::Replaced)
    }

    /// Empties the directory of a lease that has ended where it is, for when a file system is too full for a rename. What
    /// can't be removed stays in it; of what was lifted out of it, that is told.
    ///
    /// # Errors
    /// Of opening it. ESTALE: something else has its name.
    pub fn empty_lease(
        &self,
        lease: LeaseId,
        tenant: u32,
        place: Place,
        rights: Rights,
    ) -> Result<Vec<Leftover>, FsError> {
        let failed = |errno| FsError::new("empty lease", self.lease_path(lease), errno);
        let held = descend(self.root.as_fd(), &name_of(lease), LIST).map_err(failed)?;
        if !rustix::fs::fstat(&held).is_ok_and(|found| place.is(&found)) {
            return Err(failed(Errno::STALE));
        }
        Ok(empty(&self.trash, held, (tenant, lease), rights))
    }

    /// Whether something is mounted on what has a lease's name: what lies below can't be seen, and is unknown.
    fn is_covered(&self, lease: LeaseId) -> Result<bool, FsError> {
        let flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT;
        match rustix::fs::statx(&self.root, name_of(lease), flags, StatxFlags::TYPE) {
            Ok(found) => Ok(found.stx_attributes.contains(StatxAttributes::MOUNT_ROOT)),
            Err(Errno::NOENT) => Ok(false),
            Err(errno) => Err(FsError::new("look at lease", self.lease_path(lease), errno)),
        }
    }

    /// Whether this tree in trash is the lease's directory, and not an area of it.
    #[must_use]
    pub fn is_whole(&self, tree: TrashName, place: Place) -> bool {
        let found = rustix::fs::statat(self.trash.directory(), tree.to_cstring(), AtFlags::SYMLINK_NOFOLLOW);
        found.is_ok_and(|found| place.is(&found))
    }

    /// Whether a lease's name stands for its directory, as far as can be told: something may be mounted on it.
    ///
    /// # Errors
    /// Of fstatat(2) and statx(2), but for ENOENT.
    pub fn is_in_place(&self, lease: LeaseId, place: Place) -> Result<bool, FsError> {
        match self.directory(lease)? {
            Some(found) => Ok(place.is(&found) || self.is_covered(lease)?),
            None => Ok(false),
        }
    }

    /// What has a lease's name; None where there is nothing.
    ///
    /// # Errors
    /// Of fstatat(2).
    pub fn directory(&self, lease: LeaseId) -> Result<Option<Stat>, FsError> {
        match rustix::fs::statat(&self.root, name_of(lease), AtFlags::SYMLINK_NOFOLLOW) {
            Ok(found) => Ok(Some(found)),
            Err(Errno::NOENT) => Ok(None),
            Err(errno) => Err(FsError::new("look at lease", self.lease_path(lease), errno)),
        }
    }

    /// What took the lease's name in the instant before the rename goes back. Where the name is taken again, it gets one
    /// that is nobody's, and that no broker will ever touch.
    fn put_back(&self, lease: LeaseId, tree: TrashName) -> Result<(), FsError> {
        let (trash, from) = (self.trash.directory(), tree.to_cstring());
        let back = rustix::fs::renameat_with(trash, &from, &self.root, name_of(lease), RenameFlags::NOREPLACE);
        let back = match back {
            Err(Errno::EXIST) => {
                let aside = format!("{lease}.replaced-{}", tree.number);
                rustix::fs::renameat_with(trash, &from, &self.root, aside, RenameFlags::NOREPLACE)
            }
            back => back,
        };
        back.map_err(|errno| FsError::new("put back what is not the lease's", self.lease_path(lease), errno))
    }
}
