//! The options that limit a lease.

use scratch_client::Limits;

use crate::argument;

/// What a lease may have.
#[derive(Debug, Default, clap::Args)]
pub(crate) struct LimitArgs {
    /// So many bytes and no more, as in 64MiB; refused where the pool can't hold it to that
    #[arg(long, value_name = "BYTES", value_parser = argument::bytes)]
    size: Option<u64>,
    /// So many files and directories and no more
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u64).range(1..))]
    inodes: Option<u64>,
    /// Limits that are only metered will do
    #[arg(long)]
    pub(crate) soft: bool,
}

impl LimitArgs {
    /// As a grant has them.
    pub(crate) fn limits(&self) -> Limits {
        Limits { bytes: self.size.unwrap_or(0), inodes: self.inodes.unwrap_or(0) }
    }
}
