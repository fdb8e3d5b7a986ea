//! A file with a name, and its guard.

use std::ffi::OsStr;
use std::fmt;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::path::{Path, PathBuf};

use super::Builder;
use super::path::{PathPersistError, TempPath};

/// A file, open for reading and writing, mode 0600 unless the [`Builder`] says otherwise; or what [`Builder::make`] made.
/// Dropping it removes the name, ignoring errors: the lease's end removes it in any case. In a forked child dropping it does
/// nothing.
#[must_use = "the file is removed when this is dropped"]
pub struct NamedTempFile<F = File> {
    path: TempPath,
    file: F,
}

/// A file that could not be moved, and its guard: it is where it was.
pub struct PersistError<F = File> {
    /// Why not.
    pub error: io::Error,
    /// The file.
    pub file: NamedTempFile<F>,
}

impl NamedTempFile {
    /// Makes one under the lease of this process.
    ///
    /// # Errors
    /// Those of the file system and of the connection.
    pub fn new() -> io::Result<Self> {
        Builder::new().tempfile()
    }

    /// Makes one in a directory of this user's own.
    ///
    /// # Errors
    /// As [`Builder::tempfile_in`].
    pub fn new_in(dir: impl AsRef<Path>) -> io::Result<Self> {
        Builder::new().tempfile_in(dir)
    }

    /// As [`Self::new`], with this before the random characters.
    ///
    /// # Errors
    /// As there; InvalidInput for what can't be in a name.
    pub fn with_prefix(prefix: impl AsRef<OsStr>) -> io::Result<Self> {
        Builder::new().prefix(&prefix).tempfile()
    }

    /// As [`Self::new_in`], with this before the random characters.
    ///
    /// # Errors
    /// As there; InvalidInput for what can't be in a name.
    pub fn with_prefix_in(prefix: impl AsRef<OsStr>, dir: impl AsRef<Path>) -> io::Result<Self> {
        Builder::new().prefix(&prefix).tempfile_in(dir)
    }

    /// As [`Self::new`], with this after the random characters.
    ///
    /// # Errors
    /// As there; InvalidInput for what can't be in a name.
    pub fn with_suffix(suffix: impl AsRef<OsStr>) -> io::Result<Self> {
        Builder::new().suffix(&suffix).tempfile()
    }

    /// As [`Self::new_in`], with this after the random characters.
    ///
    /// # Errors
    /// As there; InvalidInput for what can't be in a name.
    pub fn with_suffix_in(suffix: impl AsRef<OsStr>, dir: impl AsRef<Path>) -> io::Result<Self> {
        Builder::new().suffix(&suffix).tempfile_in(dir)
    }

    /// Opens the file once more, with a position of its own.
    ///
    /// # Errors
    /// NotFound where something else has its name; those of openat(2).
    pub fn reopen(&self) -> io::Result<File> {
        Ok(self.path.open_again(&self.file)?)
    }
}

impl<F> NamedTempFile<F> {
    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.path.as_path()
    }

    /// Closes and removes it. That it is gone already is no error.
    ///
    /// # Errors
    /// As [`TempPath::close`].
    pub fn close(self) -> io::Result<()> {
        let Self { path, file } = self;
        drop(file);
        path.close()
    }

    /// Moves the file out of its lease for good; what is there under that name is replaced. At no time is there half a file
    /// under `new_path`. On the way to another file system it is copied, and what is returned is the open file of the original.
    ///
    /// # Errors
    /// With the guard, as [`TempPath::persist`].
    #[expect(clippy::result_large_err, reason = "what could not be moved is given back")]
    pub fn persist(self, new_path: impl AsRef<Path>) -> Result<F, PersistError<F>> {
        let Self { path, file } = self;
        match path.persist(new_path) {
            Ok(()) => Ok(file),
            Err(refused) => Err(PersistError::of(refused, file)),
        }
    }

    /// As [`Self::persist`], and replaces nothing.
    ///
    /// # Errors
    /// As there, and AlreadyExists.
    #[expect(clippy::result_large_err, reason = "what could not be moved is given back")]
    pub fn persist_noclobber(self, new_path: impl AsRef<Path>) -> Result<F, PersistError<F>> {
        let Self { path, file } = self;
        match path.persist_noclobber(new_path) {
            Ok(()) => Ok(file),
            Err(refused) => Err(PersistError::of(refused, file)),
        }
    }

    /// Keeps the file for good, and says where: see [`TempPath::keep`].
    ///
    /// # Errors
    /// With the guard, as there.
    #[expect(clippy::result_large_err, reason = "what could not be moved is given back")]
    pub fn keep(self) -> Result<(F, PathBuf), PersistError<F>> {
        let Self { path, file } = self;
        match path.keep() {
            Ok(path) => Ok((file, path)),
            Err(refused) => Err(PersistError::of(refused, file)),
        }
    }

    /// As [`TempPath::disable_cleanup`].
    pub fn disable_cleanup(&mut self, disable_cleanup: bool) {
        self.path.disable_cleanup(disable_cleanup);
    }

    /// What is open.
    pub fn as_file(&self) -> &F {
        &self.file
    }

    /// What is open.
    pub fn as_file_mut(&mut self) -> &mut F {
        &mut self.file
    }

    /// Removes the name, and gives what is open.
    #[must_use]
    pub fn into_file(self) -> F {
        self.file
    }

    /// Closes the file, and gives the guard of its name.
    pub fn into_temp_path(self) -> TempPath {
        self.path
    }

    /// What is open, and the guard of its name.
    pub fn into_parts(self) -> (F, TempPath) {
        (self.file, self.path)
    }

    /// The reverse of [`Self::into_parts`].
    pub fn from_parts(file: F, path: TempPath) -> Self {
        Self { path, file }
    }
}

impl<F> PersistError<F> {
    fn of(PathPersistError { error, path }: PathPersistError, file: F) -> Self {
        Self { error, file: NamedTempFile { path, file } }
    }
}

impl<F> fmt::Debug for NamedTempFile<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("NamedTempFile").field(&self.path.as_path()).finish()
    }
}

impl<F> fmt::Debug for PersistError<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PersistError").field("error", &self.error).field("file", &self.file).finish()
    }
}

impl<F> fmt::Display for PersistError<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.error.fmt(f)
    }
}

impl<F> std::error::Error for PersistError<F> {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.error)
    }
}

impl<F> From<PersistError<F>> for io::Error {
    fn from(error: PersistError<F>) -> Self {
        error.error
    }
}

impl<F> From<PersistError<F>> for NamedTempFile<F> {
    fn from(error: PersistError<F>) -> Self {
        error.file
    }
}

/// Only of a reference: given away by value it would be dropped, and the file gone, before its path is used.
impl<F> AsRef<Path> for &NamedTempFile<F> {
    fn as_ref(&self) -> &Path {
        self.path.as_path()
    }
}

impl<F: AsFd> AsFd for NamedTempFile<F> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

impl<F: AsRawFd> AsRawFd for NamedTempFile<F> {
    fn as_raw_fd(&self) -> RawFd {
        self.file.as_raw_fd()
    }
}

impl<F: Read> Read for NamedTempFile<F> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.file.read(buffer)
    }

    fn read_vectored(&mut self, buffers: &mut [io::IoSliceMut<'_>]) -> io::Result<usize> {
        self.file.read_vectored(buffers)
    }

    fn read_to_end(&mut self, buffer: &mut Vec<u8>) -> io::Result<usize> {
        self.file.read_to_end(buffer)
    }

    fn read_to_string(&mut self, buffer: &mut String) -> io::Result<usize> {
        self.file.read_to_string(buffer)
    }
}

impl<F: Write> Write for NamedTempFile<F> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file.write(bytes)
    }

    fn write_vectored(&mut self, buffers: &[io::IoSlice<'_>]) -> io::Result<usize> {
        self.file.write_vectored(buffers)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

impl<F: Seek> Seek for NamedTempFile<F> {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        self.file.seek(to)
    }
}

impl Read for &NamedTempFile {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        (&self.file).read(buffer)
    }
}

impl Write for &NamedTempFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        (&self.file).write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        (&self.file).flush()
    }
}

impl Seek for &NamedTempFile {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        (&self.file).seek(to)
    }
}
