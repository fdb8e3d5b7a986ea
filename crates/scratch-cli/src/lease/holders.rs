//! `scratch lease renew`, `attach` and `detach`: what holds a lease.

use std::path::PathBuf;
use std::time::Duration;

use scratch_client::{CgroupDirectory, Client, Holder};
use scratch_proto::v1;
use scratch_proto::v1::leases_client::LeasesClient;
use serde_json::json;

use crate::broker::{self, with_broker};
use crate::failure::Failure;
use crate::shell::Shell;
use crate::{Output, OutputArgs, argument, json, line};

/// Start the time of a lease's ttl holders anew, and print how long it is
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  while scratch lease renew \"$id\"; do sleep 60; done >/dev/null &")]
pub(super) struct RenewArgs {
    lease: String,
    #[command(flatten)]
    output: OutputArgs,
}

/// Let something more hold a lease, and print the holder's id
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  scratch lease attach \"$id\" --pid $!       until that process ends\n  scratch lease attach \"$id\" --ttl 1h\n  scratch lease attach \"$id\" --cgroup /sys/fs/cgroup/job\n  scratch lease attach \"$id\" --hold           until it is detached; as root"
)]
pub(super) struct AttachArgs {
    lease: String,
    #[command(flatten)]
    holder: HolderArgs,
    /// What is still in the cgroup when the lease ends is killed
    #[arg(long, requires = "cgroup")]
    kill: bool,
    #[command(flatten)]
    output: OutputArgs,
}

/// What is to hold the lease.
#[derive(Debug, clap::Args)]
#[group(required = true, multiple = false)]
struct HolderArgs {
    /// A process of yours, until it ends
    #[arg(long, value_name = "PID")]
    pid: Option<u32>,
    /// A time, as in 90s or 2h, that `scratch lease renew` starts anew
    #[arg(long, value_name = "DURATION", value_parser = argument::duration)]
    ttl: Option<Duration>,
    /// A cgroup's directory (version 2), until it has no process any more
    #[arg(long, value_name = "PATH")]
    cgroup: Option<PathBuf>,
    /// Nothing: until it is detached; for root and the admin group
    #[arg(long)]
    hold: bool,
}

/// Take a holder away from a lease, which ends if it was the last one
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  scratch lease detach \"$id\" 2     the 2 is in `scratch lease show`")]
pub(super) struct DetachArgs {
    lease: String,
    /// The holder's id
    holder: u32,
}

/// Renews once.
pub(super) fn renew(args: &RenewArgs) -> Result<(), Failure> {
    let granted = client()?.keep_alive(&args.lease)?;
    let granted = humantime::format_duration(granted).to_string();
    match args.output.output {
        Output::Text => line::print(&granted)?,
        Output::Json => json::print(&json!({ "id": args.lease, "granted_ttl": granted }))?,
    }
    Ok(())
}

/// Adds a holder.
pub(super) fn attach(args: &AttachArgs) -> Result<(), Failure> {
    let holder = match &args.holder {
        HolderArgs { ttl: Some(ttl), .. } => Holder::Ttl(*ttl),
        HolderArgs { cgroup: Some(path), .. } if args.kill => Holder::Cgroup(CgroupDirectory::open(path)?.killed()),
        HolderArgs { cgroup: Some(path), .. } => Holder::Cgroup(CgroupDirectory::open(path)?),
        HolderArgs { hold: true, .. } => Holder::Hold,
        HolderArgs { pid, .. } => Holder::Other(Shell::named_or_calling(*pid)?.pidfd),
    };
    let id = client()?.attach(&args.lease, &holder)?;
    match args.output.output {
        Output::Text => line::print(&id.to_string())?,
        Output::Json => json::print(&json!({ "id": args.lease, "holder": id }))?,
    }
    Ok(())
}

/// Removes a holder.
pub(super) fn detach(args: DetachArgs) -> Result<(), Failure> {
    let request = v1::DetachRequest { lease: args.lease, holder: args.holder };
    with_broker(async |channel| Ok(LeasesClient::new(channel).detach(request).await.map(drop)?))
}

/// A lease is where a broker runs: none is started.
fn client() -> Result<Client, Failure> {
    Ok(Client::connect(&broker::options())?)
}
