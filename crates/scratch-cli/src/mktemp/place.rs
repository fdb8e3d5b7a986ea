//! Makes the file or directory, in the lease's directory or below it, and nowhere else.

use std::ffi::{CString, OsStr};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Component, Path, PathBuf};

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use scratch_client::{AreaOptions, ClientError, Directory, Lease, NamedFile};
use scratch_fs::{FsError, NamePattern, Naming};

use super::template::{Place, Plan};
use crate::failure::Failure;
use crate::surrounding::lease_id;

/// What was made. Dropped, it is removed, but below the lease's directory: that goes with the lease.
#[derive(Debug)]
pub(super) enum Made {
    File(NamedFile),
    Directory(Directory),
    Below(PathBuf),
}

impl Made {
    pub(super) fn path(&self) -> Option<&Path> {
        match self {
            Self::File(file) => file.path(),
            Self::Directory(directory) => directory.path(),
            Self::Below(path) => Some(path),
        }
    }

    pub(super) fn keep(self) {
        match self {
            Self::File(file) => drop(file.keep()),
            Self::Directory(directory) => directory.keep(),
            Self::Below(_) => {}
        }
    }
}

/// Refuses what can't be in any lease, before one is granted.
pub(super) fn refuse_outside(place: &Place) -> Result<(), Failure> {
    let Place::Named(directory) = place else { return Ok(()) };
    let real = real_path(directory)?;
    let names_lease = |component: Component<'_>| lease_id(component.as_os_str()).is_some();
    if real.components().any(names_lease) { Ok(()) } else { Err(Failure::Outside(directory.clone())) }
}

/// Makes it.
pub(super) fn make(lease: &Lease, plan: &Plan, is_directory: bool) -> Result<Made, Failure> {
    let root = lease.path().ok_or(Failure::NoDirectory)?;
    let relative = match &plan.place {
        Place::Lease(relative) if relative.as_os_str().is_empty() => PathBuf::new(),
        Place::Lease(relative) => below(root, &root.join(relative))?,
        Place::Named(directory) => below(root, directory)?,
    };
    if !relative.as_os_str().is_empty() {
        return Ok(Made::Below(make_below(root, &relative, plan, is_directory)?));
    }
    let options = AreaOptions {
        prefix: plan.prefix.clone(),
        suffix: plan.suffix.clone(),
        random_chars: plan.random_chars,
        ..AreaOptions::default()
    };
    Ok(match is_directory {
        true => Made::Directory(lease.directory(&options)?),
        false => Made::File(lease.file(&options)?),
    })
}

/// The way from the lease's directory to this one, if it leads down.
fn below(root: &Path, directory: &Path) -> Result<PathBuf, Failure> {
    let real = real_path(directory)?;
    let relative = real.strip_prefix(real_path(root)?).map(Path::to_owned);
    relative.map_err(|_| Failure::Outside(directory.to_owned()))
}

fn real_path(directory: &Path) -> Result<PathBuf, Failure> {
    let errno = |error: std::io::Error| Errno::from_io_error(&error).unwrap_or(Errno::IO);
    let real = directory.canonicalize();
    Ok(real.map_err(|error| ClientError::from(FsError::new("look at", directory, errno(error))))?)
}

/// In a directory of the lease that this process can open: what is found there is never followed.
fn make_below(root: &Path, relative: &Path, plan: &Plan, is_directory: bool) -> Result<PathBuf, ClientError> {
    let shown = root.join(relative);
    let held = open_below(root, relative).map_err(FsError::on("open", &shown))?;
    let pattern = NamePattern::new(plan.prefix.as_bytes(), plan.suffix.as_bytes(), plan.random_chars)?;
    let naming = Naming::Random(pattern);
    let name = match is_directory {
        true => scratch_fs::create_directory(held.as_fd(), &naming, 0o700)?,
        false => scratch_fs::create_file(held.as_fd(), &naming, 0o600)?.1,
    };
    Ok(shown.join(OsStr::from_bytes(name.to_bytes())))
}

fn open_below(root: &Path, relative: &Path) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let root = rustix::fs::open(root, flags, Mode::empty())?;
    let relative = CString::new(relative.as_os_str().to_owned().into_vec()).map_err(|_| Errno::INVAL)?;
    scratch_fs::open_directory_beneath(root.as_fd(), &relative)
}
