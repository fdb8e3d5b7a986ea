//! Moves one entry out of a held directory into another for good: by a rename, or across file systems by a copy that gets
//! its name when it is whole. With the rights that the thread has; knows no leases and no trash.

mod attributes;
mod clear;
mod content;
mod draft;
mod entry;
mod project;
mod rename;
mod tree;

use std::ffi::{CStr, CString, OsStr};
use std::os::fd::BorrowedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::fs::{AtFlags, FileType, Stat};
use rustix::io::Errno;

use crate::FsError;
use crate::ladder::{Identity, identity};
use crate::persist::clear::clear;
use crate::persist::draft::Draft;
use crate::persist::project::Leaving;
pub(crate) use crate::persist::rename::rename;

/// What becomes of what stands under the new name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Replace {
    /// Nothing may stand there: EEXIST.
    Never,
    /// It is replaced as by rename(2): a directory only if it is empty, and by a directory only.
    Always,
    /// It takes the old name; ENOENT when nothing stands there.
    Exchange,
}

/// What a persist has done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Persisted {
    /// It lies on another file system (or another mount of the same one), so that the entry was copied and written to disk.
    /// After a rename durability is the caller's, as with rename(2).
    pub copied: bool,
    /// Where in the directory that it came from the original of a copy still stands, to be moved into a trash by the caller:
    /// always for a directory, for anything else only when it could not be unlinked. After an exchange this is a temporary
    /// name.
    pub source: Option<CString>,
    /// After an exchange by copies: what keeps the original of what was replaced, which has a temporary name in the target
    /// directory now, from being removed.
    pub leftover: Option<FsError>,
}

/// Moves `name` out of `from` to `new_name` in `to`. Both names are checked ones (see [`check_name`](crate::check_name)).
/// Nothing is followed, and at no time is there a part of it under `new_name`.
///
/// A copy has content (holes stay holes), mode, times, user.* attributes and POSIX ACLs of the original, as far as the file
/// system takes them; its owner is whom the kernel makes it; without that owner it loses set-user-ID and set-group-ID. Hard
/// links within a tree become files of their own. What changes while it is copied is of no single moment. Until it is whole
/// a copy has no name or one like `.scratch-h5x_0qkd7m2v9a1c`, which a crash may leave behind.
///
/// # Errors
/// Of renameat2(2); where it has to be copied, with the path from the name on:
/// - EXDEV for what is mounted in it, EOPNOTSUPP for a socket or device, EINVAL when `to` lies in it,
/// - ENOENT and ESTALE for what was taken away while it was copied,
/// - EOVERFLOW for over a million directories waiting to be copied,
/// - those of opening, reading and writing, ENOSPC and EDQUOT among them.
///
/// What was made is removed again and the original untouched; but two errors tell where things are: "sync directory" that
/// the copy and the original both stand, "exchange back" that what was under the new name has the temporary one in its path.
pub fn persist(
    from: BorrowedFd<'_>,
    name: &CStr,
    to: BorrowedFd<'_>,
    new_name: &CStr,
    replace: Replace,
) -> Result<Persisted, FsError> {
    let moved = match project::leave(from, name, to) {
        Leaving::Free(undo) => rename(from, name, to, new_name, replace).inspect_err(|_| undo.undo()),
        Leaving::Bound => Err(Errno::XDEV),
    };
    match moved {
        Ok(()) => Ok(Persisted { copied: false, source: None, leftover: None }),
        Err(Errno::XDEV) => persist_by_copy(from, name, to, new_name, replace),
        Err(errno @ (Errno::EXIST | Errno::NOTEMPTY | Errno::ISDIR | Errno::NOTDIR)) => {
            Err(FsError::new("rename", shown(new_name), errno))
        }
        Err(errno) => Err(FsError::new("rename", shown(name), errno)),
    }
}

fn persist_by_copy(
    from: BorrowedFd<'_>,
    name: &CStr,
    to: BorrowedFd<'_>,
    new_name: &CStr,
    replace: Replace,
) -> Result<Persisted, FsError> {
    let found = look(from, name)?;
    expect_room(&found, to, new_name, replace).map_err(FsError::on("copy to", shown(new_name)))?;
    let mut draft = Draft::of(from, name, to)?;
    if replace == Replace::Exchange {
        return exchange(from, name, draft, new_name);
    }
    draft.place(new_name, replace)?;
    let source = remove_source(from, name, draft.source);
    Ok(Persisted { copied: true, source, leftover: None })
}

/// Refuses what the kernel would refuse in the end, before everything is copied for nothing.
fn expect_room(source: &Stat, to: BorrowedFd<'_>, new_name: &CStr, replace: Replace) -> Result<(), Errno> {
    let is_directory = |found: &Stat| FileType::from_raw_mode(found.st_mode).is_dir();
    let there = rustix::fs::statat(to, new_name, AtFlags::SYMLINK_NOFOLLOW);
    match (replace, there) {
        (Replace::Never, Ok(_)) => Err(Errno::EXIST),
        (Replace::Exchange, Err(Errno::NOENT)) => Err(Errno::NOENT),
        (Replace::Always, Ok(there)) if is_directory(source) && !is_directory(&there) => Err(Errno::NOTDIR),
        (Replace::Always, Ok(there)) if !is_directory(source) && is_directory(&there) => Err(Errno::ISDIR),
        _ => Ok(()),
    }
}

/// First the copy and what stands under the new name change places, so that nobody can change that by its name any more;
/// then it is copied back, and its copy and the original of the first one change places.
fn exchange(from: BorrowedFd<'_>, name: &CStr, mut draft: Draft<'_>, new_name: &CStr) -> Result<Persisted, FsError> {
    let to = draft.to;
    let displaced = draft.exchange(new_name)?;
    let back = Draft::of(to, &displaced, from);
    match back.and_then(|mut back| back.exchange(name).map(|original| (back.source, original))) {
        Ok((copied_back, original)) => {
            let source = remove_source(from, &original, draft.source);
            let leftover = clear(to, &displaced, copied_back).err();
            Ok(Persisted { copied: true, source, leftover })
        }
        Err(error) => {
            draft.exchange_back(new_name)?;
            Err(renamed_in(error, &displaced, new_name))
        }
    }
}

/// The error with the name that its path begins with now.
fn renamed_in(error: FsError, name: &CStr, new_name: &CStr) -> FsError {
    match error.path.strip_prefix(shown(name)) {
        Ok(below) => FsError { path: shown(new_name).iter().chain(below).collect(), ..error },
        Err(_) => error,
    }
}

/// Unlinks the original of a copy, if it is still the one that was copied. Returns its name if it remains.
fn remove_source(from: BorrowedFd<'_>, name: &CStr, copied: Identity) -> Option<CString> {
    let found = look(from, name).ok().filter(|found| identity(found) == copied)?;
    let removed =
        !FileType::from_raw_mode(found.st_mode).is_dir() && rustix::fs::unlinkat(from, name, AtFlags::empty()).is_ok();
    (!removed).then(|| name.to_owned())
}

fn look(directory: BorrowedFd<'_>, name: &CStr) -> Result<Stat, FsError> {
    rustix::fs::statat(directory, name, AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT)
        .map_err(FsError::on("look at", shown(name)))
}

fn shown(name: &CStr) -> &Path {
    Path::new(OsStr::from_bytes(name.to_bytes()))
}
