//! Makes the file or directory: in the lease's directory or below it by itself, anywhere else through the broker, which
//! takes it away again.

use std::ffi::{CString, OsStr};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use scratch_client::{AreaOptions, ClientError, Directory, Lease, NamedFile};
use scratch_fs::{FsError, NamePattern, Naming};

use super::template::{Place, Plan};
use crate::failure::Failure;

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

/// Refuses what is not there, before a lease is granted.
pub(super) fn look(place: &Place) -> Result<(), Failure> {
    match place {
        Place::Named(directory) => real_path(directory).map(drop),
        Place::Lease(_) => Ok(()),
    }
}

/// Makes it.
pub(super) fn make(lease: &Lease, plan: &Plan, is_directory: bool) -> Result<Made, Failure> {
    let root = lease.path().ok_or(Failure::NoDirectory)?;
    let relative = match &plan.place {
        Place::Lease(relative) if relative.as_os_str().is_empty() => Some(PathBuf::new()),
        Place::Lease(relative) => below(root, &root.join(relative))?,
        Place::Named(directory) => below(root, directory)?,
    };
    let options = AreaOptions {
        prefix: plan.prefix.clone(),
        suffix: plan.suffix.clone(),
        random_chars: plan.random_chars,
        ..AreaOptions::default()
    };
    Ok(match (relative, &plan.place) {
        (Some(relative), _) if !relative.as_os_str().is_empty() => {
            Made::Below(make_below(root, &relative, plan, is_directory)?)
        }
        (None, Place::Lease(place)) => make_elsewhere(lease, &root.join(place), &options, is_directory)?,
        (None, Place::Named(place)) => make_elsewhere(lease, place, &options, is_directory)?,
        (Some(_), _) if is_directory => Made::Directory(lease.directory(&options)?),
        (Some(_), _) => Made::File(lease.file(&options)?),
    })
}

/// Anywhere else; the path must lead there from everywhere.
fn make_elsewhere(lease: &Lease, place: &Path, options: &AreaOptions, is_directory: bool) -> Result<Made, Failure> {
    let place = std::path::absolute(place)?;
    Ok(match is_directory {
        true => Made::Directory(lease.directory_in(place, options)?),
        false => Made::File(lease.file_in(place, options)?),
    })
}

/// The way from the lease's directory to this one, if it leads down.
fn below(root: &Path, directory: &Path) -> Result<Option<PathBuf>, Failure> {
    let real = real_path(directory)?;
    Ok(real.strip_prefix(real_path(root)?).map(Path::to_owned).ok())
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
