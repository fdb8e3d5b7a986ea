//! The Rust SDK of scratchd: leases, and temporary files and directories under them.
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
//! A program that uses the `tempfile` crate finds its names in [`temp`], and needs neither client nor lease.
//!
//! # Blocking or async
//! Two flavours, one logic and one set of options and errors:
//!
//! | | blocking: this module | async: `scratch_client::tokio`, cargo feature `tokio` |
//! |---|---|---|
//! | a call | blocks its thread | is a future, which may be dropped at any point |
//! | many at once | threads share a clone's connection | so do tasks |
//! | a guard that is dropped | waits until what it guards is out of the name space, a few seconds at most | tells the broker, and waits for nothing |
//! | `close`, `revoke`, `revoke_until_freed` | wait and report | so do their futures |
//! | needs | nothing | a tokio runtime with I/O and time; it starts none, and no task |
//!
//! ```no_run
//! # #[cfg(feature = "tokio")]
//! # async fn example() -> Result<(), scratch_client::ClientError> {
//! use scratch_client::tokio::Client;
//! use scratch_client::{AreaOptions, ConnectOptions, GrantOptions};
//!
//! let client = Client::connect_or_start(&ConnectOptions::default()).await?;
//! let lease = client.grant(&GrantOptions::default()).await?;
//! let file = lease.file(&AreaOptions::default()).await?;
//! file.close().await?;
//! # Ok(())
//! # }
//! ```
//!
//! # A lease for a piece of work
//! A [`Scope`] groups what a request or a job makes: files and directories with guards, paths that stay until the scope ends,
//! secrets. [`Scope::cleanup_all`] removes it all at once, however much it is; [`Scope::run`] does so when the work fails.
//!
//! # In a lease's directory
//! [`AreaOptions::inside`] makes areas in directories of it. What a process, or a tool that it runs, has made there by itself goes by
//! its path: [`Lease::release`] takes it away, a directory with all that is in it, and [`Lease::persist`] moves it out for good.
//!
//! ```
//! use scratch_client::{AreaOptions, Client, ConnectOptions, GrantOptions, Replace};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let lease = Client::connect_or_start(&ConnectOptions::default())?.grant(&GrantOptions::default())?;
//! let build = lease.directory(&AreaOptions { name: Some("build".into()), ..AreaOptions::default() })?;
//! let list = lease.file(&AreaOptions { inside: Some("build".into()), ..AreaOptions::default() })?;
//! assert_eq!(list.path().and_then(|path| path.parent()), build.path());
//!
//! // A tool makes something there.
//! std::fs::create_dir(build.path().ok_or("a lease without a path")?.join("site"))?;
//! # let target = scratch_client::temp::TempDir::new()?;
//! # let srv = target.path();
//! lease.persist("build/site", std::fs::File::open(srv)?, "site", Replace::Never)?;
//! assert!(srv.join("site").is_dir());
//! # Ok(())
//! # }
//! ```
//!
//! # Renewing, and having some in stock
//! A lease that a ttl holds outlives its process by no more than that. [`Lease::renew_in_background`] renews it, by a thread that
//! the caller asks for; in the async flavour `Lease::keep_renewing` is a future to spawn, or to select on. Either goes on when
//! the broker is restarted, and ends when the lease has: it says so, so that the work can be given up.
//!
//! Where the broker makes all files, each is a round trip. A [`Stock`] makes 200 files without names in one, and hands them out.
//!
//! # What happens to leases
//! With the cargo feature `watch` an async client tells it, in the order in which it happens, and goes on with a broker that was
//! started anew (`tokio::Client::watch`). What may have been missed is said to be.
//!
//! # What is to stay
//! `keep` leaves an area to its lease. `persist` and `persist_to` move it out for good, in one step: to another file system it is
//! copied, and has its name when it is whole. `keep_for_good` finds it a place. Areas in directories of one's own
//! ([`Lease::file_in`]) are renamed, on their file system.
//!
//! # Restarts and forks
//! A broker that was restarted is connected to anew by the next call, which sends again what was not answered and lets the new
//! connection hold what the old one held. A forked child never uses its parent's connection, and its copies of guards do
//! nothing.
//!
//! # Delegated channels
//! [`Lease::delegate`] gives a descriptor to hand to a process that can reach no broker, such as a sandbox without file system
//! and network. That process finds it by `SCRATCHD_CHANNEL=<number>` when it connects, or uses [`Client::delegated`]. Its
//! client makes areas under the one lease that the channel is for, through the broker alone, so that they have no path; grants
//! leases below it, held by [`Holder::Connection`] or a ttl; and ends it all by closing the channel. There is no second
//! connection: neither after the broker was killed nor in a forked child.
//!
//! What needs no path works there as anywhere: anonymous files and a [`Stock`] of them, memory, spooled files, and named files as
//! long as nobody asks where they are. What has to have a path is refused as Unsupported: [`temp::NamedTempFile`],
//! [`temp::TempDir`], [`Scope::create_temp_file`].
//!
//! # Security
//! The broker must be root's or this user's, as the kernel says who it is; there is no falling back to another one. What the
//! environment says is left aside in a program that has more rights than its caller.

mod area;
mod blocking;
mod broker;
mod connect;
mod delegated;
mod error;
mod holder;
mod lasting;
mod lease;
mod link;
mod named;
mod owed;
mod packet;
mod reconnect;
mod renewal;
mod scope;
mod session;
mod site;
mod spot;
mod standing;
mod stock;
mod table;
pub mod temp;
mod tending;
mod tenure;
#[cfg(feature = "tokio")]
pub mod tokio;
mod wait;

pub use area::{AreaOptions, CreateMode};
pub use blocking::{Client, Directory, Lease, NamedFile, Renewal, Scope, Stock};
pub use connect::ConnectOptions;
pub use delegated::Limits;
pub use error::ClientError;
pub use holder::{CgroupDirectory, Holder, Pidfd, SocketEnd};
pub use lease::{GrantOptions, Mount};
pub use named::{PersistError, Replace};
pub use scope::{Left, ScopeError, ScopeOptions};
