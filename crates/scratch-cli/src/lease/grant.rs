//! `scratch lease grant`.

use std::path::PathBuf;
use std::time::Duration;

use scratch_client::{CgroupDirectory, Client, GrantOptions, Holder};
use serde_json::json;

use crate::broker;
use crate::failure::Failure;
use crate::shell::Shell;
use crate::{Output, OutputArgs, argument, json, line};

const EXAMPLES: &str = "Examples:
  id=$(scratch lease grant)                held by the calling shell
  id=$(scratch lease grant --ttl 10m)      held by time; see `lease renew`
  scratch lease grant --holder-pid 4711 --output json | jq -r .path
  scratch lease grant --cgroup /sys/fs/cgroup/job --grace 1m
  scratch lease grant --for alice --label job=17     in a prolog
  scratch lease grant --hold               held until `lease revoke`; as root

The id alone is printed; the directory is in the JSON and in `lease show`.
Without --ttl, --holder-pid, --cgroup and --hold the calling shell holds the
lease, see `scratch mktemp --help`.";

/// Grant a lease, and print its id
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct GrantArgs {
    /// The pool to take the lease from; else the first configured one
    #[arg(long, value_name = "POOL")]
    pool: Option<String>,
    /// Held for this time, as in 90s or 2h, and longer if it is renewed
    #[arg(long, value_name = "DURATION", value_parser = argument::duration)]
    ttl: Option<Duration>,
    /// Held by this process; with --ttl by both
    #[arg(long, value_name = "PID")]
    holder_pid: Option<u32>,
    /// Held by this cgroup's directory (version 2) until it has no process any more
    #[arg(long, value_name = "PATH")]
    cgroup: Option<PathBuf>,
    /// What is still in the cgroup when the lease ends is killed
    #[arg(long, requires = "cgroup")]
    kill: bool,
    /// Held until it is detached or revoked; for root and the admin group
    #[arg(long)]
    hold: bool,
    /// The lease is this user's, by name or number: for root and the admin group. Held until it is detached or revoked unless
    /// something else is named
    #[arg(long = "for", value_name = "USER", value_parser = argument::user)]
    tenant: Option<u32>,
    /// It may be ended when the pool is too full, where that is configured
    #[arg(long)]
    preemptible: bool,
    /// Let it live on so long after its last holder has gone, so that another can come
    #[arg(long, value_name = "DURATION", value_parser = argument::duration)]
    grace: Option<Duration>,
    /// The lease that it ends with at the latest
    #[arg(long, value_name = "LEASE")]
    parent: Option<String>,
    /// End it after this time at the latest, whatever holds it
    #[arg(long, value_name = "DURATION", value_parser = argument::duration)]
    lifetime: Option<Duration>,
    /// For people and for `scratch ls`; may be given more than once
    #[arg(long = "label", value_name = "KEY=VALUE", value_parser = argument::label)]
    labels: Vec<(String, String)>,
    #[command(flatten)]
    output: OutputArgs,
}

/// Grants a lease, and leaves it to its holders.
pub(super) fn grant(args: GrantArgs) -> Result<(), Failure> {
    let mut holders: Vec<Holder> = args.ttl.map(Holder::Ttl).into_iter().collect();
    if let Some(path) = &args.cgroup {
        let cgroup = CgroupDirectory::open(path)?;
        holders.push(Holder::Cgroup(if args.kill { cgroup.killed() } else { cgroup }));
    }
    holders.extend(args.hold.then_some(Holder::Hold));
    if holders.is_empty() && args.tenant.is_none() || args.holder_pid.is_some() {
        holders.push(Holder::Other(Shell::named_or_calling(args.holder_pid)?.pidfd));
    }
    let options = GrantOptions {
        pool: args.pool.unwrap_or_default(),
        holders,
        labels: args.labels.into_iter().collect(),
        parent: args.parent,
        lifetime_max: args.lifetime,
        grace: args.grace,
        tenant: args.tenant,
        preemptible: args.preemptible,
        ..GrantOptions::default()
    };
    let lease = Client::connect_or_start(&broker::options())?.grant(&options)?;
    match args.output.output {
        Output::Text => line::print(lease.id())?,
        Output::Json => {
            let mut value = json!({ "id": lease.id(), "path": null });
            if let Some(path) = lease.path() {
                json::insert_path(&mut value, path.as_os_str().as_encoded_bytes());
            }
            json::print(&value)?;
        }
    }
    // Only now: a lease whose id nobody has learned ends with the guard.
    lease.leave();
    Ok(())
}
