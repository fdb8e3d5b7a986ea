//! The calls of Linux.

mod chmod;
mod contained;
mod detach;
mod exec;
mod handle;
mod identity;
mod inherited;
mod packet;
mod peer;
mod signals;
mod spawn;

pub use chmod::fchmodat2;
pub use contained::contained_directory;
pub use detach::{Detached, READY_NUMBER, spawn_detached};
pub use exec::secure_execution;
pub use handle::{FileHandle, file_handle, file_system_uuid, open_by_handle};
pub use identity::{Assumed, assume, drop_groups};
pub use inherited::take_inherited_descriptor;
pub use packet::{Received, receive_packet, send_packet};
pub use peer::{peer_groups, peer_pidfd, refuse_descriptors, unread_by_peer};
pub use signals::{Caught, Signals, forget_pending, raise_unblocked, restore_default};
pub use spawn::{Spawn, Spawned, spawn};
