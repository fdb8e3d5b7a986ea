//! Create in a directory that the client passes: checked here, made on one of the tenant's threads, answered in time.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard};

use rustix::fs::{AtFlags, FileType, StatxFlags};
use rustix::io::Errno;
use scratch_fs::{ForeignEntry, FsError, Naming, Node};
use scratch_lease::{AreaKey, AreaKind, Caller, LeaseId, Refusal, ReservedAreas};
use scratch_proto::v1;

use super::{Area, Parent, ParentKey, kind_of};
use crate::broker::Broker;
use crate::client::Client;
use crate::clock;
use crate::load::Counted;
use crate::peer::Identity;
use crate::plan::{Plan, exact_name, plan};
use crate::reason::RequestError;

/// Creates of one tenant that are under way or wait for one of its threads.
const UNDER_WAY_MAX: usize = 64;

/// A reply, the descriptor that goes with it, and what takes it all away again if the client never gets it.
#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) response: v1::CreateResponse,
    pub(crate) handle: Option<OwnedFd>,
    pub(crate) undo: Vec<v1::ReleaseRequest>,
}

/// What comes of a Create.
pub(crate) type Made = Result<Reply, RequestError>;

/// Takes an answer once; whoever comes second is told so.
struct Answer<F>(Arc<Mutex<Waiting<F>>>);

/// What waits for its answer, and whether one of the tenant's threads has come to it.
struct Waiting<F> {
    answer: Option<F>,
    has_begun: bool,
}

/// A Create that was checked.
struct Asked {
    caller: Caller,
    identity: Arc<Identity>,
    lease: LeaseId,
    /// The lease is the connection's own, of which the reply tells if none has.
    is_own: bool,
    request: v1::CreateRequest,
    reserved: ReservedAreas,
    _counted: Counted,
}

/// What was made.
struct One {
    key: AreaKey,
    area: v1::Created,
    handle: Option<OwnedFd>,
}

impl<F> Answer<F> {
    fn take(&self) -> Option<F> {
        self.lock().answer.take()
    }

    /// False: it was answered, and nobody waits any more.
    fn begin(&self) -> bool {
        let mut waiting = self.lock();
        waiting.has_begun = waiting.answer.is_some();
        waiting.has_begun
    }

    fn has_begun(&self) -> bool {
        self.lock().has_begun
    }

    fn lock(&self) -> MutexGuard<'_, Waiting<F>> {
        self.0.lock().expect("a thread that panics ends the process")
    }
}

impl Broker {
    /// Checks a Create in a client's directory, and has it carried out. `answer` is called once, at the latest when the
    /// directory has had its time.
    ///
    /// # Errors
    /// What was refused before anything was done; the descriptor is closed.
    pub(crate) fn create_foreign(
        self: &Arc<Self>,
        client: &mut Client,
        request: v1::CreateRequest,
        mut descriptors: Vec<OwnedFd>,
        answer: impl FnOnce(Made) + Send + 'static,
    ) -> Result<(), RequestError> {
        let asked = self.check_foreign_create(client, request);
        let asked = asked.and_then(|asked| match descriptors.pop() {
            Some(directory) => Ok((asked, directory)),
            None => {
                self.lock().table.unreserve_areas(asked.reserved, 1);
                Err(RequestError::Request("a directory of the client's rides along as a descriptor; set foreign.fd"))
            }
        });
        self.side.close(client.peer.identity.uid, descriptors);
        let (asked, directory) = asked?;
        let answer = Answer(Arc::new(Mutex::new(Waiting { answer: Some(answer), has_begun: false })));
        let (late, broker) = (Answer(Arc::clone(&answer.0)), Arc::clone(self));
        self.after_deadline(move |deadline| {
            let late_for = if late.has_begun() {
                RequestError::ForeignTimeout(deadline)
            } else {
                // This directory may well answer: those before it do not.
                let limit = broker.settings.get().foreign.threads;
                RequestError::LimitForeign {
                    what: "threads for directories of its own, and none was free in time",
                    limit,
                }
            };
            if let Some(answer) = late.take() {
                answer(Err(late_for));
            }
        });
        let broker = Arc::clone(self);
        let job = move |there: Result<(), Errno>| {
            if !answer.begin() {
                broker.lock().table.unreserve_areas(asked.reserved, 1);
                return;
            }
            let made = there.map_err(|errno| FsError::new("start a thread for", "Create", errno).into());
            let made = made.and_then(|()| broker.make_foreign(&asked, &directory));
            broker.tell_of(&asked, made, answer.take());
            // Closed where it was used, and when all is said: that may take as long as anything else.
            drop(directory);
        };
        self.run_foreign(asked_tenant(client), Box::new(job));
        Ok(())
    }

    fn check_foreign_create(
        self: &Arc<Self>,
        client: &mut Client,
        request: v1::CreateRequest,
    ) -> Result<Asked, RequestError> {
        let exact = exact_name(&request)?;
        let plan = plan(client.road, &request, exact.as_deref())?;
        if plan.kind == AreaKind::Memory {
            return Err(RequestError::Kind("a memory area lies in no directory; leave where out"));
        }
        if plan.count > 1 {
            return Err(RequestError::Kind(
                "areas in a directory that the client passes are made one by one; send several requests",
            ));
        }
        self.check_unread(client, usize::from(plan.want_handle))?;
        let is_own = request.lease.is_empty();
        let lease = self.lease_for(client, &request.lease)?;
        let tenant = self.lock().table.in_place(lease, client.peer.caller)?.tenant().0;
        if tenant != client.peer.identity.uid && client.peer.identity.uid != 0 {
            // With the lease's rights and its own directory a member of the admin group could write as that tenant.
            return Err(RequestError::NotPermitted("Create in a directory of one's own for another tenant", "root"));
        }
        let counted = client.outgoing.foreign(UNDER_WAY_MAX);
        let counted =
            counted.ok_or(RequestError::LimitForeign { what: "such requests under way", limit: UNDER_WAY_MAX })?;
        let identity = self.identity_for(client, lease)?;
        let caller = client.peer.caller;
        let reserved = {
            let mut state = self.lock();
            state.table.take_creates(caller, 1, clock::now())?;
            state.table.reserve_areas(lease, caller, 1)?
        };
        Ok(Asked { caller, identity, lease, is_own, request, reserved, _counted: counted })
    }

    /// Answers, and takes away again what nobody is told of any more.
    fn tell_of(self: &Arc<Self>, asked: &Asked, made: Result<One, RequestError>, answer: Option<impl FnOnce(Made)>) {
        let lease = asked.lease;
        match (made, answer) {
            (Ok(made), Some(answer)) => {
                let area = v1::Created { fd: made.handle.is_some(), ..made.area };
                let told = asked.is_own.then(|| v1::GrantResponse { id: lease.to_string(), ..Default::default() });
                let response = v1::CreateResponse { areas: vec![area], lease: told, ..Default::default() };
                let id = response.areas[0].id.clone();
                let undo =
                    v1::ReleaseRequest { lease: lease.to_string(), area: id, wait: v1::Wait::Unspecified.into() };
                let undo = if undo.area.is_empty() { Vec::new() } else { vec![undo] };
                answer(Ok(Reply { response, handle: made.handle, undo }));
            }
            (Ok(made), None) => {
                tracing::info!(%lease, "an area in a client's directory came too late, and is taken away again");
                self.lock().table.remove_area(lease, &made.key);
                if let AreaKey::Number(number) = made.key {
                    self.end_foreign(lease, number, None, None);
                }
            }
            (Err(error), answer) => {
                let ended = self.lock().table.in_place(lease, asked.caller).err();
                if let Some(answer) = answer {
                    answer(Err(ended.map_or(error, Into::into)));
                }
            }
        }
    }

    /// On one of the tenant's threads: every step may block for as long as the directory likes.
    fn make_foreign(self: &Arc<Self>, asked: &Asked, directory: &OwnedFd) -> Result<One, RequestError> {
        let exact = exact_name(&asked.request)?;
        let plan = plan(crate::client::Road::Channel, &asked.request, exact.as_deref())?;
        let made = self.make_in(asked, &plan, directory);
        let was_there = matches!(&made, Ok((_, true)));
        let made = made.and_then(|(made, _)| {
            let is_in = was_there || self.lock().table.add_area(asked.lease, made.key.clone(), plan.kind);
            if is_in {
                return Ok(made);
            }
            // The lease has ended meanwhile; what has a name is ended by whoever comes first.
            if let AreaKey::Number(number) = made.key {
                self.end_foreign(asked.lease, number, None, None);
            }
            Err(Refusal::LeaseUnknown.into())
        });
        if made.is_err() || was_there {
            self.lock().table.unreserve_areas(asked.reserved, 1);
        }
        made
    }

    /// True: a request sent before had made it.
    fn make_in(
        self: &Arc<Self>,
        asked: &Asked,
        plan: &Plan<'_>,
        directory: &OwnedFd,
    ) -> Result<(One, bool), RequestError> {
        let (lease, number) = (asked.lease, asked.reserved.first_number);
        let key = AreaKey::Number(number);
        let aside = ForeignEntry::draw_aside().map_err(|errno| FsError::new("draw", "a random name", errno))?;
        let mut entry = ForeignEntry {
            lease: lease.to_string(),
            number,
            uid: asked.identity.uid,
            gid: asked.identity.gid,
            groups: asked.identity.groups.clone(),
            boot: self.foreign.boot.get().cloned().unwrap_or_default(),
            aside: aside.into_bytes(),
            is_directory: plan.kind == AreaKind::Directory,
            ..ForeignEntry::default()
        };
        let held = entry.hold_parent(directory)?;
        let name = format!("#{number}").into_bytes();
        if plan.kind == AreaKind::Anonymous {
            let handle = {
                let _rights = self.rights_of(&asked.identity)?;
                scratch_fs::create_nameless(held.as_fd(), plan.mode)?
            };
            let area = v1::Created { name, fd: true, ..Default::default() };
            return Ok((One { key, area, handle: Some(handle) }, false));
        }
        let settings = self.settings.get();
        let parent_key = parent_key(&held).map_err(|errno| FsError::new("look at", entry.shown(), errno))?;
        let parent = self.foreign.hold(entry.uid, parent_key, held, settings.foreign.directories)?;
        if let Some(made) = self.made_before(asked, plan, &entry, &parent)? {
            return Ok((made, true));
        }
        let uid = entry.uid;
        self.foreign.reserve(uid, settings.foreign.areas)?;
        let pool = self.pool_of(lease).ok_or(Refusal::LeaseUnknown).inspect_err(|_| self.foreign.unreserve(uid))?;
        let enter = |entry, parent| {
            let area = Area { entry, pool: pool.id, parent: Some(parent), ends: false };
            self.foreign.enter((lease, number), area);
        };
        let book = pool.disk.foreign();
        match book.make(parent.held.as_fd(), entry, &plan.naming, plan.mode, plan.want_handle) {
            Ok(made) => {
                enter(made.entry.clone(), parent);
                let area = v1::Created { name: made.entry.name, id: name, ..Default::default() };
                Ok((One { key, area, handle: made.handle.filter(|_| plan.want_handle) }, false))
            }
            Err(unmade) => {
                match unmade.left {
                    // Nothing of it is there.
                    None => self.foreign.unreserve(uid),
                    Some(left) => {
                        enter(*left, parent);
                        self.end_foreign(lease, number, None, None);
                    }
                }
                Err(named(plan, unmade.error))
            }
        }
    }

    /// What a request that is sent again made the first time: of this lease, in this directory, under this name.
    fn made_before(
        &self,
        asked: &Asked,
        plan: &Plan<'_>,
        entry: &ForeignEntry,
        parent: &Parent,
    ) -> Result<Option<One>, RequestError> {
        let Naming::Exact(name) = plan.naming else { return Ok(None) };
        if !plan.resend {
            return Ok(None);
        }
        let is_it = |known: &ForeignEntry| {
            known.name == name.to_bytes() && kind_of(known) == plan.kind && known.parent == entry.parent
        };
        let found = {
            let known = self.foreign.lock();
            let of_lease = known.areas.range((asked.lease, 0)..=(asked.lease, u32::MAX));
            let mut of_lease = of_lease.filter(|(_, area)| !area.ends);
            of_lease.find(|(_, area)| is_it(&area.entry)).map(|((_, number), area)| (*number, area.entry.child.clone()))
        };
        let Some((number, Some(child))) = found else { return Ok(None) };
        let _rights = self.rights_of(&asked.identity)?;
        let kind = if plan.kind == AreaKind::Directory { FileType::Directory } else { FileType::RegularFile };
        let handle = scratch_fs::reopen_own(parent.held.as_fd(), name, kind, entry.uid);
        let handle = handle.map_err(|error| named(plan, error))?;
        let now = Node::of(handle.as_fd()).map_err(|errno| FsError::new("look at", entry.shown(), errno))?;
        if child.is(&now, true) != Some(true) {
            return Err(named(plan, FsError::new("open area again", entry.shown(), Errno::EXIST)));
        }
        let id = format!("#{number}").into_bytes();
        let area = v1::Created { name: name.to_bytes().to_vec(), id, ..Default::default() };
        Ok(Some(One { key: AreaKey::Number(number), area, handle: Some(handle).filter(|_| plan.want_handle) }))
    }

    fn rights_of(&self, identity: &Identity) -> Result<Option<scratch_sys::Assumed>, RequestError> {
        let refused = |errno| FsError::new("take on the tenant's rights", "", errno).into();
        identity.assume(self.uid).map_err(refused)
    }
}

/// Whose threads work for a client: its own, whosever lease it is.
fn asked_tenant(client: &Client) -> u32 {
    client.peer.identity.uid
}

fn parent_key(held: &OwnedFd) -> Result<ParentKey, Errno> {
    let flags = AtFlags::EMPTY_PATH | AtFlags::NO_AUTOMOUNT;
    let found = rustix::fs::statx(held, c"", flags, StatxFlags::INO | StatxFlags::MNT_ID)?;
    Ok((found.stx_mnt_id, rustix::fs::makedev(found.stx_dev_major, found.stx_dev_minor), found.stx_ino))
}

fn named(plan: &Plan<'_>, error: FsError) -> RequestError {
    match plan.naming {
        Naming::Exact(_) if error.errno == Errno::EXIST => RequestError::NameForeign(error.path),
        _ => error.into(),
    }
}
