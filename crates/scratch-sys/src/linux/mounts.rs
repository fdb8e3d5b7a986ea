//! Mounts that a command and what it starts have for themselves. What is needed is made before the fork; in the child only
//! async-signal-safe calls are made.

use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::fs::{CWD, Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::{MountPropagationFlags, MoveMountFlags, OpenTreeFlags, mount_change, move_mount, open_tree};
use rustix::process::{DumpableBehavior, set_dumpable_behavior};
use rustix::thread::UnshareFlags;

/// What a command is to find mounted, in a mount namespace of its own.
#[derive(Debug)]
pub struct OwnMounts {
    directory: CString,
    attached: Option<OwnedFd>,
    over: Vec<CString>,
    /// The only ids that a user namespace is given: the process's own, as they are.
    user_map: String,
    group_map: String,
}

impl OwnMounts {
    /// A directory that the command is to find also at each of these places. `attached`, a detached mount, comes onto it
    /// first.
    ///
    /// # Errors
    /// INVAL for a NUL in a path.
    pub fn new(directory: &Path, attached: Option<OwnedFd>, over: &[&Path]) -> Result<Self, Errno> {
        let text = |path: &Path| CString::new(path.as_os_str().as_bytes()).map_err(|_| Errno::INVAL);
        let (user, group) = (rustix::process::geteuid(), rustix::process::getegid());
        Ok(Self {
            directory: text(directory)?,
            attached,
            over: over.iter().map(|path| text(path)).collect::<Result<_, _>>()?,
            user_map: format!("{user} {user} 1"),
            group_map: format!("{group} {group} 1"),
        })
    }

    /// In the child: leaves the mount namespace for its own, and mounts. Who may not do that does it in a user namespace,
    /// whose rights are gone with exec.
    pub(crate) fn set_up(&self) -> Result<(), Errno> {
        match unshare(UnshareFlags::NEWNS) {
            Err(Errno::PERM) => {
                unshare(UnshareFlags::NEWUSER | UnshareFlags::NEWNS)?;
                self.map_ids()?;
            }
            result => result?,
        }
        // Nothing of it reaches others; what they unmount is unmounted here, too, so that nothing stays in use for it.
        mount_change(c"/", MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC)?;
        if let Some(attached) = &self.attached {
            let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
            move_mount(attached.as_fd(), c"", CWD, &*self.directory, flags)?;
        }
        self.cover(&self.over)
    }

    /// In the child: each is taken before anything is covered, the directory itself may be below one of them.
    fn cover(&self, over: &[CString]) -> Result<(), Errno> {
        let Some((place, rest)) = over.split_first() else { return Ok(()) };
        let flags = OpenTreeFlags::OPEN_TREE_CLONE
            | OpenTreeFlags::OPEN_TREE_CLOEXEC
            | OpenTreeFlags::AT_RECURSIVE
            | OpenTreeFlags::AT_SYMLINK_NOFOLLOW;
        let tree = open_tree(CWD, &*self.directory, flags)?;
        self.cover(rest)?;
        let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_SYMLINKS;
        match move_mount(tree.as_fd(), c"", CWD, &**place, flags) {
            // There is none here, so none has to be covered.
            Err(Errno::NOENT) => Ok(()),
            result => result,
        }
    }

    /// In the child. Who has changed its uid since its exec does not own its files in /proc until it says so.
    fn map_ids(&self) -> Result<(), Errno> {
        set_dumpable_behavior(DumpableBehavior::Dumpable)?;
        write(c"/proc/self/setgroups", "deny")?;
        write(c"/proc/self/uid_map", &self.user_map)?;
        write(c"/proc/self/gid_map", &self.group_map)
    }
}

fn unshare(flags: UnshareFlags) -> Result<(), Errno> {
    // SAFETY: of these flags none touches descriptors or memory.
    unsafe { rustix::thread::unshare_unsafe(flags) }
}

fn write(file: &CStr, text: &str) -> Result<(), Errno> {
    let file = rustix::fs::open(file, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())?;
    rustix::io::write(file, text.as_bytes()).map(drop)
}
