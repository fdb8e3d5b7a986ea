//! Making areas: in the lease's directory by this process itself where it can, else through the broker.

use std::ffi::{CStr, CString};
use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use scratch_fs::FsError;
use scratch_proto::BATCH_MAX;
use scratch_proto::v1::channel_request::Op;
use scratch_proto::v1::channel_response::Result as Reply;
use scratch_proto::v1::{CreateRequest, Created, ForeignDirectory, Kind, Where, r#where};

use crate::ClientError;
use crate::area::{AreaOptions, CreateMode};
use crate::broker::Broker;
use crate::named::{Elsewhere, Maker, Named};
use crate::spot::Spot;
use crate::tenure::Tenure;
use crate::wait::Wait;

/// As often a fresh name is tried; the same bound as in a directory of our own.
const NAMES_MAX: usize = 10_000;

/// Where areas are made, and by whom.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Site<'a, W: Wait> {
    pub(crate) broker: &'a Arc<Broker<W>>,
    pub(crate) tenure: &'a Arc<Tenure>,
}

impl<'a, W: Wait> Site<'a, W> {
    pub(crate) fn of(broker: &'a Arc<Broker<W>>, tenure: &'a Arc<Tenure>) -> Self {
        Self { broker, tenure }
    }

    pub(crate) async fn file(self, options: &AreaOptions) -> Result<(File, Named<W>), ClientError> {
        let (mode, inside) = (options.mode.unwrap_or(0o600), options.directory()?);
        let made = self.here(inside.as_deref(), |directory| {
            options.named(|naming| scratch_fs::create_file(directory, naming, mode))
        });
        if let Some((file, name)) = made? {
            return Ok((file.into(), self.guard(Spot { inside, name }, Maker::Process)));
        }
        let (name, file) = self.through_broker(Kind::File, options).await?;
        let named = self.guard(Spot { inside, name }, Maker::Broker);
        let file = file.ok_or(ClientError::Protocol("a file without a descriptor"))?;
        Ok((file.into(), named))
    }

    pub(crate) async fn files(self, options: &AreaOptions, count: u32) -> Result<Vec<(File, Named<W>)>, ClientError> {
        let options = AreaOptions { name: None, ..options.clone() };
        let inside = options.directory()?;
        let mut files = Vec::new();
        if self.is_here() {
            for _ in 0..count {
                files.push(self.file(&options).await?);
            }
            return Ok(files);
        }
        // Each batch is under guard before the next one is asked for.
        for count in batches(count) {
            for (name, file) in self.batch(Kind::File, &options, count).await? {
                let name = CString::new(name).map_err(|_| ClientError::Protocol("a name with a NUL"))?;
                files.push((file.into(), self.guard(Spot { inside: inside.clone(), name }, Maker::Broker)));
            }
        }
        Ok(files)
    }

    pub(crate) async fn directory(self, options: &AreaOptions) -> Result<Named<W>, ClientError> {
        let (mode, inside) = (options.mode.unwrap_or(0o700), options.directory()?);
        let made = self.here(inside.as_deref(), |directory| {
            options.named(|naming| scratch_fs::create_directory(directory, naming, mode))
        });
        let name = match made? {
            Some(name) => name,
            None => self.through_broker(Kind::Directory, options).await?.0,
        };
        // Its removal is the broker's in any case: one rename instead of a walk.
        Ok(self.guard(Spot { inside, name }, Maker::Broker))
    }

    /// A file or directory in a directory of this user's own, outside of any lease, with a file's descriptor.
    pub(crate) async fn elsewhere(
        self,
        directory: &Path,
        kind: Kind,
        options: &AreaOptions,
    ) -> Result<(Named<W>, Option<OwnedFd>), ClientError> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let held = rustix::fs::open(directory, flags, Mode::empty()).map_err(FsError::on("open", directory))?;
        let place = Where { kind: Some(r#where::Kind::Foreign(ForeignDirectory { fd: true })) };
        for _ in 0..NAMES_MAX {
            let name = options.draw()?;
            let request = CreateRequest {
                name: name.to_bytes().to_vec(),
                want_handle: kind == Kind::File,
                r#where: Some(place.clone()),
                ..options.request(&self.tenure.id, kind)
            };
            match self.create_with(request, &[held.as_fd()]).await {
                Err(error) if error.is_refusal("NAME_EXISTS") && options.name.is_none() => {}
                Err(error) => return Err(error),
                Ok((areas, descriptors)) => {
                    let id = areas.into_iter().next().map(|area| area.id).filter(|id| !id.is_empty());
                    let id = id.ok_or(ClientError::Protocol("an area in a directory of one's own without an id"))?;
                    let elsewhere = Elsewhere { held, path: directory.to_owned(), id };
                    let named = Named::elsewhere(Arc::clone(self.broker), Arc::clone(self.tenure), name, elsewhere);
                    return Ok((named, descriptors.into_iter().next()));
                }
            }
        }
        Err(FsError::new("create", "(random name)", Errno::EXIST).into())
    }

    pub(crate) async fn file_elsewhere(
        self,
        directory: &Path,
        options: &AreaOptions,
    ) -> Result<(File, Named<W>), ClientError> {
        let (named, file) = self.elsewhere(directory, Kind::File, options).await?;
        let file = file.ok_or(ClientError::Protocol("a file without a descriptor"))?;
        Ok((file.into(), named))
    }

    pub(crate) async fn anonymous(self) -> Result<File, ClientError> {
        match self.here(None, |directory| Ok(scratch_fs::create_anonymous(directory, 0o600)?))? {
            Some(file) => Ok(file.into()),
            None => self.single(Kind::Anonymous).await,
        }
    }

    pub(crate) async fn anonymous_files(self, count: u32) -> Result<Vec<File>, ClientError> {
        let mut files = Vec::new();
        if self.is_here() {
            for _ in 0..count {
                files.push(self.anonymous().await?);
            }
            return Ok(files);
        }
        for count in batches(count) {
            let made = self.batch(Kind::Anonymous, &AreaOptions::default(), count).await?;
            files.extend(made.into_iter().map(|(_, file)| File::from(file)));
        }
        Ok(files)
    }

    /// One where this process makes it itself, else so many in one round trip.
    pub(crate) async fn stock(self, count: u32) -> Result<Vec<File>, ClientError> {
        if let Some(file) = self.here(None, |directory| Ok(scratch_fs::create_anonymous(directory, 0o600)?))? {
            return Ok(vec![file.into()]);
        }
        let made = self.batch(Kind::Anonymous, &AreaOptions::default(), count).await?;
        Ok(made.into_iter().map(|(_, file)| File::from(file)).collect())
    }

    pub(crate) async fn memory(self) -> Result<File, ClientError> {
        match self.broker.create {
            CreateMode::Auto => Ok(scratch_fs::create_memory(c"scratch", 0o600)?.into()),
            CreateMode::Broker => self.single(Kind::Memory).await,
        }
    }

    fn is_here(self) -> bool {
        self.broker.create == CreateMode::Auto && self.tenure.directory().is_some()
    }

    /// Makes it in this process; nothing where that is not wanted or not allowed.
    fn here<T>(
        self,
        inside: Option<&CStr>,
        make: impl FnOnce(BorrowedFd<'_>) -> Result<T, ClientError>,
    ) -> Result<Option<T>, ClientError> {
        if self.broker.create == CreateMode::Broker {
            return Ok(None);
        }
        // Why it can't be opened is for the broker to say.
        let Some(Ok(directory)) = self.tenure.beneath(inside) else { return Ok(None) };
        match make(directory.as_fd()) {
            // A sandbox may let a process open the directory and not change it. Where it was removed the broker knows why.
            Err(ClientError::Create(FsError {
                errno: Errno::ACCESS | Errno::PERM | Errno::ROFS | Errno::NOENT,
                ..
            })) => Ok(None),
            result => result.map(Some),
        }
    }

    /// One named area, its random name drawn here, so that the request can be sent again. What the broker made of the first one
    /// inside another area is left to the lease then: it is found again only in the lease's own directory.
    async fn through_broker(
        self,
        kind: Kind,
        options: &AreaOptions,
    ) -> Result<(CString, Option<OwnedFd>), ClientError> {
        for _ in 0..NAMES_MAX {
            let name = options.draw()?;
            let request = CreateRequest {
                name: name.to_bytes().to_vec(),
                want_handle: kind == Kind::File,
                ..options.request(&self.tenure.id, kind)
            };
            match self.create(request).await {
                Err(error) if error.is_refusal("NAME_EXISTS") && options.name.is_none() => {}
                result => return result.map(|(_, descriptors)| (name, descriptors.into_iter().next())),
            }
        }
        Err(FsError::new("create", "(random name)", Errno::EXIST).into())
    }

    async fn single(self, kind: Kind) -> Result<File, ClientError> {
        let made = self.batch(kind, &AreaOptions::default(), 1).await?;
        let (_, file) = made.into_iter().next().ok_or(ClientError::Protocol("no area"))?;
        Ok(file.into())
    }

    /// Many areas with descriptors. What has to be sent again may leave named ones of the first try to the lease.
    async fn batch(
        self,
        kind: Kind,
        options: &AreaOptions,
        count: u32,
    ) -> Result<Vec<(Vec<u8>, OwnedFd)>, ClientError> {
        // Refused here as it is everywhere else.
        options.pattern()?;
        let random_chars = u32::try_from(options.random_chars).unwrap_or(u32::MAX);
        let request =
            CreateRequest { want_handle: true, count, random_chars, ..options.request(&self.tenure.id, kind) };
        let (areas, descriptors) = self.create(request).await?;
        if areas.len() != descriptors.len() || areas.len() != count as usize {
            return Err(ClientError::Protocol("not as many areas as were asked for"));
        }
        Ok(areas.into_iter().map(|area| area.name).zip(descriptors).collect())
    }

    async fn create(self, request: CreateRequest) -> Result<(Vec<Created>, Vec<OwnedFd>), ClientError> {
        self.create_with(request, &[]).await
    }

    async fn create_with(
        self,
        request: CreateRequest,
        descriptors: &[BorrowedFd<'_>],
    ) -> Result<(Vec<Created>, Vec<OwnedFd>), ClientError> {
        let answer = self.broker.call_under(&self.tenure.id, Op::Create(request), descriptors).await?;
        match answer.reply {
            Reply::Create(created) => Ok((created.areas, answer.descriptors)),
            _ => Err(ClientError::Protocol("no answer to Create")),
        }
    }

    fn guard(self, spot: Spot, maker: Maker) -> Named<W> {
        Named::new(Arc::clone(self.broker), Arc::clone(self.tenure), spot, maker)
    }
}

/// So many at a time.
fn batches(count: u32) -> impl Iterator<Item = u32> + Send {
    (0..count).step_by(BATCH_MAX as usize).map(move |made| (count - made).min(BATCH_MAX))
}
