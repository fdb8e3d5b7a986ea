//! Between the table's words and the wire's.

use std::time::Duration;

use prost_types::Timestamp;
use scratch_fs::{Firmness, Record};
use scratch_lease::{BootTime, HolderKind, Lease, LeaseId, LeaseState, Refusal, Share, TenantId};
use scratch_proto::v1;

use crate::broker::{Broker, State};
use crate::cgroup::KnownCgroups;
use crate::clock;
use crate::debt::Debt;
use crate::pools::{InUse, Pools};
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

/// The limits of a request or a record, where 0 stands for none.
pub(crate) fn share(limits: Option<v1::Limits>) -> Share {
    let limits = limits.unwrap_or_default();
    let some = |limit: u64| Some(limit).filter(|limit| *limit != 0);
    Share { bytes: some(limits.bytes), inodes: some(limits.inodes) }
}

fn wire_limits(share: Share) -> Option<v1::Limits> {
    let limits = v1::Limits { bytes: share.bytes.unwrap_or(0), inodes: share.inodes.unwrap_or(0) };
    (share != Share::default()).then_some(limits)
}

fn wire_left(left: Share) -> Option<v1::LimitsLeft> {
    (left != Share::default()).then_some(v1::LimitsLeft { bytes: left.bytes, inodes: left.inodes })
}

impl Broker {
    /// One holder of a lease.
    pub(crate) fn wire_holder(&self, lease: LeaseId, holder: &scratch_lease::Holder) -> v1::Holder {
        use v1::holder::{CgroupInfo, ConnectionInfo, DescriptorInfo, HoldInfo, Kind, ProcessInfo, TtlInfo};
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
            HolderKind::Cgroup(cgroup) => {
                let known = self.cgroups.get(lease, cgroup);
                let kill = known.as_ref().is_some_and(|known| known.kills());
                Kind::Cgroup(CgroupInfo { path: known.map(|known| path_bytes(&known.path)).unwrap_or_default(), kill })
            }
            HolderKind::Hold => Kind::Hold(HoldInfo {}),
            HolderKind::Unknown => return v1::Holder { id: holder.id, kind: None },
        };
        v1::Holder { id: holder.id, kind: Some(kind) }
    }

    /// A lease as List gives it; the tenant's name is looked up by the caller, where that may block.
    pub(crate) fn wire_lease(&self, lease: &Lease, left: Share) -> v1::Lease {
        let state = match lease.state() {
            LeaseState::Live | LeaseState::Searching if lease.is_lost() => v1::LeaseState::Lost,
            LeaseState::Granting | LeaseState::Live | LeaseState::Searching => v1::LeaseState::Live,
            LeaseState::Ending => v1::LeaseState::Ending,
            LeaseState::Kept { .. } => v1::LeaseState::Kept,
            LeaseState::Gone { .. } => v1::LeaseState::Ended,
        };
        let kept_until = lease.kept_until().map(timestamp);
        let pool = self.pools.get(lease.pool());
        v1::Lease {
            id: lease.id().to_string(),
            tenant: Some(v1::Tenant { uid: lease.tenant().0, name: String::new() }),
            pool: pool.config.name.clone(),
            path: shown_path(pool, lease),
            state: state.into(),
            holders: lease.holders().iter().map(|holder| self.wire_holder(lease.id(), holder)).collect(),
            granted_ttl: lease.granted_ttl().map(wire_duration),
            expire_time: kept_until.or_else(|| lease.granted_ttl().and_then(|_| lease.expire_time()).map(timestamp)),
            labels: lease.labels().clone().into_iter().collect(),
            areas: lease.areas() as u64,
            parent: lease.parent().map(|parent| parent.to_string()).unwrap_or_default(),
            limits: wire_limits(lease.share()),
            firmness: wire_firmness(pool.disk.firmness()).into(),
            limits_left: wire_left(left),
            create_time: Some(timestamp(lease.created())),
            reason: lease.reason().map(|reason| why(lease, reason)),
            granted_by: lease.granted_by().map(|TenantId(uid)| v1::Tenant { uid, name: String::new() }),
            preemptible: lease.is_preemptible(),
        }
    }

    /// What Grant answers for a lease of the table.
    pub(crate) fn wire_grant(&self, lease: &Lease, generation: u64, note: &str) -> v1::GrantResponse {
        let pool = self.pools.get(lease.pool());
        v1::GrantResponse {
            id: lease.id().to_string(),
            path: shown_path(pool, lease),
            mount_at: if pool.disk.has_paths() { Vec::new() } else { path_bytes(&pool.disk.lease_path(lease.id())) },
            granted_ttl: lease.granted_ttl().map(wire_duration),
            holders: lease.holders().iter().map(|holder| self.wire_holder(lease.id(), holder)).collect(),
            firmness: wire_firmness(pool.disk.firmness()).into(),
            generation,
            fd: false,
            note: note.to_owned(),
        }
    }
}

/// Where everybody finds a lease's directory; empty: nowhere.
fn shown_path(pool: &InUse, lease: &Lease) -> Vec<u8> {
    if pool.disk.has_paths() { path_bytes(&pool.disk.lease_path(lease.id())) } else { Vec::new() }
}

/// Why a lease ends, or why it is still there.
fn why(lease: &Lease, reason: scratch_lease::Reason) -> v1::Reason {
    let (code, text) = match lease.kept_until() {
        Some(until) => {
            let until = humantime::format_rfc3339_seconds(clock::wall(until));
            ("KEPT", format!("{reason}; kept until {until}, `scratch lease revoke` ends that"))
        }
        None => (reason.code(), reason.to_string()),
    };
    v1::Reason { code: code.to_owned(), text, time: None }
}

/// What a restart needs to know of a lease. Nothing holds one that ends: a start must not give it back its life.
pub(crate) fn record(state: &State, cgroups: &KnownCgroups, pools: &Pools, lease: &Lease) -> Record {
    let identity = state.identities.get(&lease.id());
    let ends = lease.reason().is_some();
    let is_over = ends && lease.kept_until().is_none();
    let keep = lease.keep().filter(|_| !is_over);
    let holders = if ends { &[] } else { lease.holders() };
    let parent = lease.parent().and_then(|parent| state.table.lease(parent));
    let parent_pool = parent.map(Lease::pool).filter(|pool| *pool != lease.pool());
    Record {
        id: lease.id().to_string(),
        nonce: lease.nonce().map(|nonce| nonce.to_vec()).unwrap_or_default(),
        uid: lease.tenant().0,
        gid: identity.map_or(u32::MAX, |identity| identity.gid),
        groups: identity.map(|identity| identity.groups.clone()).unwrap_or_default(),
        device: 0,
        inode: 0,
        created: lease.created().0,
        holders: holders.iter().map(|holder| record_holder(lease.id(), cgroups, holder)).collect(),
        parent: lease.parent().map(|parent| parent.to_string()).unwrap_or_default(),
        parent_pool: parent_pool.map(|pool| pools.get(pool).disk.uuid().to_owned()).unwrap_or_default(),
        labels: lease.labels().clone(),
        lifetime_end: lease.lifetime_end().map_or(0, |time| time.0),
        search_environment: lease.search_environment() && !ends,
        grace: if is_over { 0 } else { nanoseconds(lease.grace()) },
        bytes_limit: lease.share().bytes.unwrap_or(0),
        inodes_limit: lease.share().inodes.unwrap_or(0),
        keep_for: keep.map_or(0, |keep| nanoseconds(keep.time)),
        kept_until: lease.kept_until().map_or(0, |time| time.0),
        keep_bytes: keep.map_or(0, |keep| keep.bytes),
        holder_next: lease.holder_next(),
        granted_by: lease.granted_by().map(|by| by.0),
        preemptible: lease.is_preemptible(),
    }
}

fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

fn record_holder(lease: LeaseId, cgroups: &KnownCgroups, holder: &scratch_lease::Holder) -> scratch_fs::RecordHolder {
    use scratch_fs::{RecordCgroup, RecordHolderKind, RecordProcess};
    let kind = match holder.kind {
        HolderKind::Connection(_) | HolderKind::LostConnection { .. } | HolderKind::AwaitedConnection { .. } => {
            RecordHolderKind::Connection(true)
        }
        HolderKind::Process(process) => RecordHolderKind::Process(RecordProcess {
            pid: process.pid,
            start_time: process.start_time,
            pidfd_inode: process.pidfd_inode,
        }),
        HolderKind::Ttl { granted, .. } => RecordHolderKind::Ttl(nanoseconds(granted)),
        HolderKind::Descriptor => RecordHolderKind::Descriptor(true),
        HolderKind::Cgroup(cgroup) => {
            let known = cgroups.get(lease, cgroup).map(|known| known.record.clone());
            // Without its place it is unknown to the next broker, and so kept.
            RecordHolderKind::Cgroup(
                known.unwrap_or_else(|| RecordCgroup { inode: cgroup.0, ..RecordCgroup::default() }),
            )
        }
        HolderKind::Hold => RecordHolderKind::Hold(true),
        // As it was found.
        HolderKind::Unknown => return scratch_fs::RecordHolder { kind: None, id: holder.id },
    };
    scratch_fs::RecordHolder { kind: Some(kind), id: holder.id }
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

/// What limits are worth.
pub(crate) fn wire_firmness(firmness: Firmness) -> v1::Firmness {
    match firmness {
        Firmness::Soft => v1::Firmness::Soft,
        Firmness::Cooperative => v1::Firmness::Cooperative,
        Firmness::Hard => v1::Firmness::Hard,
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
