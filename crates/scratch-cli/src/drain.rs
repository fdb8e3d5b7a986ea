//! `scratch drain`.

use std::time::Duration;

use scratch_proto::v1;
use scratch_proto::v1::admin_client::AdminClient;
use tonic::transport::Channel;

use crate::broker::with_broker;
use crate::failure::Failure;
use crate::progress::show_while;
use crate::{argument, line};

const EXAMPLES: &str = "Examples:
  scratch drain                      before the machine is taken down
  scratch drain --deadline 10m       exit code 75 if leases are left then
  scratch drain --undo               grant again

Leases below a live one are granted still, so that what runs can come to its
end. Interrupting this program leaves the broker draining.";

/// Let the broker grant nothing more, wait until all leases have ended, and let it exit
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct DrainArgs {
    /// Wait no longer than this, as in 90s or 2h; the broker stays as it is then
    #[arg(long, value_name = "DURATION", value_parser = argument::duration)]
    deadline: Option<Duration>,
    /// Grant again
    #[arg(long, conflicts_with = "deadline")]
    undo: bool,
}

/// Drains the broker, or calls that off.
pub(crate) fn drain(args: &DrainArgs) -> Result<(), Failure> {
    let line = with_broker(async |channel| {
        if args.undo {
            AdminClient::new(channel).undrain(v1::UndrainRequest {}).await?;
            Ok("the broker grants again")
        } else {
            wait_until_drained(channel, args.deadline).await?;
            Ok("drained: every lease has ended, and the broker exits")
        }
    })?;
    Ok(line::print(line)?)
}

async fn wait_until_drained(channel: Channel, deadline: Option<Duration>) -> Result<(), Failure> {
    // A deadline beyond what the wire can say is none.
    let request = v1::DrainRequest { deadline: deadline.and_then(|deadline| deadline.try_into().ok()) };
    let mut admin = AdminClient::new(channel);
    let mut watching = admin.clone();
    let look = async || {
        let status = watching.status(v1::StatusRequest::default()).await.ok()?.into_inner();
        Some(format!("draining: {} leases live, {} trees waiting to be freed", status.leases, status.trash))
    };
    let reply = show_while(admin.drain(request), look).await?.into_inner();
    if reply.drained {
        return Ok(());
    }
    let is_draining = admin.status(v1::StatusRequest::default()).await?.into_inner().draining;
    Err(if is_draining { Failure::LeasesLeft(reply.leases) } else { Failure::CalledOff })
}
