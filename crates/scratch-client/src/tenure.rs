//! What is known of a lease, by its guard and by the guards of areas under it.

use std::ffi::OsString;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;
use std::sync::OnceLock;

use rustix::fs::{Mode, OFlags};
use scratch_proto::v1::GrantResponse;

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
}
