//! The walk that empties a trash entry: an explicit stack of held directories, every step relative to the top one, nothing
//! but unlinkat(2) and renames into the trash. It never follows a link, crosses a mount or enters another owner's
//! directory, and it ends whatever others do to the tree meanwhile. What is moved out of it is in lift.rs.

use std::ffi::{CStr, CString, OsStr};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;

use rustix::fs::{AtFlags, FileType, RawDir, SeekFrom};
use rustix::io::Errno;

use crate::FsError;
use crate::blocker::Blocker;
use crate::claim::{Claim, Unclaimed};
use crate::descend::{LIST, descend};
use crate::queue::Queue;
use crate::remove::Rights;
use crate::repair::{make_emptiable, make_removable};
use crate::trash::{Trash, TrashName};

/// Directories held at once. What lies deeper is lifted into the trash and has a walk of its own.
pub(crate) const DEPTH_MAX: usize = 32;

/// Bytes of one listing: some 2 000 names.
const BUFFER_BYTES: usize = 64 << 10;

/// How often a directory is listed that is not empty after all.
const PASSES_MAX: u32 = 3;

/// Names met in one directory after which the rest is left for another time: on some file systems a listing does not end
/// while somebody adds names.
const NAMES_MAX: u64 = 1 << 24;

/// What one thread brings to its walks.
pub(crate) struct Worker<'a> {
    pub(crate) trash: &'a Trash,
    pub(crate) rights: Rights,
    pub(crate) queue: &'a Queue,
    /// Starts the other threads, once there is enough to do for them.
    pub(crate) call_help: Option<&'a dyn Fn()>,
    pub(crate) names_removed: u64,
    buffer: Box<[MaybeUninit<u8>]>,
}

/// The walk over one entry.
pub(crate) struct Walk<'w, 'a> {
    pub(crate) worker: &'w mut Worker<'a>,
    pub(crate) entry: TrashName,
    pub(crate) claim: Claim,
    pub(crate) stack: Vec<Frame>,
    /// Cleared where sub-directories can't be lifted into the trash, as in a btrfs subvolume.
    pub(crate) can_share: bool,
    /// The first one; set as soon as anything has failed.
    failure: Option<(FsError, Blocker)>,
}

/// A directory that is being emptied.
pub(crate) struct Frame {
    pub(crate) directory: OwnedFd,
    /// Its name in the frame before it, or in the trash.
    pub(crate) name: CString,
    /// Sub-directories of the last listing, still to be entered.
    pub(crate) pending: Vec<CString>,
    names_met: u64,
    passes: u32,
    /// Something in it can't be removed, so neither can it.
    failed: bool,
    repaired: bool,
}

/// What came of the walk over an entry.
pub(crate) enum Walked {
    Gone,
    /// Something of it remains; the first error.
    Left(FsError, Blocker),
    /// The turn was over.
    Unfinished,
}

enum Listed {
    Part,
    All,
}

impl<'a> Worker<'a> {
    pub(crate) fn new(trash: &'a Trash, rights: Rights, queue: &'a Queue, call_help: Option<&'a dyn Fn()>) -> Self {
        let buffer = Box::new_uninit_slice(BUFFER_BYTES);
        Self { trash, rights, queue, call_help, names_removed: 0, buffer }
    }

    /// Removes an entry, unless the turn is over before that.
    pub(crate) fn remove(&mut self, entry: TrashName, is_over: &dyn Fn() -> bool) -> Walked {
        let claim = Claim::new(self.rights, entry.tenant);
        let mut walk = Walk { worker: self, entry, claim, stack: Vec::new(), can_share: true, failure: None };
        walk.enter(entry.to_cstring());
        walk.run(is_over)
    }

    /// Removes what is in a held directory, which stays itself: `entry` is a name that the trash does not have.
    pub(crate) fn empty(&mut self, directory: OwnedFd, entry: TrashName) {
        let claim = Claim::new(self.rights, entry.tenant);
        if claim.take(directory.as_fd()).is_ok() {
            let stack = vec![Frame::new(directory, entry.to_cstring())];
            Walk { worker: self, entry, claim, stack, can_share: true, failure: None }.run(&|| false);
        }
    }
}

impl Walk<'_, '_> {
    /// Empties and leaves what is on the stack, and all below.
    fn run(mut self, is_over: &dyn Fn() -> bool) -> Walked {
        while let Some(top) = self.stack.last_mut() {
            if is_over() {
                return Walked::Unfinished;
            }
            match top.pending.pop() {
                Some(name) => {
                    self.enter(name);
                    self.share();
                }
                None => match self.list() {
                    Ok(Listed::Part) => {}
                    Ok(Listed::All) => self.leave(),
                    Err(errno) => self.abandon(errno),
                },
            }
        }
        self.failure.map_or(Walked::Gone, |(error, blocker)| Walked::Left(error, blocker))
    }

    /// Where the names of this moment are: the top frame, or the trash.
    pub(crate) fn top(&self) -> BorrowedFd<'_> {
        self.stack.last().map_or_else(|| self.worker.trash.directory(), |frame| frame.directory.as_fd())
    }

    /// Puts a sub-directory on the stack.
    fn enter(&mut self, name: CString) {
        if self.stack.len() == DEPTH_MAX {
            return self.lift_top(&name);
        }
        match self.insist(&name, |directory, name| descend(directory, name, LIST)) {
            Ok(directory) => match self.claim.take(directory.as_fd()) {
                Ok(()) => self.stack.push(Frame::new(directory, name)),
                Err(unclaimed) => self.fail_unclaimed(&name, &unclaimed),
            },
            Err(Errno::NOENT) => {}
            // No directory, or not any more.
            Err(Errno::NOTDIR | Errno::LOOP) => self.unlink(name),
            // Out of descriptors: as if the stack were full.
            Err(Errno::MFILE | Errno::NFILE) if !self.stack.is_empty() => self.lift_top(&name),
            Err(errno) => self.fail("open directory", &name, errno),
        }
    }

    /// Reads one bufferful of the top frame and unlinks from it; sub-directories are kept for later.
    fn list(&mut self) -> Result<Listed, Errno> {
        let Some(Frame { directory, pending, names_met, .. }) = self.stack.last_mut() else {
            return Ok(Listed::All);
        };
        let mut refused = Vec::new();
        let mut listing = RawDir::new(&*directory, &mut self.worker.buffer);
        loop {
            let entry = match listing.next() {
                // ENOENT: the directory itself was removed by somebody else.
                None | Some(Err(Errno::NOENT)) => return Ok(Listed::All),
                Some(entry) => entry?,
            };
            let name = entry.file_name();
            if !matches!(name.to_bytes(), b"." | b"..") {
                *names_met += 1;
                if entry.file_type() == FileType::Directory {
                    pending.push(name.to_owned());
                } else {
                    match rustix::fs::unlinkat(&*directory, name, AtFlags::empty()) {
                        Ok(()) => self.worker.names_removed += 1,
                        Err(Errno::NOENT) => {}
                        Err(_) => refused.push(name.to_owned()),
                    }
                }
            }
            if listing.is_buffer_empty() {
                break;
            }
        }
        if *names_met > NAMES_MAX {
            return Err(Errno::NOTEMPTY);
        }
        refused.into_iter().for_each(|name| self.unlink(name));
        Ok(Listed::Part)
    }

    /// Unlinks one name that was refused, or turned out to be no directory.
    fn unlink(&mut self, name: CString) {
        match self.insist(&name, |directory, name| rustix::fs::unlinkat(directory, name, AtFlags::empty())) {
            Ok(()) => self.worker.names_removed += 1,
            Err(Errno::NOENT) => {}
            Err(errno) => match self.stack.last_mut() {
                // A directory on a file system that does not tell types, or one that was swapped in.
                Some(frame) if errno == Errno::ISDIR => frame.pending.push(name),
                _ => self.fail("unlink", &name, errno),
            },
        }
    }

    /// Removes the top frame's directory, which has been listed to its end.
    fn leave(&mut self) {
        let Some(mut frame) = self.stack.pop() else { return };
        if frame.failed {
            return self.mark_failed();
        }
        match self.insist(&frame.name, |directory, name| rustix::fs::unlinkat(directory, name, AtFlags::REMOVEDIR)) {
            Ok(()) => self.worker.names_removed += 1,
            Err(Errno::NOENT) => {}
            // Swapped for something else, which the next pass over the directory around it meets.
            Err(Errno::NOTDIR) if !self.stack.is_empty() => {}
            Err(Errno::NOTEMPTY | Errno::EXIST) if frame.list_again() => self.stack.push(frame),
            Err(errno) => self.fail("remove directory", &frame.name, errno),
        }
    }

    /// Gives the top frame up, with all that is left in it.
    fn abandon(&mut self, errno: Errno) {
        if let Some(frame) = self.stack.pop() {
            self.fail("empty directory", &frame.name, errno);
        }
    }

    /// Does a step on a name of the top frame; where it is refused, repairs what can be and does it once more.
    pub(crate) fn insist<T>(
        &mut self,
        name: &CStr,
        step: impl Fn(BorrowedFd<'_>, &CStr) -> Result<T, Errno>,
    ) -> Result<T, Errno> {
        match step(self.top(), name) {
            Err(errno @ (Errno::ACCESS | Errno::PERM)) => {
                if let Some(frame) = self.stack.last_mut().filter(|frame| !frame.repaired) {
                    frame.repaired = true;
                    make_emptiable(frame.directory.as_fd());
                }
                make_removable(self.top(), name, errno);
                step(self.top(), name)
            }
            result => result,
        }
    }

    pub(crate) fn fail_unclaimed(&mut self, name: &CStr, unclaimed: &Unclaimed) {
        match unclaimed {
            Unclaimed::Foreign => self.keep(Blocker::ForeignOwner, "take over", name, Errno::PERM),
            Unclaimed::Refused(Errno::NOENT) => {}
            Unclaimed::Refused(errno) => self.fail("take over", name, *errno),
        }
    }

    /// Notes that a name of the top frame stays.
    pub(crate) fn fail(&mut self, operation: &'static str, name: &CStr, errno: Errno) {
        self.keep(Blocker::of(self.top(), name, errno), operation, name, errno);
    }

    fn keep(&mut self, blocker: Blocker, operation: &'static str, name: &CStr, errno: Errno) {
        if self.failure.is_none() {
            let mut path = self.worker.trash.shown().to_owned();
            path.extend(self.stack.iter().map(|frame| OsStr::from_bytes(frame.name.to_bytes())));
            path.push(OsStr::from_bytes(name.to_bytes()));
            self.failure = Some((FsError::new(operation, path, errno), blocker));
        }
        self.mark_failed();
    }

    fn mark_failed(&mut self) {
        if let Some(frame) = self.stack.last_mut() {
            frame.failed = true;
        }
    }
}

impl Frame {
    fn new(directory: OwnedFd, name: CString) -> Self {
        Self { directory, name, pending: Vec::new(), names_met: 0, passes: 1, failed: false, repaired: false }
    }

    /// Goes back to the start, unless that was done often enough.
    fn list_again(&mut self) -> bool {
        self.passes += 1;
        self.passes <= PASSES_MAX && rustix::fs::seek(&self.directory, SeekFrom::Start(0)).is_ok()
    }
}
