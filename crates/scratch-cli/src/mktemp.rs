//! `scratch mktemp`: mktemp(1), but what it makes is gone when the calling shell is. All calls of one shell share a lease.

mod place;
mod template;

use std::ffi::OsString;
use std::io::{self, Write};
use std::os::unix::ffi::OsStrExt;
use std::process::ExitCode;
use std::thread;
use std::time::{Duration, Instant};

use scratch_client::{Client, ClientError, GrantOptions, Holder, Lease};

use crate::broker;
use crate::failure::Failure;
use crate::shell::Shell;
use crate::surrounding::grant_below;
use place::Made;
use template::{Base, Plan};

pub(crate) use template::TemplateError;

/// What the lease of a shell is known by to the next call.
const PURPOSE: [u8; 4] = *b"mktp";
/// Two first calls at the same time: one of them grants, the other one waits for it.
const BUSY_TIME_MAX: Duration = Duration::from_secs(10);
const RETRY_AFTER: Duration = Duration::from_millis(5);

const EXAMPLES: &str = "Examples:
  file=$(scratch mktemp) || exit
  dir=$(scratch mktemp -d) || exit
  log=$(scratch mktemp -t --suffix=.log build.XXXXXX)
  scratch mktemp -p \"$dir\" XXXXXX       in a directory that it made

What it makes is gone when the calling shell ends, however it ends: no trap
is needed. The shell is the nearest ancestor that is more than a fork of its
own parent, so that pipes, $( ) and ( ) do as they should. A shell that
replaces itself by this program (exec, or the last command of sh -c) is none:
then its caller holds the file. --holder-pid names another process.

Without a place it is made in the shell's lease's directory; a TEMPLATE without
-t, or -p DIR, may lead anywhere that you may write.

Exit codes:
  0 made, 64 usage, 69 no broker, 73 cannot create, 75 try later,
  77 not permitted";

/// Make a file or directory that is gone when the calling shell is, and print its path
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct MktempArgs {
    /// Make a directory, not a file
    #[arg(short, long)]
    directory: bool,
    /// Say nothing if it can't be made; the exit code tells
    #[arg(short, long)]
    quiet: bool,
    /// Refused: a name that nobody made can be taken by somebody else
    #[arg(short = 'u', long)]
    dry_run: bool,
    /// Append SUFF to TEMPLATE, which has to end in X then; SUFF contains no slash
    #[arg(long, value_name = "SUFF", allow_hyphen_values = true)]
    suffix: Option<OsString>,
    /// TEMPLATE is a name in the lease's directory
    #[arg(short = 't')]
    in_lease: bool,
    /// TEMPLATE is below DIR, anywhere
    #[arg(short = 'p', value_name = "DIR", allow_hyphen_values = true, overrides_with = "tmpdir")]
    below: Option<OsString>,
    /// As -p; without DIR it is the lease's directory
    #[arg(long, value_name = "DIR", num_args = 0..=1, require_equals = true, overrides_with = "below")]
    tmpdir: Option<Option<OsString>>,
    /// The process whose end is the end of what is made; else the calling shell
    #[arg(long, value_name = "PID")]
    holder_pid: Option<u32>,
    /// A name with at least 3 X in a row, which are replaced; default: tmp.XXXXXXXXXX
    template: Option<OsString>,
}

impl MktempArgs {
    fn base(&self) -> Base<'_> {
        let below = self.tmpdir.as_ref().map(Option::as_deref).or_else(|| self.below.as_deref().map(Some));
        match below {
            _ if self.in_lease => Base::Lease,
            Some(directory) => Base::Below(directory),
            None => Base::Unsaid,
        }
    }
}

/// Makes it, and prints where.
pub(crate) fn mktemp(args: &MktempArgs) -> ExitCode {
    let Err(failure) = make_and_print(args) else { return ExitCode::SUCCESS };
    let is_usage = matches!(failure, Failure::DryRun | Failure::Template(_));
    if is_usage || !args.quiet {
        say(&failure.to_string());
    }
    failure.exit_code().into()
}

fn make_and_print(args: &MktempArgs) -> Result<(), Failure> {
    if args.dry_run {
        return Err(Failure::DryRun);
    }
    let plan = template::plan(args.template.as_deref(), args.suffix.as_deref(), args.base())?;
    place::look(&plan.place)?;
    let made = make(args, &plan)?;
    let mut line = made.path().ok_or(Failure::NoDirectory)?.as_os_str().as_bytes().to_vec();
    line.push(b'\n');
    // Whoever does not learn its name does not need it: then it is dropped.
    let mut out = io::stdout().lock();
    out.write_all(&line).and_then(|()| out.flush())?;
    made.keep();
    Ok(())
}

fn make(args: &MktempArgs, plan: &Plan) -> Result<Made, Failure> {
    let shell = Shell::named_or_calling(args.holder_pid)?;
    let client = Client::connect_or_start(&broker::options())?;
    match make_once(&client, &shell, args, plan) {
        // It ended after it was granted to an earlier call; its nonce is free now.
        Err(Failure::Client(error)) if is_gone(&error) => make_once(&client, &shell, args, plan),
        result => result,
    }
}

fn make_once(client: &Client, shell: &Shell, args: &MktempArgs, plan: &Plan) -> Result<Made, Failure> {
    let lease = grant(client, shell, args.quiet)?;
    let made = place::make(&lease, plan, args.directory);
    // Whatever became of it: the lease is the shell's, and other files of its are in there.
    lease.leave();
    made
}

/// The lease of this shell: an earlier call's, or a new one.
fn grant(client: &Client, shell: &Shell, quiet: bool) -> Result<Lease, ClientError> {
    let options = GrantOptions {
        holders: vec![Holder::Other(shell.pidfd.clone())],
        nonce: Some(shell.nonce(PURPOSE)),
        ..GrantOptions::default()
    };
    let deadline = Instant::now() + BUSY_TIME_MAX;
    loop {
        let tell = |text: &str| {
            if !quiet {
                say(text);
            }
        };
        match grant_below(client, &options, tell) {
            Err(error) if error.is_refusal("NONCE_BUSY") && Instant::now() < deadline => thread::sleep(RETRY_AFTER),
            result => return result,
        }
    }
}

fn is_gone(error: &ClientError) -> bool {
    let errno_is_gone = |error: &scratch_fs::FsError| error.errno == rustix::io::Errno::NOENT;
    error.is_refusal("LEASE_UNKNOWN")
        || error.is_refusal("LEASE_ENDING")
        || error.is_refusal("LEASE_KEPT")
        || matches!(error, ClientError::Create(error) if errno_is_gone(error))
}

/// One line on standard error; where that is closed there is nobody to tell.
fn say(text: &str) {
    let _ = writeln!(io::stderr(), "scratch: mktemp: {text}");
}
