//! The guards of named areas: dropped, they remove what they guard.

use std::ffi::OsStr;
use std::fs::File;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use super::{Blocking, block};
use crate::named::Named;
use crate::{ClientError, PersistError, Replace};

/// A named file, open for reading and writing. Dropping the guard removes it, ignoring errors: the lease's end removes it in
/// any case. In a forked child dropping the guard does nothing.
#[derive(Debug)]
#[must_use = "a file is removed when its guard is dropped"]
pub struct NamedFile {
    /// The open file.
    pub file: File,
    named: Named<Blocking>,
}

/// A directory. Dropping the guard removes it with everything in it, ignoring errors: the lease's end removes it in any case.
/// In a forked child dropping the guard does nothing.
#[derive(Debug)]
#[must_use = "a directory is removed when its guard is dropped"]
pub struct Directory {
    named: Named<Blocking>,
}

impl NamedFile {
    pub(super) fn new((file, named): (File, Named<Blocking>)) -> Self {
        Self { file, named }
    }

    /// Where it is; nowhere that this process can name if its lease has no path.
    #[must_use]
    pub fn path(&self) -> Option<&Path> {
        self.named.path()
    }

    /// Its name in the directory that it is in.
    #[must_use]
    pub fn name(&self) -> &OsStr {
        self.named.name()
    }

    /// Closes and removes it. That it is gone already is no error.
    ///
    /// # Errors
    /// Those of unlinkat(2) and of the connection.
    pub fn close(self) -> Result<(), ClientError> {
        let Self { file, named } = self;
        drop(file);
        block(named.close())
    }

    /// Gives up the guard: the file stays until its lease ends.
    #[must_use]
    pub fn keep(self) -> File {
        let Self { file, named } = self;
        named.keep();
        file
    }

    /// Moves it out of its lease for good, to this name in a directory that this user may write. To another file system it is
    /// copied; at no time is there half a file under `name`. Returns the file, and whether it was copied: then it is the open
    /// file of the original, which has no name any more.
    ///
    /// # Errors
    /// With the guard, so that it can be tried elsewhere: NAME_EXISTS with [`Replace::Never`], what the kernel refuses this
    /// user, those of the connection. Where the answer was lost on the way it may be there all the same.
    #[expect(clippy::result_large_err, reason = "what could not be moved is given back")]
    pub fn persist(
        self,
        directory: impl AsFd,
        name: impl AsRef<OsStr>,
        replace: Replace,
    ) -> Result<(File, bool), PersistError<Self>> {
        let Self { file, mut named } = self;
        match block(named.persist(directory.as_fd(), name.as_ref(), replace)) {
            Ok(copied) => Ok((file, copied)),
            Err(error) => Err(PersistError { error, guard: Self { file, named } }),
        }
    }

    /// As [`Self::persist`], to a path. A relative one starts at the working directory. What was made in a directory that was named is
    /// renamed, and never copied: it stays on its file system.
    ///
    /// # Errors
    /// As there, those of opening its directory, and NotADirectory for a path that ends with a slash.
    #[expect(clippy::result_large_err, reason = "what could not be moved is given back")]
    pub fn persist_to(self, path: impl AsRef<Path>, replace: Replace) -> Result<(File, bool), PersistError<Self>> {
        let Self { file, mut named } = self;
        match block(named.persist_file_to(path.as_ref(), replace)) {
            Ok(copied) => Ok((file, copied)),
            Err(error) => Err(PersistError { error, guard: Self { file, named } }),
        }
    }

    /// Keeps it for good, beyond its lease, and says where. One in a directory that was named stays there; one in a lease's directory is
    /// moved to the first of TMPDIR, TEMP, TMP, /tmp, /var/tmp and /usr/tmp that can be written to.
    ///
    /// # Errors
    /// With the guard, as [`Self::persist_to`] with [`Replace::Never`].
    #[expect(clippy::result_large_err, reason = "what could not be moved is given back")]
    pub fn keep_for_good(self) -> Result<(File, PathBuf), PersistError<Self>> {
        let Self { file, mut named } = self;
        match block(named.keep_for_good()) {
            Ok(path) => Ok((file, path)),
            Err(error) => Err(PersistError { error, guard: Self { file, named } }),
        }
    }

    /// Opens the file once more, with a position of its own.
    ///
    /// # Errors
    /// NotFound where something else has its name; Unsupported where it has no path that this process can name; those of openat(2).
    pub fn reopen(&self) -> Result<File, ClientError> {
        self.named.open_again(&self.file)
    }
}

impl Directory {
    pub(super) fn new(named: Named<Blocking>) -> Self {
        Self { named }
    }

    /// Where it is; nowhere that this process can name if its lease has no path.
    #[must_use]
    pub fn path(&self) -> Option<&Path> {
        self.named.path()
    }

    /// Its name in the directory that it is in.
    #[must_use]
    pub fn name(&self) -> &OsStr {
        self.named.name()
    }

    /// Removes it with everything in it; returns when it is out of the name space. That it is gone already is no error.
    ///
    /// # Errors
    /// Those of the connection.
    pub fn close(self) -> Result<(), ClientError> {
        block(self.named.close())
    }

    /// Gives up the guard: the directory stays until its lease ends.
    pub fn keep(self) {
        self.named.keep();
    }

    /// Moves it with everything in it out of its lease for good, as [`NamedFile::persist`]. Returns whether it was copied.
    ///
    /// # Errors
    /// As there.
    #[expect(clippy::result_large_err, reason = "what could not be moved is given back")]
    pub fn persist(
        mut self,
        directory: impl AsFd,
        name: impl AsRef<OsStr>,
        replace: Replace,
    ) -> Result<bool, PersistError<Self>> {
        match block(self.named.persist(directory.as_fd(), name.as_ref(), replace)) {
            Ok(copied) => Ok(copied),
            Err(error) => Err(PersistError { error, guard: self }),
        }
    }

    /// As [`Self::persist`], to a path. A relative one starts at the working directory. What was made in a directory that was named is
    /// renamed, and never copied: it stays on its file system.
    ///
    /// # Errors
    /// As there, and those of opening the directory that it is moved to.
    #[expect(clippy::result_large_err, reason = "what could not be moved is given back")]
    pub fn persist_to(mut self, path: impl AsRef<Path>, replace: Replace) -> Result<bool, PersistError<Self>> {
        match block(self.named.persist_to(path.as_ref(), replace)) {
            Ok(copied) => Ok(copied),
            Err(error) => Err(PersistError { error, guard: self }),
        }
    }

    /// Keeps it for good, beyond its lease, and says where, as [`NamedFile::keep_for_good`].
    ///
    /// # Errors
    /// As there.
    #[expect(clippy::result_large_err, reason = "what could not be moved is given back")]
    pub fn keep_for_good(mut self) -> Result<PathBuf, PersistError<Self>> {
        match block(self.named.keep_for_good()) {
            Ok(path) => Ok(path),
            Err(error) => Err(PersistError { error, guard: self }),
        }
    }
}
