//! The client: connects, grants, and makes areas under a lease of its own.

use std::ffi::OsStr;
use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use scratch_proto::v1::Kind;

use super::{Blocking, Directory, Lease, NamedFile, block};
use crate::broker::Broker;
use crate::connect::Start;
use crate::site::Site;
use crate::temp::Under;
use crate::{AreaOptions, ClientError, ConnectOptions, GrantOptions, Holder, Limits, Replace};

/// A connection to the broker. Clones share it, and many threads may call at once.
///
/// A forked child never uses its parent's connection: it makes one of its own at its first call. Fork while another thread
/// is in a call, and the child must not use the client at all.
#[derive(Debug, Clone)]
pub struct Client {
    pub(super) broker: Arc<Broker<Blocking>>,
}

impl Client {
    /// Connects to a broker that runs. Where SCRATCHD_CHANNEL is set and `runtime_directory` is not, to the delegated channel
    /// that it names.
    ///
    /// # Errors
    /// [`ClientError::NoBroker`] where none answers; [`ClientError::ForeignBroker`] for one that may not be trusted.
    pub fn connect(options: &ConnectOptions) -> Result<Self, ClientError> {
        Ok(Self { broker: block(Broker::new(options, Start::Never))? })
    }

    /// Connects to the broker, and starts one for this user where there is none. It ends by itself when it is idle.
    ///
    /// # Errors
    /// As [`Client::connect`]; [`ClientError::NoProgram`] and [`ClientError::Start`] where none could be started.
    pub fn connect_or_start(options: &ConnectOptions) -> Result<Self, ClientError> {
        Ok(Self { broker: block(Broker::new(options, Start::IfNone))? })
    }

    /// Uses a channel that was delegated to this process, as it is: no search, no look at whose broker it is, and no
    /// reconnecting. Without a lease of one's own, areas are made under the channel's.
    ///
    /// # Errors
    /// Those of watching a socket.
    pub fn delegated(channel: OwnedFd) -> Result<Self, ClientError> {
        Ok(Self { broker: Broker::delegated(channel)? })
    }

    /// Asks the broker nothing and waits for its answer.
    ///
    /// # Errors
    /// Those of the connection.
    pub fn ping(&self) -> Result<(), ClientError> {
        block(self.broker.ping())
    }

    /// Grants a lease. The guard that is returned revokes it when it is dropped.
    ///
    /// # Errors
    /// What the broker refuses: LEASE_UNKNOWN for a parent that is not there, and limits.
    pub fn grant(&self, options: &GrantOptions) -> Result<Lease, ClientError> {
        block(self.broker.grant(options)).map(Lease::new)
    }

    /// The process id that the broker had when it began to listen.
    #[must_use]
    pub fn broker_process(&self) -> i32 {
        self.broker.state().peer.0
    }

    /// The runtime directory of the broker.
    #[must_use]
    pub fn runtime_directory(&self) -> PathBuf {
        self.broker.state().peer.1.clone()
    }
}

/// By id: leases whose guard is elsewhere, or nowhere.
impl Client {
    /// A lease that somebody else guards, by its id: to make areas under it, or channels, or to take something away. Dropping this ends
    /// nothing. `path` is its directory, if that is known; without it areas are made by the broker alone, and have no paths. Whether
    /// there is such a lease shows with the first call.
    ///
    /// ```no_run
    /// # use scratch_client::{AreaOptions, Client, ConnectOptions};
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let client = Client::connect(&ConnectOptions::default())?;
    /// // As `scratch run` has told its command.
    /// let (id, path) = (std::env::var("SCRATCHD_LEASE")?, std::env::var_os("TMPDIR"));
    /// let lease = client.lease(&id, path.as_ref().map(AsRef::as_ref));
    /// let file = lease.file(&AreaOptions::default())?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn lease(&self, id: &str, path: Option<&Path>) -> Lease {
        Lease::new(self.broker.lease(id, path))
    }

    /// Ends a lease, whatever holds it; returns when its directory is out of the name space.
    ///
    /// # Errors
    /// LEASE_UNKNOWN for one that is not there.
    pub fn revoke(&self, lease: &str) -> Result<(), ClientError> {
        block(self.broker.revoke(lease))
    }

    /// As [`Lease::revoke_until_freed`].
    ///
    /// # Errors
    /// As there.
    pub fn revoke_until_freed(&self, lease: &str) -> Result<Vec<String>, ClientError> {
        block(self.broker.revoke_until_freed(lease))
    }

    /// Lets something more hold a lease; gives the holder's id.
    ///
    /// # Errors
    /// LEASE_UNKNOWN where there is none; what the broker refuses as a holder.
    pub fn attach(&self, lease: &str, holder: &Holder) -> Result<u32, ClientError> {
        block(self.broker.attach(lease, holder))
    }

    /// Takes a holder from a lease. With the last one the lease ends.
    ///
    /// # Errors
    /// LEASE_UNKNOWN and HOLDER_UNKNOWN where there is none.
    pub fn detach(&self, lease: &str, holder: u32) -> Result<(), ClientError> {
        block(self.broker.detach(lease, holder))
    }

    /// As [`Lease::keep_alive`].
    ///
    /// # Errors
    /// As there; NO_TTL for a lease that has no ttl holder.
    pub fn keep_alive(&self, lease: &str) -> Result<Duration, ClientError> {
        block(self.broker.keep_alive(lease))
    }
}

/// Without a lease of one's own: areas under a lease that is granted at first use and ends with this process.
impl Client {
    /// The lease that these areas are under. None before the first, and on a delegated channel, which does not tell.
    #[must_use]
    pub fn lease_id(&self) -> Option<String> {
        self.broker.own_id()
    }

    /// As [`Lease::delegate`], below the lease that ends with this process; on a delegated channel, below the channel's.
    ///
    /// # Errors
    /// As there, and those of granting a lease.
    pub fn delegate(&self, limits: Limits) -> Result<OwnedFd, ClientError> {
        let own = block(self.broker.own_lease())?;
        block(self.broker.delegate(&own.id, limits))
    }

    /// As [`Lease::file`].
    ///
    /// # Errors
    /// As there, and those of granting a lease.
    pub fn file(&self, options: &AreaOptions) -> Result<NamedFile, ClientError> {
        let own = block(self.broker.own_lease())?;
        block(Site::of(&self.broker, &own).file(options)).map(NamedFile::new)
    }

    /// As [`Lease::files`].
    ///
    /// # Errors
    /// As there, and those of granting a lease.
    pub fn files(&self, options: &AreaOptions, count: u32) -> Result<Vec<NamedFile>, ClientError> {
        let own = block(self.broker.own_lease())?;
        Ok(block(Site::of(&self.broker, &own).files(options, count))?.into_iter().map(NamedFile::new).collect())
    }

    /// As [`Lease::directory`].
    ///
    /// # Errors
    /// As there, and those of granting a lease.
    pub fn directory(&self, options: &AreaOptions) -> Result<Directory, ClientError> {
        let own = block(self.broker.own_lease())?;
        block(Site::of(&self.broker, &own).directory(options)).map(Directory::new)
    }

    pub(crate) fn under_own_lease(&self) -> Result<Under, ClientError> {
        Ok(Under { broker: Arc::clone(&self.broker), tenure: block(self.broker.own_lease())? })
    }

    /// As [`Lease::file_in`].
    ///
    /// # Errors
    /// As there, and those of granting a lease.
    pub fn file_in(&self, directory: impl AsRef<Path>, options: &AreaOptions) -> Result<NamedFile, ClientError> {
        let own = block(self.broker.own_lease())?;
        let site = Site::of(&self.broker, &own);
        block(site.file_elsewhere(directory.as_ref(), options)).map(NamedFile::new)
    }

    /// As [`Lease::directory_in`].
    ///
    /// # Errors
    /// As there, and those of granting a lease.
    pub fn directory_in(&self, directory: impl AsRef<Path>, options: &AreaOptions) -> Result<Directory, ClientError> {
        let own = block(self.broker.own_lease())?;
        let site = Site::of(&self.broker, &own);
        let made = block(site.elsewhere(directory.as_ref(), Kind::Directory, options));
        made.map(|(named, _)| Directory::new(named))
    }

    /// As [`Lease::anonymous`].
    ///
    /// # Errors
    /// As there, and those of granting a lease.
    pub fn anonymous(&self) -> Result<File, ClientError> {
        let own = block(self.broker.own_lease())?;
        block(Site::of(&self.broker, &own).anonymous())
    }

    /// As [`Lease::anonymous_files`].
    ///
    /// # Errors
    /// As there, and those of granting a lease.
    pub fn anonymous_files(&self, count: u32) -> Result<Vec<File>, ClientError> {
        let own = block(self.broker.own_lease())?;
        block(Site::of(&self.broker, &own).anonymous_files(count))
    }

    /// As [`Lease::memory`].
    ///
    /// # Errors
    /// As there, and those of granting a lease.
    pub fn memory(&self) -> Result<File, ClientError> {
        let own = block(self.broker.own_lease())?;
        block(Site::of(&self.broker, &own).memory())
    }

    /// As [`Lease::release`].
    ///
    /// # Errors
    /// As there; LEASE_UNKNOWN where nothing was made yet.
    pub fn release(&self, path: impl AsRef<Path>) -> Result<bool, ClientError> {
        let own = self.broker.own_or_none();
        block(Site::of(&self.broker, &own).release(path.as_ref()))
    }

    /// As [`Lease::persist`].
    ///
    /// # Errors
    /// As there; LEASE_UNKNOWN where nothing was made yet.
    pub fn persist(
        &self,
        path: impl AsRef<Path>,
        directory: impl AsFd,
        name: impl AsRef<OsStr>,
        replace: Replace,
    ) -> Result<bool, ClientError> {
        let own = self.broker.own_or_none();
        block(Site::of(&self.broker, &own).persist(path.as_ref(), directory.as_fd(), name.as_ref(), replace))
    }
}
