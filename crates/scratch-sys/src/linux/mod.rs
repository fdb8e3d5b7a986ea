//! The calls of Linux.

mod chmod;
mod confine;
mod contained;
mod detach;
mod exec;
mod identity;
mod inherited;
mod mounts;
mod packet;
mod peer;
mod signals;
mod spawn;
mod system_calls;
mod tmpfs;

pub use chmod::fchmodat2;
pub use confine::{Violation, confine};
pub use contained::contained_directory;
pub use detach::{Detached, READY_NUMBER, spawn_detached};
pub use exec::secure_execution;
pub use identity::{Assumed, assume, drop_groups};
pub use inherited::take_inherited_descriptor;
pub use mounts::OwnMounts;
pub use packet::{Received, receive_packet, send_packet};
pub use peer::{peer_groups, peer_pidfd, refuse_descriptors, unread_by_peer};
pub use signals::{Caught, Signals, forget_pending, raise_unblocked, restore_default};
pub use spawn::{NotStarted, Spawn, Spawned, spawn};
pub use tmpfs::{TmpfsSize, clone_attached, clone_detached, make_tmpfs, resize_tmpfs};
