//! The directories between a walk and where it began. The lowest are held; those above them are opened again on the way
//! back, so that few descriptors do for any depth.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{Dev, Mode, Stat};
use rustix::io::Errno;

use crate::descend::LIST;

/// Directories held at once.
const HELD_MAX: usize = 32;

/// What makes a file the same one: device and inode.
pub(crate) type Identity = (Dev, u64);

/// A stack of directories, each with what the walk keeps for it.
pub(crate) struct Ladder<T> {
    rungs: Vec<Rung<T>>,
}

struct Rung<T> {
    /// None while too many below it are open, or when it could not be opened again.
    directory: Option<OwnedFd>,
    identity: Identity,
    kept: T,
}

impl<T> Ladder<T> {
    pub(crate) fn new() -> Self {
        Self { rungs: Vec::new() }
    }

    /// Goes down to a directory that lies in the lowest one.
    pub(crate) fn push(&mut self, directory: OwnedFd, identity: Identity, kept: T) {
        if let Some(above) = self.rungs.len().checked_sub(HELD_MAX) {
            self.rungs[above].directory = None;
        }
        self.rungs.push(Rung { directory: Some(directory), identity, kept });
    }

    /// The lowest directory, and what is kept for it; ESTALE in place of one that others have moved.
    pub(crate) fn lowest(&mut self) -> Option<(Result<BorrowedFd<'_>, Errno>, &mut T)> {
        let rung = self.rungs.last_mut()?;
        Some((rung.directory.as_ref().map(AsFd::as_fd).ok_or(Errno::STALE), &mut rung.kept))
    }

    /// Leaves the lowest directory. The one above is opened again if need be: by `..`, which counts only if it is the
    /// directory we came from.
    pub(crate) fn pop(&mut self) -> Option<(Option<OwnedFd>, T)> {
        let left = self.rungs.pop()?;
        if let (Some(below), Some(rung)) = (&left.directory, self.rungs.last_mut())
            && rung.directory.is_none()
        {
            rung.directory = reopen_above(below.as_fd(), rung.identity).ok();
        }
        Some((left.directory, left.kept))
    }

    /// What is kept, from the first directory on.
    pub(crate) fn kept(&self) -> impl Iterator<Item = &T> {
        self.rungs.iter().map(|rung| &rung.kept)
    }
}

pub(crate) fn identity(found: &Stat) -> Identity {
    (found.st_dev, found.st_ino)
}

fn reopen_above(below: BorrowedFd<'_>, expected: Identity) -> Result<OwnedFd, Errno> {
    let above = rustix::fs::openat(below, c"..", LIST, Mode::empty())?;
    if identity(&rustix::fs::fstat(&above)?) == expected { Ok(above) } else { Err(Errno::STALE) }
}
