//! What a record says, in memory.

use std::time::Duration;

use scratch_lease::{BootTime, HolderId, HolderKind, Lease, LeaseId, RecordedHolder, TenantId};

use crate::disk::Inode;

#[derive(Debug, Clone)]
pub(crate) struct Record {
    pub(crate) tenant: TenantId,
    pub(crate) inode: Inode,
    pub(crate) nonce: Option<[u8; 16]>,
    pub(crate) parent: Option<LeaseId>,
    pub(crate) created: BootTime,
    pub(crate) lifetime_max: Option<Duration>,
    pub(crate) search_environment: bool,
    pub(crate) grace: Duration,
    pub(crate) holders: Vec<(HolderId, RecordedHolder)>,
    pub(crate) holder_next: HolderId,
}

impl Record {
    /// Nothing holds one that ends.
    pub(crate) fn of(lease: &Lease, inode: Inode) -> Record {
        let ends = lease.reason().is_some();
        let holders = if ends { &[] } else { lease.holders() };
        Record {
            tenant: lease.tenant(),
            inode,
            nonce: lease.nonce(),
            parent: lease.parent(),
            created: lease.created(),
            lifetime_max: lease.lifetime_end().map(|end| end.duration_since(lease.created())),
            search_environment: lease.search_environment() && !ends,
            grace: if ends { Duration::ZERO } else { lease.grace() },
            holders: holders.iter().map(|holder| (holder.id, recorded(holder.kind))).collect(),
            holder_next: lease.holder_next(),
        }
    }
}

fn recorded(kind: HolderKind) -> RecordedHolder {
    match kind {
        HolderKind::Connection(_) | HolderKind::LostConnection { .. } | HolderKind::AwaitedConnection { .. } => {
            RecordedHolder::Connection(None)
        }
        HolderKind::Process(process) => RecordedHolder::Process(process),
        HolderKind::Ttl { granted, .. } => RecordedHolder::Ttl(granted),
        HolderKind::Descriptor => RecordedHolder::Descriptor,
        HolderKind::Cgroup(cgroup) => RecordedHolder::Cgroup(cgroup),
        HolderKind::Hold => RecordedHolder::Hold,
        HolderKind::Unknown => RecordedHolder::Unknown,
    }
}
