//! `scratch`: run commands under a lease, look at the broker, be the broker.

#![warn(clippy::print_stdout, clippy::print_stderr)]

mod admin;
mod argument;
mod broker;
mod check;
mod debt;
mod doctor;
mod drain;
mod events;
mod exit;
mod failure;
mod json;
mod lease;
mod limits;
mod line;
mod ls;
mod mktemp;
mod progress;
mod reap;
mod run;
mod shell;
mod status;
mod surrounding;
mod table;
mod verify;

use std::ffi::OsString;
use std::io::Write;
use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand, ValueEnum};

use failure::Failure;

/// Leases temporary files and directories: they are gone when their users are, however those end.
#[derive(Debug, Parser)]
#[command(name = "scratch", version, after_help = EXAMPLES, max_term_width = 120)]
struct Program {
    #[command(subcommand)]
    command: Command,
}

const EXAMPLES: &str = "Examples:
  scratch run -- make -j4          TMPDIR is an area of its own, gone with make
  file=$(scratch mktemp)           gone with the script, without a trap
  scratch ls                       live leases, who holds them, where they are
  scratch events                   what happens to them, as it happens
  scratch debt                     what could not be removed yet, and why
  scratch status --output json     for scripts
  scratch doctor                   what is wrong, and what to do

Environment:
  SCRATCHD_RUNTIME_DIR  the broker's directory. Without it /run/scratchd if it
                        is there, else the user's own broker, which
                        `run`, `mktemp` and `lease grant` start

Exit codes:
  0 done, 64 usage, 69 no broker, 73 cannot create, 75 try later,
  77 not permitted, 78 configuration, 141 nobody read the result to its end;
  `scratch run` has its own";

const RUN_EXAMPLES: &str = "Examples:
  scratch run -- make -j4
  scratch run --label job=42 -- sh -c 'sort big.txt >sorted.txt'
  scratch run --ttl 2h -- ./nightly.sh     the area goes after two hours at
                                           the latest; CMD is not killed
  scratch run --keep-on-failure=2h -- make test
                                           what a failed CMD leaves is kept

CMD finds its directory in TMPDIR, TMP and TEMP, and the lease's id in
SCRATCHD_LEASE. Killing this program alone takes nothing from a running CMD;
what CMD leaves running keeps the area until it ends.

Exit codes:
  CMD's own; 125 `scratch run` failed, 126 CMD cannot be executed,
  127 it was not found, 128+n it was ended by signal n";

#[derive(Debug, Subcommand)]
enum Command {
    #[command(after_help = RUN_EXAMPLES)]
    Run(run::RunArgs),
    Mktemp(mktemp::MktempArgs),
    Lease(lease::LeaseArgs),
    /// List leases: your own; as root or in the admin group everybody's
    #[command(after_help = "Examples:\n  scratch ls\n  scratch ls --output json | jq -r '.[].path'")]
    Ls(OutputArgs),
    /// Show the broker: its pool, how much is live, what waits to be freed
    #[command(
        after_help = "Examples:\n  scratch status\n  scratch status --output json     exit 0 when the broker answers\n  \
                      scratch status --tenants         what each tenant has of what it may have"
    )]
    Status(status::StatusArgs),
    /// List what could not be removed yet: where, why, when it is tried again
    #[command(after_help = "Examples:\n  scratch debt\n  scratch debt --output json | jq '.[].path'")]
    Debt(OutputArgs),
    Events(events::EventsArgs),
    /// Try to remove all debt now, and show what is left
    #[command(
        after_help = "Examples:\n  scratch reap\n  scratch reap --dry-run\n  scratch reap --foreign --dry-run     what others own in ended trees"
    )]
    Reap(reap::ReapArgs),
    /// Compare records, memory and disk; name every path that is nobody's, missing or not its own
    #[command(
        after_help = "Examples:\n  scratch verify\n  scratch verify --output json | jq -r '.[].path'\n\nExit codes:\n  0 all is well, 1 something was found, others as of `scratch`.\n  Areas that their own tenant has unlinked are shown and do not count."
    )]
    Verify(OutputArgs),
    Drain(drain::DrainArgs),
    Doctor(doctor::DoctorArgs),
    /// Check a configuration file; exit 78 with the reason if it can't be used
    #[command(after_help = "Examples:\n  scratch check /etc/scratchd/scratchd.toml")]
    Check(check::CheckArgs),
    /// Be the broker: the same as `scratchd`
    #[command(after_help = "Examples:\n  scratch daemon --pool /var/lib/scratchd/default")]
    Daemon(scratchd::DaemonOptions),
    /// Write a shell's completion script to standard output
    #[command(after_help = "Examples:\n  scratch completions bash >/etc/bash_completion.d/scratch")]
    Completions {
        /// Which shell
        shell: clap_complete::Shell,
    },
    #[command(external_subcommand)]
    Other(Vec<OsString>),
}

/// How results are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Output {
    /// A table for people.
    Text,
    /// For scripts.
    Json,
}

#[derive(Debug, clap::Args)]
struct OutputArgs {
    /// How to write the result
    #[arg(long, value_enum, value_name = "FORMAT", default_value = "text")]
    output: Output,
}

/// Commands of the design that a later version has.
const LATER: &[&str] = &["top"];

fn main() -> ExitCode {
    let program = match Program::try_parse() {
        Ok(program) => program,
        Err(error) => return usage(&error),
    };
    let result = match program.command {
        Command::Run(args) => return run::run(args),
        Command::Mktemp(args) => return mktemp::mktemp(&args),
        Command::Daemon(options) => return daemon(&options),
        Command::Ls(args) => ls::ls(args.output),
        Command::Status(args) => status::status(&args),
        Command::Debt(args) => debt::debt(args.output),
        Command::Events(args) => events::events(&args),
        Command::Reap(args) => reap::reap(&args),
        Command::Verify(args) => verify::verify(args.output),
        Command::Lease(args) => lease::lease(args),
        Command::Doctor(args) => doctor::doctor(&args),
        Command::Drain(args) => drain::drain(&args),
        Command::Check(args) => check::check(&args),
        Command::Completions { shell } => {
            // Not to standard output itself: that would panic where nobody reads.
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Program::command(), "scratch", &mut script);
            let mut out = std::io::stdout().lock();
            out.write_all(&script).and_then(|()| out.flush()).map_err(Failure::Write)
        }
        Command::Other(words) => Err(unknown(&words)),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            if failure.is_unread() {
                // Who has gone wants to hear no more.
            } else if wants_json() {
                line::complain(&failure.to_json().to_string());
            } else {
                line::complain(&format!("scratch: {failure}"));
            }
            failure.exit_code().into()
        }
    }
}

/// Whether a failure, too, is to be for scripts.
fn wants_json() -> bool {
    let words: Vec<OsString> = std::env::args_os().collect();
    words.iter().any(|word| word == "--output=json") || words.windows(2).any(|pair| pair == ["--output", "json"])
}

/// `run` tells its own failures from its command's by 125.
fn usage(error: &clap::Error) -> ExitCode {
    // Nobody may be reading; the code tells all the same.
    let _ = error.print();
    let is_run = std::env::args_os().nth(1).is_some_and(|word| word == "run");
    match (error.use_stderr(), is_run) {
        (false, _) => ExitCode::SUCCESS,
        (true, true) => exit::RUN_FAILED.into(),
        (true, false) => exit::USAGE.into(),
    }
}

fn unknown(words: &[OsString]) -> Failure {
    let word = words.first().map(|word| word.to_string_lossy().into_owned()).unwrap_or_default();
    if LATER.contains(&word.as_str()) { Failure::NotYet(word) } else { Failure::UnknownCommand(word) }
}

fn daemon(options: &scratchd::DaemonOptions) -> ExitCode {
    match scratchd::run(options) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            line::complain(&format!("scratch daemon: {error}"));
            error.exit_code().into()
        }
    }
}
