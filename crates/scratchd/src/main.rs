//! `scratchd`: the broker as a program of its own.

#![warn(clippy::print_stdout, clippy::print_stderr)]

use std::io::Write;
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
  scratchd --pool /var/lib/scratchd/default      the system's broker, as root
  scratchd --config /etc/scratchd/scratchd.toml  with limits and admins
  scratchd --pool ~/pool --runtime-dir ~/run     one user's own

Exit codes:
  0 told to stop, 64 usage, 69 another broker has the pool or the sockets,
  71 the system refuses, 73 something can't be made, 77 not permitted,
  78 configuration or pool refused";

/// EX_USAGE of sysexits(3).
const USAGE: u8 = 64;

fn main() -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => {
            // Nobody may be reading; the code tells all the same.
            let _ = error.print();
            return if error.use_stderr() { ExitCode::from(USAGE) } else { ExitCode::SUCCESS };
        }
    };
    match scratchd::run(&arguments.options) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // As above.
            let _ = writeln!(std::io::stderr(), "scratchd: {error}");
            ExitCode::from(error.exit_code())
        }
    }
}
