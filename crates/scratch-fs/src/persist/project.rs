//! What leaves a lease leaves the project that it is counted in: a rename would take it along, and the lease's number would
//! never be free again.

use std::ffi::CStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{FileType, OFlags};
use scratch_sys::Project;

use crate::descend::descend;

/// Whether a rename is enough.
pub(super) enum Leaving {
    /// It is; to be undone if the rename fails.
    Free(Undo),
    /// It is not: only a copy is in no project, or in that of where it is made.
    Bound,
}

/// A file that was taken out of its project.
pub(super) struct Undo(Option<(OwnedFd, Project)>);

impl Undo {
    pub(super) fn undo(self) {
        if let Some((file, before)) = self.0 {
            // Best effort: it stays with whom it is, only uncounted.
            let _ = scratch_sys::set_project(file.as_fd(), before);
        }
    }
}

/// Takes a regular file with no other name out of the project of its directory, into that of the one it goes to.
pub(super) fn leave(from: BorrowedFd<'_>, name: &CStr, to: BorrowedFd<'_>) -> Leaving {
    // A file system without projects, and a descriptor that can't be asked, have none.
    let inherited = |directory| scratch_sys::project(directory).ok().filter(|project| project.inherited);
    let Some(here) = inherited(from).filter(|project| project.id != 0) else { return Leaving::Free(Undo(None)) };
    let there = inherited(to).unwrap_or_default();
    if there.id == here.id {
        return Leaving::Free(Undo(None));
    }
    match free(from, name, there.id) {
        Some(undo) => Leaving::Free(undo),
        None => Leaving::Bound,
    }
}

/// None for what has other names, can't be opened, or may not be taken out.
fn free(from: BorrowedFd<'_>, name: &CStr, project: u32) -> Option<Undo> {
    let found = rustix::fs::statat(from, name, rustix::fs::AtFlags::SYMLINK_NOFOLLOW).ok()?;
    if !FileType::from_raw_mode(found.st_mode).is_file() || found.st_nlink != 1 {
        return None;
    }
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = descend(from, name, flags).ok()?;
    let opened = rustix::fs::fstat(&file).ok()?;
    if (opened.st_dev, opened.st_ino) != (found.st_dev, found.st_ino) {
        return None;
    }
    let before = scratch_sys::project(file.as_fd()).ok()?;
    scratch_sys::set_project(file.as_fd(), Project { id: project, inherited: false }).ok()?;
    Some(Undo(Some((file, before))))
}
