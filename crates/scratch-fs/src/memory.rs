//! Leases in memory: a tmpfs each, mounted nowhere and held by the broker. In it `lease` is the lease's directory, the only
//! thing that a client ever gets of it, and `trash` is the broker's: what is released or ended is renamed there, in one file
//! system, and freed as everywhere else. In the pool's root the lease has an empty directory of its name, the broker's own.

use std::collections::HashMap;
use std::ffi::CStr;
use std::num::NonZeroUsize;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::fs::{AtFlags, Gid, Mode, Uid};
use rustix::io::Errno;
use scratch_lease::{LeaseId, Share};
use scratch_sys::TmpfsSize;

use crate::create::open_directory;
use crate::remove::remove_in_turns;
use crate::trash::{Trash, TrashName};
use crate::{FsError, Owner, Pool, QuotaUsage, Record, Removal, Rights};

const LEASE: &CStr = c"lease";
/// The root, the lease's directory and its trash: the lease's inodes come on top of them.
const OWN_INODES: u64 = 3;
/// What an inode is charged as: about what the kernel has of it.
const INODE_BYTES: u64 = 1024;
/// So that no sum of them is too much for the counter.
const CHARGE_MAX: u64 = 1 << 52;
/// Trees in a lease's own trash are numbered from here, so that none has the name of one in the pool's.
const FIRST_NUMBER: u64 = 1 << 63;

/// What a pool in memory has.
#[derive(Debug)]
pub(crate) struct Memory {
    /// What all leases together may take.
    size: u64,
    taken: Arc<AtomicU64>,
    leases: Mutex<HashMap<LeaseId, Arc<Tmpfs>>>,
}

/// The memory of one lease.
#[derive(Debug)]
struct Tmpfs {
    /// The mount that all work of the broker goes through.
    root: OwnedFd,
    /// The mount that others are cloned from.
    clonable: Mutex<OwnedFd>,
    trash: Trash,
    /// Locked while its size is changed.
    charge: Mutex<Charge>,
}

/// What a lease takes of the pool's memory, given back when it is dropped.
#[derive(Debug)]
struct Charge {
    bytes: u64,
    of: Arc<AtomicU64>,
}

impl Drop for Charge {
    fn drop(&mut self) {
        self.of.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

impl Memory {
    fn lock(&self) -> MutexGuard<'_, HashMap<LeaseId, Arc<Tmpfs>>> {
        self.leases.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn get(&self, lease: LeaseId) -> Option<Arc<Tmpfs>> {
        self.lock().get(&lease).cloned()
    }

    /// Of what there is already, whatever that comes to.
    fn charge(&self, size: TmpfsSize) -> Charge {
        let bytes = size.bytes.saturating_add(size.inodes.saturating_mul(INODE_BYTES)).min(CHARGE_MAX);
        self.taken.fetch_add(bytes, Ordering::Relaxed);
        Charge { bytes, of: Arc::clone(&self.taken) }
    }

    /// Of what is to be made, if there is room for it.
    fn reserve(&self, size: TmpfsSize) -> Result<Charge, Errno> {
        let charge = self.charge(size);
        if self.taken.load(Ordering::Relaxed) > self.size {
            // Somebody may have let go of what had ended.
            self.prune();
        }
        if self.taken.load(Ordering::Relaxed) > self.size { Err(Errno::NOSPC) } else { Ok(charge) }
    }

    /// Lets go of what has ended and is not in use any more.
    fn prune(&self) {
        let all: Vec<_> = self.lock().iter().map(|(lease, tmpfs)| (*lease, Arc::clone(tmpfs))).collect();
        let free = all.into_iter().filter(|(_, tmpfs)| tmpfs.is_free());
        free.for_each(|(lease, _)| _ = self.lock().remove(&lease));
    }
}

impl Tmpfs {
    fn of(root: OwnedFd, charge: Charge, shown: &Path) -> Result<Self, FsError> {
        let clonable = root.try_clone().map_err(|_| FsError::new("hold tmpfs of lease", shown, Errno::MFILE))?;
        let trash = Trash::open_from(root.as_fd(), &shown.join("trash"), FIRST_NUMBER)?;
        Ok(Self { root, clonable: Mutex::new(clonable), trash, charge: Mutex::new(charge) })
    }

    fn make_directory(root: BorrowedFd<'_>, owner: Owner) -> Result<(), Errno> {
        rustix::fs::mkdirat(root, LEASE, Mode::RWXU)?;
        match owner {
            Owner::Broker => Ok(()),
            Owner::Tenant { uid, gid } => {
                let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(gid));
                rustix::fs::chownat(root, LEASE, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)
            }
        }
    }

    fn handle(&self) -> Result<OwnedFd, Errno> {
        let mut clonable = self.clonable.lock().unwrap_or_else(PoisonError::into_inner);
        match scratch_sys::clone_detached(clonable.as_fd(), LEASE) {
            Err(Errno::INVAL) => {
                let (handle, again) = scratch_sys::clone_attached(clonable.as_fd(), LEASE)?;
                *clonable = again;
                Ok(handle)
            }
            result => result,
        }
    }

    /// Whether its lease has ended and nothing of that is left: no name, and no file without one that somebody has open.
    fn is_free(&self) -> bool {
        let lease = rustix::fs::statat(&self.root, LEASE, AtFlags::SYMLINK_NOFOLLOW);
        let is_over = lease.is_err_and(|errno| errno == Errno::NOENT) && self.trash.is_empty().unwrap_or(false);
        is_over && rustix::fs::fstatvfs(&self.root).is_ok_and(|figures| figures.f_bfree == figures.f_blocks)
    }
}

impl Pool {
    /// Has its leases be in memory, all together in no more than this.
    ///
    /// # Errors
    /// EPERM without CAP_SYS_ADMIN: a tmpfs can't be made.
    pub fn in_memory(mut self, size: u64) -> Result<Self, FsError> {
        let tried = scratch_sys::make_tmpfs(TmpfsSize { bytes: 1, inodes: OWN_INODES });
        tried.map_err(FsError::on("make a tmpfs for", &self.path))?;
        self.memory = Some(Memory { size, taken: Arc::default(), leases: Mutex::default() });
        Ok(self)
    }

    /// Whether a lease's directory can be found by its path.
    pub fn has_paths(&self) -> bool {
        self.memory.is_none()
    }

    /// Whether this process can reach what is in a lease: that of one in memory is lost to a broker that was killed.
    pub fn reaches(&self, lease: LeaseId) -> bool {
        self.memory.as_ref().is_none_or(|memory| memory.get(lease).is_some())
    }

    /// Makes a lease's memory, of the size that its record says.
    pub(crate) fn make_memory(&self, lease: LeaseId, owner: Owner, record: &Record) -> Result<(), FsError> {
        let Some(memory) = &self.memory else { return Ok(()) };
        let path = self.lease_path(lease);
        let size = TmpfsSize { bytes: record.bytes_limit, inodes: record.inodes_limit.saturating_add(OWN_INODES) };
        let failed = FsError::on("make tmpfs of lease", &path);
        let made = memory.reserve(size).and_then(|charge| {
            let root = scratch_sys::make_tmpfs(size)?;
            Tmpfs::make_directory(root.as_fd(), owner)?;
            Ok((root, charge))
        });
        let (root, charge) = made.map_err(failed)?;
        memory.lock().insert(lease, Arc::new(Tmpfs::of(root, charge, &path)?));
        Ok(())
    }

    /// Gives the memory of a lease another size. Nothing is done for one whose memory is not at hand. ENOSPC: there is more
    /// in it.
    pub(crate) fn resize_memory(&self, lease: LeaseId, limits: Share) -> Result<(), Errno> {
        let Some((memory, tmpfs)) = self.memory.as_ref().and_then(|memory| Some((memory, memory.get(lease)?))) else {
            return Ok(());
        };
        let (Some(bytes), Some(inodes)) = (limits.bytes, limits.inodes) else { return Ok(()) };
        let mut charge = tmpfs.charge.lock().unwrap_or_else(PoisonError::into_inner);
        let size = TmpfsSize { bytes, inodes: inodes.saturating_add(OWN_INODES) };
        let resized = scratch_sys::resize_tmpfs(tmpfs.root.as_fd(), size);
        resized.map_err(|errno| if errno == Errno::INVAL { Errno::NOSPC } else { errno })?;
        *charge = memory.charge(size);
        Ok(())
    }

    /// What is in a lease's memory.
    pub(crate) fn memory_usage(&self, lease: LeaseId) -> Result<QuotaUsage, Errno> {
        let tmpfs = self.memory.as_ref().and_then(|memory| memory.get(lease)).ok_or(Errno::NODEV)?;
        let figures = rustix::fs::fstatvfs(&tmpfs.root)?;
        let blocks = figures.f_blocks.saturating_sub(figures.f_bfree);
        let inodes = figures.f_files.saturating_sub(figures.f_ffree).saturating_sub(OWN_INODES);
        Ok(QuotaUsage { bytes: blocks.saturating_mul(figures.f_frsize), inodes: Some(inodes) })
    }

    /// Bytes that all leases in memory may take, and those that are left. `None`: of a pool that is on disk.
    pub fn memory_left(&self) -> Option<(u64, u64)> {
        let memory = self.memory.as_ref()?;
        Some((memory.size, memory.size.saturating_sub(memory.taken.load(Ordering::Relaxed))))
    }

    /// Does something for which leases in memory take so many bytes and inodes more, if they may.
    ///
    /// # Errors
    /// ENOSPC: they may not.
    pub fn with_memory<T>(&self, (bytes, inodes): (u64, u64), act: impl FnOnce() -> T) -> Result<T, FsError> {
        let reserved = self.memory.as_ref().map(|memory| memory.reserve(TmpfsSize { bytes, inodes })).transpose();
        let _reserved = reserved.map_err(FsError::on("find memory for lease in", &self.path))?;
        Ok(act())
    }

    /// Lets go of what was made for a lease that did not come to be.
    pub(crate) fn unmake_memory(&self, lease: LeaseId) {
        if let Some(memory) = &self.memory {
            memory.lock().remove(&lease);
        }
    }

    /// The directory of a lease in memory; `None` for one on disk.
    pub(crate) fn open_memory(&self, lease: LeaseId) -> Option<Result<OwnedFd, Errno>> {
        let memory = self.memory.as_ref()?;
        let tmpfs = memory.get(lease);
        Some(tmpfs.map_or(Err(Errno::NODEV), |tmpfs| open_directory(tmpfs.root.as_fd(), LEASE)))
    }

    /// A mount of its own of the directory of a lease in memory, for a client to attach.
    ///
    /// # Errors
    /// Of open_tree(2); ENODEV when this process does not have it.
    pub fn lease_mount(&self, lease: LeaseId) -> Result<OwnedFd, FsError> {
        let tmpfs = self.memory.as_ref().and_then(|memory| memory.get(lease));
        let mount = tmpfs.ok_or(Errno::NODEV).and_then(|tmpfs| tmpfs.handle());
        mount.map_err(|errno| FsError::new("mount anew the tmpfs of", self.lease_path(lease), errno))
    }

    /// Takes the content of a lease that ends out of its name space. `None`: there is none, or it was taken before.
    ///
    /// # Errors
    /// Of renameat2(2).
    pub fn end_memory(&self, lease: LeaseId, tenant: u32) -> Result<Option<TrashName>, FsError> {
        let tmpfs = self.memory.as_ref().and_then(|memory| memory.get(lease));
        match tmpfs.map(|tmpfs| tmpfs.trash.take(tmpfs.root.as_fd(), LEASE, tenant, lease)) {
            None => Ok(None),
            Some(Err(error)) if error.errno == Errno::NOENT => Ok(None),
            Some(taken) => taken.map(Some),
        }
    }

    /// Renames something in a lease into trash, on the same file system.
    ///
    /// # Errors
    /// As those of [`Trash::take`].
    pub fn discard(
        &self,
        from: BorrowedFd<'_>,
        name: &CStr,
        tenant: u32,
        lease: LeaseId,
    ) -> Result<TrashName, FsError> {
        match self.memory.as_ref().and_then(|memory| memory.get(lease)) {
            Some(tmpfs) => tmpfs.trash.take(from, name, tenant, lease),
            None => self.trash.take(from, name, tenant, lease),
        }
    }

    /// [`crate::remove_in_turns`] of what is left of a tree in this pool's trash, wherever that is: the tree itself, and what was
    /// lifted out of it. The memory of a lease goes with its last tree.
    pub fn remove(
        &self,
        tree: TrashName,
        entries: Vec<TrashName>,
        rights: Rights,
        workers: NonZeroUsize,
        is_over: &(dyn Fn() -> bool + Sync),
    ) -> Removal {
        let Some(memory) = self.memory.as_ref().filter(|_| tree.number >= FIRST_NUMBER) else {
            return remove_in_turns(&self.trash, entries, rights, workers, is_over);
        };
        // Gone with its lease's memory.
        let Some(tmpfs) = memory.get(tree.lease) else { return Removal::default() };
        let removal = remove_in_turns(&tmpfs.trash, entries, rights, workers, is_over);
        // One of which somebody has a file open is looked at again when there is no room.
        if tmpfs.is_free() {
            memory.lock().remove(&tree.lease);
        }
        removal
    }

    /// What is held of leases in memory, for the next broker.
    pub fn memories(&self) -> Vec<(LeaseId, OwnedFd)> {
        let Some(memory) = &self.memory else { return Vec::new() };
        memory.prune();
        let held = |(lease, tmpfs): (&LeaseId, &Arc<Tmpfs>)| {
            let clonable = tmpfs.clonable.lock().unwrap_or_else(PoisonError::into_inner);
            Some((*lease, clonable.try_clone().ok()?))
        };
        memory.lock().iter().filter_map(held).collect()
    }

    /// Takes over what the broker before has held of a lease, and answers what waits in its trash.
    ///
    /// # Errors
    /// When it is none, or can't be looked at.
    pub fn take_over_memory(&self, lease: LeaseId, root: OwnedFd) -> Result<Vec<TrashName>, FsError> {
        let path = self.lease_path(lease);
        let memory = self.memory.as_ref().ok_or_else(|| FsError::new("take over tmpfs of", &path, Errno::INVAL))?;
        let figures = rustix::fs::fstatvfs(&root).map_err(FsError::on("look at tmpfs of", &path))?;
        let size = TmpfsSize { bytes: figures.f_blocks.saturating_mul(figures.f_frsize), inodes: figures.f_files };
        let tmpfs = Tmpfs::of(root, memory.charge(size), &path)?;
        let waiting = tmpfs.trash.entries()?;
        memory.lock().insert(lease, Arc::new(tmpfs));
        Ok(waiting)
    }
}
