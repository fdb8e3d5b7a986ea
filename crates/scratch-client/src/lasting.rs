//! Areas that stay for good, by path; and opening a file once more.

use std::ffi::OsStr;
use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, Mode, OFlags};
use rustix::io::Errno;
use scratch_fs::{first_usable_directory, temporary_directory_candidates};

use crate::connect::variable;
use crate::named::Named;
use crate::wait::Wait;
use crate::{ClientError, Replace};

impl<W: Wait> Named<W> {
    /// Moves a directory to a path for good; says whether it had to be copied.
    pub(crate) async fn persist_to(&mut self, to: &Path, replace: Replace) -> Result<bool, ClientError> {
        // `a/.` would have the name `a` here. To rename(2) it is none.
        let last = to.as_os_str().as_bytes().split(|byte| *byte == b'/').rfind(|part| !part.is_empty());
        let name = to.file_name().filter(|_| last != Some(b".".as_slice()));
        let name = name.ok_or_else(|| ClientError::io("persist to", to, Errno::INVAL))?;
        let parent = to.parent().filter(|parent| !parent.as_os_str().is_empty());
        self.persist_in(parent.unwrap_or_else(|| Path::new(".")), name, replace).await
    }

    /// The same for what is no directory. As rename(2) has it, only a directory is named with a slash at the end.
    pub(crate) async fn persist_file_to(&mut self, to: &Path, replace: Replace) -> Result<bool, ClientError> {
        if to.file_name().is_some() && to.as_os_str().as_bytes().ends_with(b"/") {
            let is_taken = replace == Replace::Never && rustix::fs::lstat(to).is_ok();
            let errno = if is_taken { Errno::EXIST } else { Errno::NOTDIR };
            return Err(ClientError::io("persist to", to, errno));
        }
        self.persist_to(to, replace).await
    }

    /// Has it stay for good; says where. One in a lease's directory would go with that, and is moved, unless
    /// that is where the caller wants it.
    pub(crate) async fn keep_for_good(&mut self) -> Result<PathBuf, ClientError> {
        if self.is_elsewhere() {
            return self.keep_there().await;
        }
        if let Some(path) = self.stay_at_home() {
            return Ok(path);
        }
        let directory = first_usable_directory(&temporary_directory_candidates(variable))?;
        let name = self.name().to_owned();
        self.persist_in(&directory, &name, Replace::Never).await?;
        Ok(directory.join(name))
    }

    /// Opens the file once more that `own` is.
    pub(crate) fn open_again(&self, own: &File) -> Result<File, ClientError> {
        let path = self.path().ok_or_else(|| ClientError::io("reopen", self.name(), Errno::OPNOTSUPP))?;
        let failed = |errno| ClientError::io("reopen", path, errno);
        // NONBLOCK: what has taken its name may be a pipe.
        let flags = OFlags::RDWR | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let again = rustix::fs::openat(CWD, path, flags, Mode::empty()).map_err(failed)?;
        let [found, expected] = [rustix::fs::fstat(&again), rustix::fs::fstat(own)];
        let (found, expected) = (found.map_err(failed)?, expected.map_err(failed)?);
        if (found.st_dev, found.st_ino) == (expected.st_dev, expected.st_ino) {
            Ok(again.into())
        } else {
            Err(failed(Errno::NOENT))
        }
    }

    async fn persist_in(&mut self, directory: &Path, name: &OsStr, replace: Replace) -> Result<bool, ClientError> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let held: OwnedFd = match rustix::fs::open(directory, flags, Mode::empty()) {
            // One that may be written to and not listed.
            Err(Errno::ACCESS) => rustix::fs::open(directory, flags | OFlags::PATH, Mode::empty()),
            opened => opened,
        }
        .map_err(|errno| ClientError::io("open directory", directory, errno))?;
        self.persist(held.as_fd(), name, replace).await
    }
}
