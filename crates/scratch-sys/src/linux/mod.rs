//! The calls of Linux.

mod btrfs;
mod chmod;
mod confine;
mod contained;
mod detach;
mod exec;
mod handle;
mod identity;
mod inherited;
mod mounts;
mod packet;
mod peer;
mod quota;
mod signals;
mod spawn;
mod system_calls;
mod tmpfs;

pub use btrfs::{
    create_subvolume, drop_subvolume_quota, enforces_subvolume_limits, is_btrfs, make_subvolume_writable,
    set_subvolume_limit, subvolume, subvolume_usage,
};
pub use chmod::fchmodat2;
pub use confine::{Violation, confine};
pub use contained::contained_directory;
pub use detach::{Detached, READY_NUMBER, spawn_detached};
pub use exec::secure_execution;
pub use handle::{FileHandle, file_handle, file_system_uuid, open_by_handle};
pub use identity::{Assumed, assume, drop_groups};
pub use inherited::take_inherited_descriptor;
pub use mounts::OwnMounts;
pub use packet::{Received, receive_packet, send_packet};
pub use peer::{PeerCredentials, peer_credentials, peer_groups, peer_pidfd, refuse_descriptors, unread_by_peer};
pub use quota::{Project, enforces_project_limits, project, project_usage, set_project, set_project_limits};
pub use signals::{Caught, Signals, forget_pending, raise_unblocked, restore_default};
pub use spawn::{NotStarted, Spawn, Spawned, spawn};
pub use tmpfs::{TmpfsSize, clone_attached, clone_detached, make_tmpfs, resize_tmpfs};
