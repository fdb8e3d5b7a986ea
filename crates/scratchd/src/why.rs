//! Why a lease is still there, in words; and what became of the directory of one that went.

use scratch_lease::{BootTime, HolderKind, Lease, LeaseId, LeaseState, Reason};
use scratch_proto::v1;

use crate::broker::{Broker, State};
use crate::clock;
use crate::debt::Subject;
use crate::process;
use crate::reason::errno_name;
use crate::translate::timestamp;

/// Holders that are named; the others are counted.
const NAMED: usize = 3;

/// What the table knows of why a lease is there: to be put into words without its lock.
pub(crate) struct Held {
    holders: Vec<HolderKind>,
    count: usize,
    searching: bool,
    lost: bool,
    /// Until when it waits for another holder, and how the last one went.
    waits: Option<(BootTime, Reason)>,
    children: usize,
    since: Option<prost_types::Timestamp>,
}

impl Held {
    pub(crate) fn of(state: &State, lease: &Lease) -> Self {
        Self {
            holders: lease.holders().iter().take(NAMED).map(|holder| holder.kind).collect(),
            count: lease.holders().len(),
            searching: lease.state() == LeaseState::Searching,
            lost: lease.is_lost(),
            waits: lease.waits_until(),
            children: state.table.subtree(lease.id()).len() - 1,
            since: Some(timestamp(lease.created())),
        }
    }

    /// Looks at the names of processes.
    pub(crate) fn in_words(self) -> v1::Reason {
        if let Some((until, loss)) = self.waits {
            let until = humantime::format_rfc3339_seconds(clock::wall(until));
            let text = format!("{loss}; it waits for another holder until {until}");
            return v1::Reason { code: "GRACE".to_owned(), text, time: self.since };
        }
        let mut held: Vec<String> = self.holders.iter().map(|kind| named(*kind)).collect();
        match self.count {
            0 if self.searching => held.push("nobody: its processes are being searched for".to_owned()),
            0 => held.push("nobody".to_owned()),
            count if count > NAMED => held.push(format!("{} more", count - NAMED)),
            _ => {}
        }
        let lost = if self.lost { "lost, since somebody has taken its directory away; " } else { "" };
        let mut text = format!("{lost}held by {}", held.join(", "));
        match self.children {
            0 => {}
            1 => text.push_str("; 1 lease below it"),
            many => text.push_str(&format!("; {many} leases below it")),
        }
        v1::Reason { code: "HELD".to_owned(), text, time: self.since }
    }
}

fn named(kind: HolderKind) -> String {
    let until = |time| humantime::format_rfc3339_seconds(clock::wall(time));
    match kind {
        HolderKind::Process(process) => match process::command(process) {
            Some(command) => format!("process {} ({command})", process.pid),
            None => format!("process {}", process.pid),
        },
        HolderKind::Ttl { deadline, .. } => format!("a ttl until {}", until(deadline)),
        kind if kind.waits_for_connection() => {
            let waited = kind.deadline().map(|time| format!(" that may come until {}", until(time)));
            format!("a {}{}", kind.name(), waited.unwrap_or_default())
        }
        kind => format!("a {}", kind.name()),
    }
}

impl Broker {
    /// Where the directory of a lease is that ends or has ended; `gone`: it is in the table no more. Asked for whoever may see
    /// the lease.
    pub(crate) fn remains(&self, lease: LeaseId, gone: bool) -> String {
        let owed = self.reaper.debts_of(lease);
        if let Some((debt, more)) = owed.split_first() {
            let errno = debt.errno.map(|errno| format!(", {}", errno_name(errno))).unwrap_or_default();
            let out_of_sight = !matches!(debt.subject, Subject::Lease(_));
            let what = if out_of_sight { "not all of it could be removed yet" } else { "it can't be put away yet" };
            let more = if more.is_empty() { String::new() } else { format!(", and {} more", more.len()) };
            return format!("{what}: {} at {} ({}{errno}){more}", debt.subject.id(), debt.path.display(), debt.blocker);
        }
        if self.reaper.has_trash_of(lease) {
            return "it is out of sight and waits to be freed".to_owned();
        }
        if gone { "it is freed".to_owned() } else { "it is about to go out of sight".to_owned() }
    }
}
