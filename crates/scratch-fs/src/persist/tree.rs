//! Copies a tree, the original and the copy walked in step: every name relative to a held directory, never through a link,
//! never across a mount, with few descriptors at any depth. The first error ends it.

use std::ffi::{CStr, CString};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;

use rustix::fs::{AtFlags, FileType, Mode, RawDir, Stat};
use rustix::io::Errno;

use crate::FsError;
use crate::descend::{LIST, descend};
use crate::ladder::{Identity, Ladder, identity};
use crate::persist::attributes::keep_attributes;
use crate::persist::content::Content;
use crate::persist::entry::{copy_file, copy_special};
use crate::persist::shown;

/// Most sub-directories that wait to be entered, since each is remembered by its name.
const WAITING_MAX: usize = 1 << 20;

/// Copies what is in `source`, and in the end its attributes, to the new directory `made`. `name` is for messages.
///
/// # Errors
/// See [`persist`](crate::persist()).
pub(super) fn copy_tree(source: OwnedFd, name: &CStr, made: BorrowedFd<'_>) -> Result<(), FsError> {
    let own = descend(made, c".", LIST).and_then(|own| Ok((rustix::fs::fstat(&own)?, own)));
    let (root, own) = own.map_err(FsError::on("copy directory", shown(name)))?;
    let mut walk = Walk {
        source: Ladder::new(),
        made: Ladder::new(),
        root: identity(&root),
        waiting: 0,
        content: Content::default(),
        buffer: Box::new_uninit_slice(64 << 10),
    };
    walk.run(source, own, name)
}

struct Walk {
    source: Ladder<Level>,
    made: Ladder<()>,
    /// Of the copy, which is never copied itself.
    root: Identity,
    waiting: usize,
    content: Content,
    buffer: Box<[MaybeUninit<u8>]>,
}

struct Level {
    name: CString,
    found: Stat,
    pending: Vec<CString>,
}

impl Walk {
    fn run(&mut self, source: OwnedFd, made: OwnedFd, name: &CStr) -> Result<(), FsError> {
        self.enter(source, made, name.to_owned())?;
        while let Some((_, level)) = self.source.lowest() {
            match level.pending.pop() {
                Some(name) => {
                    self.waiting -= 1;
                    let (source, made) = self.make_directory(&name).map_err(|errno| self.error(&name, errno))?;
                    self.enter(source, made, name)?;
                }
                None => self.leave()?,
            }
        }
        Ok(())
    }

    fn make_directory(&mut self, name: &CStr) -> Result<(OwnedFd, OwnedFd), Errno> {
        let (Some((source, _)), Some((made, ()))) = (self.source.lowest(), self.made.lowest()) else {
            return Err(Errno::STALE);
        };
        let (source, made) = (descend(source?, name, LIST)?, made?);
        if identity(&rustix::fs::fstat(&source)?) == self.root {
            return Err(Errno::INVAL);
        }
        rustix::fs::mkdirat(made, name, Mode::RWXU)?;
        Ok((source, descend(made, name, LIST)?))
    }

    /// Copies the files of a directory; its sub-directories are kept for later.
    fn enter(&mut self, source: OwnedFd, made: OwnedFd, name: CString) -> Result<(), FsError> {
        let looked = rustix::fs::fstat(&source).and_then(|found| Ok((found, rustix::fs::fstat(&made)?)));
        let (found, made_found) = looked.map_err(|errno| self.error(&name, errno))?;
        self.source.push(source, identity(&found), Level { name, found, pending: Vec::new() });
        self.made.push(made, identity(&made_found), ());
        self.copy_files().map_err(|(name, errno)| self.error(&name, errno))
    }

    fn copy_files(&mut self) -> Result<(), (CString, Errno)> {
        let (Some((Ok(source), level)), Some((Ok(made), ()))) = (self.source.lowest(), self.made.lowest()) else {
            return Err((c"".into(), Errno::STALE));
        };
        let mut listing = RawDir::new(source, &mut self.buffer);
        while let Some(entry) = listing.next() {
            let entry = entry.map_err(|errno| (c"".into(), errno))?;
            let name = entry.file_name();
            if matches!(name.to_bytes(), b"." | b"..") {
                continue;
            }
            match kind(source, name, entry.file_type()) {
                Ok(FileType::Directory) if self.waiting == WAITING_MAX => Err(Errno::OVERFLOW),
                Ok(FileType::Directory) => {
                    self.waiting += 1;
                    level.pending.push(name.to_owned());
                    Ok(())
                }
                Ok(FileType::RegularFile) => copy_file(&mut self.content, source, name, made),
                Ok(_) => copy_special(source, name, made, name).map(drop),
                Err(errno) => Err(errno),
            }
            .map_err(|errno| (name.to_owned(), errno))?;
        }
        Ok(())
    }

    /// Finishes a directory, now that nothing in it changes any more. Only after the ones above are open again: its mode may
    /// bar the way.
    fn leave(&mut self) -> Result<(), FsError> {
        let (Some((source, level)), Some((made, ()))) = (self.source.pop(), self.made.pop()) else { return Ok(()) };
        let kept = match (source, made) {
            (Some(source), Some(made)) => keep_attributes(source.as_fd(), &level.found, made.as_fd()),
            _ => Err(Errno::STALE),
        };
        kept.map_err(|errno| self.error(&level.name, errno))
    }

    /// An error of a name in the lowest directory; of that directory itself without one.
    fn error(&self, name: &CStr, errno: Errno) -> FsError {
        let names = self.source.kept().map(|level| shown(&level.name));
        let path: PathBuf = names.chain((!name.is_empty()).then(|| shown(name))).collect();
        FsError::new("copy", path, errno)
    }
}

/// What a listing tells, or where it does not, the file system.
fn kind(directory: BorrowedFd<'_>, name: &CStr, listed: FileType) -> Result<FileType, Errno> {
    if listed != FileType::Unknown {
        return Ok(listed);
    }
    let found = rustix::fs::statat(directory, name, AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT)?;
    Ok(FileType::from_raw_mode(found.st_mode))
}
