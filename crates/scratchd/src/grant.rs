//! Grants leases and attaches holders: the table decides, the pool makes the directory and its record, the watcher watches.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use rustix::io::Errno;
use scratch_fs::{FsError, Owner, Record};
use scratch_lease::{Caller, ConnectionId, Grant, Granted, Holder, HolderKind, LeaseId, NewHolder, Refusal};
use scratch_proto::v1;

use crate::broker::Broker;
use crate::client::Client;
use crate::clock;
use crate::peer::{Identity, is_connected_unix_socket};
use crate::process::{self, HeldProcess};
use crate::reason::RequestError;
use crate::side::Side;
use crate::translate::{self, duration, lease_id};

const CLOSED: &str = "the connection that should hold the lease is closed";

/// Why there is no new lease.
enum Refused {
    /// There is one of an earlier Grant with this nonce.
    Existing(Box<v1::GrantResponse>),
    Because(RequestError),
}

impl<E: Into<RequestError>> From<E> for Refused {
    fn from(error: E) -> Self {
        Self::Because(error.into())
    }
}

/// Said in the reply when the kernel names no process that could hold the lease.
const NO_PROCESS: &str = "the kernel names no process for this peer; its connection holds the lease";

/// Who asks for a lease, without the connection itself: a request with descriptors is worked on elsewhere.
#[derive(Debug)]
pub(crate) struct Asking {
    pub(crate) caller: Caller,
    pub(crate) identity: Arc<Identity>,
    pub(crate) connection: ConnectionId,
    /// The peer's process, where it is wanted and the kernel names one.
    pub(crate) process: Option<HeldProcess>,
}

const NO_PIDFD: &str = "the descriptor of a process holder must be a pidfd";
const NO_SOCKET: &str =
    "the descriptor of a descriptor holder must be one end of a Unix stream or seqpacket socket pair";

/// A holder, what shows its end, and what is to be said of it.
type Holding = (NewHolder, Watched, &'static str);

/// What shows a holder's end.
enum Watched {
    Process(HeldProcess),
    Socket(OwnedFd),
    Nothing,
}

/// Descriptors that a client has passed. Those that are not used are closed where that may block.
struct Passed<'a> {
    side: &'a Side,
    rest: std::vec::IntoIter<OwnedFd>,
}

impl Passed<'_> {
    /// The next one, if it is what it should be.
    fn next(&mut self, fits: impl FnOnce(&OwnedFd) -> bool, else_say: &'static str) -> Result<OwnedFd, RequestError> {
        let next = self.rest.next().ok_or(RequestError::DescriptorCount { expected: 1, received: 0 })?;
        if fits(&next) {
            return Ok(next);
        }
        self.side.close(vec![next]);
        Err(RequestError::Holder(else_say))
    }
}

impl Drop for Passed<'_> {
    fn drop(&mut self) {
        self.side.close(self.rest.by_ref().collect());
    }
}

impl Watched {
    /// Closes a passed socket that is not to be watched.
    fn discard(self, side: &Side) {
        if let Self::Socket(socket) = self {
            side.close(vec![socket]);
        }
    }
}

impl Asking {
    /// Takes from a client what these holders need.
    ///
    /// # Errors
    /// PROCESS_GONE.
    pub(crate) fn of(client: &Client, holders: &[v1::HolderSpec]) -> Result<Self, RequestError> {
        let own_process =
            |spec: &v1::HolderSpec| matches!(&spec.kind, Some(v1::holder_spec::Kind::Process(process)) if !process.fd);
        let wanted = holders.is_empty() || holders.iter().any(own_process);
        Ok(Self {
            caller: client.peer.caller,
            identity: Arc::clone(&client.peer.identity),
            connection: client.id,
            process: if wanted { client.process().map_err(|_| RequestError::ProcessGone)? } else { None },
        })
    }

    /// The default: the peer's process, or its connection where the kernel names none.
    fn default_holder(&mut self) -> Holding {
        match self.process.take() {
            Some(process) => (NewHolder::Process(process.id), Watched::Process(process), ""),
            None => (NewHolder::Connection(self.connection), Watched::Nothing, NO_PROCESS),
        }
    }

    fn holder(&mut self, spec: &v1::HolderSpec, passed: &mut Passed<'_>) -> Result<Holding, RequestError> {
        use v1::holder_spec::Kind;
        match &spec.kind {
            None => Err(RequestError::Holder("a holder has no kind; set one")),
            Some(Kind::Connection(_)) => Ok((NewHolder::Connection(self.connection), Watched::Nothing, "")),
            Some(Kind::Process(wanted)) if wanted.fd => {
                let process = self.passed_process(passed.next(process::is_pidfd, NO_PIDFD)?)?;
                Ok((NewHolder::Process(process.id), Watched::Process(process), ""))
            }
            Some(Kind::Process(_)) => Ok(self.default_holder()),
            Some(Kind::Ttl(ttl)) => {
                let ttl = ttl.ttl.ok_or(RequestError::Holder("a ttl holder needs its ttl"))?;
                Ok((NewHolder::Ttl(duration(ttl)?), Watched::Nothing, ""))
            }
            Some(Kind::Descriptor(wanted)) => {
                if !wanted.fd {
                    return Err(RequestError::Holder("a descriptor holder needs its descriptor; set fd"));
                }
                let socket = passed.next(is_connected_unix_socket, NO_SOCKET)?;
                Ok((NewHolder::Descriptor, Watched::Socket(socket), ""))
            }
            Some(Kind::Cgroup(_)) => Err(RequestError::Unimplemented("a cgroup holder")),
            Some(Kind::Hold(_)) => Err(RequestError::Unimplemented("a hold")),
        }
    }

    /// A process that a client passes must be its tenant's own.
    fn passed_process(&self, pidfd: OwnedFd) -> Result<HeldProcess, RequestError> {
        let process = HeldProcess::of_pidfd(pidfd).map_err(|_| RequestError::ProcessGone)?;
        let users = process::users(process.id.pid).map_err(|_| RequestError::ProcessGone)?;
        // Read while it was held, and it is alive still: so it was read of this process.
        let same = process::start_time(process.id.pid) == Ok(process.id.start_time);
        match same {
            false => Err(RequestError::ProcessGone),
            true if self.caller.tenant.0 == 0 || users.contains(&self.caller.tenant.0) => Ok(process),
            true => Err(RequestError::Holder("the process is another tenant's")),
        }
    }
}

impl Broker {
    /// Grants a lease: decided, made on disk, watched, told.
    ///
    /// # Errors
    /// What the table refuses, or the file system; nothing is left then.
    pub(crate) fn grant(
        self: &Arc<Self>,
        mut asking: Asking,
        request: v1::GrantRequest,
        descriptors: Vec<OwnedFd>,
    ) -> Result<v1::GrantResponse, RequestError> {
        let holders = self.holders(&mut asking, &request, descriptors)?;
        let granted = self.grant_to(&asking, request, &holders);
        match granted {
            Ok(id) => self.commit_grant(id, holders),
            Err(Refused::Existing(granted)) => {
                holders.into_iter().for_each(|(_, watched, _)| watched.discard(&self.side));
                Ok(*granted)
            }
            Err(Refused::Because(error)) => {
                holders.into_iter().for_each(|(_, watched, _)| watched.discard(&self.side));
                Err(error)
            }
        }
    }

    fn holders(
        &self,
        asking: &mut Asking,
        request: &v1::GrantRequest,
        descriptors: Vec<OwnedFd>,
    ) -> Result<Vec<Holding>, RequestError> {
        let mut passed = Passed { side: &self.side, rest: descriptors.into_iter() };
        self.check_grant(request)?;
        let mut holders: Vec<Holding> = Vec::new();
        let add = |result: Result<Holding, RequestError>, holders: &mut Vec<Holding>| {
            let holding = result?;
            let twice = !matches!(holding.0, NewHolder::Descriptor | NewHolder::Ttl(_))
                && holders.iter().any(|(other, _, _)| *other == holding.0);
            holders.push(holding);
            if twice { Err(RequestError::Holder("the same holder is named twice; name it once")) } else { Ok(()) }
        };
        let added = request.holders.iter().try_for_each(|spec| add(asking.holder(spec, &mut passed), &mut holders));
        if let Err(error) = added {
            holders.into_iter().for_each(|(_, watched, _)| watched.discard(&self.side));
            return Err(error);
        }
        if holders.is_empty() {
            holders.push(asking.default_holder());
        }
        Ok(holders)
    }

    fn grant_to(
        self: &Arc<Self>,
        asking: &Asking,
        request: v1::GrantRequest,
        holders: &[Holding],
    ) -> Result<LeaseId, Refused> {
        let note = note_of(holders);
        let id = new_id()?;
        let grant = Grant {
            id,
            tenant: asking.caller.tenant,
            pool: 0,
            nonce: <[u8; 16]>::try_from(request.nonce.as_slice()).ok(),
            parent: if request.parent.is_empty() { None } else { Some(lease_id(&request.parent)?) },
            holders: holders.iter().map(|(holder, _, _)| *holder).collect(),
            lifetime_max: request.lifetime_max.map(duration).transpose()?.filter(|time| !time.is_zero()),
            labels: request.labels.into_iter().collect(),
            search_environment: request.search_environment,
        };
        self.decide_grant(grant, asking, note)?;
        self.make_granted(id, &asking.identity)?;
        Ok(id)
    }

    /// As [`Broker::grant`]; with the lease's directory as a handle if the request wants it.
    ///
    /// # Errors
    /// Also when the handle can't be made; the lease is ended then.
    pub(crate) fn grant_with_handle(
        self: &Arc<Self>,
        asking: Asking,
        request: v1::GrantRequest,
        descriptors: Vec<OwnedFd>,
    ) -> Result<(v1::GrantResponse, Option<OwnedFd>), RequestError> {
        let (caller, wanted) = (asking.caller, request.want_handle);
        let mut granted = self.grant(asking, request, descriptors)?;
        if !wanted {
            return Ok((granted, None));
        }
        let id = lease_id(&granted.id)?;
        let opened = self.pool.open_lease(id);
        let handle = opened.and_then(|opened| {
            self.contained(opened)
                .map_err(|errno| FsError::new("open a contained handle of", self.pool.lease_path(id), errno))
        });
        match handle {
            Ok(handle) => {
                granted.fd = true;
                Ok((granted, Some(handle)))
            }
            Err(error) => {
                self.revoke(caller, id, None)?;
                Err(error.into())
            }
        }
    }

    fn check_grant(&self, request: &v1::GrantRequest) -> Result<(), RequestError> {
        if !request.pool.is_empty() && request.pool != self.config.pool[0].name {
            // Shortened: the reply must fit into a packet whatever was asked.
            return Err(RequestError::PoolUnknown(request.pool.chars().take(64).collect()));
        }
        if !matches!(request.nonce.len(), 0 | 16) {
            return Err(RequestError::Request("a nonce has 16 bytes, or none"));
        }
        if request.limits.as_ref().is_some_and(|limits| limits.bytes != 0 || limits.inodes != 0) {
            return Err(RequestError::Unimplemented("a limit of bytes or inodes"));
        }
        Ok(())
    }

    fn decide_grant(&self, grant: Grant, asking: &Asking, note: &str) -> Result<(), Refused> {
        let id = grant.id;
        let mut state = self.lock();
        if grant.holders.contains(&NewHolder::Connection(asking.connection)) && !state.open.contains(&asking.connection)
        {
            return Err(RequestError::Holder(CLOSED).into());
        }
        match state.table.grant_by(asking.caller, grant, clock::now()).map_err(RequestError::from)? {
            Granted::New => {
                state.identities.insert(id, Arc::clone(&asking.identity));
                Ok(())
            }
            Granted::Existing(id) => {
                let generation = state.table.generation();
                let lease = state.table.lease(id).ok_or(RequestError::Refused(Refusal::LeaseUnknown))?;
                Err(Refused::Existing(Box::new(self.wire_grant(lease, generation, note))))
            }
        }
    }

    fn make_granted(&self, id: LeaseId, identity: &Identity) -> Result<(), RequestError> {
        let mut record = self.record(id).ok_or(Refusal::LeaseUnknown)?;
        let owner = if identity.uid == self.uid {
            Owner::Broker
        } else {
            Owner::Tenant { uid: identity.uid, gid: identity.gid }
        };
        self.pool.make_lease(id, owner, &mut record).map_err(|error| {
            let mut state = self.lock();
            state.table.forget(id);
            state.identities.remove(&id);
            error.into()
        })
    }

    fn record(&self, id: LeaseId) -> Option<Record> {
        let state = self.lock();
        Some(translate::record(&state, state.table.lease(id)?))
    }

    fn commit_grant(self: &Arc<Self>, id: LeaseId, holdings: Vec<Holding>) -> Result<v1::GrantResponse, RequestError> {
        let note = note_of(&holdings);
        let (reply, holders, tenant) = {
            let state = self.lock();
            let lease = state.table.lease(id).ok_or(Refusal::LeaseUnknown)?;
            (self.wire_grant(lease, state.table.generation(), note), lease.holders().to_vec(), lease.tenant().0)
        };
        let watched = holdings.into_iter().map(|(_, watched, _)| watched);
        let watching: Result<(), Errno> =
            holders.iter().zip(watched).try_for_each(|(holder, watched)| self.start_watching(id, holder.id, watched));
        {
            let mut state = self.lock();
            state.table.commit(id, clock::now());
            if watching.is_err() {
                // A holder that can't be watched could never be seen to end: the lease is not given.
                state.table.end(id, scratch_lease::Reason::Revoked);
            }
        }
        self.activity();
        self.settle();
        watching.map_err(|errno| FsError::new("watch holder of lease", id.as_str(), errno))?;
        tracing::info!(lease = %id, tenant, "granted");
        Ok(reply)
    }

    fn start_watching(&self, lease: LeaseId, holder: u32, watched: Watched) -> Result<(), Errno> {
        match watched {
            Watched::Nothing => Ok(()),
            Watched::Process(process) => self.watch.process(process, (lease, holder)),
            Watched::Socket(socket) => self.watch.socket(socket, (lease, holder)).map_err(|(errno, socket)| {
                self.side.close(vec![socket]);
                errno
            }),
        }
    }

    /// Adds a holder to a lease, and to its record before the reply. Runs on a side thread, one lease's in order.
    ///
    /// # Errors
    /// What the table refuses; a process that is gone; the record's writing.
    pub(crate) fn attach(
        self: &Arc<Self>,
        mut asking: Asking,
        request: &v1::AttachRequest,
        descriptors: Vec<OwnedFd>,
    ) -> Result<v1::AttachResponse, RequestError> {
        let mut passed = Passed { side: &self.side, rest: descriptors.into_iter() };
        let id = lease_id(&request.lease)?;
        let spec = request.holder.as_ref().ok_or(RequestError::Holder("Attach needs a holder"))?;
        let (new, watched, _) = asking.holder(spec, &mut passed)?;
        let (holder, was_there) = match self.attach_to(id, &asking, new) {
            Ok(attached) => attached,
            Err(error) => {
                watched.discard(&self.side);
                return Err(error);
            }
        };
        if was_there {
            watched.discard(&self.side);
        } else {
            let watching = self.start_watching(id, holder.id, watched);
            let kept = watching
                .map_err(|errno| FsError::new("watch holder of lease", id.as_str(), errno))
                .and_then(|()| self.rewrite_record(id));
            if let Err(error) = kept {
                self.take_holder_back(id, holder);
                return Err(error.into());
            }
        }
        self.settle();
        Ok(v1::AttachResponse { holder: Some(translate::holder(&holder)) })
    }

    /// True: it was there already.
    fn attach_to(&self, id: LeaseId, asking: &Asking, new: NewHolder) -> Result<(Holder, bool), RequestError> {
        let mut state = self.lock();
        if new == NewHolder::Connection(asking.connection) && !state.open.contains(&asking.connection) {
            return Err(RequestError::Holder(CLOSED));
        }
        let before = state.table.live(id, asking.caller)?.holders().to_vec();
        let holder = state.table.attach(id, asking.caller, new, clock::now())?;
        Ok((holder, before.contains(&holder)))
    }

    fn take_holder_back(self: &Arc<Self>, id: LeaseId, holder: Holder) {
        let process = match holder.kind {
            HolderKind::Process(process) => Some(process),
            _ => None,
        };
        self.side.close(self.watch.forget((id, holder.id), process).into_iter().collect());
        self.lock().table.holder_gone(id, holder.id);
        self.settle();
    }

    /// Writes down who holds a lease now. If it has ended meanwhile, nothing of it is left behind.
    ///
    /// # Errors
    /// Of the file system; ENOENT for a lease that is gone.
    pub(crate) fn rewrite_record(&self, id: LeaseId) -> Result<(), FsError> {
        let gone = || FsError::new("write record of lease", id.as_str(), Errno::NOENT);
        let mut record = self.record(id).ok_or_else(gone)?;
        (record.device, record.inode) = self.pool.directory_identity(id)?;
        self.pool.write_record(id, &record)?;
        if self.lock().table.lease(id).is_none() {
            self.pool.drop_record(id)?;
            return Err(gone());
        }
        Ok(())
    }
}

fn note_of(holdings: &[Holding]) -> &'static str {
    holdings.iter().map(|(_, _, note)| *note).find(|note| !note.is_empty()).unwrap_or_default()
}

fn new_id() -> Result<LeaseId, RequestError> {
    let mut bits = [0; 10];
    getrandom::fill(&mut bits).map_err(|_| FsError::new("draw a lease id", "getrandom", Errno::IO))?;
    Ok(LeaseId::from_bits(bits))
}
