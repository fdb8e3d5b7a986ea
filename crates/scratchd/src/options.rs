//! The command line of `scratchd` and of `scratch daemon`.

use std::path::PathBuf;
use std::time::Duration;

use crate::log::LogFormat;

/// Options of the daemon. Without any it is a broker of the calling user's own.
#[derive(Debug, Clone, clap::Args)]
pub struct DaemonOptions {
    /// The configuration file (TOML); `scratch check FILE` validates one
    #[arg(long, value_name = "FILE", conflicts_with = "pool")]
    pub config: Option<PathBuf>,

    /// The one pool's directory, made if only its last component is missing; enough to start
    #[arg(long, value_name = "DIR")]
    pub pool: Option<PathBuf>,

    /// Where the sockets are made [default: $SCRATCHD_RUNTIME_DIR, as root /run/scratchd, else the user's own]
    #[arg(long, value_name = "DIR")]
    pub runtime_dir: Option<PathBuf>,

    /// A broker of one user, as clients start it when they find none
    #[arg(long)]
    pub session: bool,

    /// Exit when there was nothing to do for this long: no lease, connection, trash or retryable debt
    #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration)]
    pub idle_exit: Option<Duration>,

    /// How log lines on standard error look
    #[arg(long, value_enum, value_name = "FORMAT", default_value = "human")]
    pub log_format: LogFormat,
}
