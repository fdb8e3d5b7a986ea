//! Every unsafe line of scratchd and every platform call that no crate wraps safely. A leaf: it knows nothing of leases.

#[cfg(target_os = "linux")]
mod linux;

#[cfg(target_os = "linux")]
pub use linux::*;
