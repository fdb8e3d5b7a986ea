//! Finds a client's directory again after a restart: where it was, or wherever it is by its file handle. Whatever is found
//! has to be the one that was written down.

use std::ffi::OsStr;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::fs::{CWD, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;
use scratch_sys::FileHandle;

use crate::FsError;
use crate::foreign::entry::ForeignEntry;
use crate::foreign::node::Node;

/// How a client's directory is held: names can be made, looked at and removed in it, as far as the tenant may.
const HOLD: OFlags = OFlags::PATH.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// What came of looking for a directory.
#[derive(Debug)]
pub enum FoundParent {
    /// It is there.
    There(OwnedFd),
    /// It is gone, with all that was in it.
    Gone,
}

impl ForeignEntry {
    /// Takes hold of a directory that a client has passed, on the mount that it was passed from, and writes down which one
    /// it is. May block for as long as that directory's file system likes.
    ///
    /// # Errors
    /// ENOTDIR; EACCES where the tenant may not search it.
    pub fn hold_parent(&mut self, passed: &OwnedFd) -> Result<OwnedFd, FsError> {
        let shown =
            rustix::fs::readlink(format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(passed)), Vec::new());
        // Without /proc there is no hint.
        self.path = shown.map(std::ffi::CString::into_bytes).unwrap_or_default();
        let (held, parent) = self.as_tenant(|| {
            let failed = |errno| FsError::new("open foreign directory", self.shown_as(b""), errno);
            let held = rustix::fs::openat(passed, c".", HOLD, Mode::empty()).map_err(failed)?;
            let parent = Node::of_parent(held.as_fd()).map_err(failed)?;
            Ok((held, parent))
        })?;
        self.parent = Some(parent);
        Ok(held)
    }

    /// Finds the directory again. May block for as long as file systems on the way like.
    ///
    /// # Errors
    /// When it is neither found nor known to be gone.
    pub fn find_parent(&self, same_boot: bool) -> Result<FoundParent, FsError> {
        let failed = |errno| FsError::new("find foreign directory", self.shown_as(b""), errno);
        let Some(wanted) = &self.parent else { return Err(failed(Errno::INVAL)) };
        if wanted.is_memory && !same_boot {
            return Ok(FoundParent::Gone);
        }
        let by_path = self.as_tenant(|| {
            let held = open_path(Path::new(OsStr::from_bytes(&self.path)), HOLD).map_err(failed)?;
            let found = Node::of_parent(held.as_fd()).map_err(failed)?;
            let is_it = wanted.is_anywhere(&found, same_boot) == Some(true);
            if is_it { Ok(held) } else { Err(failed(Errno::STALE)) }
        });
        match by_path {
            Ok(held) => Ok(FoundParent::There(held)),
            // The broker's own right, which no tenant has; what is done there is done with the tenant's.
            Err(error) => self.find_by_handle(wanted, same_boot).unwrap_or(Err(error)),
        }
    }

    /// None where handles lead nowhere: then the path's word counts.
    fn find_by_handle(&self, wanted: &Node, same_boot: bool) -> Option<Result<FoundParent, FsError>> {
        if wanted.handle.is_empty() {
            return None;
        }
        let mounted = self.on_its_file_system(wanted, same_boot)?;
        let handle = FileHandle { kind: wanted.handle_kind, bytes: wanted.handle.clone() };
        match scratch_sys::open_by_handle(mounted.as_fd(), &handle, HOLD) {
            // Only the file system that gave the handle out can say that it is gone.
            Err(Errno::STALE) if !wanted.uuid.is_empty() => Some(Ok(FoundParent::Gone)),
            Err(_) => None,
            Ok(held) => {
                let found = Node::of_parent(held.as_fd()).ok()?;
                (wanted.is_anywhere(&found, same_boot) == Some(true)).then_some(Ok(FoundParent::There(held)))
            }
        }
    }

    /// Some directory above the one that is looked for, still on its file system.
    fn on_its_file_system(&self, wanted: &Node, same_boot: bool) -> Option<OwnedFd> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let path = Path::new(OsStr::from_bytes(&self.path));
        path.ancestors().find_map(|above| {
            let opened = open_path(above, flags).ok()?;
            let found = Node::of_parent(opened.as_fd()).ok()?;
            let is_on_it = if !wanted.uuid.is_empty() && !found.uuid.is_empty() {
                // Numbers of devices are given again, in one boot too.
                found.uuid == wanted.uuid && (!same_boot || found.device == wanted.device)
            } else if same_boot {
                found.device == wanted.device
            } else {
                wanted.file_system != 0 && found.file_system == wanted.file_system
            };
            is_on_it.then_some(opened)
        })
    }
}

/// The way that was written down had no links in it, so that one that has is another.
fn open_path(path: &Path, flags: OFlags) -> Result<OwnedFd, Errno> {
    if !path.is_absolute() {
        return Err(Errno::NOENT);
    }
    let resolve = ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    rustix::fs::openat2(CWD, path, flags, Mode::empty(), resolve)
}
