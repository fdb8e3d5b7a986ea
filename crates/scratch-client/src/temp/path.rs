//! The guard of a name: dropped, it removes what has it.

use std::ffi::OsStr;
use std::fmt;
use std::fs::File;
use std::io;
use std::ops::Deref;
use std::path::{Path, PathBuf};

use rustix::io::Errno;

use crate::blocking::{Blocking, block};
use crate::named::Named;
use crate::{ClientError, Replace};

/// A named file or socket of which no descriptor is held here. Dropping it removes the file, ignoring errors: the lease's end
/// removes it in any case. In a forked child dropping it does nothing.
#[must_use = "the file is removed when this is dropped"]
pub struct TempPath {
    path: PathBuf,
    named: Named<Blocking>,
}

/// A file that could not be moved, and its guard: it is where it was.
#[derive(Debug, thiserror::Error)]
#[error("{error}")]
pub struct PathPersistError {
    /// Why not.
    #[source]
    pub error: io::Error,
    /// The file.
    pub path: TempPath,
}

impl TempPath {
    /// A lease may have no path that this process can name: then there is no file with a path under it.
    pub(crate) fn new(named: Named<Blocking>) -> Result<Self, ClientError> {
        let path = named.path().ok_or_else(|| ClientError::io("name a file of", "a lease without a path", NO_PATH))?;
        Ok(Self { path: path.to_owned(), named })
    }

    /// Removes the file. That it is gone already is no error.
    ///
    /// # Errors
    /// Those of unlinkat(2) and of the connection.
    pub fn close(self) -> io::Result<()> {
        Ok(block(self.named.close())?)
    }

    /// Moves the file out of its lease for good; what is there under that name is replaced. To another file system it is
    /// copied, and has its name when it is whole.
    ///
    /// # Errors
    /// With the guard: what the kernel refuses this user, those of the connection.
    #[expect(clippy::result_large_err, reason = "what could not be moved is given back")]
    pub fn persist(self, new_path: impl AsRef<Path>) -> Result<(), PathPersistError> {
        self.persist_as(new_path.as_ref(), Replace::Always)
    }

    /// As [`Self::persist`], and replaces nothing.
    ///
    /// # Errors
    /// As there, and AlreadyExists.
    #[expect(clippy::result_large_err, reason = "what could not be moved is given back")]
    pub fn persist_noclobber(self, new_path: impl AsRef<Path>) -> Result<(), PathPersistError> {
        self.persist_as(new_path.as_ref(), Replace::Never)
    }

    /// Keeps the file for good, and says where. One in a directory that was named stays there; one in a lease's directory is
    /// moved to the first of TMPDIR, TEMP, TMP, /tmp, /var/tmp and /usr/tmp that can be written to, as it would go with its lease.
    ///
    /// # Errors
    /// As [`Self::persist_noclobber`].
    #[expect(clippy::result_large_err, reason = "what could not be moved is given back")]
    pub fn keep(mut self) -> Result<PathBuf, PathPersistError> {
        match block(self.named.keep_for_good()) {
            Ok(path) => Ok(path),
            Err(error) => Err(PathPersistError { error: error.into(), path: self }),
        }
    }

    /// With `true` dropping this does not remove the file: it stays until its lease ends. To have it longer, use
    /// [`Self::keep`] or [`Self::persist`].
    pub fn disable_cleanup(&mut self, disable_cleanup: bool) {
        self.named.guard(!disable_cleanup);
    }

    #[expect(clippy::result_large_err, reason = "what could not be moved is given back")]
    fn persist_as(mut self, new_path: &Path, replace: Replace) -> Result<(), PathPersistError> {
        match block(self.named.persist_file_to(new_path, replace)) {
            Ok(_) => Ok(()),
            Err(error) => Err(PathPersistError { error: error.into(), path: self }),
        }
    }

    pub(crate) fn open_again(&self, own: &File) -> Result<File, ClientError> {
        self.named.open_again(own)
    }

    pub(crate) fn as_path(&self) -> &Path {
        &self.path
    }
}

/// What is said of a lease that has no path.
const NO_PATH: Errno = Errno::OPNOTSUPP;

impl Deref for TempPath {
    type Target = Path;

    fn deref(&self) -> &Path {
        &self.path
    }
}

/// Only of a reference: given away by value it would be dropped, and the file gone, before its path is used.
impl AsRef<Path> for &TempPath {
    fn as_ref(&self) -> &Path {
        &self.path
    }
}

/// As an argument of a program, only of a reference too.
impl AsRef<OsStr> for &TempPath {
    fn as_ref(&self) -> &OsStr {
        self.path.as_os_str()
    }
}

impl fmt::Debug for TempPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.path.fmt(f)
    }
}

impl From<PathPersistError> for io::Error {
    fn from(error: PathPersistError) -> Self {
        error.error
    }
}

impl From<PathPersistError> for TempPath {
    fn from(error: PathPersistError) -> Self {
        error.path
    }
}
