//! Decides what lives and what ends: leases, holders, deadlines, limits, tenants.
//! No I/O, no clock (callers pass `now`), no threads.

mod adopt;
mod area;
mod attach;
mod carve;
mod due;
mod event;
mod grant;
mod holder;
mod id;
mod index;
mod keep;
mod lease;
mod limits;
mod meter;
mod preempt;
mod quota;
mod rate;
mod reason;
mod recover;
mod refusal;
mod remains;
mod renew;
mod table;
mod tenant;
mod time;
mod update;

pub use area::{AreaKey, AreaKind, ReservedAreas};
pub use carve::{Resource, Share};
pub use due::Due;
pub use event::{Compacted, Event, EventKind};
pub use grant::Granted;
pub use holder::{CgroupId, ConnectionId, Holder, HolderId, HolderKind, Last, NewHolder, Parting, ProcessId};
pub use id::{LeaseId, LeaseIdError, PoolId};
pub use keep::Keep;
pub use lease::{Grant, Lease, LeaseState};
pub use limits::Limits;
pub use meter::{Consequence, Excess, Reading};
pub use preempt::{HighWater, Space};
pub use quota::{Enforced, Quota, Terms};
pub use rate::Rate;
pub use reason::Reason;
pub use recover::{AdoptedHolder, Found, FoundRecord, Known, RecordedHolder, Recovery};
pub use refusal::Refusal;
pub use table::Table;
pub use tenant::{Caller, TenantId, Usage};
pub use time::BootTime;

#[cfg(test)]
mod fixture;
