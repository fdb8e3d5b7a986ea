//! What went wrong in the file system: operation, path and errno, kept as values.

use std::io;
use std::path::{Path, PathBuf};

use rustix::io::Errno;

/// One failed operation.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{operation} {}: {errno}", .path.display())]
pub struct FsError {
    /// What was tried, as a verb: "create", "rename into trash".
    pub operation: &'static str,
    /// Where, as far as it is known; for messages only, never opened.
    pub path: PathBuf,
    /// What the kernel answered.
    pub errno: Errno,
}

impl FsError {
    /// An error of this operation.
    pub fn new(operation: &'static str, path: impl AsRef<Path>, errno: Errno) -> Self {
        Self { operation, path: path.as_ref().to_owned(), errno }
    }

    /// For `map_err` on a system call.
    pub fn on<'a>(operation: &'static str, path: &'a (impl AsRef<Path> + ?Sized)) -> impl FnOnce(Errno) -> Self + 'a {
        move |errno| Self::new(operation, path, errno)
    }
}

impl From<FsError> for io::Error {
    fn from(error: FsError) -> Self {
        Self::new(io::Error::from(error.errno).kind(), error)
    }
}
