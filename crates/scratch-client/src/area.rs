//! What an area is to be like: how it is named, its mode, and who makes it.

use std::ffi::{CString, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use rustix::io::Errno;
use scratch_fs::{FsError, NamePattern, Naming};
use scratch_proto::v1::{CreateRequest, Kind, Where, r#where};

use crate::ClientError;
use crate::spot::check_directory;

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
    /// In this directory, which is in the lease's own: its path below that one, as `build/cache`. No `.`, no `..`, and no symbolic
    /// link on the way. Absent: in the lease's own.
    pub inside: Option<PathBuf>,
}

impl Default for AreaOptions {
    fn default() -> Self {
        Self { prefix: "tmp".into(), suffix: OsString::new(), random_chars: 8, name: None, mode: None, inside: None }
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

    /// The directory that it is made in; none: the lease's own.
    pub(crate) fn directory(&self) -> Result<Option<CString>, ClientError> {
        Ok(self.inside.as_deref().map(check_directory).transpose()?)
    }

    /// The part of a request that is the same for all kinds.
    pub(crate) fn request(&self, lease: &str, kind: Kind) -> CreateRequest {
        let inside = self.inside.as_ref().map(|inside| inside.as_os_str().as_bytes().to_vec());
        CreateRequest {
            lease: lease.to_owned(),
            kind: kind.into(),
            prefix: Some(self.prefix.as_bytes().to_vec()),
            suffix: self.suffix.as_bytes().to_vec(),
            mode: self.mode,
            r#where: inside.map(|inside| Where { kind: Some(r#where::Kind::Directory(inside)) }),
            ..CreateRequest::default()
        }
    }
}
