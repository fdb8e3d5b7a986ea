//! Whether a directory without a marker may be made a pool: only if nobody's files can be lost by it.

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use crate::FsError;
use crate::create::open_directory;
use crate::files::names;

/// Empty but for lost+found, or what a start that was cut off before its marker made: our directory with empty ones in it.
pub(crate) fn is_unused(root: &OwnedFd, path: &Path) -> Result<bool, FsError> {
    for name in names(root.as_fd(), path)? {
        let unused = match name.to_bytes() {
            b"lost+found" => true,
            b".scratch" => is_unfinished(root, path)?,
            _ => false,
        };
        if !unused {
            return Ok(false);
        }
    }
    Ok(true)
}

fn is_unfinished(root: &OwnedFd, path: &Path) -> Result<bool, FsError> {
    let inside = path.join(".scratch");
    let Ok(scratch) = open_directory(root.as_fd(), c".scratch") else { return Ok(false) };
    let found = rustix::fs::fstat(&scratch).map_err(FsError::on("look at", &inside))?;
    if found.st_uid != rustix::process::geteuid().as_raw() {
        return Ok(false);
    }
    for name in names(scratch.as_fd(), &inside)? {
        let ours = match name.to_bytes() {
            b"lock" | b"pool.new" => true,
            b"leases" | b"new" | b"trash" => open_directory(scratch.as_fd(), &name)
                .map_err(FsError::on("open", &inside))
                .and_then(|directory| Ok(names(directory.as_fd(), &inside)?.is_empty()))?,
            _ => false,
        };
        if !ours {
            return Ok(false);
        }
    }
    Ok(true)
}
