//! What happens, for those who watch: wakes them, notes what the table does not see by itself, and puts events on the wire.

use std::collections::HashMap;
use std::ops::{Deref, DerefMut};
use std::sync::MutexGuard;
use std::sync::atomic::{AtomicUsize, Ordering};

use rustix::io::Errno;
use scratch_fs::TrashName;
use scratch_lease::{Event, EventKind, HolderKind, TenantId};
use scratch_proto::v1;
use tokio::sync::Notify;

use crate::broker::{Broker, State};
use crate::clock;
use crate::debt::{Debt, Subject};
use crate::reason::errno_name;
use crate::translate::timestamp;

/// Who is to be woken when something happens.
#[derive(Debug, Default)]
pub(crate) struct Watchers {
    count: AtomicUsize,
    pub(crate) happened: Notify,
}

/// One who watches, until it is dropped.
#[derive(Debug)]
pub(crate) struct Watching<'a>(&'a Watchers);

impl Watchers {
    /// From now on whatever happens rings.
    pub(crate) fn join(&self) -> Watching<'_> {
        self.count.fetch_add(1, Ordering::Relaxed);
        Watching(self)
    }
}

impl Drop for Watching<'_> {
    fn drop(&mut self) {
        self.0.count.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The broker's state, locked. Whoever watches is woken when it is given up, if something has happened; where nobody does,
/// that costs a look.
#[derive(Debug)]
pub(crate) struct Locked<'a> {
    // Dropped before `bell`: waking is a system call.
    state: MutexGuard<'a, State>,
    bell: Bell<'a>,
    revision: u64,
}

#[derive(Debug)]
struct Bell<'a> {
    watchers: &'a Watchers,
    rings: bool,
}

impl<'a> Locked<'a> {
    pub(crate) fn new(state: MutexGuard<'a, State>, watchers: &'a Watchers) -> Self {
        let revision = state.table.revision();
        Self { state, bell: Bell { watchers, rings: false }, revision }
    }
}

impl Deref for Locked<'_> {
    type Target = State;

    fn deref(&self) -> &State {
        &self.state
    }
}

impl DerefMut for Locked<'_> {
    fn deref_mut(&mut self) -> &mut State {
        &mut self.state
    }
}

impl Drop for Locked<'_> {
    fn drop(&mut self) {
        // A watcher that came before this event counted itself before it locked.
        let happened = self.state.table.revision() != self.revision;
        self.bell.rings = happened && self.bell.watchers.count.load(Ordering::Relaxed) > 0;
    }
}

impl Drop for Bell<'_> {
    fn drop(&mut self) {
        if self.rings {
            self.watchers.happened.notify_waiters();
        }
    }
}

impl Broker {
    /// Writes down what can't be removed now.
    pub(crate) fn owe(&self, debt: Debt) {
        self.note_debts(None, std::slice::from_ref(&debt));
        self.reaper.owe(debt);
    }

    /// One try is about to be over: notes debts that are new, and the tried one if it is gone.
    pub(crate) fn note_debts(&self, tried: Option<Subject>, owed: &[Debt]) {
        let settled = tried.filter(|tried| !owed.iter().any(|debt| debt.subject == *tried));
        let settled = settled.and_then(|tried| self.reaper.debt(&tried));
        let new: Vec<&Debt> = owed.iter().filter(|debt| self.reaper.debt(&debt.subject).is_none()).collect();
        if settled.is_none() && new.is_empty() {
            return;
        }
        let mut state = self.lock();
        let table = state.table.at(clock::now());
        for debt in new {
            let errno = debt.errno.map_or(0, Errno::raw_os_error);
            table.owed(debt.lease, TenantId(debt.tenant), &debt.subject.id(), (&debt.blocker, errno));
        }
        if let Some(debt) = settled {
            table.settled(debt.lease, TenantId(debt.tenant), &debt.subject.id());
        }
    }

    /// An ended tree is freed.
    pub(crate) fn note_reaped(&self, tree: TrashName, names: u64) {
        self.lock().table.at(clock::now()).reaped(tree.lease, TenantId(tree.tenant), names);
    }

    /// A request was answered with this reason: notes it if a limit refused it.
    pub(crate) fn note_refusal(&self, tenant: u32, reason: &str) {
        if reason.starts_with("LIMIT_") {
            self.lock().table.at(clock::now()).refused(TenantId(tenant), reason);
        }
    }
}

/// An event as Watch sends it, without the tenant's name.
pub(crate) fn wire_event(generation: u64, event: &Event) -> v1::WatchResponse {
    let (code, text) = code_and_text(event);
    v1::WatchResponse {
        revision: revision(generation, event.revision),
        lease: event.lease.map(|lease| lease.to_string()).unwrap_or_default(),
        event: Some(v1::Reason { code: code.to_owned(), text, time: Some(timestamp(event.time)) }),
        tenant: event.tenant.map(|tenant| v1::Tenant { uid: tenant.0, name: String::new() }),
        metadata: metadata(generation, event),
    }
}

/// As clients name it.
pub(crate) fn revision(generation: u64, number: u64) -> String {
    format!("{generation}.{number}")
}

fn code_and_text(event: &Event) -> (&'static str, String) {
    let holder = |id: u32| match event.holder {
        Some(HolderKind::Process(process)) => format!("holder {id}, process {}", process.pid),
        Some(kind) => format!("holder {id}, a {}", kind.name()),
        None => format!("holder {id}"),
    };
    let count = |number: u64, one: &str, many: &str| format!("{number} {}", if number == 1 { one } else { many });
    match &event.kind {
        EventKind::Restarted => ("RESTARTED", "the broker began".to_owned()),
        EventKind::Granted => ("GRANTED", "it was granted".to_owned()),
        EventKind::Adopted => ("ADOPTED", "it was taken over from the broker before".to_owned()),
        EventKind::Attached(id) => ("ATTACHED", format!("{} came", holder(*id))),
        EventKind::Detached(id) => ("DETACHED", format!("{} was taken away", holder(*id))),
        EventKind::HolderGone(id) => ("HOLDER_GONE", format!("{} is gone", holder(*id))),
        EventKind::Ending(reason) => ("ENDING", reason.to_string()),
        EventKind::Ended(reason) => ("ENDED", reason.to_string()),
        EventKind::Kept(reason) => ("KEPT", reason.to_string()),
        EventKind::Undeleted => ("UNDELETED", "it was brought back, and is kept".to_owned()),
        EventKind::Metered(Some(excess)) => ("OVER_LIMIT", excess.text().to_owned()),
        EventKind::Metered(None) => ("WITHIN_LIMITS", "it has no more than it may any more".to_owned()),
        EventKind::Released(areas) => ("RELEASED", format!("{} released", count(*areas, "area was", "areas were"))),
        EventKind::Reaped { trees, names } => {
            let (trees, names) = (count(*trees, "tree is", "trees are"), count(*names, "name", "names"));
            ("REAPED", format!("{trees} freed, {names}"))
        }
        EventKind::Owed { debt, blocker, errno } => {
            let errno = if *errno == 0 { String::new() } else { format!(", {}", named(*errno)) };
            ("DEBT", format!("{debt} can't be removed yet: {blocker}{errno}"))
        }
        EventKind::Settled(debt) => ("SETTLED", format!("{debt} is gone")),
        EventKind::Refused { reason, requests } => {
            ("REFUSED", format!("{} refused: {reason}", count(*requests, "request was", "requests were")))
        }
    }
}

fn metadata(generation: u64, event: &Event) -> HashMap<String, String> {
    let holder = |id: u32| {
        let kind = event.holder.map(|kind| ("kind", kind.name().to_owned()));
        let pid = match event.holder {
            Some(HolderKind::Process(process)) => Some(("pid", process.pid.to_string())),
            _ => None,
        };
        [Some(("holder", id.to_string())), kind, pid].into_iter().flatten().collect()
    };
    let pairs: Vec<(&str, String)> = match &event.kind {
        EventKind::Restarted => vec![("generation", generation.to_string())],
        EventKind::Granted | EventKind::Adopted | EventKind::Undeleted | EventKind::Metered(_) => Vec::new(),
        EventKind::Attached(id) | EventKind::Detached(id) | EventKind::HolderGone(id) => holder(*id),
        EventKind::Ending(reason) | EventKind::Ended(reason) | EventKind::Kept(reason) => {
            vec![("reason", reason.code().to_owned())]
        }
        EventKind::Released(areas) => vec![("areas", areas.to_string())],
        EventKind::Reaped { trees, names } => vec![("trees", trees.to_string()), ("names", names.to_string())],
        EventKind::Owed { debt, blocker, errno } => {
            let errno = (*errno != 0).then(|| ("errno", named(*errno)));
            [Some(("debt", debt.to_string())), Some(("blocker", blocker.to_string())), errno]
                .into_iter()
                .flatten()
                .collect()
        }
        EventKind::Settled(debt) => vec![("debt", debt.to_string())],
        EventKind::Refused { reason, requests } => {
            vec![("reason", reason.to_string()), ("requests", requests.to_string())]
        }
    };
    pairs.into_iter().map(|(key, value)| (key.to_owned(), value)).collect()
}

fn named(errno: i32) -> String {
    errno_name(Errno::from_raw_os_error(errno))
}
