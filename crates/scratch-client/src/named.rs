//! The guards of named areas: dropped, they remove what they guard.

use std::ffi::{CString, OsStr};
use std::fs::File;
use std::mem;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::AtFlags;
use rustix::io::Errno;
use scratch_proto::v1::ReleaseRequest;
use scratch_proto::v1::channel_request::Op;
use scratch_proto::v1::channel_response::Result as Reply;

use crate::lease::Tenure;
use crate::{Client, ClientError};

/// A named file, open for reading and writing. Dropping the guard removes it, ignoring errors: the lease's end removes it in
/// any case. In a forked child dropping the guard does nothing.
#[derive(Debug)]
#[must_use = "a file is removed when its guard is dropped"]
pub struct NamedFile {
    /// The open file.
    pub file: File,
    named: Named,
}

/// A directory. Dropping the guard removes it with everything in it, ignoring errors: the lease's end removes it in any case.
/// In a forked child dropping the guard does nothing.
#[derive(Debug)]
#[must_use = "a directory is removed when its guard is dropped"]
pub struct Directory {
    named: Named,
}

/// Who removes an area: this process by one unlink, or the broker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Maker {
    Process,
    Broker,
}

/// A name under a lease and the duty to remove it.
#[derive(Debug)]
pub(crate) struct Named {
    client: Client,
    tenure: Arc<Tenure>,
    name: CString,
    path: Option<PathBuf>,
    maker: Maker,
    /// The process whose duty it is; none when the guard was given up.
    guarded_by: Option<u32>,
}

impl NamedFile {
    pub(crate) fn new(file: File, named: Named) -> Self {
        Self { file, named }
    }

    /// Where it is; nowhere that this process can name if its lease has no path.
    #[must_use]
    pub fn path(&self) -> Option<&Path> {
        self.named.path.as_deref()
    }

    /// Its name in the lease's directory.
    #[must_use]
    pub fn name(&self) -> &OsStr {
        OsStr::from_bytes(self.named.name.to_bytes())
    }

    /// Closes and removes it. That it is gone already is no error.
    ///
    /// # Errors
    /// Those of unlinkat(2) and of the connection.
    pub fn close(self) -> Result<(), ClientError> {
        let Self { file, named } = self;
        drop(file);
        named.close()
    }

    /// Gives up the guard: the file stays until its lease ends.
    #[must_use]
    pub fn keep(self) -> File {
        let Self { file, named } = self;
        named.keep();
        file
    }
}

impl Directory {
    pub(crate) fn new(named: Named) -> Self {
        Self { named }
    }

    /// Where it is; nowhere that this process can name if its lease has no path.
    #[must_use]
    pub fn path(&self) -> Option<&Path> {
        self.named.path.as_deref()
    }

    /// Its name in the lease's directory.
    #[must_use]
    pub fn name(&self) -> &OsStr {
        OsStr::from_bytes(self.named.name.to_bytes())
    }

    /// Removes it with everything in it; returns when it is out of the name space. That it is gone already is no error.
    ///
    /// # Errors
    /// Those of the connection.
    pub fn close(self) -> Result<(), ClientError> {
        self.named.close()
    }

    /// Gives up the guard: the directory stays until its lease ends.
    pub fn keep(self) {
        self.named.keep();
    }
}

impl Named {
    pub(crate) fn new(client: Client, tenure: Arc<Tenure>, name: CString, maker: Maker) -> Self {
        let path = tenure.path.as_ref().map(|path| path.join(OsStr::from_bytes(name.to_bytes())));
        Self { client, tenure, name, path, maker, guarded_by: Some(std::process::id()) }
    }

    fn close(mut self) -> Result<(), ClientError> {
        self.guarded_by = None;
        self.remove()
    }

    fn keep(mut self) {
        self.guarded_by = None;
    }

    fn remove(&self) -> Result<(), ClientError> {
        match (self.maker, self.tenure.directory()) {
            (Maker::Process, Some(directory)) => match rustix::fs::unlinkat(directory, &self.name, AtFlags::empty()) {
                Ok(()) | Err(Errno::NOENT) => Ok(()),
                Err(errno) => {
                    Err(ClientError::io("remove", self.path.as_deref().unwrap_or_else(|| Path::new("")), errno))
                }
            },
            _ => self.release(),
        }
    }

    fn release(&self) -> Result<(), ClientError> {
        let area = self.name.to_bytes().to_vec();
        let request = ReleaseRequest { lease: self.tenure.id.clone(), area, ..ReleaseRequest::default() };
        match self.client.call(Op::Release(request), &[]) {
            Ok(answer) if matches!(answer.reply, Reply::Release(_)) => Ok(()),
            Ok(_) => Err(ClientError::Protocol("no answer to Release")),
            // It went with its lease.
            Err(error) if error.is_refusal("LEASE_UNKNOWN") => Ok(()),
            Err(error) => Err(error),
        }
    }
}

impl Drop for Named {
    fn drop(&mut self) {
        if mem::take(&mut self.guarded_by) == Some(std::process::id()) {
            // Ignoring: nobody can be told here, and the area ends with its lease.
            let _ = self.remove();
        }
    }
}
