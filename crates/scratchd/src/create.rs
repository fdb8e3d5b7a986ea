//! Creates areas: the hot road. Checked whole before anything is made; all of a batch or nothing.

use std::ffi::CString;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;

use rustix::fs::{AtFlags, FileType};
use rustix::io::Errno;
use scratch_fs::{FsError, Naming, open_directory_beneath};
use scratch_lease::{AreaKey, AreaKind, LeaseId, Refusal, ReservedAreas, Table};
use scratch_proto::v1;

use crate::broker::Broker;
use crate::client::Client;
use crate::clock;
use crate::holders::Asking;
use crate::peer::Identity;
use crate::plan::{Plan, exact_name, plan};
use crate::reason::{AtIndex, RequestError};
use crate::tickets::Ticket;
use crate::translate::lease_id;

/// One area that was made.
struct Made {
    key: AreaKey,
    name: Vec<u8>,
    handle: Option<OwnedFd>,
}

/// A reply and the descriptors that go with it.
#[derive(Debug)]
pub(crate) struct Creation {
    pub(crate) response: v1::CreateResponse,
    pub(crate) handles: Vec<OwnedFd>,
    lease: LeaseId,
    place: Option<CString>,
}

/// Knows what takes a creation away again, if the client never gets the reply.
#[derive(Debug)]
pub(crate) struct Undo {
    lease: LeaseId,
    place: Option<CString>,
}

impl Creation {
    /// What is needed to undo it.
    pub(crate) fn undo_later(&mut self) -> Undo {
        Undo { lease: self.lease, place: self.place.take() }
    }
}

impl Undo {
    /// One Release for each area of the reply.
    pub(crate) fn of(&self, response: &v1::ChannelResponse) -> Vec<v1::ReleaseRequest> {
        let Some(v1::channel_response::Result::Create(created)) = &response.result else { return Vec::new() };
        let release = |area: &v1::Created| {
            let area = match &self.place {
                Some(place) => [place.to_bytes(), b"/", &area.name].concat(),
                None => area.name.clone(),
            };
            v1::ReleaseRequest { lease: self.lease.to_string(), area, wait: v1::Wait::Unspecified.into() }
        };
        created.areas.iter().map(release).collect()
    }
}

impl Broker {
    /// Makes areas for a client.
    ///
    /// # Errors
    /// What was refused or failed, with the index in the batch; nothing of it is left.
    pub(crate) fn create(
        self: &Arc<Self>,
        client: &mut Client,
        request: &v1::CreateRequest,
    ) -> Result<Creation, AtIndex> {
        let first = |error| AtIndex { index: 0, error };
        let exact = exact_name(request).map_err(first)?;
        let plan = plan(client.road, request, exact.as_deref()).map_err(first)?;
        let handles = if plan.want_handle { plan.count } else { 0 };
        self.check_unread(client, handles).map_err(first)?;
        let lease = self.lease_for(client, &request.lease).map_err(first)?;
        let reserved = {
            let mut state = self.lock();
            let reserve = |table: &mut Table| {
                table.take_creates(client.peer.caller, plan.count, clock::now())?;
                table.reserve_areas(lease, client.peer.caller, plan.count)
            };
            reserve(&mut state.table).map_err(|refusal| first(refusal.into()))?
        };
        let made = self.make(client, lease, &plan, reserved).map_err(|at| {
            self.lock().table.unreserve_areas(reserved, plan.count);
            AtIndex { error: self.or_ended(client, lease, at.error), ..at }
        })?;
        let made = self.enter(client, lease, &plan, made, reserved).map_err(first)?;
        let mut creation = Creation {
            response: v1::CreateResponse::default(),
            handles: Vec::with_capacity(handles),
            lease,
            // What has no name lies in no directory.
            place: plan.place.filter(|_| matches!(plan.kind, AreaKind::File | AreaKind::Directory)),
        };
        for one in made {
            creation.response.areas.push(v1::Created { name: one.name, fd: one.handle.is_some(), id: Vec::new() });
            creation.handles.extend(one.handle);
        }
        if client.own_lease == Some(lease) {
            creation.response.lease = client.untold.take();
        }
        Ok(creation)
    }

    /// As [`Broker::create`] where the reply can't carry descriptors: they wait behind a ticket.
    ///
    /// # Errors
    /// As there; NEEDS_CHANNEL and LIMIT_TICKETS before anything is made.
    pub(crate) fn create_for_ticket(
        self: &Arc<Self>,
        client: &mut Client,
        request: &v1::CreateRequest,
    ) -> Result<v1::CreateResponse, AtIndex> {
        let first = |error| AtIndex { index: 0, error };
        let unnamed = matches!(request.kind(), v1::Kind::Anonymous | v1::Kind::Memory);
        if !unnamed && !request.want_handle {
            return Ok(self.create(client, request)?.response);
        }
        let limit = self.settings.get().limits_of(client.peer.caller).tickets;
        let place = self.tickets.place(client.peer.caller.tenant.0, limit).map_err(first)?;
        let Creation { mut response, handles, lease, .. } = self.create(client, request)?;
        let counted = client.outgoing.keep(handles.len());
        let areas = response.areas.clone();
        for area in &mut response.areas {
            area.fd = false;
        }
        response.ticket = place.open(Ticket { lease, areas, handles, unnamed, _counted: counted });
        if self.lock().table.lease(lease).is_none() {
            // It ended after its tickets were dropped: this one came too late for that.
            self.drop_tickets(self.tickets.of_lease(lease));
        }
        Ok(response)
    }

    /// Refuses descriptors beyond what the tenant may leave unread.
    pub(crate) fn check_unread(&self, client: &Client, handles: usize) -> Result<(), RequestError> {
        let limit = self.settings.get().limits_of(client.peer.caller).unread_descriptors;
        if client.outgoing.tenant_may_be_sent(handles, limit) {
            Ok(())
        } else {
            Err(RequestError::LimitUnread { limit })
        }
    }

    /// The lease of a request; the connection's own one is granted at first use.
    pub(crate) fn lease_for(self: &Arc<Self>, client: &mut Client, text: &str) -> Result<LeaseId, RequestError> {
        if !text.is_empty() {
            return lease_id(text);
        }
        if let Some(own) = client.peer.caller.confined_to {
            return Ok(own);
        }
        if let Some(own) = client.own_lease {
            if self.lock().table.live(own, client.peer.caller).is_ok() {
                return Ok(own);
            }
            client.let_go(own);
        }
        let asking = Asking::of(client, &[])?;
        let granted = self.grant(asking, v1::GrantRequest::default(), Vec::new())?;
        let own = lease_id(&granted.id)?;
        client.own_lease = Some(own);
        client.untold = Some(granted);
        Ok(own)
    }

    /// Makes all areas with the tenant's rights, or takes back what it made.
    fn make(
        &self,
        client: &mut Client,
        lease: LeaseId,
        plan: &Plan<'_>,
        reserved: ReservedAreas,
    ) -> Result<Vec<Made>, AtIndex> {
        let first = |error| AtIndex { index: 0, error };
        let identity = self.identity_for(client, lease).map_err(first)?;
        let held = client.directory(self, lease).map_err(first)?;
        let _rights = identity
            .assume(self.uid)
            .map_err(|errno| first(FsError::new("take on the tenant's rights", "", errno).into()))?;
        let place = match &plan.place {
            None => None,
            Some(path) => Some(open_directory_beneath(held, path).map_err(|errno| {
                let shown = Path::new(std::ffi::OsStr::from_bytes(path.to_bytes()));
                first(FsError::new("open directory of lease", shown, errno).into())
            })?),
        };
        let directory = place.as_ref().map_or(held, AsFd::as_fd);
        let mut made: Vec<Made> = Vec::with_capacity(plan.count);
        for index in 0..plan.count {
            let number = reserved.first_number + u32::try_from(index).unwrap_or(u32::MAX);
            match self.make_one(directory, plan, number, identity.uid) {
                Ok(one) => made.push(one),
                Err(error) => {
                    take_back(directory, plan.kind, &made);
                    return Err(AtIndex { index, error });
                }
            }
        }
        Ok(made)
    }

    fn make_one(
        &self,
        directory: BorrowedFd<'_>,
        plan: &Plan<'_>,
        number: u32,
        owner: u32,
    ) -> Result<Made, RequestError> {
        let unnamed =
            |handle| Made { key: AreaKey::Number(number), name: format!("#{number}").into(), handle: Some(handle) };
        match plan.kind {
            AreaKind::Anonymous => Ok(unnamed(scratch_fs::create_anonymous(directory, plan.mode)?)),
            AreaKind::Memory => Ok(unnamed(scratch_fs::create_memory(c"scratchd", plan.mode)?)),
            AreaKind::File => match scratch_fs::create_file(directory, &plan.naming, plan.mode) {
                Ok((handle, name)) => Ok(named(plan, name, Some(handle))),
                Err(error) => {
                    let handle = again(directory, plan, owner, error)?;
                    Ok(named(plan, exact(plan)?, Some(handle)))
                }
            },
            AreaKind::Directory => match scratch_fs::create_directory(directory, &plan.naming, plan.mode) {
                Ok(name) => self.with_handle(directory, plan, name.clone()).inspect_err(|_| {
                    // Best effort: it is new and empty, and what stays goes with its lease.
                    let _ = rustix::fs::unlinkat(directory, &name, AtFlags::REMOVEDIR);
                }),
                Err(error) => {
                    again(directory, plan, owner, error)?;
                    self.with_handle(directory, plan, exact(plan)?)
                }
            },
        }
    }

    /// What failed in a lease that has ended meanwhile failed for that.
    pub(crate) fn or_ended(&self, client: &Client, lease: LeaseId, error: RequestError) -> RequestError {
        match self.lock().table.in_place(lease, client.peer.caller) {
            Ok(_) => error,
            Err(refusal) => refusal.into(),
        }
    }

    /// With whose rights work in a lease is done: the peer's own, or, where an admin works in another tenant's lease, that
    /// tenant's.
    ///
    /// # Errors
    /// LEASE_UNKNOWN for one that has gone meanwhile.
    pub(crate) fn identity_for(&self, client: &Client, lease: LeaseId) -> Result<Arc<Identity>, RequestError> {
        let own = &client.peer.identity;
        match self.lock().identities.get(&lease) {
            Some(tenant) if tenant.uid != own.uid => Ok(Arc::clone(tenant)),
            Some(_) => Ok(Arc::clone(own)),
            None => Err(Refusal::LeaseUnknown.into()),
        }
    }

    fn with_handle(&self, directory: BorrowedFd<'_>, plan: &Plan<'_>, name: CString) -> Result<Made, RequestError> {
        if !plan.want_handle {
            return Ok(named(plan, name, None));
        }
        let opened = scratch_fs::open_directory(directory, &name).map_err(|errno| {
            let shown = Path::new(std::ffi::OsStr::from_bytes(name.to_bytes()));
            FsError::new("open directory", shown, errno)
        })?;
        let handle = self.contained(opened)?;
        Ok(named(plan, name, Some(handle)))
    }

    /// Enters what was made into the table. If the lease has ended meanwhile, it is all taken back.
    fn enter(
        &self,
        client: &mut Client,
        lease: LeaseId,
        plan: &Plan<'_>,
        made: Vec<Made>,
        reserved: ReservedAreas,
    ) -> Result<Vec<Made>, RequestError> {
        let entered = {
            let mut state = self.lock();
            let entered = made.iter().take_while(|one| state.table.add_area(lease, one.key.clone(), plan.kind)).count();
            state.table.unreserve_areas(reserved, made.len() - entered);
            entered
        };
        if entered == made.len() {
            return Ok(made);
        }
        // The lease went into trash while this was made: the reaper takes the rest.
        client.let_go(lease);
        Err(self.or_ended(client, lease, Refusal::LeaseUnknown.into()))
    }
}

/// EEXIST of an exact name that was sent before: what stands there is given, if it is what was asked for.
fn again(directory: BorrowedFd<'_>, plan: &Plan<'_>, owner: u32, error: FsError) -> Result<OwnedFd, RequestError> {
    let kind = if plan.kind == AreaKind::Directory { FileType::Directory } else { FileType::RegularFile };
    match plan.naming {
        Naming::Exact(name) if error.errno == Errno::EXIST && plan.resend && plan.place.is_none() => {
            scratch_fs::reopen_own(directory, name, kind, owner).map_err(exists)
        }
        _ => Err(exists(error)),
    }
}

/// The exact name of a plan, for what was found under it.
fn exact(plan: &Plan<'_>) -> Result<CString, RequestError> {
    match plan.naming {
        Naming::Exact(name) => Ok(name.to_owned()),
        Naming::Random(_) => Err(RequestError::Request("only an exact name can be sent again")),
    }
}

fn exists(error: FsError) -> RequestError {
    if error.errno == Errno::EXIST { RequestError::NameExists(error.path) } else { error.into() }
}

fn named(plan: &Plan<'_>, name: CString, handle: Option<OwnedFd>) -> Made {
    let key = match &plan.place {
        None => name.to_bytes().into(),
        Some(place) => [place.to_bytes(), b"/", name.to_bytes()].concat().into_boxed_slice(),
    };
    Made { key: AreaKey::Name(key), name: name.into_bytes(), handle: handle.filter(|_| plan.want_handle) }
}

fn take_back(directory: BorrowedFd<'_>, kind: AreaKind, made: &[Made]) {
    let flags = match kind {
        AreaKind::File => AtFlags::empty(),
        AreaKind::Directory => AtFlags::REMOVEDIR,
        AreaKind::Anonymous | AreaKind::Memory => return,
    };
    for one in made {
        // Best effort: the first error is told, and what stays goes with its lease.
        let _ = rustix::fs::unlinkat(directory, one.name.as_slice(), flags);
    }
}
