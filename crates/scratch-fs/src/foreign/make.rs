//! Makes an area in a client's directory: written down, made under a name that only the broker knows, written down again,
//! and only then given the name that was asked for. A crash between any two steps leaves what proves whose it is.

use std::ffi::CString;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use crate::descend::{LOOK, descend};
use crate::foreign::book::ForeignBook;
use crate::foreign::entry::ForeignEntry;
use crate::foreign::node::Node;
use crate::persist::{Replace, rename};
use crate::{FsError, Naming, create_directory, create_file, open_directory};

/// An area that was made.
#[derive(Debug)]
pub struct MadeForeign {
    /// As it stands in the book.
    pub entry: ForeignEntry,
    /// A descriptor of it: a file's to read and write; a directory's to read, where that was wanted.
    pub handle: Option<OwnedFd>,
}

/// Why an area was not made.
#[derive(Debug)]
pub struct Unmade {
    /// The error.
    pub error: FsError,
    /// What could not be taken away again, and stands in the book; to be ended as any other.
    pub left: Option<Box<ForeignEntry>>,
}

impl ForeignBook {
    /// Makes the area that an entry is of, in its directory, with its tenant's rights. May block for as long as that
    /// directory's file system likes.
    ///
    /// # Errors
    /// EEXIST for an exact name that is taken, EINVAL for a directory on a file system that can't rename without replacing;
    /// those of each step.
    pub fn make(
        &self,
        parent: BorrowedFd<'_>,
        mut entry: ForeignEntry,
        naming: &Naming<'_>,
        mode: u32,
        want_handle: bool,
    ) -> Result<MadeForeign, Unmade> {
        let made = self.try_make(parent, &mut entry, naming, (mode, want_handle));
        match made {
            Ok(handle) => Ok(MadeForeign { entry, handle }),
            Err(error) => {
                let left = self.end(parent, &mut entry, true).err();
                Err(Unmade { error, left: left.map(|_| Box::new(entry)) })
            }
        }
    }

    fn try_make(
        &self,
        parent: BorrowedFd<'_>,
        entry: &mut ForeignEntry,
        naming: &Naming<'_>,
        (mode, want_handle): (u32, bool),
    ) -> Result<Option<OwnedFd>, FsError> {
        let aside = entry.aside()?;
        self.write(entry)?;
        let (file, child) = entry.as_tenant(|| {
            let file = if entry.is_directory {
                create_directory(parent, &Naming::Exact(&aside), mode)?;
                None
            } else {
                Some(create_file(parent, &Naming::Exact(&aside), mode)?.0)
            };
            let child = match &file {
                Some(file) => Node::of(file.as_fd()),
                None => descend(parent, &aside, LOOK).and_then(|held| Node::of(held.as_fd())),
            };
            Ok((file, child.map_err(|errno| FsError::new("look at", entry.shown(), errno))?))
        })?;
        entry.child = Some(child);
        let name = self.give_name(parent, entry, naming, &aside)?;
        entry.is_named = true;
        self.write(entry)?;
        if file.is_some() || !want_handle {
            return Ok(file);
        }
        let open = || open_directory(parent, &name).map_err(|errno| FsError::new("open", entry.shown(), errno));
        entry.as_tenant(open).map(Some)
    }

    /// The name is in the book before it is in the directory.
    fn give_name(
        &self,
        parent: BorrowedFd<'_>,
        entry: &mut ForeignEntry,
        naming: &Naming<'_>,
        aside: &CString,
    ) -> Result<CString, FsError> {
        let mut failed = None;
        let named = naming.make(|name| {
            entry.name = name.to_bytes().to_vec();
            let renamed = self.write(entry).and_then(|()| {
                entry.as_tenant(|| {
                    let renamed = rename(parent, aside, parent, name, Replace::Never);
                    renamed.map_err(|errno| FsError::new("name", entry.shown(), errno))
                })
            });
            renamed.map_err(|error| {
                let errno = error.errno;
                failed = Some(error);
                errno
            })
        });
        named.map(|((), name)| name).map_err(|errno| {
            // What stands under the name that was wanted is another's.
            entry.name.clear();
            failed.unwrap_or_else(|| FsError::new("draw a name in", entry.shown_as(b""), errno))
        })
    }
}
