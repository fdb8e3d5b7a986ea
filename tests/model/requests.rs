//! What the broker does for clients, in pieces: other work comes in between, as with threads.

use std::collections::VecDeque;

use scratch_lease::{
    AreaKey, BootTime, Caller, Grant, Granted, Holder, HolderId, HolderKind, LeaseId, LeaseState, NewHolder, Parting,
    Reason, Table,
};

use crate::broker::{Broker, Step, own_word};
use crate::disk::{Fail, Inode, NEW, RECORDS, ROOT};
use crate::record::Record;
use crate::world::{World, Wrong};

/// What a client is told, and what it asked for.
#[derive(Debug, Clone)]
pub(crate) enum Reply {
    /// To a grant of this id: the lease that it got, and from when its times run.
    Granted(LeaseId, Option<LeaseId>, BootTime),
    /// To an Attach with this number.
    Attached(LeaseId, u64, Option<HolderId>),
    Detached(LeaseId, HolderId, bool),
    Revoked(LeaseId),
    Renewed(LeaseId, bool),
}

/// A piece of work that waits for its thread.
#[derive(Debug, Clone)]
pub(crate) enum Job {
    /// The lease was decided: make it.
    Make {
        id: LeaseId,
        descriptors: Vec<u64>,
    },
    /// It was made: watch it, commit it, tell.
    Commit {
        id: LeaseId,
        descriptors: Vec<u64>,
    },
    Attach {
        id: LeaseId,
        caller: Caller,
        new: NewHolder,
        descriptor: Option<u64>,
        number: u64,
    },
    Detach {
        id: LeaseId,
        caller: Caller,
        holder: HolderId,
    },
    Rewrite {
        id: LeaseId,
        then: Then,
    },
    /// The record was written: the lease may be gone.
    Rewritten {
        id: LeaseId,
        then: Then,
    },
    Ends {
        ends: VecDeque<LeaseId>,
        is_renamed: bool,
        then: Option<Reply>,
    },
    Search(LeaseId),
    /// Holders that were seen to have ended.
    Gone(Vec<(LeaseId, HolderId)>, Parting),
    Settle,
    Pass(BootTime),
}

/// What follows the writing of a record.
#[derive(Debug, Clone)]
pub(crate) enum Then {
    Attached(Holder, u64),
    Detached(HolderId),
    Nothing,
    /// It was written because the lease ends.
    Ending,
}

impl Job {
    /// Work on one lease's record is done in order.
    fn side(&self) -> Option<LeaseId> {
        match self {
            Job::Attach { id, .. } | Job::Detach { id, .. } | Job::Rewrite { id, .. } | Job::Rewritten { id, .. } => {
                Some(*id)
            }
            _ => None,
        }
    }
}

impl Broker {
    pub(crate) fn runnable(&self) -> Vec<usize> {
        let mut seen = Vec::new();
        let mut runnable = Vec::new();
        for (place, job) in self.jobs.iter().enumerate() {
            match job.side() {
                Some(id) if seen.contains(&id) => {}
                side => {
                    seen.extend(side);
                    runnable.push(place);
                }
            }
        }
        runnable
    }

    /// One piece of one job.
    pub(crate) fn run(&mut self, world: &mut World, place: usize) -> Step<()> {
        let Some(job) = self.jobs.remove(place) else { return Ok(()) };
        let next = match job {
            Job::Make { id, descriptors } => self.make(world, id, descriptors)?,
            Job::Commit { id, descriptors } => self.commit(world, id, descriptors),
            Job::Attach { id, caller, new, descriptor, number } => {
                self.attach(world, (id, number), caller, (new, descriptor))
            }
            Job::Detach { id, caller, holder } => self.detach(world, id, caller, holder),
            Job::Rewrite { id, then } => self.rewrite(world, id, then)?,
            Job::Rewritten { id, then } => self.rewritten(world, id, then)?,
            Job::Ends { ends, is_renamed, then } => self.end_next(world, ends, is_renamed, then)?,
            Job::Search(id) => self.search(world, id),
            Job::Gone(holders, how) => {
                holders.into_iter().for_each(|(lease, holder)| self.table.holder_parted(lease, holder, how));
                self.settle(world);
                None
            }
            Job::Settle => {
                self.settle(world);
                None
            }
            Job::Pass(time) => {
                self.pass(world, time);
                None
            }
        };
        if let Some(next) = next {
            self.jobs.insert(place.min(self.jobs.len()), next);
        }
        Ok(())
    }

    pub(crate) fn grant(&mut self, world: &World, caller: Caller, grant: Grant, descriptors: Vec<u64>) {
        let id = grant.id;
        let is_closed =
            |holder: &NewHolder| matches!(holder, NewHolder::Connection(connection) if !self.open.contains(connection));
        if grant.holders.iter().any(is_closed) {
            self.replies.push(Reply::Granted(id, None, world.now));
            return;
        }
        let grant = Grant { nonce: grant.nonce.filter(|_| !world.is(Wrong::NonceForgotten)), ..grant };
        match self.table.grant_by(caller, grant, world.now) {
            Ok(Granted::New) => self.jobs.push_back(Job::Make { id, descriptors }),
            Ok(Granted::Existing(first)) => self.replies.push(Reply::Granted(id, Some(first), world.now)),
            Err(_) => self.replies.push(Reply::Granted(id, None, world.now)),
        }
    }

    fn make(&mut self, world: &mut World, id: LeaseId, descriptors: Vec<u64>) -> Step<Option<Job>> {
        let made = match world.disk.make_directory(NEW, id.as_str()) {
            Ok(inode) => self.name(world, id, inode)?,
            Err(Fail::Crash) => return Err(Fail::Crash),
            Err(_) => false,
        };
        if made {
            return Ok(Some(Job::Commit { id, descriptors }));
        }
        self.drop_record(world, id)?;
        if world.disk.unlink(NEW, id.as_str()) == Err(Fail::Crash) {
            return Err(Fail::Crash);
        }
        self.table.forget(id);
        self.replies.push(Reply::Granted(id, None, world.now));
        Ok(None)
    }

    /// The record, then the name.
    fn name(&mut self, world: &mut World, id: LeaseId, inode: Inode) -> Step<bool> {
        let Some(lease) = self.table.lease(id) else { return Ok(false) };
        let record = Record::of(lease, inode);
        let named = |world: &mut World| match world.disk.rename((NEW, id.as_str()), (ROOT, id.as_str()), false) {
            Err(Fail::Crash) => Err(Fail::Crash),
            renamed => Ok(renamed.is_ok()),
        };
        if world.is(Wrong::NamedBeforeRecorded) {
            return Ok(named(world)? && self.write_record(world, id, record)?);
        }
        Ok(self.write_record(world, id, record)? && named(world)?)
    }

    fn commit(&mut self, world: &mut World, id: LeaseId, descriptors: Vec<u64>) -> Option<Job> {
        let holders = self.table.lease(id).map(|lease| lease.holders().to_vec()).unwrap_or_default();
        let mut descriptors = descriptors.into_iter();
        let can_watch = !world.refuses(100);
        for holder in holders {
            let descriptor = if holder.kind == HolderKind::Descriptor { descriptors.next() } else { None };
            if can_watch {
                self.watch((id, holder.id), holder.kind, descriptor);
            }
        }
        self.table.commit(id, world.now);
        if !can_watch {
            self.table.end(id, Reason::Revoked);
        }
        self.settle_then(world, Some(Reply::Granted(id, can_watch.then_some(id), world.now)));
        None
    }

    fn attach(
        &mut self,
        world: &mut World,
        (id, number): (LeaseId, u64),
        caller: Caller,
        (new, descriptor): (NewHolder, Option<u64>),
    ) -> Option<Job> {
        let is_closed = matches!(new, NewHolder::Connection(connection) if !self.open.contains(&connection));
        let before = self.table.live(id, caller).map(|lease| lease.holders().to_vec()).unwrap_or_default();
        let attached = if is_closed { None } else { self.table.attach(id, caller, new, world.now).ok() };
        let Some(holder) = attached else {
            self.replies.push(Reply::Attached(id, number, None));
            return None;
        };
        if before.iter().any(|old| old.id == holder.id) {
            self.settle_then(world, Some(Reply::Attached(id, number, Some(holder.id))));
            return None;
        }
        if world.refuses(100) {
            self.take_back(world, id, holder, number);
            return None;
        }
        self.watch((id, holder.id), holder.kind, descriptor);
        if world.is(Wrong::AnsweredBeforeRecorded) {
            self.replies.push(Reply::Attached(id, number, Some(holder.id)));
        }
        Some(Job::Rewrite { id, then: Then::Attached(holder, number) })
    }

    fn take_back(&mut self, world: &World, id: LeaseId, holder: Holder, number: u64) {
        self.unwatch((id, holder.id), holder.kind);
        self.table.holder_gone(id, holder.id);
        self.settle_then(world, Some(Reply::Attached(id, number, None)));
    }

    fn detach(&mut self, world: &World, id: LeaseId, caller: Caller, holder: HolderId) -> Option<Job> {
        let lease = self.table.live(id, caller).ok();
        let holders = lease.map(|lease| lease.holders().to_vec()).unwrap_or_default();
        let goes = holders.len() == 1 && !lease.is_some_and(|lease| lease.search_environment());
        let found = holders.iter().find(|other| other.id == holder).copied();
        let (Some(found), Ok(())) = (found, self.table.detach(id, caller, holder)) else {
            self.replies.push(Reply::Detached(id, holder, false));
            return None;
        };
        self.unwatch((id, holder), found.kind);
        if !goes && !world.is(Wrong::DetachedBeforeRecorded) {
            return Some(Job::Rewrite { id, then: Then::Detached(holder) });
        }
        self.settle_then(world, Some(Reply::Detached(id, holder, true)));
        None
    }

    fn rewrite(&mut self, world: &mut World, id: LeaseId, then: Then) -> Step<Option<Job>> {
        let inode = world.disk.look(ROOT, id.as_str());
        let (Some(lease), Some(inode)) = (self.table.lease(id), inode) else {
            self.answer(world, id, then, false);
            return Ok(None);
        };
        let record = Record::of(lease, inode);
        if self.write_record(world, id, record)? {
            return Ok(Some(Job::Rewritten { id, then }));
        }
        self.answer(world, id, then, false);
        Ok(None)
    }

    fn rewritten(&mut self, world: &mut World, id: LeaseId, then: Then) -> Step<Option<Job>> {
        let is_gone = self.table.lease(id).is_none();
        if is_gone && world.disk.look(RECORDS, id.as_str()).is_some() {
            self.drop_record(world, id)?;
        }
        let named = world.disk.look(RECORDS, id.as_str()).is_some();
        let ends = self.table.lease(id).is_some_and(|lease| lease.reason().is_some());
        if named && ends && !matches!(then, Then::Ending) {
            // Decided since: its record must not be left naming holders.
            self.rewrite(world, id, Then::Ending)?;
        }
        self.answer(world, id, then, !is_gone);
        Ok(None)
    }

    fn answer(&mut self, world: &World, id: LeaseId, then: Then, is_written: bool) {
        match then {
            Then::Attached(holder, number) if is_written => {
                self.settle_then(world, Some(Reply::Attached(id, number, Some(holder.id))));
            }
            Then::Attached(holder, number) => self.take_back(world, id, holder, number),
            Then::Detached(holder) => {
                self.settle_then(world, Some(Reply::Detached(id, holder, is_written)));
            }
            Then::Nothing | Then::Ending => {}
        }
    }

    fn end_next(
        &mut self,
        world: &mut World,
        mut ends: VecDeque<LeaseId>,
        is_renamed: bool,
        then: Option<Reply>,
    ) -> Step<Option<Job>> {
        let parents_first = world.is(Wrong::ParentsEndFirst);
        let next = if parents_first { ends.back().copied() } else { ends.front().copied() };
        let Some(id) = next else {
            // It was ending already: whoever comes first takes it away, children first.
            if let Some(Reply::Revoked(id)) = then {
                let is_ending =
                    |table: &Table, id| table.lease(id).is_some_and(|lease| lease.state() == LeaseState::Ending);
                for id in self.table.subtree(id).into_iter().rev() {
                    if is_ending(&self.table, id) {
                        self.end_on_disk(world, id)?;
                    }
                }
            }
            self.replies.extend(then);
            return Ok(None);
        };
        if !is_renamed && self.put_out_of_sight(world, id)? {
            return Ok(Some(Job::Ends { ends, is_renamed: true, then }));
        }
        if is_renamed {
            self.put_out_of_mind(world, id)?;
        }
        if parents_first {
            ends.pop_back()
        } else {
            ends.pop_front()
        };
        Ok(Some(Job::Ends { ends, is_renamed: false, then }))
    }

    /// A pass over all processes; now and then the system won't let us look.
    fn search(&mut self, world: &mut World, id: LeaseId) -> Option<Job> {
        if world.refuses(10) {
            return Some(Job::Search(id));
        }
        let named = self.table.subtree(id);
        let tenant = self.table.lease(id).map(|lease| lease.tenant());
        let holds = |process: &&crate::world::Process| {
            Some(process.tenant) == tenant && process.names.is_some_and(|lease| named.contains(&lease))
        };
        let found: Vec<_> = world.processes.values().filter(holds).map(|process| process.id).collect();
        for process in found.into_iter().filter(|_| !world.is(Wrong::NotSearched)) {
            if let Ok(holder) = self.table.attach(id, own_word(), NewHolder::Process(process), world.now) {
                self.watch((id, holder.id), holder.kind, None);
                self.jobs.push_back(Job::Rewrite { id, then: Then::Nothing });
            }
        }
        self.table.searched(id);
        self.settle(world);
        None
    }

    pub(crate) fn revoke(&mut self, world: &World, id: LeaseId, caller: Caller) {
        if self.table.revoke(id, caller).is_ok() {
            let due = self.table.due(self.decided_until);
            self.act(world, due, Some(Reply::Revoked(id)));
        }
    }

    /// A directory of a lease, out of it into the trash.
    pub(crate) fn release(&mut self, world: &mut World, id: LeaseId, caller: Caller, name: &str) -> Step<()> {
        if self.table.live(id, caller).is_err() {
            return Ok(());
        }
        let Some(directory) = world.disk.look(ROOT, id.as_str()) else { return Ok(()) };
        match self.put_in_trash(world, (directory, name), id) {
            Err(Fail::Crash) => return Err(Fail::Crash),
            Err(Fail::Busy) => return Ok(()),
            _ => {}
        }
        self.table.remove_area(id, &AreaKey::Name(name.as_bytes().into()));
        Ok(())
    }
}
