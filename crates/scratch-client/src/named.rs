//! The duty to remove a named area, and the ways to be rid of it.

use std::ffi::{CStr, CString, OsStr};
use std::mem;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{AtFlags, RenameFlags};
use rustix::io::Errno;
use scratch_fs::NamePattern;
use scratch_proto::v1::channel_request::Op;
use scratch_proto::v1::channel_response::Result as Reply;

use crate::ClientError;
use crate::broker::Broker;
use crate::owed::release;
use crate::packet::Answer;
use crate::site::Site;
use crate::spot::Spot;
use crate::tenure::Tenure;
use crate::wait::Wait;

/// What becomes of an existing name when an area is moved there for good.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Replace {
    /// It is an error, NAME_EXISTS.
    Never,
    /// As rename(2): a file replaces a file, a directory an empty directory.
    Always,
    /// The two change places: what had the name is the area now, and ends with the lease.
    Exchange,
}

/// An area that could not be moved, and its guard: it is where it was.
#[derive(Debug, thiserror::Error)]
#[error("{error}")]
pub struct PersistError<G> {
    /// Why not.
    #[source]
    pub error: ClientError,
    /// The area.
    pub guard: G,
}

/// Who removes an area: this process by one unlink, or the broker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Maker {
    Process,
    Broker,
}

/// A directory of this user's own with an area in it.
#[derive(Debug)]
pub(crate) struct Elsewhere {
    pub(crate) held: OwnedFd,
    /// As it was named.
    pub(crate) path: PathBuf,
    /// The area's id.
    pub(crate) id: Vec<u8>,
}

/// An area under a name that nobody knows, until it gets its own back: also where nobody waits for that any more.
struct Aside<'a> {
    directory: BorrowedFd<'a>,
    own: &'a CStr,
    aside: &'a CStr,
}

/// A name under a lease and the duty to remove it.
#[derive(Debug)]
pub(crate) struct Named<W: Wait> {
    broker: Arc<Broker<W>>,
    tenure: Arc<Tenure>,
    spot: Spot,
    path: Option<PathBuf>,
    maker: Maker,
    /// Where it is, if not in the lease's directory.
    elsewhere: Option<Elsewhere>,
    /// The caller named the directory of the lease that it is in: kept, it stays there.
    is_at_home: bool,
    /// The process whose duty it is; none when the guard was given up.
    guarded_by: Option<u32>,
}

impl<W: Wait> Named<W> {
    pub(crate) fn new(broker: Arc<Broker<W>>, tenure: Arc<Tenure>, spot: Spot, maker: Maker) -> Self {
        let path = tenure.path.as_ref().map(|path| spot.below(path));
        Self {
            broker,
            tenure,
            spot,
            path,
            maker,
            elsewhere: None,
            is_at_home: false,
            guarded_by: Some(std::process::id()),
        }
    }

    /// Made by the broker in another directory than the lease's.
    pub(crate) fn elsewhere(broker: Arc<Broker<W>>, tenure: Arc<Tenure>, name: CString, place: Elsewhere) -> Self {
        let path = place.path.join(OsStr::from_bytes(name.to_bytes()));
        let mut named = Self::new(broker, tenure, Spot { inside: None, name }, Maker::Broker);
        (named.path, named.elsewhere) = (Some(path), Some(place));
        named
    }

    pub(crate) fn path(&self) -> Option<&Path> {
        self.path.as_deref()
    }

    pub(crate) fn name(&self) -> &OsStr {
        OsStr::from_bytes(self.spot.name.to_bytes())
    }

    /// Dropped before its end the guard says it again.
    pub(crate) async fn close(mut self) -> Result<(), ClientError> {
        let result = match self.unlink() {
            Some(result) => result,
            None => self.release().await,
        };
        self.guarded_by = None;
        result
    }

    pub(crate) fn keep(mut self) {
        self.guarded_by = None;
    }

    /// Whether dropping it removes the area.
    pub(crate) fn guard(&mut self, guard: bool) {
        self.guarded_by = guard.then(std::process::id);
    }

    /// The caller named the directory of the lease that it is in.
    pub(crate) fn set_at_home(&mut self) {
        self.is_at_home = true;
    }

    /// Leaves it where it is, if that is where the caller wants it.
    pub(crate) fn stay_at_home(&mut self) -> Option<PathBuf> {
        let path = self.path.clone().filter(|_| self.is_at_home)?;
        self.guarded_by = None;
        Some(path)
    }

    /// Whether it is in another directory than its lease's.
    pub(crate) fn is_elsewhere(&self) -> bool {
        self.elsewhere.is_some()
    }

    /// Has an area in another directory than its lease's stay there for good. Returns its path, which is another one only where
    /// somebody has taken the old one in between, or where the broker can't say that it has let go of it.
    pub(crate) async fn keep_there(&mut self) -> Result<PathBuf, ClientError> {
        let Some(elsewhere) = &self.elsewhere else { return Err(ClientError::Protocol("an area of its lease")) };
        // Under another name it is nobody's area; then it gets its own back.
        let aside = NamePattern::new(b"kept-", b"", 16)?;
        let aside = aside.draw().map_err(|errno| ClientError::io("draw", "a random name", errno))?;
        let path = elsewhere.path.clone();
        let moved = Aside::begin(elsewhere.held.as_fd(), &self.spot.name, &aside)
            .map_err(|errno| ClientError::io("keep", self.path().unwrap_or(&path), errno))?;
        // While the broker may still look for it under its name it must not have that.
        let is_back = if self.is_let_go().await? { moved.give_back() } else { moved.stays() };
        let name = if is_back { &self.spot.name } else { &aside };
        self.guarded_by = None;
        Ok(path.join(OsStr::from_bytes(name.to_bytes())))
    }

    /// Moves it out of the lease; says whether it had to be copied.
    pub(crate) async fn persist(
        &mut self,
        directory: BorrowedFd<'_>,
        name: &OsStr,
        replace: Replace,
    ) -> Result<bool, ClientError> {
        let name = scratch_fs::check_name(name.as_bytes())?;
        if let Some(elsewhere) = &self.elsewhere {
            if *self.spot.name == *name && is_same_directory(elsewhere.held.as_fd(), directory) {
                // Its name is the one that the broker would remove.
                let kept = self.keep_there().await?;
                let is_named = kept.file_name() == Some(self.name());
                return if is_named { Ok(false) } else { Err(ClientError::io("keep the name of", kept, Errno::BUSY)) };
            }
            self.rename_elsewhere(elsewhere, directory, &name, replace)?;
            // Under its old name the broker finds nothing of it, told or not: it is nobody's area any more.
            let _ = self.release().await;
            self.guarded_by = None;
            return Ok(false);
        }
        let site = Site::of(&self.broker, &self.tenure);
        let copied = site.persist_spot(&self.spot, directory, name, replace).await?;
        self.guarded_by = None;
        Ok(copied)
    }

    /// Whose directory it is, theirs is the rename; what it changes places with would be nobody's area.
    fn rename_elsewhere(
        &self,
        elsewhere: &Elsewhere,
        directory: BorrowedFd<'_>,
        name: &CStr,
        replace: Replace,
    ) -> Result<(), ClientError> {
        if replace == Replace::Exchange {
            return Err(ClientError::io("exchange", elsewhere.path.as_path(), Errno::OPNOTSUPP));
        }
        let shown = self.path().unwrap_or(&elsewhere.path);
        rustix::fs::renameat_with(&elsewhere.held, &self.spot.name, directory, name, replace.flags())
            .map_err(|errno| ClientError::io("rename", shown, errno))
    }

    /// Removes it, if that is up to this process.
    fn unlink(&self) -> Option<Result<(), ClientError>> {
        if self.maker == Maker::Broker {
            return None;
        }
        let directory = match self.tenure.beneath(self.spot.inside.as_deref())? {
            Ok(directory) => directory,
            // It went with the directory that it was in.
            Err(Errno::NOENT | Errno::NOTDIR) => return Some(Ok(())),
            Err(_) => return None,
        };
        Some(match rustix::fs::unlinkat(directory, &self.spot.name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(errno) => Err(ClientError::io("remove", self.path().unwrap_or_else(|| Path::new("")), errno)),
        })
    }

    async fn release(&self) -> Result<(), ClientError> {
        match self.broker.call_under(&self.tenure.id, self.release_op(), &[]).await {
            Ok(answer) if matches!(answer.reply, Reply::Release(_)) => Ok(()),
            Ok(_) => Err(ClientError::Protocol("no answer to Release")),
            // It went with its lease.
            Err(error) if error.is_refusal("LEASE_UNKNOWN") => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Releases an area that the broker can't find, and says whether it will look for it no more.
    async fn is_let_go(&self) -> Result<bool, ClientError> {
        match self.broker.call(self.release_op(), &[]).await {
            Ok(Answer { reply: Reply::Release(released), .. }) => Ok(released.existed && released.debt.is_empty()),
            Ok(_) => Err(ClientError::Protocol("no answer to Release")),
            // It ends with its lease, now or later.
            Err(error) if error.is_refusal("LEASE_UNKNOWN") => Ok(false),
            Err(error) => Err(error),
        }
    }

    fn release_op(&self) -> Op {
        let id = self.elsewhere.as_ref().map_or_else(|| self.spot.id(), |elsewhere| elsewhere.id.clone());
        release(&self.tenure.id, id)
    }
}

impl<'a> Aside<'a> {
    fn begin(directory: BorrowedFd<'a>, own: &'a CStr, aside: &'a CStr) -> Result<Self, Errno> {
        rustix::fs::renameat_with(directory, own, directory, aside, RenameFlags::NOREPLACE)?;
        Ok(Self { directory, own, aside })
    }

    /// Whether it has its own name again.
    fn give_back(self) -> bool {
        let is_back = self.rename_back();
        mem::forget(self);
        is_back
    }

    /// It is not to have it again.
    fn stays(self) -> bool {
        mem::forget(self);
        false
    }

    fn rename_back(&self) -> bool {
        rustix::fs::renameat_with(self.directory, self.aside, self.directory, self.own, RenameFlags::NOREPLACE).is_ok()
    }
}

impl Drop for Aside<'_> {
    fn drop(&mut self) {
        // Ignoring: somebody has taken its name, and it stays where it is.
        self.rename_back();
    }
}

impl<W: Wait> Drop for Named<W> {
    fn drop(&mut self) {
        // Ignoring errors: nobody can be told here, and the area ends with its lease.
        if mem::take(&mut self.guarded_by) == Some(std::process::id()) && self.unlink().is_none() {
            W::let_go(&self.broker, self.release_op());
        }
    }
}

/// Where that can't be told they are not.
fn is_same_directory(one: BorrowedFd<'_>, other: BorrowedFd<'_>) -> bool {
    let place = |directory| rustix::fs::fstat(directory).map(|found| (found.st_dev, found.st_ino));
    place(one).is_ok_and(|one| place(other).is_ok_and(|other| one == other))
}
