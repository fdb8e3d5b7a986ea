//! `scratch lease revoke`.

use scratch_client::Client;
use scratch_proto::v1;
use scratch_proto::v1::admin_client::AdminClient;
use scratch_proto::v1::leases_client::LeasesClient;
use tonic::transport::Channel;

use crate::admin::all_debt;
use crate::broker::{self, with_broker};
use crate::failure::Failure;
use crate::line;
use crate::progress::show_while;
use crate::table::clean;

const EXAMPLES: &str = "Examples:
  scratch lease revoke \"$id\"
  scratch ls --output json | jq -r '.[].id' | xargs scratch lease revoke

Returns when the directories are out of the name space, with --wait when they
are freed. Exit code 75: something became debt, which the broker tries again.";

/// End leases now, whatever holds them
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct RevokeArgs {
    #[arg(required = true)]
    leases: Vec<String>,
    /// Return when everything under them is freed
    #[arg(long)]
    wait: bool,
}

/// Ends every one of them that can be ended; the first failure is the command's.
pub(super) fn revoke(args: &RevokeArgs) -> Result<(), Failure> {
    if args.wait {
        return with_broker(async |channel| {
            let mut results = Vec::new();
            for lease in &args.leases {
                results.push(revoke_and_wait(channel.clone(), lease).await);
            }
            all(&args.leases, results)
        });
    }
    let client = Client::connect(&broker::options())?;
    let results = args.leases.iter().map(|lease| Ok(client.revoke(lease)?)).collect();
    all(&args.leases, results)
}

/// The first failure; those after it are told here.
fn all(leases: &[String], results: Vec<Result<(), Failure>>) -> Result<(), Failure> {
    let failed = leases.iter().zip(results).filter_map(|(lease, result)| Some((lease, result.err()?)));
    let mut failed = failed.map(|(lease, failure)| Failure::Of(lease.clone(), Box::new(failure)));
    let Some(first) = failed.next() else { return Ok(()) };
    failed.for_each(|failure| line::complain(&format!("scratch: {failure}")));
    Err(first)
}

async fn revoke_and_wait(channel: Channel, lease: &str) -> Result<(), Failure> {
    let request = v1::RevokeRequest { lease: lease.to_owned(), wait: v1::Wait::Freed.into() };
    let (mut leases, mut admin) = (LeasesClient::new(channel.clone()), AdminClient::new(channel));
    let mut watching = admin.clone();
    let look = async || {
        let status = watching.status(v1::StatusRequest::default()).await.ok()?.into_inner();
        Some(format!("{lease}: {} trees waiting to be freed", status.trash))
    };
    let reply = show_while(leases.revoke(request), look).await?.into_inner();
    if reply.freed {
        return Ok(());
    }
    let debts = all_debt(&mut admin).await?;
    Err(Failure::Debt(named(&reply.debt, &debts)))
}

/// Each debt by its path and what is in the way, or by its id where it is gone again.
fn named(ids: &[String], debts: &[v1::Debt]) -> Vec<String> {
    let name = |id: &String| match debts.iter().find(|debt| debt.id == *id) {
        Some(debt) => {
            format!("{} could not be removed yet ({})", clean(&String::from_utf8_lossy(&debt.path)), debt.blocker)
        }
        None => format!("debt {id}"),
    };
    if ids.is_empty() {
        vec!["something could not be removed yet: see `scratch debt`".into()]
    } else {
        ids.iter().map(name).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debts_are_named_by_what_is_in_the_way() {
        let debt =
            v1::Debt { id: "d".into(), path: b"/p/\x1bx".to_vec(), blocker: "mount".into(), ..v1::Debt::default() };
        let told = named(&["d".into(), "e".into()], &[debt]);
        assert_eq!(told, ["/p/?x could not be removed yet (mount)", "debt e"]);
    }
}
