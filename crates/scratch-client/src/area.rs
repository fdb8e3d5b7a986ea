//! What an area is to be like: how it is named, its mode, and who makes it.

use std::ffi::{CString, OsString};
use std::os::unix::ffi::OsStrExt;

use rustix::io::Errno;
use scratch_fs::{FsError, NamePattern, Naming};
use scratch_proto::v1::{CreateRequest, Kind};

use crate::ClientError;

/// Who makes named and anonymous files and directories.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CreateMode {
    /// This process where it can open the lease's directory, else the broker.
    Auto,
    /// The broker.
    Broker,
}

/// How an area is named, and its mode. The default is `tmp` and 8 random characters, for this user alone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AreaOptions {
    /// Before the random characters.
    pub prefix: OsString,
    /// After them.
    pub suffix: OsString,
    /// How many, 3 to 64.
    pub random_chars: usize,
    /// This name, and no other.
    pub name: Option<OsString>,
    /// Permission bits, 0777 at most, exact whatever the umask. Absent: 0600 for files, 0700 for directories.
    pub mode: Option<u32>,
}

impl Default for AreaOptions {
    fn default() -> Self {
        Self { prefix: "tmp".into(), suffix: OsString::new(), random_chars: 8, name: None, mode: None }
    }
}

impl AreaOptions {
    /// Calls `make` with the naming that the options say.
    pub(crate) fn named<T>(&self, make: impl FnOnce(&Naming<'_>) -> Result<T, FsError>) -> Result<T, ClientError> {
        // As the broker does: an area gives nobody rights by its bits.
        if let Some(mode) = self.mode.filter(|mode| mode & !0o777 != 0) {
            return Err(FsError::new("use mode", format!("{mode:04o}"), Errno::INVAL).into());
        }
        match &self.name {
            Some(name) => Ok(make(&Naming::Exact(&scratch_fs::check_name(name.as_bytes())?))?),
            None => Ok(make(&Naming::Random(self.pattern()?))?),
        }
    }

    /// The exact name, or a random one.
    pub(crate) fn draw(&self) -> Result<CString, ClientError> {
        match &self.name {
            Some(name) => Ok(scratch_fs::check_name(name.as_bytes())?),
            None => self.pattern()?.draw().map_err(|errno| ClientError::io("draw", "a random name", errno)),
        }
    }

    pub(crate) fn pattern(&self) -> Result<NamePattern<'_>, ClientError> {
        Ok(NamePattern::new(self.prefix.as_bytes(), self.suffix.as_bytes(), self.random_chars)?)
    }

    /// The part of a request that is the same for all kinds.
    pub(crate) fn request(&self, lease: &str, kind: Kind) -> CreateRequest {
        CreateRequest {
            lease: lease.to_owned(),
            kind: kind.into(),
            prefix: Some(self.prefix.as_bytes().to_vec()),
            suffix: self.suffix.as_bytes().to_vec(),
            mode: self.mode,
            ..CreateRequest::default()
        }
    }
}
