//! The broker's order of acts around the real table: what is due becomes acts, each step on disk one that a crash can precede.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use scratch_lease::{BootTime, Caller, ConnectionId, Due, HolderId, HolderKind, LeaseId, Parting, Table, TenantId};

use crate::disk::{Fail, NEW, RECORDS, ROOT, TRASH};
use crate::record::Record;
use crate::requests::{Job, Reply};
use crate::world::{Being, World, Wrong};

/// As in the watcher: a timer that fires this late shows that the broker did not run.
pub(crate) const LATE: Duration = Duration::from_secs(1);
/// How long a lease waits for the stream that is to hold it.
pub(crate) const STREAM_COMES_WITHIN: Duration = Duration::from_secs(30);

/// What is to be removed, or owed.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Subject {
    Trash(String),
    Lease(LeaseId),
    /// Kept because nothing is known of it.
    Record(LeaseId),
}

#[derive(Debug, Clone, Copy)]
pub(crate) struct Debt {
    pub(crate) tries: u32,
    pub(crate) next_try: Option<BootTime>,
}

#[derive(Debug)]
pub(crate) struct Broker {
    pub(crate) table: Table,
    pub(crate) grace: Duration,
    /// Connections that were accepted.
    pub(crate) open: BTreeSet<ConnectionId>,
    pub(crate) watched: BTreeMap<Being, Vec<(LeaseId, HolderId)>>,
    pub(crate) sockets: BTreeMap<(LeaseId, HolderId), u64>,
    pub(crate) jobs: VecDeque<Job>,
    pub(crate) replies: Vec<Reply>,
    pub(crate) waiting: Vec<Subject>,
    pub(crate) debts: BTreeMap<Subject, Debt>,
    pub(crate) decided_until: BootTime,
    pub(crate) awaited_until: BootTime,
    pub(crate) armed: Option<BootTime>,
    /// It has given everybody their time again.
    pub(crate) rearmed: bool,
    /// The timer was set when its time was over: what came by a slow disk looks as if the broker had not run.
    pub(crate) set_late: bool,
    pub(crate) suspended: Duration,
    pub(crate) next_trash: u64,
}

/// Only the broker's death goes up; every other failure is answered where it happens.
pub(crate) type Step<T> = Result<T, Fail>;

pub(crate) fn own_word() -> Caller {
    Caller { admin: true, ..Caller::of(TenantId(0)) }
}

impl Broker {
    /// What every event ends in.
    pub(crate) fn settle(&mut self, world: &World) {
        self.settle_then(world, None);
    }

    /// What is due is done before the reply.
    pub(crate) fn settle_then(&mut self, world: &World, reply: Option<Reply>) {
        let due = self.table.due(self.decided_until);
        self.arm(world);
        self.act(world, due, reply);
    }

    fn arm(&mut self, world: &World) {
        self.armed = self.table.next_deadline().filter(|time| *time > self.awaited_until);
        self.set_late |= self.armed.is_some_and(|time| time < world.now);
    }

    /// One thread's list of ends, in its order; searches are others' work.
    pub(crate) fn act(&mut self, world: &World, due: Vec<Due>, then: Option<Reply>) {
        let mut ends = VecDeque::new();
        let mut searches = Vec::new();
        for one in due {
            match one {
                // Nothing is to be kept here.
                Due::End { id, .. } | Due::Keep { id, .. } => ends.push_back(id),
                Due::Grace(id) => self.wait_for_holder(world, id),
                Due::Search(id) => searches.push(Job::Search(id)),
            }
        }
        if ends.is_empty() && !matches!(then, Some(Reply::Revoked(_))) {
            self.replies.extend(then);
        } else {
            self.jobs.push_back(Job::Ends { ends, is_renamed: false, then });
        }
        self.jobs.extend(searches);
    }

    fn wait_for_holder(&mut self, world: &World, id: LeaseId) {
        self.table.wait_for_holder(id, world.now);
        if !world.is(Wrong::GraceUntimed) {
            self.arm(world);
        }
    }

    /// The timer, if its time has come.
    pub(crate) fn fire(&mut self, world: &World) {
        let Some(deadline) = self.armed.filter(|deadline| *deadline <= world.now) else { return };
        self.armed = None;
        let late = world.now.duration_since(deadline) > LATE || world.suspended > self.suspended + LATE;
        self.set_late &= late;
        if (late && !world.is(Wrong::NoRearm)) || world.is(Wrong::AlwaysRearmed) {
            self.table.rearm(world.now, self.grace.max(STREAM_COMES_WITHIN));
            self.rearmed = true;
        }
        self.suspended = world.suspended;
        self.awaited_until = self.awaited_until.max(world.now);
        self.jobs.push_back(Job::Pass(world.now));
        self.settle(world);
    }

    pub(crate) fn read_mail(&mut self, world: &mut World) {
        for mail in std::mem::take(&mut world.mail) {
            let renewed = self.table.renew(mail.lease, mail.caller, world.now).is_ok();
            self.replies.push(Reply::Renewed(mail.lease, renewed));
        }
    }

    /// Deadlines up to here have passed; what was readable then is read first.
    pub(crate) fn pass(&mut self, world: &mut World, time: BootTime) {
        if !world.is(Wrong::NothingReadBeforeExpiry) {
            self.read_mail(world);
        }
        self.decided_until = self.decided_until.max(time);
        self.settle(world);
    }

    /// First half of an end: out of sight, if it can be.
    pub(crate) fn put_out_of_sight(&mut self, world: &mut World, id: LeaseId) -> Step<bool> {
        if world.is(Wrong::RecordDroppedFirst) {
            self.drop_record(world, id)?;
        }
        match self.put_in_trash(world, (ROOT, id.as_str()), id) {
            Err(Fail::Crash) => Err(Fail::Crash),
            Ok(()) | Err(Fail::NotThere) => Ok(true),
            Err(_) => {
                if !world.is(Wrong::DebtForgotten) {
                    self.owe(Subject::Lease(id), world.now);
                }
                self.write_unheld(world, id)?;
                Ok(false)
            }
        }
    }

    /// The next start must not give back its life to what can't be put away.
    fn write_unheld(&mut self, world: &mut World, id: LeaseId) -> Step<()> {
        let lease = self.table.lease(id).filter(|lease| lease.reason().is_some());
        let (Some(lease), Some(inode)) = (lease, world.disk.look(ROOT, id.as_str())) else { return Ok(()) };
        let record = Record::of(lease, inode);
        if !world.is(Wrong::OwedKeepsHolders) && !self.write_record(world, id, record)? {
            world.unwritten.push(id);
        }
        Ok(())
    }

    /// Second half: its record, and what is remembered of it.
    pub(crate) fn put_out_of_mind(&mut self, world: &mut World, id: LeaseId) -> Step<()> {
        self.drop_record(world, id)?;
        let holders = self.table.lease(id).map(|lease| lease.holders().to_vec()).unwrap_or_default();
        self.table.forget(id);
        for holder in holders {
            self.unwatch((id, holder.id), holder.kind);
        }
        Ok(())
    }

    pub(crate) fn end_on_disk(&mut self, world: &mut World, id: LeaseId) -> Step<bool> {
        let is_out = self.put_out_of_sight(world, id)?;
        if is_out {
            self.put_out_of_mind(world, id)?;
        }
        Ok(is_out)
    }

    pub(crate) fn put_in_trash(&mut self, world: &mut World, (from, name): (u32, &str), id: LeaseId) -> Step<()> {
        let tree = format!("{}.{id}", self.next_trash);
        self.next_trash += 1;
        world.disk.rename((from, name), (TRASH, &tree), false)?;
        self.waiting.push(Subject::Trash(tree));
        Ok(())
    }

    pub(crate) fn drop_record(&mut self, world: &mut World, id: LeaseId) -> Step<()> {
        match world.disk.unlink(RECORDS, id.as_str()) {
            Err(Fail::Crash) => Err(Fail::Crash),
            _ => Ok(()),
        }
    }

    /// True: it was written; else the old one is still there.
    pub(crate) fn write_record(&mut self, world: &mut World, id: LeaseId, record: Record) -> Step<bool> {
        let fresh = format!("{id}.record");
        let written = world
            .disk
            .write(NEW, &fresh, record)
            .and_then(|()| world.disk.rename((NEW, &fresh), (RECORDS, id.as_str()), true));
        match written {
            Err(Fail::Crash) => Err(Fail::Crash),
            Err(_) => match world.disk.unlink(NEW, &fresh) {
                Err(Fail::Crash) => Err(Fail::Crash),
                _ => Ok(false),
            },
            Ok(()) => Ok(true),
        }
    }

    pub(crate) fn watch(&mut self, holder: (LeaseId, HolderId), kind: HolderKind, descriptor: Option<u64>) {
        match (Being::of(kind), descriptor) {
            (Some(being), _) => self.watched.entry(being).or_default().push(holder),
            (None, Some(descriptor)) => _ = self.sockets.insert(holder, descriptor),
            (None, None) => {}
        }
    }

    pub(crate) fn unwatch(&mut self, holder: (LeaseId, HolderId), kind: HolderKind) {
        self.sockets.remove(&holder);
        if let Some(being) = Being::of(kind)
            && let Some(holders) = self.watched.get_mut(&being)
        {
            holders.retain(|other| *other != holder);
            if holders.is_empty() {
                self.watched.remove(&being);
            }
        }
    }

    /// What has ended and was not told yet.
    pub(crate) fn ended(&self, world: &World) -> (Vec<Being>, Vec<(LeaseId, HolderId)>, Vec<ConnectionId>) {
        let beings = self.watched.keys().copied().filter(|being| !world.is_alive(*being)).collect();
        let sockets = self.sockets.iter().filter(|(_, descriptor)| !world.descriptors.contains(descriptor));
        let connections = self.open.difference(&world.connections).copied().collect();
        (beings, sockets.map(|(holder, _)| *holder).collect(), connections)
    }

    /// One of those that are watched has ended, and so its holders go.
    pub(crate) fn has_ended(&mut self, being: Being, how: Parting) {
        for (lease, holder) in self.watched.remove(&being).unwrap_or_default() {
            self.table.holder_parted(lease, holder, how);
        }
    }

    pub(crate) fn owe(&mut self, subject: Subject, now: BootTime) {
        let tries = self.debts.get(&subject).map_or(0, |debt| debt.tries) + 1;
        let waits = Duration::from_secs(1 << tries.min(9));
        let next_try = (!matches!(subject, Subject::Record(_))).then_some(now + waits);
        self.debts.insert(subject, Debt { tries, next_try });
    }

    /// Debts whose time has come.
    pub(crate) fn overdue(&self, now: BootTime) -> Vec<Subject> {
        let is_due = |debt: &Debt| debt.next_try.is_some_and(|time| time <= now);
        self.debts.iter().filter(|(_, debt)| is_due(debt)).map(|(subject, _)| subject.clone()).collect()
    }

    pub(crate) fn reap(&mut self, world: &mut World, subject: Subject) -> Step<()> {
        self.waiting.retain(|other| *other != subject);
        match &subject {
            Subject::Trash(tree) => match world.disk.remove(TRASH, tree) {
                Err(Fail::Crash) => return Err(Fail::Crash),
                Ok(()) | Err(Fail::NotThere) => _ = self.debts.remove(&subject),
                Err(_) => self.owe(subject, world.now),
            },
            Subject::Lease(id) => {
                if self.end_on_disk(world, *id)? {
                    self.debts.remove(&subject);
                }
            }
            Subject::Record(_) => {}
        }
        Ok(())
    }
}
