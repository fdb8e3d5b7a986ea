//! A tmpfs that is mounted nowhere: made, resized, and mounted again elsewhere from what is held of it.

use std::ffi::CStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::CWD;
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, FsPickFlags, MountAttrFlags, MountPropagationFlags, MoveMountFlags, OpenTreeFlags,
    fsconfig_create, fsconfig_reconfigure, fsconfig_set_string, fsmount, fsopen, fspick, mount_change, move_mount,
    open_tree,
};
use rustix::thread::UnshareFlags;

/// What a tmpfs may hold. Bytes are rounded up to whole pages; of inodes its root is one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TmpfsSize {
    /// Bytes of content. At most 2^50: the kernel takes what it can't count for no limit.
    pub bytes: u64,
    /// Files and directories.
    pub inodes: u64,
}

const BYTES_MAX: u64 = 1 << 50;

/// Makes one, 0711 and nosuid, nodev; it is gone with the last descriptor and mount of it.
///
/// # Errors
/// EPERM without CAP_SYS_ADMIN; of fsopen(2), fsconfig(2) and fsmount(2).
pub fn make_tmpfs(size: TmpfsSize) -> Result<OwnedFd, Errno> {
    let context = fsopen(c"tmpfs", FsOpenFlags::FSOPEN_CLOEXEC)?;
    fsconfig_set_string(&context, c"source", c"scratchd")?;
    fsconfig_set_string(&context, c"mode", c"0711")?;
    set_size(&context, size)?;
    fsconfig_create(&context)?;
    let attributes = MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NODEV;
    fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, attributes)
}

/// Gives it another size, wherever it is mounted.
///
/// # Errors
/// EINVAL when there is more in it.
pub fn resize_tmpfs(root: BorrowedFd<'_>, size: TmpfsSize) -> Result<(), Errno> {
    let context = fspick(root, c"", FsPickFlags::FSPICK_CLOEXEC | FsPickFlags::FSPICK_EMPTY_PATH)?;
    set_size(&context, size)?;
    fsconfig_reconfigure(&context)
}

fn set_size(context: &OwnedFd, size: TmpfsSize) -> Result<(), Errno> {
    // 0 stands for no limit.
    fsconfig_set_string(context, c"size", size.bytes.clamp(1, BYTES_MAX).to_string())?;
    fsconfig_set_string(context, c"nr_inodes", size.inodes.clamp(1, BYTES_MAX).to_string())
}

/// A detached mount of a directory in a detached mount, to be attached by whoever gets it.
///
/// # Errors
/// EINVAL before Linux 6.15: see [`clone_attached`].
pub fn clone_detached(mount: BorrowedFd<'_>, directory: &CStr) -> Result<OwnedFd, Errno> {
    open_tree(mount, directory, OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC)
}

/// The same for kernels that clone only what is attached: for an instant it is, where nobody sees it. That uses the mount up
/// for this purpose; the second one that comes back stands in for it.
///
/// # Errors
/// Of unshare(2), move_mount(2) and open_tree(2); EAGAIN where there is no thread for it.
pub fn clone_attached(mount: BorrowedFd<'_>, directory: &CStr) -> Result<(OwnedFd, OwnedFd), Errno> {
    std::thread::scope(|scope| {
        let run = || clone_in_own_namespace(mount, directory);
        let thread = std::thread::Builder::new().name("mount".to_owned()).spawn_scoped(scope, run);
        thread.map_err(|_| Errno::AGAIN)?.join().unwrap_or(Err(Errno::IO))
    })
}

/// On a thread of its own, which keeps its mount namespace until it ends.
fn clone_in_own_namespace(mount: BorrowedFd<'_>, directory: &CStr) -> Result<(OwnedFd, OwnedFd), Errno> {
    // SAFETY: neither descriptors nor memory of other threads are touched by this flag.
    unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNS) }?;
    mount_change(c"/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)?;
    move_mount(mount, c"", CWD, c"/", MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)?;
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    let again = open_tree(mount, c"", flags | OpenTreeFlags::AT_EMPTY_PATH)?;
    Ok((open_tree(mount.as_fd(), directory, flags)?, again))
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::fs::{Mode, OFlags, mkdirat, openat};

    fn tmpfs(bytes: u64, inodes: u64) -> Option<OwnedFd> {
        match make_tmpfs(TmpfsSize { bytes, inodes }) {
            Err(Errno::PERM) => {
                println!("left out: needs CAP_SYS_ADMIN");
                None
            }
            made => Some(made.unwrap()),
        }
    }

    fn file(root: &OwnedFd, name: &str) -> Result<OwnedFd, Errno> {
        openat(root, name, OFlags::CREATE | OFlags::WRONLY | OFlags::CLOEXEC, Mode::RUSR | Mode::WUSR)
    }

    #[test]
    fn size_and_inodes_are_exact_and_can_be_changed() {
        let Some(root) = tmpfs(8192, 2) else { return };
        let one = file(&root, "one").unwrap();
        assert_eq!(file(&root, "two").unwrap_err(), Errno::NOSPC);
        assert_eq!(rustix::io::write(&one, &[0; 10_000]), Ok(8192));
        assert_eq!(rustix::io::write(&one, &[0]), Err(Errno::NOSPC));
        assert_eq!(resize_tmpfs(root.as_fd(), TmpfsSize { bytes: 4096, inodes: 3 }), Err(Errno::INVAL));
        resize_tmpfs(root.as_fd(), TmpfsSize { bytes: 12_288, inodes: 3 }).unwrap();
        assert_eq!(rustix::io::write(&one, &[0; 10_000]), Ok(4096));
        file(&root, "two").unwrap();
    }

    #[test]
    fn a_directory_of_it_is_mounted_more_than_once() {
        let Some(root) = tmpfs(8192, 9) else { return };
        mkdirat(&root, c"inside", Mode::RWXU).unwrap();
        let mut mount = root.try_clone().unwrap();
        for name in ["a", "b"] {
            let (clone, again) = clone_attached(mount.as_fd(), c"inside").unwrap();
            mount = again;
            file(&clone, name).unwrap();
            let up = openat(&clone, c"..", OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).unwrap();
            let inode = |of: &OwnedFd| rustix::fs::fstat(of).unwrap().st_ino;
            assert_eq!(inode(&up), inode(&clone), "it can be climbed out of");
            file(&root, &format!("inside/{name}{name}")).unwrap();
        }
    }
}
