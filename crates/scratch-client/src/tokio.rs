//! The async flavour, for tokio: the same client, leases and guards, whose calls are futures.
//!
//! ```no_run
//! use scratch_client::tokio::Client;
//! use scratch_client::{AreaOptions, ConnectOptions, GrantOptions};
//!
//! # async fn example() -> Result<(), scratch_client::ClientError> {
//! let client = Client::connect_or_start(&ConnectOptions::default()).await?;
//! let lease = client.grant(&GrantOptions::default()).await?;
//! let named = lease.file(&AreaOptions::default()).await?;
//! println!("{:?} lives until this process ends, however it ends", named.path());
//! named.close().await?;
//! # Ok(())
//! # }
//! ```
//!
//! # One connection, many tasks
//! Clones share one connection, and any number of tasks may call at once: requests go out as they come, and each answer finds
//! its task. No task runs in the background: of those that wait one reads, for all. Only for answers that nobody waits for any
//! more one is started, and ends when they are there.
//!
//! # The runtime
//! The connection belongs to the runtime that made it, which needs its I/O and time drivers (`enable_all`); outside of a
//! runtime these functions panic, as tokio's own do. Where that runtime is gone the next call connects anew. Connecting,
//! starting a session broker and waiting for one that restarts may take up to 30 s and happen on tokio's blocking threads.
//! What is written for the caller, into a secret or a [`SpooledFile`], is written on those, too. What is done in the task itself:
//! sending and receiving one packet where the socket is ready, making a file in the lease's directory where this process may
//! ([`CreateMode::Auto`](crate::CreateMode)), and opening and renaming what is to stay, which is a handful of system calls.
//!
//! # Giving up
//! Each future may be dropped at any point, by a timeout or a `select!`: nobody else's answer is lost, and the connection
//! stays good. What was asked for may have happened. A file, directory or lease that was made nevertheless is removed as soon
//! as its answer is there; where it never comes, since the connection is lost, it ends with its lease, or a lease with its
//! holders. A lease that was granted with a nonce of the caller's own stays.
//!
//! # Guards
//! Dropping a guard never waits, and needs no runtime: what this process made itself it unlinks, else it tells the broker and
//! does not wait for the answer. If there is no connection or its socket is full, that is said as soon as it goes, with the next
//! call at the latest; where there is none any more it is left to the lease's end. `close` and [`Lease::revoke`] report instead.

mod client;
mod lease;
mod named;
mod scope;
mod socket;
mod spooled;
mod stock;
#[cfg(feature = "watch")]
mod watch;

pub use client::Client;
pub use lease::Lease;
pub use named::{Directory, NamedFile};
pub use scope::Scope;
pub use spooled::SpooledFile;
pub use stock::Stock;
#[cfg(feature = "watch")]
pub use watch::{Event, Told, Watch, WatchOptions};
