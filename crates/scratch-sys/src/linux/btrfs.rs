//! Subvolumes of btrfs and the quota of each.

use std::ffi::CStr;
use std::os::fd::BorrowedFd;

use rustix::io::Errno;
use rustix::ioctl::{Getter, Opcode, Setter, Updater, ioctl, opcode};

/// `struct btrfs_ioctl_vol_args_v2`.
#[repr(C)]
struct NewSubvolume {
    descriptor: i64,
    transaction: u64,
    flags: u64,
    unused: [u64; 4],
    name: [u8; NAME_ROOM],
}

const NAME_ROOM: usize = 4040;

/// `struct btrfs_ioctl_qgroup_limit_args`.
#[repr(C)]
struct QgroupLimit {
    qgroup: u64,
    flags: u64,
    referenced_max: u64,
    exclusive_max: u64,
    referenced_reserved: u64,
    exclusive_reserved: u64,
}

/// `struct btrfs_ioctl_qgroup_create_args`.
#[repr(C)]
struct QgroupCreate {
    create: u64,
    qgroup: u64,
}

/// `struct btrfs_ioctl_ino_lookup_args`.
#[repr(C)]
struct InodeLookup {
    tree: u64,
    object: u64,
    name: [u8; 4080],
}

/// `struct btrfs_ioctl_search_args`.
#[repr(C)]
struct Search {
    tree: u64,
    objects: [u64; 2],
    offsets: [u64; 2],
    transactions: [u64; 2],
    types: [u32; 2],
    items: u32,
    unused: u32,
    unused_more: [u64; 4],
    found: [u8; FOUND_ROOM],
}

const FOUND_ROOM: usize = 3992;
/// `struct btrfs_ioctl_search_header`, before each item that was found.
const SEARCH_HEADER: usize = 32;

const SUBVOL_CREATE_V2: Opcode = opcode::write::<NewSubvolume>(0x94, 24);
const SUBVOL_GETFLAGS: Opcode = opcode::read::<u64>(0x94, 25);
const SUBVOL_SETFLAGS: Opcode = opcode::write::<u64>(0x94, 26);
const TREE_SEARCH: Opcode = opcode::read_write::<Search>(0x94, 17);
const INO_LOOKUP: Opcode = opcode::read_write::<InodeLookup>(0x94, 18);
const QGROUP_CREATE: Opcode = opcode::write::<QgroupCreate>(0x94, 42);
/// To be written, whatever its direction says.
const QGROUP_LIMIT: Opcode = opcode::read::<QgroupLimit>(0x94, 43);

const SUBVOL_RDONLY: u64 = 1 << 1;
const FIRST_FREE_OBJECT: u64 = 256;
const QUOTA_TREE: u64 = 8;
const QGROUP_STATUS_KEY: u32 = 240;
const QGROUP_INFO_KEY: u32 = 242;
const QGROUP_STATUS_ON: u64 = 1;
const QGROUP_STATUS_INCONSISTENT: u64 = 4;
const QGROUP_LIMIT_REFERENCED: u64 = 1;
const BTRFS_MAGIC: i64 = 0x9123_683e;

/// Whether what is open lies on btrfs.
///
/// # Errors
/// Of fstatfs(2).
pub fn is_btrfs(held: BorrowedFd<'_>) -> Result<bool, Errno> {
    Ok(rustix::fs::fstatfs(held)?.f_type == BTRFS_MAGIC)
}

/// Makes a subvolume. Its mode is 0777 but for the umask.
///
/// # Errors
/// EEXIST; ENAMETOOLONG; ENOTTY where this is no btrfs.
pub fn create_subvolume(directory: BorrowedFd<'_>, name: &CStr) -> Result<(), Errno> {
    let mut wanted = NewSubvolume { descriptor: 0, transaction: 0, flags: 0, unused: [0; 4], name: [0; NAME_ROOM] };
    let bytes = name.to_bytes();
    // One is left for the NUL.
    wanted.name[..NAME_ROOM - 1].get_mut(..bytes.len()).ok_or(Errno::NAMETOOLONG)?.copy_from_slice(bytes);
    // SAFETY: the kernel reads a struct btrfs_ioctl_vol_args_v2, which this is.
    unsafe { ioctl(directory, Setter::<SUBVOL_CREATE_V2, _>::new(wanted)) }
}

/// Makes a read-only subvolume one that can be written. `root`: its root.
///
/// # Errors
/// EPERM where it is another's, ENOTTY where this is no btrfs, EINVAL where it is no subvolume's root.
pub fn make_subvolume_writable(root: BorrowedFd<'_>) -> Result<(), Errno> {
    // SAFETY: the kernel writes a number, for which there is room.
    let flags = unsafe { ioctl(root, Getter::<SUBVOL_GETFLAGS, u64>::new())? };
    // SAFETY: the kernel reads a number.
    unsafe { ioctl(root, Setter::<SUBVOL_SETFLAGS, _>::new(flags & !SUBVOL_RDONLY)) }
}

/// The number of the subvolume that what is open lies in; the quota group of level 0 has the same.
///
/// # Errors
/// ENOTTY where this is no btrfs.
pub fn subvolume(held: BorrowedFd<'_>) -> Result<u64, Errno> {
    let mut asked = InodeLookup { tree: 0, object: FIRST_FREE_OBJECT, name: [0; 4080] };
    // SAFETY: the kernel reads and writes a struct btrfs_ioctl_ino_lookup_args, which this is.
    unsafe { ioctl(held, Updater::<INO_LOOKUP, _>::new(&mut asked))? };
    Ok(asked.tree)
}

/// Whether the file system counts what subvolumes have and holds them to limits. Any doubt is a no.
pub fn enforces_subvolume_limits(held: BorrowedFd<'_>) -> bool {
    let status = quota_item(held, QGROUP_STATUS_KEY, 0).ok().flatten();
    // Version, generation, flags.
    status.is_some_and(|[_, _, flags]| flags & QGROUP_STATUS_ON != 0 && flags & QGROUP_STATUS_INCONSISTENT == 0)
}

/// Bytes that a subvolume refers to, as of the last transaction. `held`: anything of the file system.
///
/// # Errors
/// EPERM without CAP_SYS_ADMIN, ENOENT without quotas.
pub fn subvolume_usage(held: BorrowedFd<'_>, subvolume: u64) -> Result<u64, Errno> {
    // Generation, referenced, the same compressed.
    let [_, referenced, _] = quota_item(held, QGROUP_INFO_KEY, subvolume)?.ok_or(Errno::NOENT)?;
    Ok(referenced)
}

/// Sets how many bytes a subvolume may refer to, those that it shares with others included.
///
/// # Errors
/// EPERM without CAP_SYS_ADMIN, ENOTCONN or EINVAL without quotas.
pub fn set_subvolume_limit(held: BorrowedFd<'_>, subvolume: u64, bytes: Option<u64>) -> Result<(), Errno> {
    let wanted = QgroupLimit {
        qgroup: subvolume,
        flags: QGROUP_LIMIT_REFERENCED,
        // All ones take a limit away.
        referenced_max: bytes.unwrap_or(u64::MAX),
        exclusive_max: 0,
        referenced_reserved: 0,
        exclusive_reserved: 0,
    };
    // SAFETY: the kernel reads a struct btrfs_ioctl_qgroup_limit_args, which this is.
    unsafe { ioctl(held, Setter::<QGROUP_LIMIT, _>::new(wanted)) }
}

/// Drops the quota group of a subvolume that is gone, which kernels before 6.12 leave behind.
///
/// # Errors
/// ENOENT when there is none, EBUSY when the kernel is not done with the subvolume and sees to the group itself.
pub fn drop_subvolume_quota(held: BorrowedFd<'_>, subvolume: u64) -> Result<(), Errno> {
    // SAFETY: the kernel reads a struct btrfs_ioctl_qgroup_create_args, which this is.
    unsafe { ioctl(held, Setter::<QGROUP_CREATE, _>::new(QgroupCreate { create: 0, qgroup: subvolume })) }
}

/// The first three numbers of an item of the quota tree.
fn quota_item(held: BorrowedFd<'_>, kind: u32, offset: u64) -> Result<Option<[u64; 3]>, Errno> {
    let mut search = Search {
        tree: QUOTA_TREE,
        objects: [0, 0],
        offsets: [offset; 2],
        transactions: [0, u64::MAX],
        types: [kind; 2],
        items: 1,
        unused: 0,
        unused_more: [0; 4],
        found: [0; FOUND_ROOM],
    };
    // SAFETY: the kernel reads and writes a struct btrfs_ioctl_search_args, which this is.
    unsafe { ioctl(held, Updater::<TREE_SEARCH, _>::new(&mut search))? };
    if search.items == 0 {
        return Ok(None);
    }
    let number = |index: usize| {
        let at = SEARCH_HEADER + 8 * index;
        u64::from_le_bytes(search.found[at..at + 8].try_into().expect("eight bytes"))
    };
    Ok(Some([number(0), number(1), number(2)]))
}
