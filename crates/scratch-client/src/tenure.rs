//! What is known of a lease, by its guard and by the guards of areas under it.

use std::ffi::{CStr, OsString};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use scratch_fs::open_directory_beneath;
use scratch_proto::v1::GrantResponse;

use crate::spot::check_directory;

#[derive(Debug)]
pub(crate) struct Tenure {
    pub(crate) id: String,
    pub(crate) path: Option<PathBuf>,
    pub(crate) generation: u64,
    pub(crate) note: String,
    /// The ids of its first holders, in the order they were asked for.
    pub(crate) holders: Vec<u32>,
    directory: OnceLock<Option<OwnedFd>>,
}

/// A directory of a lease.
#[derive(Debug)]
pub(crate) enum Opened<'a> {
    /// The lease's own.
    Own(BorrowedFd<'a>),
    /// One below it.
    Below(OwnedFd),
}

impl Tenure {
    pub(crate) fn new(granted: GrantResponse) -> Self {
        let GrantResponse { id, path, generation, note, holders, .. } = granted;
        let path = (!path.is_empty()).then(|| PathBuf::from(OsString::from_vec(path)));
        let holders = holders.into_iter().map(|holder| holder.id).collect();
        Self { id, path, generation, note, holders, directory: OnceLock::new() }
    }

    /// The lease's directory, if this process can open it and it is its own: then it needs nobody to make files in it.
    pub(crate) fn directory(&self) -> Option<BorrowedFd<'_>> {
        let open = || {
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let directory = rustix::fs::open(self.path.as_ref()?, flags, Mode::empty()).ok()?;
            // In another name space the same path may be somebody else's.
            let owner = rustix::fs::fstat(&directory).ok()?.st_uid;
            (owner == rustix::process::geteuid().as_raw()).then_some(directory)
        };
        self.directory.get_or_init(open).as_ref().map(AsFd::as_fd)
    }

    /// The same for a directory below it, which is never left on the way: no symbolic link, no mount. None where the lease's own
    /// can't be opened.
    pub(crate) fn beneath(&self, inside: Option<&CStr>) -> Option<Result<Opened<'_>, Errno>> {
        let directory = self.directory()?;
        Some(match inside {
            None => Ok(Opened::Own(directory)),
            Some(path) => open_directory_beneath(directory, path).map(Opened::Below),
        })
    }

    /// The way from the lease's directory to this one, empty if they are one: where it is named by a path that begins with the
    /// lease's, and leads there without a link.
    pub(crate) fn way_to(&self, directory: &Path) -> Option<PathBuf> {
        let below = directory.strip_prefix(self.path.as_ref()?).ok()?;
        // Without `.` and doubled slashes, as the broker takes it.
        let way: PathBuf = below.components().collect();
        if way.as_os_str().is_empty() {
            return Some(way);
        }
        let path = check_directory(&way).ok()?;
        self.beneath(Some(&path))?.is_ok().then_some(way)
    }
}

impl AsFd for Opened<'_> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Own(directory) => *directory,
            Self::Below(directory) => directory.as_fd(),
        }
    }
}
