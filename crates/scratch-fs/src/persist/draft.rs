//! A copy on its way: complete before it gets its name, gone if it never does.

use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, Stat};
use rustix::io::Errno;

use crate::create::NEW_FILE;
use crate::descend::{LIST, LOOK, descend};
use crate::ladder::{Identity, identity};
use crate::persist::attributes::make_private;
use crate::persist::clear::clear;
use crate::persist::content::Content;
use crate::persist::entry::{OWNER, copy_special, fill, open_source};
use crate::persist::rename::rename;
use crate::persist::tree::copy_tree;
use crate::persist::{Replace, look, shown};
use crate::{FsError, NamePattern, Naming};

/// What was copied into a directory. When dropped, what has its temporary name still is removed.
pub(super) struct Draft<'a> {
    pub(super) to: BorrowedFd<'a>,
    /// The temporary name; none for a file that has no name so far.
    name: Option<CString>,
    made: OwnedFd,
    identity: Identity,
    /// What it is a copy of.
    pub(super) source: Identity,
}

impl<'a> Draft<'a> {
    /// Copies `name` with all below it, and sees it written to disk.
    pub(super) fn of(from: BorrowedFd<'_>, name: &CStr, to: BorrowedFd<'a>) -> Result<Self, FsError> {
        match FileType::from_raw_mode(look(from, name)?.st_mode) {
            FileType::RegularFile => Self::of_file(from, name, to),
            FileType::Directory => Self::of_directory(from, name, to),
            _ => Self::of_special(from, name, to),
        }
    }

    fn of_file(from: BorrowedFd<'_>, name: &CStr, to: BorrowedFd<'a>) -> Result<Self, FsError> {
        let (source, found) = open_source(from, name).map_err(FsError::on("open", shown(name)))?;
        let error = |errno| FsError::new("copy", shown(name), errno);
        let (made, temporary) = create(to).map_err(error)?;
        let draft = Self::new(to, temporary, made, &found).map_err(error)?;
        make_private(draft.made.as_fd(), OWNER)
            .and_then(|()| fill(&mut Content::default(), source.as_fd(), &found, draft.made.as_fd()))
            .and_then(|()| rustix::fs::fsync(&draft.made))
            .map_err(error)?;
        Ok(draft)
    }

    fn of_directory(from: BorrowedFd<'_>, name: &CStr, to: BorrowedFd<'a>) -> Result<Self, FsError> {
        let source = descend(from, name, LIST).map_err(FsError::on("open directory", shown(name)))?;
        let found = rustix::fs::fstat(&source).map_err(FsError::on("look at", shown(name)))?;
        let error = |errno| FsError::new("copy directory", shown(name), errno);
        let make = |temporary: &CStr| rustix::fs::mkdirat(to, temporary, Mode::RWXU);
        let ((), temporary) = temporary_names().make(make).map_err(error)?;
        let made = hold(to, &temporary, LIST, AtFlags::REMOVEDIR).map_err(error)?;
        let draft = Self::new(to, Some(temporary), made, &found).map_err(error)?;
        make_private(draft.made.as_fd(), Mode::RWXU).map_err(error)?;
        copy_tree(source, name, draft.made.as_fd())?;
        rustix::fs::syncfs(&draft.made).map_err(FsError::on("sync", shown(name)))?;
        Ok(draft)
    }

    fn of_special(from: BorrowedFd<'_>, name: &CStr, to: BorrowedFd<'a>) -> Result<Self, FsError> {
        let error = |errno| FsError::new("copy", shown(name), errno);
        let (found, temporary) = temporary_names().make(|new| copy_special(from, name, to, new)).map_err(error)?;
        let made = hold(to, &temporary, LOOK, AtFlags::empty()).map_err(error)?;
        Self::new(to, Some(temporary), made, &found).map_err(error)
    }

    fn new(to: BorrowedFd<'a>, name: Option<CString>, made: OwnedFd, source: &Stat) -> Result<Self, Errno> {
        let found = rustix::fs::fstat(&made)?;
        Ok(Self { to, name, made, identity: identity(&found), source: identity(source) })
    }

    /// Gives it its name for good.
    pub(super) fn place(&mut self, new_name: &CStr, replace: Replace) -> Result<(), FsError> {
        self.rename(new_name, replace).map_err(FsError::on("rename copy to", shown(new_name)))?;
        self.name = None;
        self.sync_directory()
    }

    /// Changes places with what stands under `new_name`. Returns the temporary name, which that has now.
    pub(super) fn exchange(&mut self, new_name: &CStr) -> Result<CString, FsError> {
        self.rename(new_name, Replace::Exchange).map_err(FsError::on("exchange copy with", shown(new_name)))?;
        if let Err(error) = self.sync_directory() {
            self.exchange_back(new_name)?;
            return Err(error);
        }
        Ok(self.name.clone().expect("it was renamed from there"))
    }

    /// Undoes an [`Self::exchange`]: what was displaced has its name again.
    pub(super) fn exchange_back(&mut self, new_name: &CStr) -> Result<(), FsError> {
        self.rename(new_name, Replace::Exchange).map_err(|errno| {
            let displaced = self.name.as_deref().unwrap_or(new_name);
            FsError::new("exchange back", shown(displaced), errno)
        })
    }

    fn rename(&mut self, new_name: &CStr, replace: Replace) -> Result<(), Errno> {
        let temporary = match &self.name {
            Some(name) => name,
            None if replace == Replace::Never => return link(self.made.as_fd(), self.to, new_name),
            None => {
                let ((), name) = temporary_names().make(|name| link(self.made.as_fd(), self.to, name))?;
                self.name.insert(name)
            }
        };
        rename(self.to, temporary, self.to, new_name, replace)
    }

    fn sync_directory(&self) -> Result<(), FsError> {
        match descend(self.to, c".", LIST).and_then(rustix::fs::fsync) {
            // A directory that takes names and does not show them.
            Err(Errno::ACCESS) => rustix::fs::syncfs(&self.made),
            // A file system that has no such thing.
            Err(Errno::INVAL) => Ok(()),
            result => result,
        }
        .map_err(FsError::on("sync directory", "."))
    }
}

impl Drop for Draft<'_> {
    fn drop(&mut self) {
        if let Some(name) = &self.name {
            // Best effort: the error that is told is the one that came first.
            let _ = clear(self.to, name, self.identity);
        }
    }
}

/// Opens what was just made; where that fails, it is removed again in the way it has to be.
fn hold(to: BorrowedFd<'_>, temporary: &CStr, flags: OFlags, remove: AtFlags) -> Result<OwnedFd, Errno> {
    descend(to, temporary, flags).inspect_err(|_| {
        // Best effort: the error that is told is the one that came first.
        let _ = rustix::fs::unlinkat(to, temporary, remove);
    })
}

/// An empty file without a name where the file system has such, else with a temporary one.
fn create(to: BorrowedFd<'_>) -> Result<(OwnedFd, Option<CString>), Errno> {
    match rustix::fs::openat(to, c".", OFlags::WRONLY | OFlags::TMPFILE | OFlags::CLOEXEC, OWNER) {
        // What kernels answer whose file system has none.
        Err(Errno::OPNOTSUPP | Errno::ISDIR | Errno::NOENT) => create_named(to),
        result => Ok((result?, None)),
    }
}

fn create_named(to: BorrowedFd<'_>) -> Result<(OwnedFd, Option<CString>), Errno> {
    let (made, name) = temporary_names().make(|name| rustix::fs::openat(to, name, NEW_FILE, OWNER))?;
    Ok((made, Some(name)))
}

/// Gives a file without a name its first one.
fn link(made: BorrowedFd<'_>, to: BorrowedFd<'_>, name: &CStr) -> Result<(), Errno> {
    match rustix::fs::linkat(made, c"", to, name, AtFlags::EMPTY_PATH) {
        // Before Linux 6.10 that needs a capability; the road through a name of our own descriptor does not.
        Err(Errno::NOENT) => {
            let through = format!("/proc/self/fd/{}", made.as_raw_fd());
            rustix::fs::linkat(CWD, through, to, name, AtFlags::SYMLINK_FOLLOW)
        }
        result => result,
    }
}

fn temporary_names() -> Naming<'static> {
    Naming::Random(NamePattern::new(b".scratch-", b"", 16).expect("the pattern is a valid one"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn with_and_without_a_name_from_the_start_the_outcome_is_the_same() {
        for create in [create, create_named] {
            for replace in [Replace::Never, Replace::Always, Replace::Exchange] {
                for taken in [false, true] {
                    let root = tempfile::tempdir().unwrap();
                    let held = fs::File::open(root.path()).unwrap();
                    let (made, name) = create(held.as_fd()).unwrap();
                    rustix::io::write(&made, b"new").unwrap();
                    if taken {
                        fs::write(root.path().join("file"), "old").unwrap();
                    }
                    let found = rustix::fs::fstat(&made).unwrap();
                    let mut draft = Draft::new(held.as_fd(), name, made, &found).unwrap();
                    let placed = match replace {
                        Replace::Exchange => draft.exchange(c"file").and_then(|_| draft.exchange_back(c"file")),
                        _ => draft.place(c"file", replace),
                    };
                    drop(draft);
                    let (errno, content) = match (replace, taken) {
                        (Replace::Never, true) => (Some(Errno::EXIST), Some("old")),
                        (Replace::Exchange, true) => (None, Some("old")),
                        (Replace::Exchange, false) => (Some(Errno::NOENT), None),
                        _ => (None, Some("new")),
                    };
                    assert_eq!(placed.err().map(|error| error.errno), errno, "{replace:?} {taken}");
                    assert_eq!(fs::read_to_string(root.path().join("file")).ok().as_deref(), content);
                    assert_eq!(fs::read_dir(root.path()).unwrap().count(), usize::from(content.is_some()));
                }
            }
        }
    }
}
