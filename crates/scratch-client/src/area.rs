//! Making areas: in the lease's directory by this process itself where it can, else through the broker.

use std::ffi::{CString, OsString};
use std::fs::File;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;

use rustix::io::Errno;
use scratch_fs::{FsError, NamePattern, Naming};
use scratch_proto::BATCH_MAX;
use scratch_proto::v1::channel_request::Op;
use scratch_proto::v1::channel_response::Result as Reply;
use scratch_proto::v1::{CreateRequest, Created, Kind};

use crate::lease::Tenure;
use crate::named::{Maker, Named};
use crate::{Client, ClientError, Directory, Lease, NamedFile};

/// As often a fresh name is tried; the same bound as in a directory of our own.
const NAMES_MAX: usize = 10_000;

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
    /// Permission bits, exact whatever the umask. Absent: 0600 for files, 0700 for directories.
    pub mode: Option<u32>,
}

impl Default for AreaOptions {
    fn default() -> Self {
        Self { prefix: "tmp".into(), suffix: OsString::new(), random_chars: 8, name: None, mode: None }
    }
}

/// Where areas are made, and by whom.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Site<'a> {
    pub(crate) client: &'a Client,
    pub(crate) tenure: &'a Arc<Tenure>,
}

impl Lease {
    /// Makes a named file, open for reading and writing. Dropping the guard removes it.
    ///
    /// # Errors
    /// AlreadyExists for an exact name that is taken; those of the file system and of the connection.
    pub fn file(&self, options: &AreaOptions) -> Result<NamedFile, ClientError> {
        self.site().file(options)
    }

    /// Makes many named files in as few round trips as can be. `name` is left aside.
    ///
    /// # Errors
    /// As [`Lease::file`].
    pub fn files(&self, options: &AreaOptions, count: u32) -> Result<Vec<NamedFile>, ClientError> {
        self.site().files(options, count)
    }

    /// Makes a directory. Dropping the guard removes it with everything in it.
    ///
    /// # Errors
    /// As [`Lease::file`].
    pub fn directory(&self, options: &AreaOptions) -> Result<Directory, ClientError> {
        self.site().directory(options)
    }

    /// Makes a file without a name; it is gone with its last descriptor.
    ///
    /// # Errors
    /// Those of the file system and of the connection.
    pub fn anonymous(&self) -> Result<File, ClientError> {
        self.site().anonymous()
    }

    /// Makes a stock of files without names, 200 in one round trip.
    ///
    /// # Errors
    /// As [`Lease::anonymous`].
    pub fn anonymous_files(&self, count: u32) -> Result<Vec<File>, ClientError> {
        self.site().anonymous_files(count)
    }

    /// Makes a file in memory that can be sealed.
    ///
    /// # Errors
    /// As [`Lease::anonymous`].
    pub fn memory(&self) -> Result<File, ClientError> {
        self.site().memory()
    }
}

/// Without a lease of one's own: areas under a lease that is granted at first use and ends with this process.
impl Client {
    /// As [`Lease::file`].
    ///
    /// # Errors
    /// As there, and those of granting a lease.
    pub fn file(&self, options: &AreaOptions) -> Result<NamedFile, ClientError> {
        Site { client: self, tenure: &self.own_lease()? }.file(options)
    }

    /// As [`Lease::directory`].
    ///
    /// # Errors
    /// As there, and those of granting a lease.
    pub fn directory(&self, options: &AreaOptions) -> Result<Directory, ClientError> {
        Site { client: self, tenure: &self.own_lease()? }.directory(options)
    }

    /// As [`Lease::anonymous`].
    ///
    /// # Errors
    /// As there, and those of granting a lease.
    pub fn anonymous(&self) -> Result<File, ClientError> {
        Site { client: self, tenure: &self.own_lease()? }.anonymous()
    }

    /// As [`Lease::memory`].
    ///
    /// # Errors
    /// As there, and those of granting a lease.
    pub fn memory(&self) -> Result<File, ClientError> {
        Site { client: self, tenure: &self.own_lease()? }.memory()
    }
}

impl Site<'_> {
    fn file(self, options: &AreaOptions) -> Result<NamedFile, ClientError> {
        let mode = options.mode.unwrap_or(0o600);
        if let Some((file, name)) =
            self.here(|directory| named(options, |naming| scratch_fs::create_file(directory, naming, mode)))?
        {
            return Ok(NamedFile::new(file.into(), self.guard(name, Maker::Process)));
        }
        let (name, file) = self.through_broker(Kind::File, options)?;
        let file = file.ok_or(ClientError::Protocol("a file without a descriptor"))?;
        Ok(NamedFile::new(file.into(), self.guard(name, Maker::Broker)))
    }

    fn files(self, options: &AreaOptions, count: u32) -> Result<Vec<NamedFile>, ClientError> {
        let options = AreaOptions { name: None, ..options.clone() };
        if self.is_here() {
            return (0..count).map(|_| self.file(&options)).collect();
        }
        let made = self.batches(Kind::File, &options, count)?.into_iter();
        made.map(|(name, file)| Ok(NamedFile::new(file.into(), self.guard(c_name(name)?, Maker::Broker)))).collect()
    }

    fn directory(self, options: &AreaOptions) -> Result<Directory, ClientError> {
        let mode = options.mode.unwrap_or(0o700);
        if let Some(name) =
            self.here(|directory| named(options, |naming| scratch_fs::create_directory(directory, naming, mode)))?
        {
            // Its removal is the broker's all the same: one rename instead of a walk.
            return Ok(Directory::new(self.guard(name, Maker::Broker)));
        }
        let (name, _) = self.through_broker(Kind::Directory, options)?;
        Ok(Directory::new(self.guard(name, Maker::Broker)))
    }

    fn anonymous(self) -> Result<File, ClientError> {
        match self.here(|directory| Ok(scratch_fs::create_anonymous(directory, 0o600)?))? {
            Some(file) => Ok(file.into()),
            None => single(self.batches(Kind::Anonymous, &AreaOptions::default(), 1)?),
        }
    }

    fn anonymous_files(self, count: u32) -> Result<Vec<File>, ClientError> {
        if self.is_here() {
            return (0..count).map(|_| self.anonymous()).collect();
        }
        let made = self.batches(Kind::Anonymous, &AreaOptions::default(), count)?;
        Ok(made.into_iter().map(|(_, file)| file.into()).collect())
    }

    fn memory(self) -> Result<File, ClientError> {
        match self.client.create_mode() {
            CreateMode::Auto => Ok(scratch_fs::create_memory(c"scratch", 0o600)?.into()),
            CreateMode::Broker => single(self.batches(Kind::Memory, &AreaOptions::default(), 1)?),
        }
    }

    fn is_here(self) -> bool {
        self.client.create_mode() == CreateMode::Auto && self.tenure.directory().is_some()
    }

    /// Makes it in this process; nothing where that is not wanted or not allowed.
    fn here<T>(self, make: impl FnOnce(BorrowedFd<'_>) -> Result<T, ClientError>) -> Result<Option<T>, ClientError> {
        if !self.is_here() {
            return Ok(None);
        }
        let Some(directory) = self.tenure.directory() else { return Ok(None) };
        match make(directory) {
            // A sandbox may let a process open the directory and not change it.
            Err(ClientError::Create(FsError { errno: Errno::ACCESS | Errno::PERM | Errno::ROFS, .. })) => Ok(None),
            result => result.map(Some),
        }
    }

    /// One named area, its random name drawn here, so that the request can be sent again.
    fn through_broker(self, kind: Kind, options: &AreaOptions) -> Result<(CString, Option<OwnedFd>), ClientError> {
        let pattern = pattern(options)?;
        for _ in 0..NAMES_MAX {
            let name = match &options.name {
                Some(name) => scratch_fs::check_name(name.as_bytes())?,
                None => pattern.draw().map_err(|errno| ClientError::io("draw", "a random name", errno))?,
            };
            let request = CreateRequest {
                name: name.to_bytes().to_vec(),
                want_handle: kind == Kind::File,
                ..self.request(kind, options)
            };
            match self.create(request) {
                Err(error) if error.is_refusal("NAME_EXISTS") && options.name.is_none() => {}
                result => return result.map(|(_, descriptors)| (name, descriptors.into_iter().next())),
            }
        }
        Err(FsError::new("create", "(random name)", Errno::EXIST).into())
    }

    /// Many areas with descriptors. A batch that has to be sent again may leave named ones of the first try to the lease.
    fn batches(self, kind: Kind, options: &AreaOptions, count: u32) -> Result<Vec<(Vec<u8>, OwnedFd)>, ClientError> {
        // Refused here as it is everywhere else.
        pattern(options)?;
        let mut made = Vec::new();
        let mut left = count;
        while left > 0 {
            let batch = left.min(BATCH_MAX);
            let random_chars = u32::try_from(options.random_chars).unwrap_or(u32::MAX);
            let request =
                CreateRequest { want_handle: true, count: batch, random_chars, ..self.request(kind, options) };
            let (areas, descriptors) = self.create(request)?;
            if areas.len() != descriptors.len() || areas.len() != batch as usize {
                return Err(ClientError::Protocol("not as many areas as were asked for"));
            }
            made.extend(areas.into_iter().map(|area| area.name).zip(descriptors));
            left -= batch;
        }
        Ok(made)
    }

    fn create(self, request: CreateRequest) -> Result<(Vec<Created>, Vec<OwnedFd>), ClientError> {
        let answer = self.client.call(Op::Create(request), &[])?;
        match answer.reply {
            Reply::Create(created) => Ok((created.areas, answer.descriptors)),
            _ => Err(ClientError::Protocol("no answer to Create")),
        }
    }

    fn request(self, kind: Kind, options: &AreaOptions) -> CreateRequest {
        CreateRequest {
            lease: self.tenure.id.clone(),
            kind: kind.into(),
            prefix: Some(options.prefix.as_bytes().to_vec()),
            suffix: options.suffix.as_bytes().to_vec(),
            mode: options.mode,
            ..CreateRequest::default()
        }
    }

    fn guard(self, name: CString, maker: Maker) -> Named {
        Named::new(self.client.clone(), Arc::clone(self.tenure), name, maker)
    }
}

/// Calls `make` with the naming that the options say.
fn named<T>(options: &AreaOptions, make: impl FnOnce(&Naming<'_>) -> Result<T, FsError>) -> Result<T, ClientError> {
    match &options.name {
        Some(name) => Ok(make(&Naming::Exact(&scratch_fs::check_name(name.as_bytes())?))?),
        None => Ok(make(&Naming::Random(pattern(options)?))?),
    }
}

fn pattern(options: &AreaOptions) -> Result<NamePattern<'_>, ClientError> {
    Ok(NamePattern::new(options.prefix.as_bytes(), options.suffix.as_bytes(), options.random_chars)?)
}

fn single(made: Vec<(Vec<u8>, OwnedFd)>) -> Result<File, ClientError> {
    let (_, file) = made.into_iter().next().ok_or(ClientError::Protocol("no area"))?;
    Ok(file.into())
}

fn c_name(name: Vec<u8>) -> Result<CString, ClientError> {
    CString::new(name).map_err(|_| ClientError::Protocol("a name with a NUL"))
}
