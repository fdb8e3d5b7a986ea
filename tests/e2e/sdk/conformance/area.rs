//! A guard of a named area, of either kind and flavour.

use std::ffi::OsStr;
use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use scratch_client::{ClientError, PersistError, Replace};

use super::flavour::{Directory, NamedFile, Of, RUNTIME, ask, look};

pub(super) enum Area {
    File(NamedFile),
    Directory(Directory),
}

impl Area {
    pub(super) fn keep(self) {
        match self {
            Self::File(file) => drop(look!(file, keep())),
            Self::Directory(directory) => look!(directory, keep()),
        }
    }

    pub(super) fn close(self) -> Result<(), ClientError> {
        match self {
            Self::File(file) => ask!(file, close()),
            Self::Directory(directory) => ask!(directory, close()),
        }
    }

    pub(super) fn name(&self) -> &[u8] {
        match self {
            Self::File(file) => look!(file, name()).as_encoded_bytes(),
            Self::Directory(directory) => look!(directory, name()).as_encoded_bytes(),
        }
    }

    pub(super) fn path(&self) -> Option<&Path> {
        match self {
            Self::File(file) => look!(file, path()),
            Self::Directory(directory) => look!(directory, path()),
        }
    }

    /// A copy of its descriptor.
    pub(super) fn opened(&self) -> Option<File> {
        let file = match self {
            Self::File(Of::Blocking(named)) => &named.file,
            Self::File(Of::Async(named)) => &named.file,
            Self::Directory(_) => return None,
        };
        Some(file.try_clone().expect("a descriptor can be copied"))
    }

    /// Says whether it was copied.
    pub(super) fn persist(
        self,
        directory: OwnedFd,
        name: &OsStr,
        replace: Replace,
    ) -> Result<bool, Box<PersistError<Area>>> {
        fn failed<G>(failed: PersistError<G>, back: impl FnOnce(G) -> Area) -> Box<PersistError<Area>> {
            Box::new(PersistError { error: failed.error, guard: back(failed.guard) })
        }
        let to = directory.as_fd();
        match self {
            Self::File(Of::Blocking(file)) => match file.persist(to, name, replace) {
                Ok((_, copied)) => Ok(copied),
                Err(error) => Err(failed(error, |file| Self::File(Of::Blocking(file)))),
            },
            Self::File(Of::Async(file)) => match RUNTIME.block_on(file.persist(to, name, replace)) {
                Ok((_, copied)) => Ok(copied),
                Err(error) => Err(failed(error, |file| Self::File(Of::Async(file)))),
            },
            Self::Directory(Of::Blocking(directory)) => directory
                .persist(to, name, replace)
                .map_err(|error| failed(error, |directory| Self::Directory(Of::Blocking(directory)))),
            Self::Directory(Of::Async(directory)) => RUNTIME
                .block_on(directory.persist(to, name, replace))
                .map_err(|error| failed(error, |directory| Self::Directory(Of::Async(directory)))),
        }
    }
}
