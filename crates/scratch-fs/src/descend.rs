//! One step down in a tree that others may be changing: opens a single name below a held directory, never a symbolic link,
//! never what is mounted over it. Shared by the removal, its repairs and the metering of usage.

use std::ffi::CStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::{AtFlags, Mode, OFlags, ResolveFlags, StatxFlags};
use rustix::io::Errno;

/// How a directory is opened to be listed. NONBLOCK, so that a FIFO swapped in is an error and not a wait.
pub(crate) const LIST: OFlags =
    OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::NONBLOCK).union(OFlags::CLOEXEC);

/// How anything is opened to be looked at: nothing of it is run, read or waited for.
pub(crate) const LOOK: OFlags = OFlags::PATH.union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// openat2(2) is not there: a seccomp filter that does not know it.
static NO_OPENAT2: AtomicBool = AtomicBool::new(false);

/// Opens one name below `directory`.
///
/// # Errors
/// EXDEV for a mount point, ENOTDIR or ELOOP for a symbolic link, those of openat(2) else.
pub(crate) fn descend(directory: BorrowedFd<'_>, name: &CStr, flags: OFlags) -> Result<OwnedFd, Errno> {
    if NO_OPENAT2.load(Ordering::Relaxed) {
        return open_directory_by_mount_id(directory, name, flags);
    }
    let resolve =
        ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS | ResolveFlags::NO_XDEV;
    match rustix::fs::openat2(directory, name, flags, Mode::empty(), resolve) {
        Err(Errno::NOSYS) => {
            NO_OPENAT2.store(true, Ordering::Relaxed);
            open_directory_by_mount_id(directory, name, flags)
        }
        // A seccomp filter may say EPERM, which the kernel says to none of these flags. AGAIN is only said of `..`.
        Err(Errno::PERM) => open_directory_by_mount_id(directory, name, flags),
        result => result,
    }
}

/// The fallback: opens first, then sees whether that has crossed a mount. By mount id, since a bind mount of the same file
/// system has the same device number.
pub(crate) fn open_directory_by_mount_id(
    directory: BorrowedFd<'_>,
    name: &CStr,
    flags: OFlags,
) -> Result<OwnedFd, Errno> {
    let opened = rustix::fs::openat(directory, name, flags, Mode::empty())?;
    if mount_id(opened.as_fd())? == mount_id(directory)? { Ok(opened) } else { Err(Errno::XDEV) }
}

fn mount_id(held: BorrowedFd<'_>) -> Result<u64, Errno> {
    let found = rustix::fs::statx(held, c"", AtFlags::EMPTY_PATH, StatxFlags::MNT_ID)?;
    // Before Linux 5.8 there is none: then every directory is refused rather than a mount entered.
    let known = StatxFlags::from_bits_retain(found.stx_mask).contains(StatxFlags::MNT_ID);
    if known { Ok(found.stx_mnt_id) } else { Err(Errno::NOSYS) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn with_and_without_openat2_the_answers_agree() {
        let root = tempfile::tempdir().unwrap();
        std::fs::create_dir(root.path().join("directory")).unwrap();
        std::fs::write(root.path().join("file"), b"").unwrap();
        symlink("directory", root.path().join("link")).unwrap();
        let held = rustix::fs::open(root.path(), LIST, Mode::empty()).unwrap();
        for (name, expected) in [
            (c"directory", None),
            (c"file", Some(Errno::NOTDIR)),
            (c"link", Some(Errno::NOTDIR)),
            (c"missing", Some(Errno::NOENT)),
        ] {
            assert_eq!(descend(held.as_fd(), name, LIST).err(), expected, "{name:?}");
            let fallback = open_directory_by_mount_id(held.as_fd(), name, LIST).err();
            assert_eq!(fallback, expected, "{name:?} by mount id");
        }
    }

    #[test]
    fn a_mount_is_refused_both_ways() {
        let root = rustix::fs::open("/", LIST, Mode::empty()).unwrap();
        for flags in [LIST, LOOK] {
            assert_eq!(descend(root.as_fd(), c"proc", flags).err(), Some(Errno::XDEV));
            assert_eq!(open_directory_by_mount_id(root.as_fd(), c"proc", flags).err(), Some(Errno::XDEV));
        }
    }
}
