//! Grants leases: the table decides, the pool makes the directory and its record, the watcher watches.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use rustix::io::Errno;
use scratch_fs::{FsError, Owner, Place, Record};
use scratch_lease::{Caller, Grant, Granted, HolderId, LeaseId, NewHolder, Refusal, Share};
use scratch_proto::v1;

use crate::broker::{Broker, State};
use crate::clock;
use crate::drain::Drain;
use crate::holders::{Asking, Holding, Passed, TWICE, Watched, note_of};
use crate::peer::Identity;
use crate::pools::InUse;
use crate::reason::RequestError;
use crate::side::NOBODYS;
use crate::translate::{self, duration, lease_id};

pub(crate) const CLOSED: &str = "the connection that should hold the lease is closed";

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

impl Broker {
    /// Grants a lease: decided, made on disk, watched, told.
    ///
    /// # Errors
    /// What the table refuses, or the file system; nothing is left then.
    pub(crate) fn grant(
        self: &Arc<Self>,
        asking: Asking,
        request: v1::GrantRequest,
        descriptors: Vec<OwnedFd>,
    ) -> Result<v1::GrantResponse, RequestError> {
        Ok(self.grant_or_again(asking, request, descriptors)?.0)
    }

    /// True: it is a new one, and not that of an earlier request.
    fn grant_or_again(
        self: &Arc<Self>,
        asking: Asking,
        request: v1::GrantRequest,
        descriptors: Vec<OwnedFd>,
    ) -> Result<(v1::GrantResponse, bool), RequestError> {
        let tenant = asking.caller.tenant.0;
        let mut asking = match self.on_behalf(asking, &request) {
            Ok(asking) => asking,
            Err(error) => {
                self.side.close(tenant, descriptors);
                return Err(error);
            }
        };
        let holders = self.holders(&mut asking, &request, descriptors)?;
        let granted = self.grant_to(&asking, request, &holders);
        match granted {
            Ok((id, ids)) => {
                let mut granted = self.commit_grant(id, &ids, holders)?;
                if asking.caller.confined_to.is_some() {
                    // Who is confined has no name space that it would be in.
                    granted.path.clear();
                    granted.mount_at.clear();
                }
                Ok((granted, true))
            }
            Err(Refused::Existing(granted)) => {
                holders.into_iter().for_each(|(_, watched, _)| watched.discard(&self.side));
                Ok((*granted, false))
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
        let mut passed = Passed { side: &self.side, tenant: asking.caller.tenant.0, rest: descriptors.into_iter() };
        self.check_grant(request)?;
        if asking.identity.uid != self.uid && !self.acts_as_others {
            return Err(RequestError::OtherUser);
        }
        let mut holders: Vec<Holding> = Vec::new();
        let add = |result: Result<Holding, RequestError>, holders: &mut Vec<Holding>| {
            let holding = result?;
            let twice = !matches!(holding.0, NewHolder::Descriptor | NewHolder::Ttl(_))
                && holders.iter().any(|(other, _, _)| *other == holding.0);
            holders.push(holding);
            if twice { Err(RequestError::Holder(TWICE)) } else { Ok(()) }
        };
        let added = request.holders.iter().try_for_each(|spec| add(asking.holder(spec, &mut passed), &mut holders));
        if let Err(error) = added {
            holders.into_iter().for_each(|(_, watched, _)| watched.discard(&self.side));
            return Err(error);
        }
        if holders.is_empty() && asking.on_behalf_by.is_some() {
            holders.push((NewHolder::Hold, Watched::Nothing, ""));
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
    ) -> Result<(LeaseId, Vec<HolderId>), Refused> {
        let note = note_of(holders);
        let nonce = <[u8; 16]>::try_from(request.nonce.as_slice()).ok();
        self.check_nonce(asking.caller, nonce, note)?;
        let id = new_id()?;
        let parent =
            if request.parent.is_empty() { asking.caller.confined_to } else { Some(lease_id(&request.parent)?) };
        let pool = self.pool_for(&request.pool, parent, asking.caller)?;
        let share = self.share_in(pool, parent, &request);
        let grant = Grant {
            id,
            tenant: asking.caller.tenant,
            pool: pool.id,
            nonce,
            parent,
            holders: holders.iter().map(|(holder, _, _)| *holder).collect(),
            share,
            terms: self.terms(pool, share, request.soft)?,
            lifetime_max: request.lifetime_max.map(duration).transpose()?.filter(|time| !time.is_zero()),
            labels: request.labels.into_iter().collect(),
            search_environment: request.search_environment,
            grace: request.grace.map(duration).transpose()?.unwrap_or_default(),
            granted_by: asking.on_behalf_by,
            preemptible: request.preemptible,
        };
        let ids = self.decide_grant(grant, asking, note)?;
        if let Some(lease) = self.lock().table.lease(id) {
            holders
                .iter()
                .filter_map(|(_, watched, _)| watched.known())
                .for_each(|cgroup| self.cgroups.add(lease, cgroup));
        }
        self.make_granted(id, &asking.identity)?;
        Ok((id, ids))
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
        let (caller, wanted) = (asking.caller, (request.want_handle, request.want_mount));
        let (mut granted, is_new) = self.grant_or_again(asking, request, descriptors)?;
        let id = lease_id(&granted.id)?;
        match self.wanted_handle(wanted, id) {
            Ok(handle) => {
                granted.fd = handle.is_some();
                Ok((granted, handle))
            }
            Err(error) => {
                if is_new {
                    self.revoke(caller, id, None)?;
                }
                Err(error)
            }
        }
    }

    /// The pool of a lease to be: the one that is asked for, else its parent's, else the first. A confined client has its
    /// own lease's alone.
    fn pool_for(&self, name: &str, parent: Option<LeaseId>, caller: Caller) -> Result<&InUse, RequestError> {
        let of_parent = parent.and_then(|parent| self.pool_of(parent));
        let settings = self.settings.get();
        let pools = settings.rule_of(caller).map(|rule| rule.pools.as_slice()).unwrap_or_default();
        // A rule may name a pool that is there after a restart only.
        let name = match (name, of_parent, pools.first()) {
            ("", None, Some(first)) => first,
            (name, _, _) => name,
        };
        let pool = match name {
            "" => of_parent.unwrap_or_else(|| self.pools.first()),
            name => {
                let is_allowed = |pool: &&InUse| {
                    let is_parents = of_parent.is_some_and(|of| of.id == pool.id);
                    is_parents
                        || caller.confined_to.is_none() && (pools.is_empty() || pools.contains(&pool.config.name))
                };
                // Shortened: the reply must fit into a packet whatever was asked.
                let unknown = || RequestError::PoolUnknown(name.chars().take(64).collect());
                self.pools.named(name).filter(is_allowed).ok_or_else(unknown)?
            }
        };
        if pool.lost.load(Ordering::Acquire) {
            return Err(RequestError::PoolLost(pool.disk.path().to_owned()));
        }
        self.check_high_water(pool)?;
        Ok(pool)
    }

    fn check_grant(&self, request: &v1::GrantRequest) -> Result<(), RequestError> {
        if !matches!(request.nonce.len(), 0 | 16) {
            return Err(RequestError::Request("a nonce has 16 bytes, or none"));
        }
        Ok(())
    }

    /// The limits of a lease to be. One in memory has some in any case: those of its pool, or where less is left above, half
    /// of that.
    fn share_in(&self, pool: &InUse, parent: Option<LeaseId>, request: &v1::GrantRequest) -> Share {
        let asked = translate::share(request.limits);
        if pool.disk.has_paths() {
            return asked;
        }
        let left = {
            let state = self.lock();
            let above = parent.and_then(|parent| state.table.lease(parent)).filter(|above| above.pool() == pool.id);
            above.map(|above| state.table.left(above)).unwrap_or_default()
        };
        let default = |left: Option<u64>, default: u64| left.map_or(default, |left| default.min(left / 2)).max(1);
        Share {
            bytes: asked.bytes.or_else(|| Some(default(left.bytes, pool.config.lease_bytes))),
            inodes: asked.inodes.or_else(|| Some(default(left.inodes, pool.config.lease_inodes))),
        }
    }

    /// A grant that is sent again gets its lease, whatever has become of its pool or of the broker meanwhile.
    fn check_nonce(&self, caller: Caller, nonce: Option<[u8; 16]>, note: &str) -> Result<(), Refused> {
        let state = self.lock();
        match state.table.granted_before(caller, caller.tenant, nonce).map_err(RequestError::from)? {
            Some(first) => Err(self.existing(&state, first, note)),
            None => Ok(()),
        }
    }

    fn existing(&self, state: &State, id: LeaseId, note: &str) -> Refused {
        match state.table.lease(id) {
            Some(lease) => Refused::Existing(Box::new(self.wire_grant(lease, state.table.generation(), note))),
            None => Refusal::LeaseUnknown.into(),
        }
    }

    /// The ids of the holders, in their order: one may be gone again before it is watched.
    fn decide_grant(&self, grant: Grant, asking: &Asking, note: &str) -> Result<Vec<HolderId>, Refused> {
        let id = grant.id;
        let mut state = self.lock();
        if grant.parent.is_none() && state.drain != Drain::Granting {
            return Err(RequestError::Draining.into());
        }
        if grant.holders.contains(&NewHolder::Connection(asking.connection)) && !state.open.contains(&asking.connection)
        {
            return Err(RequestError::Holder(CLOSED).into());
        }
        match state.table.grant_by(asking.caller, grant, clock::now()).map_err(RequestError::from)? {
            Granted::New => {
                state.identities.insert(id, Arc::clone(&asking.identity));
                let lease = state.table.lease(id).ok_or(RequestError::Refused(Refusal::LeaseUnknown))?;
                Ok(lease.holders().iter().map(|holder| holder.id).collect())
            }
            Granted::Existing(id) => Err(self.existing(&state, id, note)),
        }
    }

    fn make_granted(&self, id: LeaseId, identity: &Identity) -> Result<(), RequestError> {
        let mut record = self.record(id).ok_or(Refusal::LeaseUnknown)?;
        let owner = if identity.uid == self.uid {
            Owner::Broker
        } else {
            Owner::Tenant { uid: identity.uid, gid: identity.gid }
        };
        let pool = self.pool_of(id).ok_or(Refusal::LeaseUnknown)?;
        let quota = self.new_quota(pool, id);
        let made = quota.and_then(|quota| Ok(pool.disk.make_lease(id, owner, quota, &mut record)?));
        // With nothing of its own on disk: where making it failed, that was taken back.
        let loosened = self.loosened(id);
        {
            let mut state = self.lock();
            if made.is_ok() {
                state.places.insert(id, Place::This { device: record.device, inode: record.inode });
                state.quotas.insert(id, pool.disk.quota_of(id, &record));
            } else {
                let holders = state.table.lease(id).map(|lease| lease.holders().to_vec()).unwrap_or_default();
                state.table.forget(id);
                state.identities.remove(&id);
                self.cgroups.forget(id, &holders);
            }
        }
        if made.is_err() {
            if let Some(loosened) = loosened {
                self.loosen(pool, &loosened);
            }
            self.activity();
        }
        made
    }

    pub(crate) fn record(&self, id: LeaseId) -> Option<Record> {
        let state = self.lock();
        Some(translate::record(&state, &self.cgroups, &self.pools, state.table.lease(id)?))
    }

    fn commit_grant(
        self: &Arc<Self>,
        id: LeaseId,
        ids: &[HolderId],
        holdings: Vec<Holding>,
    ) -> Result<v1::GrantResponse, RequestError> {
        let note = note_of(&holdings);
        let (reply, tenant) = {
            let state = self.lock();
            let lease = state.table.lease(id).ok_or(Refusal::LeaseUnknown)?;
            (self.wire_grant(lease, state.table.generation(), note), lease.tenant().0)
        };
        let watched = holdings.into_iter().map(|(_, watched, _)| watched);
        let watching: Result<(), Errno> =
            ids.iter().zip(watched).try_for_each(|(holder, watched)| self.start_watching(id, *holder, watched));
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

    pub(crate) fn start_watching(&self, lease: LeaseId, holder: u32, watched: Watched) -> Result<(), Errno> {
        match watched {
            Watched::Nothing => Ok(()),
            Watched::Process(process) => self.watch.process(process, (lease, holder)),
            Watched::Cgroup(cgroup) => self.watch.cgroup(*cgroup, (lease, holder)),
            Watched::Socket(socket) => self.watch.socket(socket, (lease, holder)).map_err(|(errno, socket)| {
                self.side.close(NOBODYS, vec![socket]);
                errno
            }),
        }
    }
}

fn new_id() -> Result<LeaseId, RequestError> {
    let mut bits = [0; 10];
    getrandom::fill(&mut bits).map_err(|_| FsError::new("draw a lease id", "getrandom", Errno::IO))?;
    Ok(LeaseId::from_bits(bits))
}
