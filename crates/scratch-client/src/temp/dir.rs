//! The guard of a directory.

use std::ffi::OsStr;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use super::Builder;
use crate::blocking::{Blocking, block};
use crate::named::Named;
use crate::{ClientError, PersistError, Replace};

/// A directory, mode 0700 unless the [`Builder`] says otherwise. Dropping it removes it with everything in it, ignoring errors:
/// the lease's end removes it in any case. In a forked child dropping it does nothing.
#[must_use = "a directory is removed when its guard is dropped"]
pub struct TempDir {
    path: PathBuf,
    named: Named<Blocking>,
}

impl TempDir {
    pub(crate) fn of(named: Named<Blocking>) -> Result<Self, ClientError> {
        let no_path = || ClientError::io("name a directory of", "a lease without a path", rustix::io::Errno::OPNOTSUPP);
        let path = named.path().ok_or_else(no_path)?;
        Ok(Self { path: path.to_owned(), named })
    }

    /// Makes one under the lease of this process.
    ///
    /// # Errors
    /// Those of the file system and of the connection.
    pub fn new() -> io::Result<Self> {
        Builder::new().tempdir()
    }

    /// Makes one in a directory of this user's own.
    ///
    /// # Errors
    /// As [`Builder::tempdir_in`].
    pub fn new_in(dir: impl AsRef<Path>) -> io::Result<Self> {
        Builder::new().tempdir_in(dir)
    }

    /// As [`Self::new`], with this before the random characters.
    ///
    /// # Errors
    /// As there; InvalidInput for what can't be in a name.
    pub fn with_prefix(prefix: impl AsRef<OsStr>) -> io::Result<Self> {
        Builder::new().prefix(&prefix).tempdir()
    }

    /// As [`Self::new_in`], with this before the random characters.
    ///
    /// # Errors
    /// As there; InvalidInput for what can't be in a name.
    pub fn with_prefix_in(prefix: impl AsRef<OsStr>, dir: impl AsRef<Path>) -> io::Result<Self> {
        Builder::new().prefix(&prefix).tempdir_in(dir)
    }

    /// As [`Self::new`], with this after the random characters.
    ///
    /// # Errors
    /// As there; InvalidInput for what can't be in a name.
    pub fn with_suffix(suffix: impl AsRef<OsStr>) -> io::Result<Self> {
        Builder::new().suffix(&suffix).tempdir()
    }

    /// As [`Self::new_in`], with this after the random characters.
    ///
    /// # Errors
    /// As there; InvalidInput for what can't be in a name.
    pub fn with_suffix_in(suffix: impl AsRef<OsStr>, dir: impl AsRef<Path>) -> io::Result<Self> {
        Builder::new().suffix(&suffix).tempdir_in(dir)
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Removes it with everything in it; returns when it is out of the name space. That it is gone already is no error.
    ///
    /// # Errors
    /// Those of the connection.
    pub fn close(self) -> io::Result<()> {
        Ok(block(self.named.close())?)
    }

    /// Keeps it for good, and says where, as [`TempPath::keep`](super::TempPath::keep).
    ///
    /// # Errors
    /// With the guard, as [`Self::persist`].
    #[expect(clippy::result_large_err, reason = "what could not be moved is given back")]
    pub fn keep(mut self) -> Result<PathBuf, PersistError<Self>> {
        match block(self.named.keep_for_good()) {
            Ok(path) => Ok(path),
            Err(error) => Err(PersistError { error, guard: self }),
        }
    }

    /// Moves it with everything in it out of its lease for good. With [`Replace::Always`] an empty directory of that name is
    /// replaced; with [`Replace::Exchange`] the two change places in one step, and what had the name goes with the lease. To
    /// another file system it is copied, and has its name when it is whole.
    ///
    /// # Errors
    /// With the guard: AlreadyExists with [`Replace::Never`], what the kernel refuses this user, those of the connection.
    #[expect(clippy::result_large_err, reason = "what could not be moved is given back")]
    pub fn persist(mut self, new_path: impl AsRef<Path>, replace: Replace) -> Result<(), PersistError<Self>> {
        match block(self.named.persist_to(new_path.as_ref(), replace)) {
            Ok(_) => Ok(()),
            Err(error) => Err(PersistError { error, guard: self }),
        }
    }

    /// With `true` dropping this removes nothing: the directory stays until its lease ends. To have it longer, use
    /// [`Self::keep`] or [`Self::persist`].
    pub fn disable_cleanup(&mut self, disable_cleanup: bool) {
        self.named.guard(!disable_cleanup);
    }
}

/// Only of a reference: given away by value it would be dropped, and the directory gone, before its path is used.
impl AsRef<Path> for &TempDir {
    fn as_ref(&self) -> &Path {
        &self.path
    }
}

impl fmt::Debug for TempDir {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TempDir").field("path", &self.path).finish()
    }
}
