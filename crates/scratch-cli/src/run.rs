//! `scratch run`: a command under a lease of its own. This file owns the order of things: connect, grant, let the command
//! hold the lease, start it, wait for it, hand on what is left, and its exit codes.

mod cgroup;
mod command_line;
mod failure;
mod grant;
mod keep;
mod mounts;
mod remains;
mod wait;

use std::env;
use std::ffi::OsString;
use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::ExitCode;

use rustix::process::{Signal, WaitOptions};
use scratch_client::{Client, Lease};
use scratch_sys::{NotStarted, Spawn, Spawned, spawn};

use cgroup::CommandCgroup;
pub(crate) use command_line::RunArgs;
use failure::Failure;
use mounts::Found;
use remains::Outcome;

use crate::broker;

/// Runs the command; the exit code is the command's, or tells why it could not be run.
pub(crate) fn run(args: RunArgs) -> ExitCode {
    match run_under_lease(&args) {
        Ok(code) => code.into(),
        Err(failure) => {
            say(&failure.to_string());
            failure.code().into()
        }
    }
}

fn run_under_lease(args: &RunArgs) -> Result<u8, Failure> {
    args.refuse_later_options()?;
    let client = Client::connect_or_start(&broker::options())?;
    let lease = grant::grant(&client, args)?;
    let kept = keep_end(&lease)?;
    let signals = wait::block_signals().map_err(Failure::system("block signals"))?;
    let earlier = remains::become_subreaper().map_err(Failure::system("become a subreaper"))?;
    // From the start: whoever kills this process as well wants to see what was left.
    let keep = args.keep_on_failure.map(|time| keep::KeepOnFailure::begin(&lease, time));
    // Until the command has started, every way out drops `lease`, which revokes it.
    let (command, cgroup) = start(args, &lease, kept)?;
    let code = match wait::until_it_ends(&command, &signals) {
        Ok(code) => code,
        Err(errno) => {
            // The command may run: only its holders may end the lease.
            lease.leave();
            return Err(Failure::system("wait for the command")(errno));
        }
    };
    let outcome = if code == 0 { Outcome::Succeeded(keep) } else { Outcome::Failed(keep) };
    remains::settle(&client, lease, &earlier, cgroup.as_ref(), outcome);
    Ok(code)
}

/// Gives one end of a socket pair to the broker; the other one is for the command and all that it starts.
fn keep_end(lease: &Lease) -> Result<OwnedFd, Failure> {
    let (near, far) = UnixStream::pair().map_err(|error| Failure::from_io("make a socket pair", &error))?;
    lease.attach_descriptor(far.into())?;
    Ok(near.into())
}

/// Forks, lets the new process hold the lease while it still has our rights, and has it become the command.
fn start(args: &RunArgs, lease: &Lease, kept: OwnedFd) -> Result<(Spawned, Option<CommandCgroup>), Failure> {
    let found = Found::of(lease, args.private_tmp)?;
    // The Rust runtime ignores SIGPIPE, and the command must not.
    let spawned = spawn(&Spawn {
        arguments: &args.command,
        environment: &environment(lease.id(), found.path),
        kept: kept.as_fd(),
        defaults: &[Signal::PIPE],
        mounts: found.mounts.as_ref(),
    })
    .map_err(Failure::system("start a process"))?;
    drop(kept);
    lease.attach_process(spawned.pidfd.as_fd())?;
    let cgroup = match CommandCgroup::make(lease.id()) {
        Some(cgroup) => cgroup.hold(spawned.pid, lease)?,
        None => None,
    };
    match spawned.start() {
        Ok(()) => Ok((spawned, cgroup)),
        Err(why) => {
            // Its status says nothing that `why` does not.
            let _ = rustix::process::waitpid(Some(spawned.pid), WaitOptions::empty());
            Err(match why {
                NotStarted::Mounts(errno) => Failure::Mounts { errno },
                NotStarted::Execute(errno) => Failure::Execute { command: args.command[0].clone(), errno },
            })
        }
    }
}

/// Ours, with the variables that lead to the lease.
fn environment(lease: &str, directory: &Path) -> Vec<(OsString, OsString)> {
    let ours = ["TMPDIR", "TMP", "TEMP"].map(|name| (name.into(), directory.into()));
    let set: Vec<(OsString, OsString)> = ours.into_iter().chain([("SCRATCHD_LEASE".into(), lease.into())]).collect();
    let inherited = env::vars_os().filter(|(name, _)| set.iter().all(|(other, _)| name != other));
    inherited.chain(set.clone()).collect()
}

/// One line on standard error; where that is closed there is nobody to tell.
fn say(text: &str) {
    let _ = writeln!(io::stderr(), "scratch: run: {text}");
}
