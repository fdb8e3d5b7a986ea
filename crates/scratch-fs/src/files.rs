//! Small files of the broker's own, read and written whole; and the names in a directory.

use std::ffi::{CStr, CString};
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use crate::FsError;
use crate::record::RECORD_BYTES_MAX;

/// For a file that is written anew.
pub(crate) const WRITE_NEW: OFlags =
    OFlags::WRONLY.union(OFlags::CREATE).union(OFlags::TRUNC).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// Writes a small file whole, by a rename.
pub(crate) fn replace(directory: &OwnedFd, name: &CStr, bytes: &[u8]) -> Result<(), Errno> {
    let fresh = CString::new([name.to_bytes(), b".new"].concat()).expect("names in here have no NUL");
    let file = rustix::fs::openat(directory, &fresh, WRITE_NEW, Mode::RUSR | Mode::WUSR)?;
    write_all(file, bytes)?;
    rustix::fs::renameat(directory, &fresh, directory, name)
}

/// Writes all of a new file.
pub(crate) fn write_all(file: OwnedFd, bytes: &[u8]) -> Result<(), Errno> {
    File::from(file).write_all(bytes).map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))
}

/// Reads a small file, at most as long as a record may be.
pub(crate) fn read_small(directory: &OwnedFd, name: &CStr) -> Result<Vec<u8>, Errno> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = rustix::fs::openat(directory, name, flags, Mode::empty())?;
    let mut bytes = Vec::new();
    File::from(file)
        .take(RECORD_BYTES_MAX as u64)
        .read_to_end(&mut bytes)
        .map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))?;
    Ok(bytes)
}

/// The names in a directory, without `.` and `..`, from its beginning whatever was read before.
pub(crate) fn names(directory: BorrowedFd<'_>, shown: &Path) -> Result<Vec<CString>, FsError> {
    let mut names = Vec::new();
    for entry in rustix::fs::Dir::read_from(directory).map_err(FsError::on("list", shown))? {
        let entry = entry.map_err(FsError::on("list", shown))?;
        if !matches!(entry.file_name().to_bytes(), b"." | b"..") {
            names.push(entry.file_name().to_owned());
        }
    }
    Ok(names)
}
