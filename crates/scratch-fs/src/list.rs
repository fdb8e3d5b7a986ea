//! The names in a directory a page at a time, in an order that does not depend on the file system.

use std::collections::BTreeMap;
use std::ffi::{CStr, CString};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd};

use rustix::fs::{AtFlags, FileType, RawDir};
use rustix::io::Errno;

use crate::FsError;
use crate::descend::{LIST, descend};

/// Names met in one listing after which it is given up: on some file systems it does not end while somebody adds names.
const NAMES_MAX: u64 = 1 << 24;

/// One name in a directory with its kind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The name as it stands in the directory.
    pub name: CString,
    /// What it is; a symbolic link is one, whatever it names. Unknown for what is gone before it could be asked.
    pub kind: FileType,
}

/// The names in a held directory that sort after `after` by their bytes, smallest first, `limit` at most. Memory is bounded
/// by `limit` whatever the directory holds; every page reads all of it. Fewer than `limit` are the last ones.
///
/// # Errors
/// Of openat(2) and getdents64(2); EOVERFLOW for more than 16 million names.
pub fn list(directory: BorrowedFd<'_>, after: Option<&[u8]>, limit: usize) -> Result<Vec<Entry>, FsError> {
    let page = smallest(directory, after, limit).map_err(FsError::on("list", "."))?;
    let entries = page.into_iter().map(|(name, kind)| {
        let kind = if kind == FileType::Unknown { kind_of(directory, &name) } else { kind };
        Entry { name, kind }
    });
    Ok(entries.collect())
}

/// A map, since a name that is renamed meanwhile may be listed twice.
fn smallest(
    directory: BorrowedFd<'_>,
    after: Option<&[u8]>,
    limit: usize,
) -> Result<BTreeMap<CString, FileType>, Errno> {
    let mut page = BTreeMap::new();
    let mut names_met = 0;
    // `.` has a position of its own, so that the caller's descriptor is left as it is.
    let own = descend(directory, c".", LIST)?;
    let mut buffer = vec![MaybeUninit::uninit(); 64 << 10];
    let mut listing = RawDir::new(own.as_fd(), &mut buffer);
    while let Some(entry) = listing.next() {
        let entry = entry?;
        let name = entry.file_name();
        names_met += 1;
        if names_met > NAMES_MAX {
            return Err(Errno::OVERFLOW);
        }
        if matches!(name.to_bytes(), b"." | b"..") || after.is_some_and(|after| name.to_bytes() <= after) {
            continue;
        }
        let full = page.len() >= limit;
        if full && page.last_key_value().is_none_or(|(last, _): (&CString, _)| name > last.as_c_str()) {
            continue;
        }
        page.insert(name.to_owned(), entry.file_type());
        if page.len() > limit {
            page.pop_last();
        }
    }
    Ok(page)
}

/// For file systems whose listings do not tell.
fn kind_of(directory: BorrowedFd<'_>, name: &CStr) -> FileType {
    let found = rustix::fs::statat(directory, name, AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT);
    found.map_or(FileType::Unknown, |found| FileType::from_raw_mode(found.st_mode))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_are_sorted_and_meet_every_name_once() {
        let root = tempfile::tempdir().unwrap();
        let held = std::fs::File::open(root.path()).unwrap();
        assert_eq!(list(held.as_fd(), None, 10).unwrap(), []);
        let names: Vec<String> = (0..100).map(|number| format!("{number}")).collect();
        for name in &names {
            std::fs::write(root.path().join(name), b"").unwrap();
        }
        let mut sorted: Vec<&[u8]> = names.iter().map(String::as_bytes).collect();
        sorted.sort_unstable();
        for limit in [1, 7, 99, 100, 101] {
            let mut met: Vec<Vec<u8>> = Vec::new();
            loop {
                let page = list(held.as_fd(), met.last().map(Vec::as_slice), limit).unwrap();
                assert!(page.len() <= limit);
                if page.is_empty() {
                    break;
                }
                met.extend(page.into_iter().map(|entry| entry.name.into_bytes()));
            }
            assert_eq!(met, sorted, "{limit} a page");
        }
        assert_eq!(list(held.as_fd(), None, 0).unwrap(), []);
        assert_eq!(list(held.as_fd(), Some(b"98x"), 5).unwrap().len(), 1, "a name that is not there is a place too");
    }

    #[test]
    fn kinds_are_told_and_links_not_followed() {
        let root = tempfile::tempdir().unwrap();
        let held = std::fs::File::open(root.path()).unwrap();
        std::fs::create_dir(root.path().join("a")).unwrap();
        std::fs::write(root.path().join("b"), b"").unwrap();
        std::os::unix::fs::symlink("a", root.path().join("c")).unwrap();
        let kinds: Vec<FileType> = list(held.as_fd(), None, 5).unwrap().iter().map(|entry| entry.kind).collect();
        assert_eq!(kinds, [FileType::Directory, FileType::RegularFile, FileType::Symlink]);
        assert_eq!(kind_of(held.as_fd(), c"c"), FileType::Symlink);
        assert_eq!(kind_of(held.as_fd(), c"d"), FileType::Unknown);
    }
}
