//! Every unsafe line of scratchd and every platform call that no crate wraps safely. A leaf: it knows nothing of leases.

#[cfg(target_os = "linux")]
mod packet;

#[cfg(target_os = "linux")]
pub use packet::{Received, receive_packet, send_packet};
