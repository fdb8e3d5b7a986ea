//! Every unsafe line of scratchd and every platform call that no crate wraps safely. A leaf: it knows nothing of leases.

#[cfg(target_os = "linux")]
mod chmod;
#[cfg(target_os = "linux")]
mod contained;
#[cfg(target_os = "linux")]
mod detach;
#[cfg(target_os = "linux")]
mod exec;
#[cfg(target_os = "linux")]
mod identity;
#[cfg(target_os = "linux")]
mod inherited;
#[cfg(target_os = "linux")]
mod packet;
#[cfg(target_os = "linux")]
mod peer;
#[cfg(target_os = "linux")]
mod signals;
#[cfg(target_os = "linux")]
mod spawn;

#[cfg(target_os = "linux")]
pub use chmod::fchmodat2;
#[cfg(target_os = "linux")]
pub use contained::contained_directory;
#[cfg(target_os = "linux")]
pub use detach::{Detached, READY_NUMBER, spawn_detached};
#[cfg(target_os = "linux")]
pub use exec::secure_execution;
#[cfg(target_os = "linux")]
pub use identity::{Assumed, assume, drop_groups};
#[cfg(target_os = "linux")]
pub use inherited::take_inherited_descriptor;
#[cfg(target_os = "linux")]
pub use packet::{Received, receive_packet, send_packet};
#[cfg(target_os = "linux")]
pub use peer::{peer_groups, peer_pidfd, refuse_descriptors, unread_by_peer};
#[cfg(target_os = "linux")]
pub use signals::{Caught, Signals, raise_unblocked, restore_default};
#[cfg(target_os = "linux")]
pub use spawn::{Spawn, Spawned, spawn};
