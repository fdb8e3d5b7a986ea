//! Project quotas of ext4 and XFS: which project a directory is in, what a project may have, what it has.

use std::os::fd::{AsRawFd, BorrowedFd};

use rustix::io::Errno;
use rustix::ioctl::{Getter, Setter, ioctl, opcode};

use super::identity::last_errno;

/// `struct fsxattr` of FS_IOC_FSGETXATTR and FS_IOC_FSSETXATTR.
#[repr(C)]
struct ExtendedFlags {
    flags: u32,
    extent_size: u32,
    extents: u32,
    project: u32,
    cow_extent_size: u32,
    reserved: [u8; 8],
}

const FS_IOC_FSGETXATTR: rustix::ioctl::Opcode = opcode::read::<ExtendedFlags>(b'X', 31);
const FS_IOC_FSSETXATTR: rustix::ioctl::Opcode = opcode::write::<ExtendedFlags>(b'X', 32);
const FS_XFLAG_PROJINHERIT: u32 = 0x200;

/// quotactl_fd(2) has this number on every architecture but alpha; libc does not name it everywhere yet.
const SYS_QUOTACTL_FD: libc::c_long = 443;
const PRJQUOTA: u32 = 2;
const Q_GETQUOTA: u32 = 0x80_0007;
const Q_SETQUOTA: u32 = 0x80_0008;
/// Understood by ext4 as well.
const Q_XGETQSTATV: u32 = 0x5808;
/// The limits of bytes and inodes in a `struct dqblk` are valid.
const QIF_LIMITS: u32 = 1 | 4;
const FS_QUOTA_PDQ_ENFD: u16 = 1 << 5;
/// What the limits of bytes in a `struct dqblk` are counted in.
const LIMIT_BLOCK: u64 = 1024;

/// `struct if_dqblk`.
#[repr(C)]
#[derive(Default)]
struct ProjectQuota {
    bytes_limit: u64,
    bytes_soft_limit: u64,
    bytes: u64,
    inodes_limit: u64,
    inodes_soft_limit: u64,
    inodes: u64,
    bytes_time: u64,
    inodes_time: u64,
    valid: u32,
}

/// `struct fs_quota_statv`: of what is in it only the flags matter here.
#[repr(C)]
struct QuotaState {
    version: i8,
    pad: u8,
    flags: u16,
    rest: [u32; 41],
}

/// Which project something is in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Project {
    /// Its number; 0 is none.
    pub id: u32,
    /// Of a directory: what is made in it is in the project too.
    pub inherited: bool,
}

/// The project of what is open; O_PATH does not do.
///
/// # Errors
/// ENOTTY or EOPNOTSUPP on a file system without projects.
pub fn project(held: BorrowedFd<'_>) -> Result<Project, Errno> {
    let found = extended_flags(held)?;
    Ok(Project { id: found.project, inherited: found.flags & FS_XFLAG_PROJINHERIT != 0 })
}

/// Moves what is open into a project, with what it is charged for.
///
/// # Errors
/// EDQUOT when the project has not so much left, EPERM where it is another's, EINVAL in a user namespace.
pub fn set_project(held: BorrowedFd<'_>, project: Project) -> Result<(), Errno> {
    let mut wanted = extended_flags(held)?;
    wanted.project = project.id;
    wanted.flags &= !FS_XFLAG_PROJINHERIT;
    if project.inherited {
        wanted.flags |= FS_XFLAG_PROJINHERIT;
    }
    // SAFETY: the kernel reads a struct fsxattr, which this is.
    unsafe { ioctl(held, Setter::<FS_IOC_FSSETXATTR, _>::new(wanted)) }
}

fn extended_flags(held: BorrowedFd<'_>) -> Result<ExtendedFlags, Errno> {
    // SAFETY: the kernel writes a struct fsxattr, which this is; all its bit patterns are valid.
    unsafe { ioctl(held, Getter::<FS_IOC_FSGETXATTR, ExtendedFlags>::new()) }
}

/// Whether the file system of what is open holds projects to their limits, and does not only count. Any doubt is a no.
pub fn enforces_project_limits(held: BorrowedFd<'_>) -> bool {
    let mut state = QuotaState { version: 1, pad: 0, flags: 0, rest: [0; 41] };
    // SAFETY: the kernel reads and writes a struct fs_quota_statv, for which there is room.
    let asked = unsafe { quotactl(held, Q_XGETQSTATV, 0, (&raw mut state).cast()) };
    asked.is_ok() && state.flags & FS_QUOTA_PDQ_ENFD != 0
}

/// What a project has: bytes and inodes.
///
/// # Errors
/// Of quotactl(2); a project that never had anything is none.
pub fn project_usage(held: BorrowedFd<'_>, project: u32) -> Result<(u64, u64), Errno> {
    let mut quota = ProjectQuota::default();
    // SAFETY: the kernel writes a struct if_dqblk, which this is.
    match unsafe { quotactl(held, Q_GETQUOTA, project, (&raw mut quota).cast()) } {
        Ok(()) => Ok((quota.bytes, quota.inodes)),
        Err(Errno::NOENT) => Ok((0, 0)),
        Err(errno) => Err(errno),
    }
}

/// Sets what a project may have. A limit of 0 is one: of as little as can be said. Bytes are cut to whole KiB.
///
/// # Errors
/// EPERM without CAP_SYS_ADMIN, ESRCH where there are no project quotas.
pub fn set_project_limits(
    held: BorrowedFd<'_>,
    project: u32,
    bytes: Option<u64>,
    inodes: Option<u64>,
) -> Result<(), Errno> {
    let mut quota = ProjectQuota {
        // To the kernel 0 is no limit at all.
        bytes_limit: bytes.map_or(0, |bytes| (bytes / LIMIT_BLOCK).max(1)),
        inodes_limit: inodes.map_or(0, |inodes| inodes.max(1)),
        valid: QIF_LIMITS,
        ..ProjectQuota::default()
    };
    // SAFETY: the kernel reads a struct if_dqblk, which this is.
    unsafe { quotactl(held, Q_SETQUOTA, project, (&raw mut quota).cast()) }
}

/// # Safety
/// `data` must be what the command reads and writes.
unsafe fn quotactl(held: BorrowedFd<'_>, command: u32, project: u32, data: *mut libc::c_char) -> Result<(), Errno> {
    let command = command << 8 | PRJQUOTA;
    // SAFETY: the descriptor is open for the call's time; the caller vouches for the data.
    let result = unsafe { libc::syscall(SYS_QUOTACTL_FD, held.as_raw_fd(), command, project, data) };
    match if result == 0 { Ok(()) } else { Err(last_errno()) } {
        // SAFETY: as above.
        Err(Errno::NOSYS) => unsafe { quotactl_by_device(held, command, project, data) },
        result => result,
    }
}

/// Before Linux 5.14: by the name that udev gives every block device.
///
/// # Safety
/// As [`quotactl`].
unsafe fn quotactl_by_device(
    held: BorrowedFd<'_>,
    command: u32,
    project: u32,
    data: *mut libc::c_char,
) -> Result<(), Errno> {
    let device = rustix::fs::fstat(held)?.st_dev;
    let name = format!("/dev/block/{}:{}", rustix::fs::major(device), rustix::fs::minor(device));
    let name = std::ffi::CString::new(name).map_err(|_| Errno::INVAL)?;
    // SAFETY: the name is live and ends with NUL; the caller vouches for the data. All arguments are as wide as registers.
    let result = unsafe { libc::syscall(libc::SYS_quotactl, command, name.as_ptr(), project, data) };
    if result == 0 { Ok(()) } else { Err(last_errno()) }
}
