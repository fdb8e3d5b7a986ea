//! Acts on the file system: names, create, open, remove, usage, tenant credentials, pool layout, records.
//! Every step is relative to a held descriptor and never follows a symbolic link. No sockets, no tokio, no logging.

mod error;

pub use error::FsError;
