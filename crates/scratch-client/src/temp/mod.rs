//! Temporary files under the names that users of the `tempfile` crate know, on a lease of this process: gone when it ends,
//! however it ends.
//!
//! ```
//! use std::io::Write;
//!
//! # fn main() -> std::io::Result<()> {
//! let mut file = scratch_client::temp::NamedTempFile::new()?;
//! writeln!(file, "a draft")?;
//! # let target = scratch_client::temp::TempDir::new()?;
//! # let report = target.path().join("report");
//! file.persist(&report)?;
//! assert_eq!(std::fs::read_to_string(&report)?, "a draft\n");
//! # Ok(())
//! # }
//! ```
//!
//! No client is needed, and no lease: [`client`] is connected at first use and grants one. [`Builder::under`] makes things under
//! another one. What is different from the crate, and how to change a program over, is in [`migration`].

mod builder;
mod dir;
mod file;
mod path;
mod place;
mod spooled;

use std::fs::File;
use std::io;
use std::path::Path;

pub use builder::Builder;
pub use dir::TempDir;
pub use file::{NamedTempFile, PersistError};
pub use path::{PathPersistError, TempPath};
use place::Place;
pub(crate) use place::Under;
pub use place::client;
pub use spooled::{SpooledData, SpooledTempFile};

#[doc = include_str!("../../../../docs/migrating-from-tempfile.md")]
pub mod migration {}

/// Makes a file without a name under the lease of this process.
///
/// # Errors
/// Those of the file system and of the connection.
pub fn tempfile() -> io::Result<File> {
    Ok(Place::default().anonymous()?)
}

/// Makes a file without a name in a directory of this user's own. The kernel frees it with its last descriptor, and no broker is
/// asked.
///
/// # Errors
/// Those of openat(2).
pub fn tempfile_in(dir: impl AsRef<Path>) -> io::Result<File> {
    Ok(Place::default().in_directory(dir.as_ref()).anonymous()?)
}

/// As [`TempDir::new`].
///
/// # Errors
/// As there.
pub fn tempdir() -> io::Result<TempDir> {
    TempDir::new()
}

/// As [`TempDir::new_in`].
///
/// # Errors
/// As there.
pub fn tempdir_in(dir: impl AsRef<Path>) -> io::Result<TempDir> {
    TempDir::new_in(dir)
}

/// As [`SpooledTempFile::new`].
#[must_use]
pub fn spooled_tempfile(max_size: usize) -> SpooledTempFile {
    SpooledTempFile::new(max_size)
}

/// As [`SpooledTempFile::new_in`].
#[must_use]
pub fn spooled_tempfile_in(max_size: usize, dir: impl AsRef<Path>) -> SpooledTempFile {
    SpooledTempFile::new_in(max_size, dir)
}
