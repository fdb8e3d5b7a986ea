//! `scratch check`.

use std::path::PathBuf;

use crate::failure::Failure;
use crate::line;

/// Options of `check`.
#[derive(Debug, clap::Args)]
pub(crate) struct CheckArgs {
    /// The configuration file
    file: PathBuf,
}

/// Reads a configuration as the daemon would, and touches nothing.
pub(crate) fn check(args: &CheckArgs) -> Result<(), Failure> {
    let config = scratchd::Config::read(&args.file)?;
    line::print(&format!("{}: fine, {} pool", args.file.display(), config.pool.len()))?;
    Ok(())
}
