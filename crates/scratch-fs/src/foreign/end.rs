//! Ends an area in a client's directory: out of the name space by a rename within its directory, looked at again, and removed;
//! all with the tenant's rights. What is not the very thing that was made is never removed, and put back.

use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, BorrowedFd};

use rustix::fs::{AtFlags, FileType, RenameFlags};
use rustix::io::Errno;

use crate::blocker::Blocker;
use crate::descend::{LIST, LOOK, descend};
use crate::foreign::book::ForeignBook;
use crate::foreign::empty::empty;
use crate::foreign::entry::ForeignEntry;
use crate::foreign::node::Node;
use crate::repair::make_removable;
use crate::usage::usage_of;
use crate::{FsError, NamePattern};

/// An area that could not be ended, or of which something remains.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ForeignLeft {
    /// Why.
    pub error: FsError,
    /// What stands in the way.
    pub blocker: Blocker,
    /// Bytes on disk of what remains.
    pub bytes: u64,
}

/// Where the thing that was made is.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Whereabouts {
    /// Under this name.
    At(CString),
    /// Under none of its names: removed, or renamed by its client, whose it is now.
    Nowhere,
}

impl ForeignBook {
    /// Ends an area and forgets it.
    ///
    /// # Errors
    /// What is left, which stays in the book.
    pub fn end(&self, parent: BorrowedFd<'_>, entry: &mut ForeignEntry, same_boot: bool) -> Result<(), ForeignLeft> {
        if self.set_aside(parent, entry, same_boot).map_err(|error| entry.left(parent, error))? {
            entry.remove(parent, same_boot)?;
        }
        let dropped = entry.lease.parse().map_err(|_| Errno::INVAL);
        dropped
            .map_err(|errno| FsError::new("drop the entry of", entry.shown(), errno))
            .and_then(|lease| self.drop_entry(lease, entry.number))
            .map_err(|error| ForeignLeft { error, blocker: Blocker::Other, bytes: 0 })
    }

    /// Takes an area out of the name space. False: nothing of it is there any more. May be called as often as need be.
    ///
    /// # Errors
    /// When it can't be renamed, or can't be told from others: then it is where it was.
    pub fn set_aside(
        &self,
        parent: BorrowedFd<'_>,
        entry: &mut ForeignEntry,
        same_boot: bool,
    ) -> Result<bool, FsError> {
        if !entry.has_ended {
            entry.has_ended = true;
            // Without room in the pool it ends all the same: only a crash before that would have it live on with its lease.
            let _ = self.write(entry);
        }
        let Some(child) = entry.child.clone() else { return entry.as_tenant(|| entry.remove_unproven(parent)) };
        let whereabouts = entry.as_tenant(|| entry.find_child(parent, &child, same_boot))?;
        let aside = entry.aside()?;
        match whereabouts {
            Whereabouts::Nowhere => Ok(false),
            Whereabouts::At(name) if name == aside => Ok(true),
            Whereabouts::At(name) => entry.as_tenant(|| entry.rename_aside(parent, &child, (&name, &aside), same_boot)),
        }
    }
}

impl ForeignEntry {
    /// Removes what was set aside; what is left stays there. May be called as often as need be.
    ///
    /// # Errors
    /// What is left.
    pub fn remove(&self, parent: BorrowedFd<'_>, same_boot: bool) -> Result<(), ForeignLeft> {
        let Some(child) = &self.child else { return Ok(()) };
        let removed = self.as_tenant(|| {
            let name = match self.find_child(parent, child, same_boot)? {
                Whereabouts::Nowhere => return Ok(Ok(())),
                Whereabouts::At(name) => name,
            };
            Ok(self.remove_at(parent, child, &name, same_boot))
        });
        match removed {
            Ok(Ok(())) => Ok(()),
            Ok(Err((error, blocker))) => Err(ForeignLeft { blocker, ..self.left(parent, error) }),
            Err(error) => Err(self.left(parent, error)),
        }
    }

    fn remove_at(
        &self,
        parent: BorrowedFd<'_>,
        child: &Node,
        name: &CStr,
        same_boot: bool,
    ) -> Result<(), (FsError, Blocker)> {
        let shown = self.shown_as(name.to_bytes());
        let failed = |operation| {
            let shown = shown.clone();
            move |errno| (FsError::new(operation, shown, errno), Blocker::of(parent, name, errno))
        };
        if !self.is_directory {
            return insist(parent, name, || gone_is_fine(rustix::fs::unlinkat(parent, name, AtFlags::empty())))
                .map_err(failed("unlink"));
        }
        let held = insist(parent, name, || descend(parent, name, LIST)).map_err(failed("open"))?;
        // What is emptied is what is held, whatever becomes of its name.
        let found = Node::of(held.as_fd()).map_err(failed("look at"))?;
        if child.is(&found, same_boot) != Some(true) {
            return Err(failed("remove what was swapped for")(Errno::STALE));
        }
        let lease = self.lease.parse().map_err(|_| failed("remove")(Errno::INVAL))?;
        empty(held, &shown, self.uid, lease)?;
        // Whatever has its name by now, it goes only if it is empty.
        insist(parent, name, || gone_is_fine(rustix::fs::unlinkat(parent, name, AtFlags::REMOVEDIR)))
            .map_err(failed("remove directory"))
    }

    fn left(&self, parent: BorrowedFd<'_>, error: FsError) -> ForeignLeft {
        let name = self.aside().unwrap_or_default();
        let looked = self.as_tenant(|| Ok((usage_of(parent, &name), Blocker::of(parent, &name, error.errno))));
        let (usage, blocker) = looked.unwrap_or((None, Blocker::Other));
        let bytes = usage.map_or(0, |usage| usage.bytes);
        ForeignLeft { error, blocker, bytes }
    }

    fn find_child(&self, parent: BorrowedFd<'_>, child: &Node, same_boot: bool) -> Result<Whereabouts, FsError> {
        for name in self.name()?.into_iter().chain([self.aside()?]) {
            let found = match descend(parent, &name, LOOK).and_then(|held| Node::of(held.as_fd())) {
                Ok(found) => found,
                Err(Errno::NOENT) => continue,
                Err(errno) => return Err(FsError::new("look at", self.shown_as(name.to_bytes()), errno)),
            };
            match child.is(&found, same_boot) {
                Some(true) => return Ok(Whereabouts::At(name)),
                Some(false) => {}
                None => return Err(FsError::new("tell from others", self.shown_as(name.to_bytes()), Errno::STALE)),
            }
        }
        Ok(Whereabouts::Nowhere)
    }

    /// Between the look at a name and its rename anything may have taken it: that goes back.
    fn rename_aside(
        &self,
        parent: BorrowedFd<'_>,
        child: &Node,
        (name, aside): (&CStr, &CStr),
        same_boot: bool,
    ) -> Result<bool, FsError> {
        let failed = |errno| FsError::new("rename aside", self.shown_as(name.to_bytes()), errno);
        match rename_within(parent, name, aside) {
            Ok(()) => {}
            Err(Errno::NOENT) => return Ok(false),
            // No room for another name, or somebody has taken it: a directory is emptied through its own descriptor all the same.
            // A file is owed: between a look and unlinkat its client may have put another one under the name that it has.
            Err(Errno::NOSPC | Errno::DQUOT | Errno::EXIST) if self.is_directory => return Ok(true),
            Err(errno) => return Err(failed(errno)),
        }
        let found = descend(parent, aside, LOOK).and_then(|held| Node::of(held.as_fd())).map_err(failed)?;
        if child.is(&found, same_boot) == Some(true) {
            return Ok(true);
        }
        put_back(parent, aside, name).map_err(failed)?;
        Ok(false)
    }

    /// A crash came between making it and writing down what was made. It has the name that the broker drew for it; and as no
    /// client was told of it, it is empty, or it is somebody's.
    fn remove_unproven(&self, parent: BorrowedFd<'_>) -> Result<bool, FsError> {
        let aside = self.aside()?;
        let failed = |errno| FsError::new("end", self.shown_as(aside.to_bytes()), errno);
        let found = match rustix::fs::statat(parent, &aside, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(found) => found,
            Err(Errno::NOENT) => return Ok(false),
            Err(errno) => return Err(failed(errno)),
        };
        let kind = FileType::from_raw_mode(found.st_mode);
        let flags = match kind {
            FileType::Directory if self.is_directory => AtFlags::REMOVEDIR,
            FileType::RegularFile if !self.is_directory && found.st_size == 0 && found.st_nlink == 1 => {
                AtFlags::empty()
            }
            _ => return Err(failed(Errno::STALE)),
        };
        if found.st_uid != self.uid {
            return Err(failed(Errno::STALE));
        }
        gone_is_fine(rustix::fs::unlinkat(parent, &aside, flags)).map_err(failed)?;
        Ok(false)
    }
}

/// Nobody else knows the name that it gets.
fn rename_within(parent: BorrowedFd<'_>, name: &CStr, aside: &CStr) -> Result<(), Errno> {
    let rename = || rustix::fs::renameat_with(parent, name, parent, aside, RenameFlags::NOREPLACE);
    match insist(parent, name, rename) {
        // A file system without the flag: there is nothing under that name to be replaced, or it is not renamed.
        Err(Errno::INVAL | Errno::NOSYS) => match rustix::fs::statat(parent, aside, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(_) => Err(Errno::EXIST),
            Err(Errno::NOENT) => rustix::fs::renameat(parent, name, parent, aside),
            Err(errno) => Err(errno),
        },
        result => result,
    }
}

/// What took a name in the instant before the rename gets it back; where the name is taken again, one beside it.
fn put_back(parent: BorrowedFd<'_>, aside: &CStr, name: &CStr) -> Result<(), Errno> {
    let to = |name: &CStr| rustix::fs::renameat_with(parent, aside, parent, name, RenameFlags::NOREPLACE);
    match to(name) {
        Err(Errno::EXIST) => {
            let pattern = NamePattern::new(b"replaced-", b"", 16).map_err(|_| Errno::INVAL)?;
            to(&pattern.draw()?)
        }
        result => result,
    }
}

/// Where a step is refused, what can be in its way is taken out of it, and it is done once more.
fn insist<T>(parent: BorrowedFd<'_>, name: &CStr, step: impl Fn() -> Result<T, Errno>) -> Result<T, Errno> {
    match step() {
        Err(errno @ (Errno::ACCESS | Errno::PERM)) => {
            make_removable(parent, name, errno);
            step()
        }
        result => result,
    }
}

fn gone_is_fine(result: Result<(), Errno>) -> Result<(), Errno> {
    if result == Err(Errno::NOENT) { Ok(()) } else { result }
}
