//! The blocking Rust SDK of scratchd: leases, and temporary files and directories under them.
//!
//! ```no_run
//! use scratch_client::{AreaOptions, Client, ConnectOptions, GrantOptions};
//!
//! # fn main() -> Result<(), scratch_client::ClientError> {
//! let client = Client::connect_or_start(&ConnectOptions::default())?;
//! let lease = client.grant(&GrantOptions::default())?;
//! let file = lease.file(&AreaOptions::default())?;
//! println!("{:?} lives until this process ends, however it ends", file.path());
//! # Ok(())
//! # }
//! ```
//!
//! # Security
//! The broker must be root's or this user's, as the kernel says who it is; there is no falling back to another one. What the
//! environment says is left aside in a program that has more rights than its caller.

mod area;
mod channel;
mod client;
mod connect;
mod error;
mod lease;
mod named;
mod session;

pub use area::{AreaOptions, CreateMode};
pub use client::Client;
pub use connect::ConnectOptions;
pub use error::ClientError;
pub use lease::{GrantOptions, Holder, Lease, Pidfd};
pub use named::{Directory, NamedFile};
