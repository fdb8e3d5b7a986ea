//! Leases: granting one, what holds it, and the guard that revokes it.

use std::collections::BTreeMap;
use std::fmt;
use std::mem;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use scratch_proto::v1::channel_request::Op;
use scratch_proto::v1::channel_response::Result as Reply;
use scratch_proto::v1::holder_spec::Kind;
use scratch_proto::v1::{
    AttachRequest, ConnectionHolder, DescriptorHolder, GrantRequest, GrantResponse, HolderSpec, KeepAliveRequest,
    ProcessHolder, TtlHolder,
};

use crate::area::Site;
use crate::{Client, ClientError};

/// What a lease is to be like. The default: held by this process, in the first pool, for as long as it takes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct GrantOptions {
    /// Empty: the first configured pool.
    pub pool: String,
    /// Empty: this process.
    pub holders: Vec<Holder>,
    /// For people and for `scratch ls`.
    pub labels: BTreeMap<String, String>,
    /// The new lease ends with this one at the latest.
    pub parent: Option<String>,
    /// The lease ends after this time even if something holds it.
    pub lifetime_max: Option<Duration>,
    /// Let processes hold the lease that have `SCRATCHD_LEASE=<id>` in their environment when nothing else does any more.
    pub search_environment: bool,
    /// Of two grants with the same nonce the second one gives the lease of the first, as long as that lives. Absent: drawn.
    pub nonce: Option<[u8; 16]>,
}

/// What keeps a lease alive from the start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Holder {
    /// This process.
    Process,
    /// This connection, and after a restart of the broker the next one.
    Connection,
    /// Time that [`Lease::keep_alive`] renews.
    Ttl(Duration),
    /// Another process of this user.
    Other(Pidfd),
}

/// A process that is held, so that its number can't become another's meanwhile.
#[derive(Debug, Clone)]
pub struct Pidfd(Arc<OwnedFd>);

impl Pidfd {
    /// Holds the process that has this number now.
    ///
    /// # Errors
    /// Those of pidfd_open(2): ESRCH where there is none.
    pub fn open(pid: u32) -> Result<Self, ClientError> {
        let number = i32::try_from(pid).ok().and_then(Pid::from_raw).ok_or(Errno::SRCH);
        let opened = number.and_then(|number| pidfd_open(number, PidfdFlags::empty()));
        let opened = opened.map_err(|errno| ClientError::io("hold process", pid.to_string(), errno))?;
        Ok(Self(Arc::new(opened)))
    }
}

impl PartialEq for Pidfd {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Eq for Pidfd {}

/// A lease of ours. Dropping the guard revokes the lease and everything under it, ignoring errors: the broker ends it in any
/// case when its holders are gone. In a forked child dropping the guard does nothing.
#[must_use = "a lease is revoked when its guard is dropped"]
pub struct Lease {
    client: Client,
    tenure: Arc<Tenure>,
    /// The process whose lease it is; none when the guard was given up.
    guarded_by: Option<u32>,
}

/// What is known of a lease; areas under it know it too.
#[derive(Debug)]
pub(crate) struct Tenure {
    pub(crate) id: String,
    pub(crate) path: Option<PathBuf>,
    generation: u64,
    note: String,
    directory: OnceLock<Option<OwnedFd>>,
}

impl Lease {
    pub(crate) fn grant(client: &Client, options: &GrantOptions) -> Result<Self, ClientError> {
        // Sent again with the same nonce it is the same lease.
        let mut nonce = options.nonce.unwrap_or_default();
        if options.nonce.is_none() {
            getrandom::fill(&mut nonce).map_err(|_| ClientError::Protocol("no random numbers from the kernel"))?;
        }
        let request = GrantRequest {
            pool: options.pool.clone(),
            nonce: nonce.to_vec(),
            holders: options.holders.iter().map(spec).collect::<Result<_, _>>()?,
            lifetime_max: options.lifetime_max.map(duration).transpose()?,
            labels: options.labels.clone().into_iter().collect(),
            parent: options.parent.clone().unwrap_or_default(),
            search_environment: options.search_environment,
            ..GrantRequest::default()
        };
        let descriptors: Vec<_> = options.holders.iter().filter_map(descriptor).collect();
        let Reply::Grant(granted) = client.call(Op::Grant(request), &descriptors)?.reply else {
            return Err(ClientError::Protocol("no answer to Grant"));
        };
        if options.holders.contains(&Holder::Connection) {
            client.hold(&granted.id);
        }
        let tenure = Arc::new(Tenure::new(granted));
        Ok(Self { client: client.clone(), tenure, guarded_by: Some(std::process::id()) })
    }

    /// Its id.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.tenure.id
    }

    /// Its directory; none where it has none that this process can name.
    #[must_use]
    pub fn path(&self) -> Option<&Path> {
        self.tenure.path.as_deref()
    }

    /// The generation of the broker that granted it.
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.tenure.generation
    }

    /// What the broker remarks on the holders; empty if they are what was asked for.
    #[must_use]
    pub fn note(&self) -> &str {
        &self.tenure.note
    }

    /// Lets a process hold the lease, too, until it ends.
    ///
    /// # Errors
    /// Those of the connection; a process of another user is refused.
    pub fn attach_process(&self, pidfd: BorrowedFd<'_>) -> Result<(), ClientError> {
        self.attach(Kind::Process(ProcessHolder { fd: true }), &[pidfd])
    }

    /// Gives one end of a Unix socket pair to the broker: the lease is held, too, until every copy of the other end is
    /// closed.
    ///
    /// # Errors
    /// Those of the connection.
    pub fn attach_descriptor(&self, end: OwnedFd) -> Result<(), ClientError> {
        self.attach(Kind::Descriptor(DescriptorHolder { fd: true }), &[end.as_fd()])
    }

    /// Renews the lease's ttl holders; returns the time that each has now.
    ///
    /// # Errors
    /// LEASE_UNKNOWN when it has ended.
    pub fn keep_alive(&self) -> Result<Duration, ClientError> {
        self.client.keep_alive(&self.tenure.id)
    }

    /// Ends the lease now; returns when its directory is out of the name space.
    ///
    /// # Errors
    /// Those of the connection; LEASE_UNKNOWN when it had ended before.
    pub fn revoke(mut self) -> Result<(), ClientError> {
        self.guarded_by = None;
        self.end()
    }

    /// Gives up the guard: the lease lives as long as its holders do. Returns its id.
    #[must_use]
    pub fn into_id(self) -> String {
        self.into_tenure().id.clone()
    }

    /// Gives up the guard: the lease lives as long as its holders do.
    pub fn leave(self) {
        drop(self.into_tenure());
    }

    pub(crate) fn into_tenure(mut self) -> Arc<Tenure> {
        self.guarded_by = None;
        Arc::clone(&self.tenure)
    }

    pub(crate) fn site(&self) -> Site<'_> {
        Site { client: &self.client, tenure: &self.tenure }
    }

    fn attach(&self, kind: Kind, descriptors: &[BorrowedFd<'_>]) -> Result<(), ClientError> {
        self.client.attach_kind(&self.tenure.id, kind, descriptors).map(drop)
    }

    fn end(&self) -> Result<(), ClientError> {
        self.client.forget(&self.tenure.id);
        self.client.revoke(&self.tenure.id)
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if mem::take(&mut self.guarded_by) == Some(std::process::id()) {
            // Ignoring: nobody can be told here, and the lease ends with its holders.
            let _ = self.end();
        }
    }
}

impl fmt::Debug for Lease {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lease").field("id", &self.tenure.id).field("path", &self.tenure.path).finish_non_exhaustive()
    }
}

impl Tenure {
    fn new(granted: GrantResponse) -> Self {
        let GrantResponse { id, path, generation, note, .. } = granted;
        let path = (!path.is_empty()).then(|| PathBuf::from(std::ffi::OsString::from_vec(path)));
        Self { id, path, generation, note, directory: OnceLock::new() }
    }

    /// The lease's directory, if this process can open it and it is its own: then it needs nobody to make files in it.
    pub(crate) fn directory(&self) -> Option<BorrowedFd<'_>> {
        let open = || {
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let directory = rustix::fs::open(self.path.as_ref()?, flags, Mode::empty()).ok()?;
            // In another name space the same path may be somebody else's.
            let owner = rustix::fs::fstat(&directory).ok()?.st_uid;
            (owner == rustix::process::geteuid().as_raw()).then_some(directory)
        };
        self.directory.get_or_init(open).as_ref().map(AsFd::as_fd)
    }
}

/// By id: leases whose guard is elsewhere, or nowhere.
impl Client {
    /// Lets something more hold a lease; gives the holder's id.
    ///
    /// # Errors
    /// LEASE_UNKNOWN where there is none; what the broker refuses as a holder.
    pub fn attach(&self, lease: &str, holder: &Holder) -> Result<u32, ClientError> {
        let HolderSpec { kind } = spec(holder)?;
        let kind = kind.ok_or(ClientError::Protocol("a holder without kind"))?;
        let id = self.attach_kind(lease, kind, descriptor(holder).as_slice())?;
        if *holder == Holder::Connection {
            self.hold(lease);
        }
        Ok(id)
    }

    /// As [`Lease::keep_alive`].
    ///
    /// # Errors
    /// As there; NO_TTL for a lease that has no ttl holder.
    pub fn keep_alive(&self, lease: &str) -> Result<Duration, ClientError> {
        let request = KeepAliveRequest { lease: lease.to_owned() };
        match self.call(Op::KeepAlive(request), &[])?.reply {
            Reply::KeepAlive(renewed) => Duration::try_from(renewed.granted_ttl.unwrap_or_default())
                .map_err(|_| ClientError::Protocol("a negative ttl")),
            _ => Err(ClientError::Protocol("no answer to KeepAlive")),
        }
    }

    fn attach_kind(&self, lease: &str, kind: Kind, descriptors: &[BorrowedFd<'_>]) -> Result<u32, ClientError> {
        let request = AttachRequest { lease: lease.to_owned(), holder: Some(HolderSpec { kind: Some(kind) }) };
        match self.call(Op::Attach(request), descriptors)?.reply {
            Reply::Attach(attached) => Ok(attached.holder.map_or(0, |holder| holder.id)),
            _ => Err(ClientError::Protocol("no answer to Attach")),
        }
    }
}

fn descriptor(holder: &Holder) -> Option<BorrowedFd<'_>> {
    match holder {
        Holder::Other(process) => Some(process.0.as_fd()),
        Holder::Process | Holder::Connection | Holder::Ttl(_) => None,
    }
}

fn spec(holder: &Holder) -> Result<HolderSpec, ClientError> {
    let kind = match holder {
        Holder::Process => Kind::Process(ProcessHolder { fd: false }),
        Holder::Connection => Kind::Connection(ConnectionHolder {}),
        Holder::Ttl(ttl) => Kind::Ttl(TtlHolder { ttl: Some(duration(*ttl)?) }),
        Holder::Other(_) => Kind::Process(ProcessHolder { fd: true }),
    };
    Ok(HolderSpec { kind: Some(kind) })
}

fn duration(time: Duration) -> Result<prost_types::Duration, ClientError> {
    time.try_into().map_err(|_| ClientError::Protocol("a time that is too long"))
}
