//! Where things are made: under which lease, and in which directory.

use std::ffi::OsStr;
use std::fs::File;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use rustix::fs::{Mode, OFlags};
use scratch_fs::FsError;
use scratch_proto::v1::Kind;

use crate::blocking::{Blocking, block};
use crate::broker::Broker;
use crate::named::Named;
use crate::site::Site;
use crate::tenure::Tenure;
use crate::{AreaOptions, Client, ClientError, ConnectOptions};

/// The client of this process, connected at first use.
static CLIENT: Mutex<Option<Client>> = Mutex::new(None);

/// The client that this module uses where it is given no lease: connected at first use, a session broker started where there is
/// none. What it makes is under one lease, which ends with this process.
///
/// # Errors
/// Those of [`Client::connect_or_start`]. The next call tries again.
pub fn client() -> Result<Client, ClientError> {
    let mut client = CLIENT.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(client) = &*client {
        return Ok(client.clone());
    }
    Ok(client.insert(Client::connect_or_start(&ConnectOptions::default())?).clone())
}

/// A lease, and the connection to its broker.
#[derive(Debug, Clone)]
pub(crate) struct Under {
    pub(crate) broker: Arc<Broker<Blocking>>,
    pub(crate) tenure: Arc<Tenure>,
}

/// Default: in the directory of the lease of this process.
#[derive(Debug, Clone, Default)]
pub(crate) struct Place {
    /// Absent: that of this process.
    pub(crate) lease: Option<Under>,
    /// Absent: the lease's own.
    pub(crate) directory: Option<PathBuf>,
}

/// Where a place is, seen from a lease.
enum Found {
    /// Its directory, which nobody has named.
    Lease,
    /// A directory of it that was named: this one below its own, or its own.
    Inside(Option<PathBuf>),
    Elsewhere(PathBuf),
}

impl Place {
    pub(crate) fn in_directory(&self, directory: impl Into<PathBuf>) -> Self {
        Self { directory: Some(directory.into()), ..self.clone() }
    }

    pub(crate) fn under(&self) -> Result<Under, ClientError> {
        match &self.lease {
            Some(under) => Ok(under.clone()),
            None => client()?.under_own_lease(),
        }
    }

    pub(crate) fn file(&self, options: &AreaOptions) -> Result<(File, Named<Blocking>), ClientError> {
        let Under { broker, tenure } = self.under()?;
        let site = Site::of(&broker, &tenure);
        match self.found(&tenure)? {
            Found::Lease => block(site.file(options)),
            Found::Inside(inside) => {
                let (file, mut named) = block(site.file(&AreaOptions { inside, ..options.clone() }))?;
                named.set_at_home();
                Ok((file, named))
            }
            Found::Elsewhere(directory) => block(site.file_elsewhere(&directory, options)),
        }
    }

    pub(crate) fn directory(&self, options: &AreaOptions) -> Result<Named<Blocking>, ClientError> {
        let Under { broker, tenure } = self.under()?;
        let site = Site::of(&broker, &tenure);
        match self.found(&tenure)? {
            Found::Lease => block(site.directory(options)),
            Found::Inside(inside) => {
                let mut named = block(site.directory(&AreaOptions { inside, ..options.clone() }))?;
                named.set_at_home();
                Ok(named)
            }
            Found::Elsewhere(directory) => {
                block(site.elsewhere(&directory, Kind::Directory, options)).map(|(named, _)| named)
            }
        }
    }

    fn found(&self, tenure: &Tenure) -> Result<Found, ClientError> {
        let Some(directory) = &self.directory else { return Ok(Found::Lease) };
        let directory = whole(directory)?;
        Ok(match tenure.way_to(&directory) {
            Some(way) => Found::Inside(Some(way).filter(|way| !way.as_os_str().is_empty())),
            None => Found::Elsewhere(directory),
        })
    }

    /// A file without a name needs no lease where the directory is given: the kernel frees it in any case.
    pub(crate) fn anonymous(&self) -> Result<File, ClientError> {
        let Some(directory) = &self.directory else {
            let Under { broker, tenure } = self.under()?;
            return block(Site::of(&broker, &tenure).anonymous());
        };
        let directory = whole(directory)?;
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let held = rustix::fs::open(&directory, flags, Mode::empty()).map_err(FsError::on("open", &directory))?;
        let made = scratch_fs::create_anonymous(held.as_fd(), 0o600);
        Ok(made.map_err(|error| FsError { path: directory, ..error })?.into())
    }
}

/// A path that means the same when this process has gone to another directory. The empty one is that where it is.
fn whole(directory: &Path) -> Result<PathBuf, ClientError> {
    if directory.is_absolute() {
        return Ok(directory.to_owned());
    }
    let here = rustix::process::getcwd(Vec::new()).map_err(|errno| ClientError::io("find", "this directory", errno))?;
    Ok(Path::new(OsStr::from_bytes(here.to_bytes())).join(directory))
}
