//! Decides what lives and what ends: leases, holders, deadlines, limits, tenants.
//! No I/O, no clock (callers pass `now`), no threads.

mod id;

pub use id::LeaseId;
