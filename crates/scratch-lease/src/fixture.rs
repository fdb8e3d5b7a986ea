//! What the unit tests share: a small table, people, and leases by number.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::{
    BootTime, Caller, ConnectionId, Due, EventKind, Grant, Granted, Last, Lease, LeaseId, Limits, NewHolder, Parting,
    PoolId, ProcessId, Reason, Share, Table, TenantId,
};

pub(crate) const ME: Caller = Caller { tenant: TenantId(1000), admin: false, confined_to: None, rule: None };
pub(crate) const OTHER: Caller = Caller { tenant: TenantId(2000), admin: false, confined_to: None, rule: None };
pub(crate) const ADMIN: Caller = Caller { tenant: TenantId(0), admin: true, confined_to: None, rule: None };

pub(crate) fn id(number: u8) -> LeaseId {
    LeaseId::from_bits([number; 10])
}

pub(crate) fn at(seconds: u64) -> BootTime {
    BootTime::default() + seconds_long(seconds)
}

pub(crate) fn seconds_long(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

pub(crate) fn process(pid: i32) -> NewHolder {
    NewHolder::Process(ProcessId { pid, start_time: 7, pidfd_inode: 0 })
}

pub(crate) fn connection(number: u64) -> NewHolder {
    NewHolder::Connection(ConnectionId(number))
}

pub(crate) fn ttl(seconds: u64) -> NewHolder {
    NewHolder::Ttl(seconds_long(seconds))
}

pub(crate) fn lost(until: u64) -> NewHolder {
    NewHolder::LostConnection { until: at(until) }
}

/// A lease of mine with these holders and nothing else.
pub(crate) fn grant(number: u8, holders: &[NewHolder]) -> Grant {
    Grant {
        id: id(number),
        tenant: ME.tenant,
        pool: PoolId(0),
        nonce: None,
        parent: None,
        holders: holders.to_vec(),
        share: Share::default(),
        lifetime_max: None,
        labels: BTreeMap::new(),
        search_environment: false,
        grace: Duration::ZERO,
        granted_by: None,
        preemptible: false,
    }
}

pub(crate) fn below(parent: u8, grant: Grant) -> Grant {
    Grant { parent: Some(id(parent)), ..grant }
}

pub(crate) fn searched_for(grant: Grant) -> Grant {
    Grant { search_environment: true, ..grant }
}

/// A table with small limits.
pub(crate) fn table() -> Table {
    let limits = Limits {
        leases_per_tenant: 4,
        areas_per_tenant: 8,
        holders_per_lease: 3,
        labels_per_lease: 2,
        label_bytes: 8,
        depth_max: 2,
        ..Limits::default()
    };
    Table::new(limits, 1)
}

/// A table with these leases granted and committed at time 0.
pub(crate) fn table_with(grants: impl IntoIterator<Item = Grant>) -> Table {
    let mut table = table();
    grants.into_iter().for_each(|grant| put(&mut table, grant));
    table
}

pub(crate) fn put(table: &mut Table, grant: Grant) {
    let id = grant.id;
    assert_eq!(table.grant(grant, at(0)), Ok(Granted::New));
    table.commit(id, at(0));
}

/// Adopts a lease whose holders are numbered in their order.
pub(crate) fn adopt(table: &mut Table, grant: Grant, created: BootTime, now: BootTime) {
    table.adopt(grant, [], 1, (created, now));
}

pub(crate) fn lease(table: &Table, number: u8) -> &Lease {
    table.lease(id(number)).expect("the lease is in the table")
}

pub(crate) fn end(number: u8, reason: Reason) -> Due {
    Due::End { id: id(number), reason }
}

/// The reason when the last holder, of this kind, went in its usual way; a process: number 1.
pub(crate) fn gone(kind: &'static str) -> Reason {
    lost_by(kind, if kind == "ttl" { Parting::Expired } else { Parting::Gone })
}

pub(crate) fn lost_by(kind: &'static str, how: Parting) -> Reason {
    let last = Last { kind, pid: (kind == "process").then_some(1), how };
    Reason::HoldersGone { last: Some(last), grace: Duration::ZERO }
}

/// A lease that waits so long for another holder.
pub(crate) fn patient(seconds: u64, grant: Grant) -> Grant {
    Grant { grace: seconds_long(seconds), ..grant }
}

/// What happened to a lease so far.
pub(crate) fn events(table: &Table, number: u8) -> Vec<EventKind> {
    let events = table.events_since(0, ADMIN).expect("all events are kept");
    events.filter(|event| event.lease == Some(id(number))).map(|event| event.kind.clone()).collect()
}
