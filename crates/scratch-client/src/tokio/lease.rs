//! The guard of a lease: dropped, it revokes it.

use std::ffi::OsStr;
use std::fmt;
use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::time::Duration;

use ::tokio::time::sleep;
use scratch_proto::v1::Kind;

use super::socket::Tokio;
use super::{Directory, NamedFile};
use crate::lease::Held;
use crate::renewal::Course;
use crate::{AreaOptions, ClientError, Limits, Mount, Replace, holder};

/// A lease of ours. Dropping the guard revokes the lease and everything under it without waiting, ignoring errors: the broker
/// ends it in any case when its holders are gone. In a forked child dropping the guard does nothing.
///
/// One that [`Client::lease`](crate::tokio::Client::lease) gives is another's: dropping it ends nothing.
#[must_use = "a lease is revoked when its guard is dropped"]
pub struct Lease {
    pub(super) held: Held<Tokio>,
}

impl Lease {
    pub(super) fn new(held: Held<Tokio>) -> Self {
        Self { held }
    }

    /// Its id.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.held.tenure.id
    }

    /// Its directory; none where it has none that this process can name.
    #[must_use]
    pub fn path(&self) -> Option<&Path> {
        self.held.tenure.path.as_deref()
    }

    /// Its mount, where it was asked for and the lease has no path.
    #[must_use]
    pub fn mount(&self) -> Option<&Mount> {
        self.held.mount.as_ref()
    }

    /// The generation of the broker that granted it; 0 of another's lease.
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.held.tenure.generation
    }

    /// What the broker remarks on the holders; empty if they are what was asked for.
    #[must_use]
    pub fn note(&self) -> &str {
        &self.held.tenure.note
    }

    /// The ids of the holders that it was granted with, in their order. [`Lease::detach`] takes them.
    #[must_use]
    pub fn holders(&self) -> &[u32] {
        &self.held.tenure.holders
    }

    /// Lets a process hold the lease, too, until it ends.
    ///
    /// # Errors
    /// Those of the connection; a process of another user is refused.
    pub async fn attach_process(&self, pidfd: BorrowedFd<'_>) -> Result<(), ClientError> {
        self.held.broker().attach_passing(self.id(), holder::passed_process(), pidfd).await.map(drop)
    }

    /// Gives one end of a Unix socket pair to the broker: the lease is held, too, until every copy of the other end is
    /// closed.
    ///
    /// # Errors
    /// Those of the connection.
    pub async fn attach_descriptor(&self, end: OwnedFd) -> Result<(), ClientError> {
        self.held.broker().attach_passing(self.id(), holder::passed_descriptor(), end.as_fd()).await.map(drop)
    }

    /// Lets a cgroup (version 2, by its directory's descriptor) hold the lease, too: until its last process has gone, or the
    /// cgroup. One that has none yet does not end before its first.
    ///
    /// # Errors
    /// Those of the connection; what is no cgroup, or the root of the hierarchy, is refused.
    pub async fn attach_cgroup(&self, directory: BorrowedFd<'_>) -> Result<(), ClientError> {
        self.held.broker().attach_passing(self.id(), holder::passed_cgroup(), directory).await.map(drop)
    }

    /// Takes a holder away. With the last one the lease ends.
    ///
    /// # Errors
    /// HOLDER_UNKNOWN where there is none of this id; LEASE_UNKNOWN when the lease has ended.
    pub async fn detach(&self, holder: u32) -> Result<(), ClientError> {
        self.held.broker().detach(self.id(), holder).await
    }

    /// Renews the lease's ttl holders; returns the time that each has now.
    ///
    /// # Errors
    /// LEASE_UNKNOWN when it has ended.
    pub async fn keep_alive(&self) -> Result<Duration, ClientError> {
        self.held.broker().keep_alive(self.id()).await
    }

    /// Renews the lease's ttl holders, at once and again each time a third of their time has passed, until there is nothing to renew
    /// any more: then says why. Runs as long as it is polled, as by `tokio::spawn` or one arm of a `select!`, and does not need the
    /// guard. A broker that was restarted is connected to anew, and one that is away is looked for.
    pub fn keep_renewing(&self) -> impl Future<Output = ClientError> + Send + use<> {
        let (broker, tenure) = self.held.parts();
        async move {
            let mut course = Course::default();
            loop {
                let renewed = broker.keep_alive(&tenure.id).await;
                match (course.next(&renewed), renewed) {
                    (None, Err(error)) => return error,
                    (next, _) => sleep(next.unwrap_or_default()).await,
                }
            }
        }
    }

    /// Makes a channel that reaches a new lease below this one and nothing else, for a process that can reach no broker. The new
    /// lease ends when every copy of the descriptor is closed.
    ///
    /// # Errors
    /// LIMIT_BYTES and LIMIT_INODES for limits that don't fit; LIMIT_DEPTH on a channel that was delegated on 8 times.
    pub async fn delegate(&self, limits: Limits) -> Result<OwnedFd, ClientError> {
        self.held.broker().delegate(self.id(), limits).await
    }

    /// Ends the lease now; returns when its directory is out of the name space. What can't be moved out of it yet, such as what is
    /// mounted on, the broker tries again: [`Lease::revoke_until_freed`] tells of that.
    ///
    /// # Errors
    /// Those of the connection; LEASE_UNKNOWN when it had ended before.
    pub async fn revoke(self) -> Result<(), ClientError> {
        self.held.revoke().await
    }

    /// Ends the lease now; returns when all that was under it is freed, or is known not to be for now: then with what became debt,
    /// by the ids that `scratch debt` shows. The broker goes on with that by itself.
    ///
    /// # Errors
    /// As [`Lease::revoke`]. LEASE_UNKNOWN is said, too, where the broker was restarted meanwhile.
    pub async fn revoke_until_freed(self) -> Result<Vec<String>, ClientError> {
        self.held.revoke_until_freed().await
    }

    /// Gives up the guard: the lease lives as long as its holders do. Returns its id.
    #[must_use]
    pub fn into_id(self) -> String {
        self.held.into_tenure().id.clone()
    }

    /// Gives up the guard: the lease lives as long as its holders do.
    pub fn leave(self) {
        drop(self.held.into_tenure());
    }
}

/// Areas under it.
impl Lease {
    /// Makes a named file, open for reading and writing. Dropping the guard removes it.
    ///
    /// # Errors
    /// AlreadyExists for an exact name that is taken; those of the file system and of the connection.
    pub async fn file(&self, options: &AreaOptions) -> Result<NamedFile, ClientError> {
        self.held.site().file(options).await.map(NamedFile::new)
    }

    /// Makes many named files in as few round trips as can be. `name` is left aside.
    ///
    /// # Errors
    /// As [`Lease::file`].
    pub async fn files(&self, options: &AreaOptions, count: u32) -> Result<Vec<NamedFile>, ClientError> {
        Ok(self.held.site().files(options, count).await?.into_iter().map(NamedFile::new).collect())
    }

    /// Makes a directory. Dropping the guard removes it with everything in it.
    ///
    /// # Errors
    /// As [`Lease::file`].
    pub async fn directory(&self, options: &AreaOptions) -> Result<Directory, ClientError> {
        self.held.site().directory(options).await.map(Directory::new)
    }

    /// Makes a named file in a directory outside of any lease, where this user may write, and opens it for reading and writing.
    /// Dropping the guard removes it; the lease's end does in any case. Whoever renames it has it for good.
    ///
    /// # Errors
    /// NAME_EXISTS for an exact name, what the kernel refuses this user, FOREIGN_TIMEOUT where the directory does not answer,
    /// those of the connection.
    pub async fn file_in(&self, directory: impl AsRef<Path>, options: &AreaOptions) -> Result<NamedFile, ClientError> {
        self.held.site().file_elsewhere(directory.as_ref(), options).await.map(NamedFile::new)
    }

    /// Makes a directory in a directory outside of any lease, as [`Lease::file_in`]. Dropping the guard removes it with
    /// everything in it.
    ///
    /// # Errors
    /// As there.
    pub async fn directory_in(
        &self,
        directory: impl AsRef<Path>,
        options: &AreaOptions,
    ) -> Result<Directory, ClientError> {
        let made = self.held.site().elsewhere(directory.as_ref(), Kind::Directory, options).await;
        made.map(|(named, _)| Directory::new(named))
    }

    /// Makes a file without a name; it is gone with its last descriptor.
    ///
    /// # Errors
    /// Those of the file system and of the connection.
    pub async fn anonymous(&self) -> Result<File, ClientError> {
        self.held.site().anonymous().await
    }

    /// Makes a stock of files without names, 200 in one round trip.
    ///
    /// # Errors
    /// As [`Lease::anonymous`].
    pub async fn anonymous_files(&self, count: u32) -> Result<Vec<File>, ClientError> {
        self.held.site().anonymous_files(count).await
    }

    /// Makes a file in memory that can be sealed.
    ///
    /// # Errors
    /// As [`Lease::anonymous`].
    pub async fn memory(&self) -> Result<File, ClientError> {
        self.held.site().memory().await
    }

    /// Takes away what has this path below the lease's directory, as `build/cache`, whoever made it: a directory with all that is in
    /// it, of a symbolic link the link. Says whether there was anything.
    ///
    /// # Errors
    /// NAME_INVALID for what is no path of plain names, PATH_LEAVES for a symbolic link or a mount on the way, those of the file
    /// system and of the connection.
    pub async fn release(&self, path: impl AsRef<Path>) -> Result<bool, ClientError> {
        self.held.site().release(path.as_ref()).await
    }

    /// Moves what has this path below the lease's directory out of the lease for good, as [`NamedFile::persist`]. Says whether it was
    /// copied.
    ///
    /// ```no_run
    /// # use scratch_client::{ConnectOptions, GrantOptions, Replace, tokio::Client};
    /// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
    /// let lease = Client::connect_or_start(&ConnectOptions::default()).await?.grant(&GrantOptions::default()).await?;
    /// let build = lease.path().ok_or("no path")?.join("build");
    /// std::process::Command::new("make").arg(format!("DESTDIR={}", build.display())).status()?;
    /// let to = std::fs::File::open("/srv")?;
    /// lease.persist("build/site", &to, "site", Replace::Exchange).await?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// PATH_UNKNOWN where there is nothing, and as there and with [`Self::release`].
    pub async fn persist(
        &self,
        path: impl AsRef<Path>,
        directory: impl AsFd,
        name: impl AsRef<OsStr>,
        replace: Replace,
    ) -> Result<bool, ClientError> {
        self.held.site().persist(path.as_ref(), directory.as_fd(), name.as_ref(), replace).await
    }
}

impl fmt::Debug for Lease {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.held.describe(f)
    }
}
