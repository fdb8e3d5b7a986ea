//! Grants leases and attaches holders: the table decides, the pool makes the directory and its record, the watcher watches.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use rustix::io::Errno;
use scratch_fs::{FsError, Owner, Record};
use scratch_lease::{Caller, ConnectionId, Grant, Granted, LeaseId, NewHolder, Refusal};
use scratch_proto::v1;

use crate::broker::Broker;
use crate::client::Client;
use crate::clock;
use crate::peer::{Identity, is_unix_socket};
use crate::process::{self, HeldProcess};
use crate::reason::RequestError;
use crate::translate::{self, duration, lease_id};

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

/// A holder and the descriptor that shows its end.
enum Watched {
    Process(HeldProcess),
    Socket(OwnedFd),
    Nothing,
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
    fn default_holder(&mut self) -> (NewHolder, Watched, &'static str) {
        match self.process.take() {
            Some(process) => (NewHolder::Process(process.id), Watched::Process(process), ""),
            None => (NewHolder::Connection(self.connection), Watched::Nothing, NO_PROCESS),
        }
    }

    fn holder(
        &mut self,
        spec: &v1::HolderSpec,
        descriptors: &mut std::vec::IntoIter<OwnedFd>,
    ) -> Result<(NewHolder, Watched, &'static str), RequestError> {
        use v1::holder_spec::Kind;
        let mut next = || descriptors.next().ok_or(RequestError::DescriptorCount { expected: 1, received: 0 });
        match &spec.kind {
            None => Err(RequestError::Holder("a holder has no kind; set one")),
            Some(Kind::Connection(_)) => Ok((NewHolder::Connection(self.connection), Watched::Nothing, "")),
            Some(Kind::Process(wanted)) if wanted.fd => {
                let process = self.passed_process(next()?)?;
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
                let socket = next()?;
                if !is_unix_socket(&socket) {
                    return Err(RequestError::Holder("the descriptor must be one end of a Unix socket pair"));
                }
                Ok((NewHolder::Descriptor, Watched::Socket(socket), ""))
            }
            Some(Kind::Cgroup(_)) => Err(RequestError::Unimplemented("a cgroup holder")),
            Some(Kind::Hold(_)) => Err(RequestError::Unimplemented("a hold")),
        }
    }

    /// A process that a client passes must be its tenant's own.
    fn passed_process(&self, pidfd: OwnedFd) -> Result<HeldProcess, RequestError> {
        let process = HeldProcess::of_pidfd(pidfd).map_err(|errno| match errno {
            Errno::SRCH => RequestError::ProcessGone,
            _ => RequestError::Holder("the descriptor of a process holder must be a pidfd"),
        })?;
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
        self.check_grant(&request)?;
        let mut descriptors = descriptors.into_iter();
        let mut holders = Vec::new();
        for spec in &request.holders {
            holders.push(asking.holder(spec, &mut descriptors)?);
        }
        if holders.is_empty() {
            holders.push(asking.default_holder());
        }
        let note = holders.iter().map(|(_, _, note)| *note).find(|note| !note.is_empty()).unwrap_or_default();
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
        if let Some(existing) = self.decide_grant(grant, &asking, note)? {
            return Ok(existing);
        }
        self.make_granted(id, &asking.identity)?;
        let reply = self.commit_grant(id, holders.into_iter().map(|(_, watched, _)| watched), note);
        tracing::info!(lease = %id, tenant = asking.caller.tenant.0, "granted");
        self.activity();
        self.settle();
        reply
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
            return Err(RequestError::PoolUnknown(request.pool.clone()));
        }
        if !matches!(request.nonce.len(), 0 | 16) {
            return Err(RequestError::Request("a nonce has 16 bytes, or none"));
        }
        if request.limits.as_ref().is_some_and(|limits| limits.bytes != 0 || limits.inodes != 0) {
            return Err(RequestError::Unimplemented("a limit of bytes or inodes"));
        }
        Ok(())
    }

    /// `Some`: the lease that an earlier Grant with this nonce made.
    fn decide_grant(
        &self,
        grant: Grant,
        asking: &Asking,
        note: &str,
    ) -> Result<Option<v1::GrantResponse>, RequestError> {
        let id = grant.id;
        let mut state = self.lock();
        match state.table.grant(grant, clock::now())? {
            Granted::New => {
                state.identities.insert(id, Arc::clone(&asking.identity));
                Ok(None)
            }
            Granted::Existing(id) => {
                let generation = state.table.generation();
                let lease = state.table.lease(id).ok_or(Refusal::LeaseUnknown)?;
                Ok(Some(self.wire_grant(lease, generation, note)))
            }
        }
    }

    fn make_granted(&self, id: LeaseId, identity: &Identity) -> Result<(), RequestError> {
        let mut record = self.record(id)?;
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

    fn record(&self, id: LeaseId) -> Result<Record, RequestError> {
        let state = self.lock();
        let lease = state.table.lease(id).ok_or(Refusal::LeaseUnknown)?;
        Ok(translate::record(&state, lease))
    }

    fn commit_grant(
        &self,
        id: LeaseId,
        watched: impl Iterator<Item = Watched>,
        note: &str,
    ) -> Result<v1::GrantResponse, RequestError> {
        let (reply, holders) = {
            let state = self.lock();
            let lease = state.table.lease(id).ok_or(Refusal::LeaseUnknown)?;
            (self.wire_grant(lease, state.table.generation(), note), lease.holders().to_vec())
        };
        let watching: Result<(), Errno> =
            holders.iter().zip(watched).try_for_each(|(holder, watched)| self.start_watching(id, holder.id, watched));
        let mut state = self.lock();
        state.table.commit(id, clock::now());
        if let Err(errno) = watching {
            // A holder that can't be watched could never be seen to end: the lease is not given.
            state.table.end(id, scratch_lease::Reason::Revoked);
            return Err(FsError::new("watch holder of lease", id.as_str(), errno).into());
        }
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
        let id = lease_id(&request.lease)?;
        let spec = request.holder.as_ref().ok_or(RequestError::Holder("Attach needs a holder"))?;
        let (new, watched, _) = asking.holder(spec, &mut descriptors.into_iter())?;
        let (holder, was_there) = {
            let mut state = self.lock();
            let before = state.table.live(id, asking.caller)?.holders().len();
            let holder = state.table.attach(id, asking.caller, new, clock::now())?;
            let after = state.table.live(id, asking.caller)?.holders().len();
            (holder, before == after)
        };
        if !was_there && let Err(errno) = self.start_watching(id, holder.id, watched) {
            self.lock().table.holder_gone(id, holder.id);
            self.settle();
            return Err(FsError::new("watch holder of lease", id.as_str(), errno).into());
        }
        let mut record = self.record(id)?;
        if let Ok(found) = self.pool.directory_identity(id) {
            (record.device, record.inode) = found;
        }
        self.pool.write_record(id, &record)?;
        self.settle();
        Ok(v1::AttachResponse { holder: Some(translate::holder(&holder)) })
    }
}

fn new_id() -> Result<LeaseId, RequestError> {
    let mut bits = [0; 10];
    getrandom::fill(&mut bits).map_err(|_| FsError::new("draw a lease id", "getrandom", Errno::IO))?;
    Ok(LeaseId::from_bits(bits))
}
