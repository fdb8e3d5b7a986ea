//! A place under a lease: a name, and the directory that it is in where that is not the lease's own.

use std::ffi::{CString, OsStr};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use scratch_fs::NameError;

/// Names alone, none of which leads out of the lease.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Spot {
    /// Below the lease's directory; absent: that one itself.
    pub(crate) inside: Option<CString>,
    pub(crate) name: CString,
}

impl Spot {
    /// What has this path below a lease's directory.
    ///
    /// # Errors
    /// For what is no path of plain names.
    pub(crate) fn at(path: &Path) -> Result<Self, NameError> {
        let (inside, name) = scratch_fs::split_area_path(path.as_os_str().as_bytes())?;
        Ok(Self { inside, name })
    }

    /// As the broker knows it: its path below the lease's directory.
    pub(crate) fn id(&self) -> Vec<u8> {
        match &self.inside {
            Some(inside) => [inside.to_bytes(), b"/", self.name.to_bytes()].concat(),
            None => self.name.to_bytes().to_vec(),
        }
    }

    /// Where it is, in a lease with this directory.
    pub(crate) fn below(&self, directory: &Path) -> PathBuf {
        directory.join(OsStr::from_bytes(&self.id()))
    }
}

/// The directory of an area, as the broker takes it.
///
/// # Errors
/// For what is no path of plain names, as a whole or in part.
pub(crate) fn check_directory(path: &Path) -> Result<CString, NameError> {
    scratch_fs::split_area_path(path.as_os_str().as_bytes())?;
    CString::new(path.as_os_str().as_bytes()).map_err(|_| NameError::Nul)
}
