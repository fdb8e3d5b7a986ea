//! Removes what a persist has made or replaced, with the rights of the thread: never through a link, never across a mount,
//! with few descriptors at any depth.

use std::ffi::{CStr, CString};
use std::mem::MaybeUninit;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::PathBuf;

use rustix::fs::{AtFlags, FileType, RawDir, SeekFrom};
use rustix::io::Errno;

use crate::FsError;
use crate::descend::{LIST, descend};
use crate::ladder::{Identity, Ladder, identity};
use crate::persist::{look, shown};
use crate::repair::{make_emptiable, make_removable};

/// How often a directory is listed that is not empty after all.
const PASSES_MAX: u32 = 3;

/// Removes `name` with all below it, if it is the one that is meant: else, and when it is gone, there is nothing to do.
///
/// # Errors
/// The first one; what can be removed is, all the same.
pub(super) fn clear(directory: BorrowedFd<'_>, name: &CStr, meant: Identity) -> Result<(), FsError> {
    let Some(found) = look(directory, name).ok().filter(|found| identity(found) == meant) else { return Ok(()) };
    if !FileType::from_raw_mode(found.st_mode).is_dir() {
        return rustix::fs::unlinkat(directory, name, AtFlags::empty()).map_err(FsError::on("unlink", shown(name)));
    }
    let opened = descend(directory, name, LIST).or_else(|errno| {
        make_removable(directory, name, errno);
        descend(directory, name, LIST)
    });
    let root = opened.map_err(FsError::on("open directory", shown(name)))?;
    let mut clearing = Clearing { ladder: Ladder::new(), buffer: Box::new_uninit_slice(64 << 10), failure: None };
    clearing.run(root, name);
    let removed = rustix::fs::unlinkat(directory, name, AtFlags::REMOVEDIR);
    match clearing.failure {
        Some(failure) => Err(failure),
        None => removed.map_err(FsError::on("remove directory", shown(name))),
    }
}

struct Clearing {
    ladder: Ladder<Level>,
    buffer: Box<[MaybeUninit<u8>]>,
    failure: Option<FsError>,
}

struct Level {
    name: CString,
    pending: Vec<CString>,
    passes: u32,
}

impl Clearing {
    /// Empties a directory.
    fn run(&mut self, root: OwnedFd, name: &CStr) {
        self.enter(root, name.to_owned());
        while let Some((directory, level)) = self.ladder.lowest() {
            match (directory, level.pending.pop()) {
                (Ok(directory), Some(name)) => match insist(directory, &name, |at, name| descend(at, name, LIST)) {
                    Ok(opened) => self.enter(opened, name),
                    Err(errno) => self.fail("open directory", &name, errno),
                },
                _ => self.leave(),
            }
        }
    }

    fn enter(&mut self, directory: OwnedFd, name: CString) {
        match rustix::fs::fstat(&directory) {
            Ok(found) => {
                self.ladder.push(directory, identity(&found), Level { name, pending: Vec::new(), passes: 0 });
                self.list();
            }
            Err(errno) => self.fail("look at", &name, errno),
        }
    }

    /// Unlinks from the lowest directory; its sub-directories are kept for later.
    fn list(&mut self) {
        let Some((Ok(directory), level)) = self.ladder.lowest() else { return };
        level.passes += 1;
        let mut refused = Vec::new();
        let mut listing = RawDir::new(directory, &mut self.buffer);
        // An error ends the listing: the removal of the directory tells it.
        while let Some(Ok(entry)) = listing.next() {
            let name = entry.file_name();
            if matches!(name.to_bytes(), b"." | b"..") {
                continue;
            }
            if entry.file_type() == FileType::Directory {
                level.pending.push(name.to_owned());
                continue;
            }
            match insist(directory, name, |at, name| rustix::fs::unlinkat(at, name, AtFlags::empty())) {
                Ok(()) | Err(Errno::NOENT) => {}
                Err(Errno::ISDIR) => level.pending.push(name.to_owned()),
                Err(errno) => refused.push((name.to_owned(), errno)),
            }
        }
        refused.into_iter().for_each(|(name, errno)| self.fail("unlink", &name, errno));
    }

    /// Goes up, and removes the directory that was left.
    fn leave(&mut self) {
        let Some((left, level)) = self.ladder.pop() else { return };
        // None above: the caller removes the root.
        let Some((above, _)) = self.ladder.lowest() else { return };
        let removed = above.and_then(|above| {
            insist(above, &level.name, |at, name| rustix::fs::unlinkat(at, name, AtFlags::REMOVEDIR))
        });
        match (removed, left) {
            (Ok(()) | Err(Errno::NOENT), _) => {}
            (Err(Errno::NOTEMPTY | Errno::EXIST), Some(directory))
                if self.failure.is_none() && level.passes < PASSES_MAX =>
            {
                self.list_again(directory, level);
            }
            (Err(errno), _) => self.fail("remove directory", &level.name, errno),
        }
    }

    /// On some file systems a listing misses names while others are unlinked.
    fn list_again(&mut self, directory: OwnedFd, level: Level) {
        match rustix::fs::seek(&directory, SeekFrom::Start(0)).and_then(|_| rustix::fs::fstat(&directory)) {
            Ok(found) => {
                self.ladder.push(directory, identity(&found), level);
                self.list();
            }
            Err(errno) => self.fail("list", &level.name, errno),
        }
    }

    fn fail(&mut self, operation: &'static str, name: &CStr, errno: Errno) {
        if self.failure.is_none() {
            let path = self.ladder.kept().map(|level| shown(&level.name)).chain([shown(name)]);
            self.failure = Some(FsError::new(operation, path.collect::<PathBuf>(), errno));
        }
    }
}

/// Does a step on a name; where it is refused, opens directory and name to their owner and does it once more.
fn insist<T>(
    directory: BorrowedFd<'_>,
    name: &CStr,
    step: impl Fn(BorrowedFd<'_>, &CStr) -> Result<T, Errno>,
) -> Result<T, Errno> {
    match step(directory, name) {
        Err(errno @ (Errno::ACCESS | Errno::PERM)) => {
            make_emptiable(directory);
            make_removable(directory, name, errno);
            step(directory, name)
        }
        result => result,
    }
}
