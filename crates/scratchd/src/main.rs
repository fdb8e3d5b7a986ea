//! `scratchd`: the broker as a program of its own.

use std::process::ExitCode;

use clap::Parser;

/// Leases temporary files and directories to its clients, and takes them away when the clients are gone.
#[derive(Debug, Parser)]
#[command(name = "scratchd", version, after_help = EXAMPLES)]
struct Arguments {
    #[command(flatten)]
    options: scratchd::DaemonOptions,
}

const EXAMPLES: &str = "Examples:
  scratchd --pool /var/lib/scratchd/default            the system's broker, as root
  scratchd --config /etc/scratchd/scratchd.toml        with limits and an admin group
  scratchd --pool ~/pool --runtime-dir ~/run           one user's own

Exit codes: 0 told to stop, 69 another broker has the pool, 71 the system refuses, 73 something can't be made,
77 not permitted, 78 configuration or pool refused.";

fn main() -> ExitCode {
    match scratchd::run(&Arguments::parse().options) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("scratchd: {error}");
            ExitCode::from(error.exit_code())
        }
    }
}
