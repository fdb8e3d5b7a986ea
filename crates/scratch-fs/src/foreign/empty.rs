//! Empties a held directory with the rights that the thread has, and needs nothing for that: no new name, no inode, no block.
//! The directory is a trash to itself: what is in it is renamed within it, and removed as any ended tree is.

use std::ffi::{CStr, OsStr};
use std::mem::MaybeUninit;
use std::num::NonZeroUsize;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::fs::{AtFlags, FileType, Mode, RawDir, SeekFrom};
use rustix::io::Errno;
use scratch_lease::LeaseId;

use crate::blocker::Blocker;
use crate::repair::{make_emptiable, make_removable};
use crate::trash::{Trash, TrashName};
use crate::{FsError, Rights, remove};

const BUFFER_BYTES: usize = 64 << 10;

/// Directories that are noted before they are removed.
const NOTED_MAX: usize = 4096;

/// Names met in one directory after which the rest is left for another time: somebody may be adding to it.
const NAMES_MAX: u64 = 1 << 24;

/// Removes all that is in a directory; the first that can't be removed is told, the rest is removed all the same.
pub(crate) fn empty(directory: OwnedFd, shown: &Path, tenant: u32, lease: LeaseId) -> Result<(), (FsError, Blocker)> {
    let failed = |errno| {
        let blocker = match errno {
            Errno::BUSY => Blocker::Busy,
            Errno::ACCESS | Errno::PERM => Blocker::Permission,
            _ => Blocker::Other,
        };
        (FsError::new("empty", shown, errno), blocker)
    };
    if !rustix::fs::fstat(&directory).is_ok_and(|found| Mode::from_raw_mode(found.st_mode).contains(Mode::RWXU)) {
        make_emptiable(directory.as_fd());
    }
    let trash = Trash::within(directory, shown).map_err(failed)?;
    let (mut first, mut names_met) = (None, 0);
    loop {
        let found = unlink_files(&trash, (tenant, lease), &mut first, &mut names_met);
        let (trees, all) = found.map_err(failed)?;
        for tree in &trees {
            let left = remove(&trash, *tree, Rights::Own, NonZeroUsize::MIN).left;
            first = first.or_else(|| left.into_iter().next().map(|left| (left.error, left.blocker)));
        }
        if all || first.is_some() {
            return first.map_or(Ok(()), Err);
        }
    }
}

/// One listing: what is no directory is unlinked, directories get a tree's name and are noted. True: that was all.
fn unlink_files(
    trash: &Trash,
    (tenant, lease): (u32, LeaseId),
    first: &mut Option<(FsError, Blocker)>,
    names_met: &mut u64,
) -> Result<(Vec<TrashName>, bool), Errno> {
    let directory = trash.directory();
    rustix::fs::seek(directory, SeekFrom::Start(0))?;
    let mut buffer = Box::new_uninit_slice(BUFFER_BYTES);
    let mut listing = RawDir::new(directory, &mut *buffer as &mut [MaybeUninit<u8>]);
    let mut trees = Vec::new();
    while let Some(entry) = listing.next() {
        let entry = entry?;
        let name = entry.file_name();
        if matches!(name.to_bytes(), b"." | b"..") {
            continue;
        }
        *names_met += 1;
        if *names_met > NAMES_MAX {
            return Err(Errno::BUSY);
        }
        if trees.len() == NOTED_MAX {
            return Ok((trees, false));
        }
        // Renamed just now, or lifted out of its tree by a try that was cut short.
        if let Some(tree) = TrashName::parse(name.to_bytes()).filter(|tree| tree.lease == lease) {
            trees.push(tree);
            continue;
        }
        let mut done = match entry.file_type() {
            FileType::Directory => trash.rename(directory, name, tenant, lease).map(Some),
            _ => unlink(directory, name).map(|()| None),
        };
        // A file system that does not tell types.
        if done == Err(Errno::ISDIR) {
            done = trash.rename(directory, name, tenant, lease).map(Some);
        }
        match done {
            Ok(tree) => trees.extend(tree),
            Err(Errno::NOENT) => {}
            Err(errno) => {
                let error = FsError::new("remove", trash.shown().join(OsStr::from_bytes(name.to_bytes())), errno);
                first.get_or_insert_with(|| (error, Blocker::of(directory, name, errno)));
            }
        }
    }
    trees.sort_unstable();
    trees.dedup();
    Ok((trees, true))
}

fn unlink(directory: BorrowedFd<'_>, name: &CStr) -> Result<(), Errno> {
    match rustix::fs::unlinkat(directory, name, AtFlags::empty()) {
        Err(errno @ (Errno::ACCESS | Errno::PERM)) => {
            make_emptiable(directory);
            make_removable(directory, name, errno);
            rustix::fs::unlinkat(directory, name, AtFlags::empty())
        }
        result => result,
    }
}
