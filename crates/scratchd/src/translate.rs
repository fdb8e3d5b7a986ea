//! Between the table's words and the wire's.

use std::time::Duration;

use prost_types::Timestamp;
use scratch_fs::Record;
use scratch_lease::{BootTime, HolderKind, Lease, LeaseId, LeaseState, Refusal};
use scratch_proto::v1;

use crate::broker::{Broker, State};
use crate::clock;
use crate::debt::Debt;
use crate::reason::{RequestError, errno_name};

/// A lease id of a request. What is no id can't be a lease's: the same answer as for an unknown one.
///
/// # Errors
/// LEASE_UNKNOWN.
pub(crate) fn lease_id(text: &str) -> Result<LeaseId, RequestError> {
    text.parse().map_err(|_| Refusal::LeaseUnknown.into())
}

/// A duration of a request.
///
/// # Errors
/// REQUEST_INVALID for a negative one.
pub(crate) fn duration(wire: prost_types::Duration) -> Result<Duration, RequestError> {
    let negative = RequestError::Request("a duration must not be negative");
    if wire.seconds < 0 || wire.nanos < 0 {
        return Err(negative);
    }
    Duration::try_from(wire).map_err(|_| RequestError::Request("a duration must not be negative"))
}

/// A duration of a reply.
pub(crate) fn wire_duration(duration: Duration) -> prost_types::Duration {
    prost_types::Duration {
        seconds: i64::try_from(duration.as_secs()).unwrap_or(i64::MAX),
        nanos: i32::try_from(duration.subsec_nanos()).unwrap_or(0),
    }
}

/// A point on the boot-time clock as wall time.
pub(crate) fn timestamp(time: BootTime) -> Timestamp {
    Timestamp::from(clock::wall(time))
}

/// One holder.
pub(crate) fn holder(holder: &scratch_lease::Holder) -> v1::Holder {
    use v1::holder::{ConnectionInfo, DescriptorInfo, Kind, ProcessInfo, TtlInfo};
    let kind = match holder.kind {
        HolderKind::Connection(_) => Kind::Connection(ConnectionInfo { lost: false }),
        HolderKind::LostConnection { .. } | HolderKind::AwaitedConnection { .. } => {
            Kind::Connection(ConnectionInfo { lost: true })
        }
        HolderKind::Process(process) => Kind::Process(ProcessInfo { pid: process.pid }),
        HolderKind::Ttl { granted, deadline } => {
            Kind::Ttl(TtlInfo { granted_ttl: Some(wire_duration(granted)), expire_time: Some(timestamp(deadline)) })
        }
        HolderKind::Descriptor => Kind::Descriptor(DescriptorInfo {}),
    };
    v1::Holder { id: holder.id, kind: Some(kind) }
}

impl Broker {
    /// A lease as List gives it; the tenant's name is looked up by the caller, where that may block.
    pub(crate) fn wire_lease(&self, lease: &Lease) -> v1::Lease {
        let state = match lease.state() {
            LeaseState::Live | LeaseState::Searching if lease.is_lost() => v1::LeaseState::Lost,
            LeaseState::Granting | LeaseState::Live | LeaseState::Searching => v1::LeaseState::Live,
            LeaseState::Ending => v1::LeaseState::Ending,
        };
        v1::Lease {
            id: lease.id().to_string(),
            tenant: Some(v1::Tenant { uid: lease.tenant().0, name: String::new() }),
            pool: self.config.pool[0].name.clone(),
            path: path_bytes(&self.pool.lease_path(lease.id())),
            state: state.into(),
            holders: lease.holders().iter().map(holder).collect(),
            granted_ttl: lease.granted_ttl().map(wire_duration),
            expire_time: lease.granted_ttl().and_then(|_| lease.expire_time()).map(timestamp),
            labels: lease.labels().clone().into_iter().collect(),
            areas: lease.areas() as u64,
            parent: lease.parent().map(|parent| parent.to_string()).unwrap_or_default(),
            limits: None,
            firmness: v1::Firmness::Soft.into(),
            create_time: Some(timestamp(lease.created())),
            reason: lease.reason().map(|reason| v1::Reason {
                code: reason.code().to_owned(),
                text: reason.to_string(),
                time: None,
            }),
        }
    }

    /// What Grant answers for a lease of the table.
    pub(crate) fn wire_grant(&self, lease: &Lease, generation: u64, note: &str) -> v1::GrantResponse {
        v1::GrantResponse {
            id: lease.id().to_string(),
            path: path_bytes(&self.pool.lease_path(lease.id())),
            granted_ttl: lease.granted_ttl().map(wire_duration),
            holders: lease.holders().iter().map(holder).collect(),
            firmness: v1::Firmness::Soft.into(),
            generation,
            fd: false,
            note: note.to_owned(),
        }
    }
}

/// What a restart needs to know of a lease.
pub(crate) fn record(state: &State, lease: &Lease) -> Record {
    let identity = state.identities.get(&lease.id());
    Record {
        id: lease.id().to_string(),
        nonce: lease.nonce().map(|nonce| nonce.to_vec()).unwrap_or_default(),
        uid: lease.tenant().0,
        gid: identity.map_or(u32::MAX, |identity| identity.gid),
        groups: identity.map(|identity| identity.groups.clone()).unwrap_or_default(),
        device: 0,
        inode: 0,
        created: lease.created().0,
        holders: lease.holders().iter().map(record_holder).collect(),
        parent: lease.parent().map(|parent| parent.to_string()).unwrap_or_default(),
        labels: lease.labels().clone(),
        lifetime_end: lease.lifetime_end().map_or(0, |time| time.0),
        search_environment: lease.search_environment(),
    }
}

fn record_holder(holder: &scratch_lease::Holder) -> scratch_fs::RecordHolder {
    use scratch_fs::{RecordHolderKind, RecordProcess};
    let kind = match holder.kind {
        HolderKind::Connection(_) | HolderKind::LostConnection { .. } | HolderKind::AwaitedConnection { .. } => {
            RecordHolderKind::Connection(true)
        }
        HolderKind::Process(process) => RecordHolderKind::Process(RecordProcess {
            pid: process.pid,
            start_time: process.start_time,
            pidfd_inode: process.pidfd_inode,
        }),
        HolderKind::Ttl { granted, .. } => RecordHolderKind::Ttl(u64::try_from(granted.as_nanos()).unwrap_or(u64::MAX)),
        HolderKind::Descriptor => RecordHolderKind::Descriptor(true),
    };
    scratch_fs::RecordHolder { kind: Some(kind) }
}

/// A debt; who keeps it busy is looked up by the caller, where that may take its time.
pub(crate) fn wire_debt(debt: &Debt) -> v1::Debt {
    v1::Debt {
        id: debt.subject.id(),
        path: path_bytes(&debt.path),
        lease: debt.lease.map(|lease| lease.to_string()).unwrap_or_default(),
        tenant: Some(v1::Tenant { uid: debt.tenant, name: String::new() }),
        errno: debt.errno.map(errno_name).unwrap_or_default(),
        blocker: debt.blocker.clone(),
        tries: debt.tries,
        next_try: debt.next_try.map(timestamp),
        bytes: debt.bytes,
        pids: Vec::new(),
        detail: String::new(),
        since: Some(std::time::UNIX_EPOCH.checked_add(debt.since).unwrap_or(std::time::UNIX_EPOCH).into()),
    }
}

/// A path of the wire.
pub(crate) fn path_of_bytes(bytes: &[u8]) -> std::path::PathBuf {
    use std::os::unix::ffi::OsStrExt;
    std::ffi::OsStr::from_bytes(bytes).into()
}

/// A path as the wire has it.
pub(crate) fn path_bytes(path: &std::path::Path) -> Vec<u8> {
    use std::os::unix::ffi::OsStrExt;
    path.as_os_str().as_bytes().to_vec()
}
