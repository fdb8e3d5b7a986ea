//! `.scratch/foreign`: a file for each area in a client's directory, whole and on disk before anything is made. What it names
//! outlives a boot, unlike all else in a pool.

use std::ffi::{CStr, CString};
use std::fs::File;
use std::io::Write;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use prost::Message;
use rustix::fs::{AtFlags, Mode};
use rustix::io::Errno;
use scratch_lease::LeaseId;

use crate::files::{WRITE_NEW, names, read_small};
use crate::foreign::entry::ForeignEntry;
use crate::record::{checked, with_checksum};
use crate::{FsError, Torn, open_directory};

/// An entry as a start finds it: whose it is, its number, and what it says.
pub type FoundForeign = (LeaseId, u32, Result<ForeignEntry, Torn>);

/// The entries of one pool.
#[derive(Debug)]
pub struct ForeignBook {
    directory: OwnedFd,
    shown: PathBuf,
}

impl ForeignBook {
    /// Opens `foreign` below `.scratch`, made if missing. `shown` is its path in messages.
    ///
    /// # Errors
    /// Of mkdirat(2) and openat(2).
    pub fn open(scratch: BorrowedFd<'_>, shown: &Path) -> Result<Self, FsError> {
        match rustix::fs::mkdirat(scratch, c"foreign", Mode::RWXU) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(errno) => return Err(FsError::new("make", shown, errno)),
        }
        let directory = open_directory(scratch, c"foreign").map_err(FsError::on("open", shown))?;
        Ok(Self { directory, shown: shown.to_owned() })
    }

    pub(crate) fn directory(&self) -> BorrowedFd<'_> {
        self.directory.as_fd()
    }

    /// Whether a name in it is the broker's.
    pub(crate) fn knows(name: &[u8]) -> bool {
        parse(name.strip_suffix(b".new").unwrap_or(name)).is_some()
    }

    /// Writes an entry whole, and has it on disk.
    ///
    /// # Errors
    /// Of any step; the entry before it is there then, if there was one.
    pub fn write(&self, entry: &ForeignEntry) -> Result<(), FsError> {
        let written = name(&entry.lease, entry.number).ok_or(Errno::INVAL).and_then(|name| self.replace(&name, entry));
        written.map_err(FsError::on("write down an area in", &self.shown))
    }

    /// Forgets an entry: nothing is left of it.
    ///
    /// # Errors
    /// Of unlinkat(2); a missing entry is none.
    pub fn drop_entry(&self, lease: LeaseId, number: u32) -> Result<(), FsError> {
        let name = name(lease.as_str(), number).ok_or_else(|| FsError::new("drop", &self.shown, Errno::INVAL))?;
        match rustix::fs::unlinkat(&self.directory, name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(errno) => Err(FsError::new("drop an entry of", &self.shown, errno)),
        }
    }

    /// One of them; None where there is none.
    ///
    /// # Errors
    /// When it can't be read.
    pub fn entry(&self, lease: LeaseId, number: u32) -> Result<Option<Result<ForeignEntry, Torn>>, FsError> {
        let Some(name) = name(lease.as_str(), number) else { return Ok(None) };
        match read_small(&self.directory, &name) {
            Ok(bytes) => Ok(Some(read(lease, number, &bytes))),
            Err(Errno::NOENT) => Ok(None),
            Err(errno) => Err(FsError::new("read an entry of", &self.shown, errno)),
        }
    }

    /// All of them, before any is written. What a crash has left half written is no entry, and goes.
    ///
    /// # Errors
    /// When the directory can't be listed or an entry can't be read.
    pub fn entries(&self) -> Result<Vec<FoundForeign>, FsError> {
        let mut found = Vec::new();
        for name in names(self.directory.as_fd(), &self.shown)? {
            if name.to_bytes().strip_suffix(b".new").and_then(parse).is_some() {
                self.drop_fresh(&name);
            }
            if let Some((lease, number)) = parse(name.to_bytes())
                && let Some(entry) = self.entry(lease, number)?
            {
                found.push((lease, number, entry));
            }
        }
        found.sort_unstable_by_key(|(lease, number, _)| (*lease, *number));
        Ok(found)
    }

    fn replace(&self, name: &CString, entry: &ForeignEntry) -> Result<(), Errno> {
        let fresh = CString::new([name.to_bytes(), b".new"].concat()).map_err(|_| Errno::INVAL)?;
        let errno = |error: std::io::Error| Errno::from_io_error(&error).unwrap_or(Errno::IO);
        let file = rustix::fs::openat(&self.directory, &fresh, WRITE_NEW, Mode::RUSR | Mode::WUSR)?;
        let mut file = File::from(file);
        let written = file.write_all(&with_checksum(&entry.encode_to_vec())).and_then(|()| file.sync_all());
        let renamed = written
            .map_err(errno)
            .and_then(|()| rustix::fs::renameat(&self.directory, &fresh, &self.directory, name))
            .inspect_err(|_| self.drop_fresh(&fresh));
        renamed.and_then(|()| rustix::fs::fsync(&self.directory))
    }

    /// Half an entry: where it can't be removed, the next start tries again.
    fn drop_fresh(&self, fresh: &CStr) {
        let _ = rustix::fs::unlinkat(&self.directory, fresh, AtFlags::empty());
    }
}

fn read(lease: LeaseId, number: u32, bytes: &[u8]) -> Result<ForeignEntry, Torn> {
    let entry = ForeignEntry::decode(checked(bytes)?).map_err(|_| Torn)?;
    if entry.lease == lease.as_str() && entry.number == number { Ok(entry) } else { Err(Torn) }
}

fn name(lease: &str, number: u32) -> Option<CString> {
    let lease: LeaseId = lease.parse().ok()?;
    CString::new(format!("{lease}.{number}")).ok()
}

fn parse(name: &[u8]) -> Option<(LeaseId, u32)> {
    let (lease, number) = std::str::from_utf8(name).ok()?.split_once('.')?;
    let found = (lease.parse().ok()?, number.parse().ok()?);
    // Integers also parse with `+` and leading zeros, which would be two names of one thing.
    (format!("{}.{}", found.0, found.1).as_bytes() == name).then_some(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEASE: &str = "abcdefghijklmnop";

    #[test]
    fn entries_are_written_whole_found_again_and_dropped() {
        let directory = tempfile::tempdir().unwrap();
        let scratch = File::open(directory.path()).unwrap();
        let inside = directory.path().join("foreign");
        let book = ForeignBook::open(scratch.as_fd(), &inside).unwrap();
        let lease: LeaseId = LEASE.parse().unwrap();
        let entry = |number, name: &str| ForeignEntry {
            lease: LEASE.into(),
            number,
            name: name.into(),
            ..ForeignEntry::default()
        };
        for number in [12, 3] {
            book.write(&entry(number, "first")).unwrap();
        }
        book.write(&entry(3, "second")).unwrap();
        for other in ["abcdefghijklmnop.3.new", "abcdefghijklmnop.03", "abcdefghijklmnop", "x.1"] {
            std::fs::write(inside.join(other), "").unwrap();
        }
        let found = book.entries().unwrap();
        assert_eq!(found, [(lease, 3, Ok(entry(3, "second"))), (lease, 12, Ok(entry(12, "first")))]);
        assert!(!inside.join("abcdefghijklmnop.3.new").exists(), "half an entry stays");
        assert!(inside.join("x.1").exists(), "and what is none of the broker's goes");
        std::fs::rename(inside.join("abcdefghijklmnop.3"), inside.join("abcdefghijklmnop.4")).unwrap();
        assert_eq!(book.entry(lease, 4), Ok(Some(Err(Torn))), "an entry under another's name is none");
        assert_eq!(book.entry(lease, 3), Ok(None));
        book.drop_entry(lease, 12).unwrap();
        book.drop_entry(lease, 12).unwrap();
        assert_eq!(book.entry(lease, 12), Ok(None));
    }
}
