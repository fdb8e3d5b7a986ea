//! `scratch lease keep` and `undelete`: what outlives its end.

use std::time::Duration;

use scratch_proto::v1;
use scratch_proto::v1::leases_client::LeasesClient;

use crate::broker::with_broker;
use crate::failure::Failure;
use crate::table::clean;
use crate::{Output, OutputArgs, argument, json, line};

/// Keep a lease's directory for a while after the lease has ended, and print where it is
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  scratch lease keep \"$id\" --for 2h
  scratch lease keep \"$id\" --for 0s     not after all; one that is kept ends
  scratch lease revoke \"$id\"           ends it at once")]
pub(super) struct KeepArgs {
    lease: String,
    /// How long, as in 90s or 2h: from its end on; if it has ended, from now on
    #[arg(long = "for", value_name = "DURATION", value_parser = humantime::parse_duration)]
    time: Duration,
    /// Only if it has no more than this by then, as in 500MB or 1GiB
    #[arg(long, value_name = "BYTES", value_parser = argument::bytes)]
    bytes: Option<u64>,
    #[command(flatten)]
    output: OutputArgs,
}

/// Bring an ended lease back, where the configuration has a window for that, and print where it is
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  cp -a \"$(scratch lease undelete \"$id\")\" ~/saved
  scratch lease attach \"$id\" --pid $$     holds it again")]
pub(super) struct UndeleteArgs {
    lease: String,
    #[command(flatten)]
    output: OutputArgs,
}

/// Notes it, or sets the time of a kept one anew.
pub(super) fn keep(args: &KeepArgs) -> Result<(), Failure> {
    print(&request(&args.lease, args.time, args.bytes.unwrap_or(0))?, &args.output)
}

/// Brings it back.
pub(super) fn undelete(args: UndeleteArgs) -> Result<(), Failure> {
    let request = v1::UndeleteRequest { lease: args.lease };
    let lease = with_broker(async |channel| Ok(LeasesClient::new(channel).undelete(request).await?.into_inner()))?;
    print(&lease, &args.output)
}

/// Asks the broker to keep a lease; no bytes: as many as it keeps.
pub(crate) fn request(lease: &str, time: Duration, bytes: u64) -> Result<v1::Lease, Failure> {
    let keep_for = prost_types::Duration {
        seconds: i64::try_from(time.as_secs()).unwrap_or(i64::MAX),
        nanos: i32::try_from(time.subsec_nanos()).unwrap_or(0),
    };
    let request = v1::KeepRequest { lease: lease.to_owned(), keep_for: Some(keep_for), bytes };
    with_broker(async |channel| Ok(LeasesClient::new(channel).keep(request).await?.into_inner()))
}

fn print(lease: &v1::Lease, output: &OutputArgs) -> Result<(), Failure> {
    match output.output {
        Output::Text => line::print(&clean(&String::from_utf8_lossy(&lease.path)))?,
        Output::Json => json::print(&json::lease(lease))?,
    }
    Ok(())
}
