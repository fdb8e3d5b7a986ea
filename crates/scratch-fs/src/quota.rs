//! What holds leases to their limits on disk: projects of ext4 and XFS, the quota of a btrfs subvolume. Says what a pool's
//! file system can give; numbers of projects are given out here, each to one lease at a time.

use std::collections::HashSet;
use std::ffi::CStr;
use std::ops::RangeInclusive;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use rustix::fs::{AtFlags, Mode};
use rustix::io::Errno;
use scratch_lease::{Enforced, LeaseId, Share};
use scratch_sys::Project;

use crate::backend::Backend;
use crate::create::open_directory;
use crate::{FsError, Pool, Record, TrashName};

/// The inode of every subvolume's root.
const SUBVOLUME_ROOT: u64 = 256;

/// Quotas of subvolumes that are kept in mind to be dropped.
const STALE_MAX: usize = 1000;

/// Numbers that are looked at for a free one before a grant fails.
const TRIES_MAX: usize = 10_000;

/// What a lease's directory is counted in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum QuotaId {
    /// Nothing.
    #[default]
    None,
    /// A project of ext4 or XFS.
    Project(u32),
    /// A subvolume of btrfs.
    Subvolume(u64),
    /// A tmpfs, that of this lease.
    Memory(LeaseId),
}

/// What the directory of a lease that is being made is to be counted in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NewQuota {
    /// Nothing, as far as the backend has a choice.
    None,
    /// A quota of its own with these limits; its own directory does not count as an inode.
    Own(Share),
    /// That of another lease.
    Of(QuotaId),
}

/// What a pool's file system can hold leases to.
#[derive(Debug)]
pub(crate) enum Quotas {
    /// To nothing.
    None,
    /// Projects with numbers of a range.
    Projects(Projects),
    /// Subvolumes; to their limits or to none.
    Subvolumes {
        /// Their quotas are switched on, counted through, and the broker may set them: so when it was looked last.
        limited: AtomicBool,
    },
}

/// The numbers of projects that a pool may use.
#[derive(Debug)]
pub(crate) struct Projects {
    range: RangeInclusive<u32>,
    given: Mutex<Given>,
}

#[derive(Debug)]
struct Given {
    /// Of leases that have a record.
    taken: HashSet<u32>,
    next: u32,
}

impl Quotas {
    /// What plain directories below `root` can be held to. A root that hands a project of its own down has its project
    /// from somebody else, and keeps it.
    pub(crate) fn of_directories(root: BorrowedFd<'_>, range: RangeInclusive<u32>) -> Self {
        let is_free = scratch_sys::project(root).is_ok_and(|project| !project.inherited && project.id == 0);
        if range.is_empty() || !is_free || !scratch_sys::enforces_project_limits(root) || !may_set(root, &range) {
            return Self::None;
        }
        let given = Given { taken: HashSet::new(), next: *range.start() };
        Self::Projects(Projects { range, given: Mutex::new(given) })
    }

    /// What subvolumes below `root` can be held to.
    pub(crate) fn of_subvolumes(root: BorrowedFd<'_>) -> Self {
        // Asking takes the same right as setting.
        Self::Subvolumes { limited: AtomicBool::new(scratch_sys::enforces_subvolume_limits(root)) }
    }

    pub(crate) fn enforced(&self) -> Enforced {
        match self {
            Self::None => Enforced::default(),
            Self::Projects(_) => Enforced { bytes: true, inodes: true, shared: true },
            Self::Subvolumes { limited } => {
                Enforced { bytes: limited.load(Ordering::Relaxed), inodes: false, shared: false }
            }
        }
    }
}

/// Whether limits may be set here: tried on a number that nothing has.
fn may_set(root: BorrowedFd<'_>, range: &RangeInclusive<u32>) -> bool {
    let free = range.clone().take(TRIES_MAX).find(|id| scratch_sys::project_usage(root, *id) == Ok((0, 0)));
    free.is_some_and(|id| scratch_sys::set_project_limits(root, id, None, None).is_ok())
}

impl Projects {
    fn lock(&self) -> MutexGuard<'_, Given> {
        self.given.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A number that no lease has and no file on the file system is in: trash of its last lease may still be.
    pub(crate) fn take(&self, root: BorrowedFd<'_>) -> Result<u32, Errno> {
        let mut given = self.lock();
        for _ in 0..TRIES_MAX {
            let id = given.next;
            given.next = if id < *self.range.end() { id + 1 } else { *self.range.start() };
            if !given.taken.contains(&id) && scratch_sys::project_usage(root, id)? == (0, 0) {
                given.taken.insert(id);
                return Ok(id);
            }
        }
        Err(Errno::NOSPC)
    }

    pub(crate) fn give_back(&self, id: u32) {
        self.lock().taken.remove(&id);
    }
}

impl Pool {
    /// Makes a lease's directory in new/: for the broker alone.
    pub(crate) fn make_directory(&self, name: &CStr) -> Result<(), Errno> {
        let Quotas::Subvolumes { .. } = self.quotas else {
            return rustix::fs::mkdirat(&self.new, name, Mode::RWXU);
        };
        scratch_sys::create_subvolume(self.new.as_fd(), name)?;
        // As wide as the umask lets it be, in a directory that is closed to all others.
        rustix::fs::chmodat(&self.new, name, Mode::RWXU, AtFlags::empty())
    }

    /// Has a new directory counted and limited, and says in its record how.
    pub(crate) fn count_directory(&self, name: &CStr, quota: NewQuota, record: &mut Record) -> Result<(), Errno> {
        match &self.quotas {
            Quotas::None => Ok(()),
            Quotas::Projects(projects) => {
                let id = match quota {
                    NewQuota::None | NewQuota::Of(QuotaId::None | QuotaId::Subvolume(_) | QuotaId::Memory(_)) => {
                        return Ok(());
                    }
                    NewQuota::Of(QuotaId::Project(id)) => id,
                    NewQuota::Own(_) => projects.take(self.root())?,
                };
                record.set_quota(QuotaId::Project(id));
                if let NewQuota::Own(limits) = quota {
                    self.limit(record.quota(), limits)?;
                }
                let directory = open_directory(self.new.as_fd(), name)?;
                scratch_sys::set_project(directory.as_fd(), Project { id, inherited: true })
            }
            Quotas::Subvolumes { .. } => {
                let directory = open_directory(self.new.as_fd(), name)?;
                record.set_quota(QuotaId::Subvolume(scratch_sys::subvolume(directory.as_fd())?));
                match quota {
                    NewQuota::Own(limits) => self.limit(record.quota(), limits),
                    NewQuota::None | NewQuota::Of(_) => Ok(()),
                }
            }
        }
    }

    fn limit(&self, quota: QuotaId, limits: Share) -> Result<(), Errno> {
        match quota {
            QuotaId::None => Ok(()),
            QuotaId::Project(id) => {
                // The lease's own directory is one more.
                let inodes = limits.inodes.map(|inodes| inodes.saturating_add(1));
                scratch_sys::set_project_limits(self.root(), id, limits.bytes, inodes)
            }
            QuotaId::Subvolume(id) => scratch_sys::set_subvolume_limit(self.root(), id, limits.bytes),
            QuotaId::Memory(lease) => self.resize_memory(lease, limits),
        }
    }

    /// Holds leases to their limits by projects with these numbers, where plain directories can be held so. Before the
    /// first lease is made.
    pub fn use_projects(&mut self, numbers: RangeInclusive<u32>) {
        if self.backend() == Backend::Dir {
            self.quotas = Quotas::of_directories(self.root(), numbers);
        }
    }

    /// The quota of a tree in trash that is a subvolume, to be dropped when it is gone.
    pub fn quota_of_tree(&self, tree: TrashName) -> QuotaId {
        if let Quotas::Subvolumes { .. } = self.quotas
            && let Ok(directory) = open_directory(self.trash().directory(), &tree.to_cstring())
            && rustix::fs::fstat(&directory).is_ok_and(|found| found.st_ino == SUBVOLUME_ROOT)
            && let Ok(subvolume) = scratch_sys::subvolume(directory.as_fd())
        {
            return QuotaId::Subvolume(subvolume);
        }
        QuotaId::None
    }

    /// Drops quotas of subvolumes that are gone, which kernels before 6.12 leave behind. Those that the kernel is not done
    /// with yet are tried again with the next.
    pub fn drop_quota(&self, quota: QuotaId) {
        let (QuotaId::Subvolume(subvolume), true) = (quota, self.enforced().bytes) else { return };
        let mut stale = self.stale.lock().unwrap_or_else(PoisonError::into_inner);
        stale.push(subvolume);
        // ENOENT: the kernel has done it.
        stale.retain(|subvolume| scratch_sys::drop_subvolume_quota(self.root(), *subvolume) == Err(Errno::BUSY));
        let too_many = stale.len().saturating_sub(STALE_MAX);
        stale.drain(..too_many);
    }

    /// Looks again what the file system can hold leases to: quotas of subvolumes can be switched on any time, and count for a
    /// while before they are of use.
    pub fn look_at_quotas(&self) {
        if let Quotas::Subvolumes { limited } = &self.quotas {
            limited.store(scratch_sys::enforces_subvolume_limits(self.root()), Ordering::Relaxed);
        }
    }

    /// Whether it does so.
    pub fn uses_projects(&self) -> bool {
        matches!(self.quotas, Quotas::Projects(_))
    }

    /// What leases of this pool can be held to.
    pub fn enforced(&self) -> Enforced {
        if self.has_paths() { self.quotas.enforced() } else { Enforced { bytes: true, inodes: true, shared: false } }
    }

    /// What the lease of a record is counted in.
    pub fn quota_of(&self, lease: LeaseId, record: &Record) -> QuotaId {
        if self.has_paths() { record.quota() } else { QuotaId::Memory(lease) }
    }

    /// Sets what a quota holds its leases to.
    ///
    /// # Errors
    /// Of quotactl(2) and ioctl(2).
    pub fn set_limits(&self, quota: QuotaId, limits: Share) -> Result<(), FsError> {
        self.limit(quota, limits).map_err(FsError::on("set limits of lease in", self.path()))
    }

    /// What is counted in a quota, the lease's own directory left out of the inodes. None: it counts no inodes, or nothing.
    ///
    /// # Errors
    /// Of quotactl(2) and ioctl(2).
    pub fn quota_usage(&self, quota: QuotaId) -> Result<Option<QuotaUsage>, FsError> {
        let found = match quota {
            QuotaId::None => return Ok(None),
            QuotaId::Project(id) => scratch_sys::project_usage(self.root(), id)
                .map(|(bytes, inodes)| QuotaUsage { bytes, inodes: Some(inodes.saturating_sub(1)) }),
            QuotaId::Subvolume(id) => {
                scratch_sys::subvolume_usage(self.root(), id).map(|bytes| QuotaUsage { bytes, inodes: None })
            }
            QuotaId::Memory(lease) => self.memory_usage(lease),
        };
        found.map(Some).map_err(FsError::on("ask for usage of lease in", self.path()))
    }

    /// A quota is one of a lease of the broker before, and nobody else's.
    pub fn adopt_quota(&self, quota: QuotaId) {
        if let (Quotas::Projects(projects), QuotaId::Project(id)) = (&self.quotas, quota) {
            projects.lock().taken.insert(id);
        }
    }

    /// The lease whose own quota this was has gone. Its number is given out again when nothing is counted in it any more.
    pub fn give_back_quota(&self, quota: QuotaId) {
        if let (Quotas::Projects(projects), QuotaId::Project(id)) = (&self.quotas, quota) {
            projects.give_back(id);
        }
    }
}

/// What is counted in a quota.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct QuotaUsage {
    /// Bytes.
    pub bytes: u64,
    /// Inodes, where the quota counts them.
    pub inodes: Option<u64>,
}
