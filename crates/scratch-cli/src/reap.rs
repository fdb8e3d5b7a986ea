//! `scratch reap`.

use scratch_proto::v1;
use serde_json::json;

use crate::failure::Failure;
use crate::{Output, OutputArgs, admin, debt, json};

/// Options of `reap`.
#[derive(Debug, clap::Args)]
pub(crate) struct ReapArgs {
    /// Not in this version
    #[arg(long)]
    dry_run: bool,
    /// Not in this version
    #[arg(long)]
    foreign: bool,
    #[command(flatten)]
    output: OutputArgs,
}

/// Tries all debt now; what is left is shown.
pub(crate) fn reap(args: &ReapArgs) -> Result<(), Failure> {
    for (option, given) in [("reap --dry-run", args.dry_run), ("reap --foreign", args.foreign)] {
        if given {
            return Err(Failure::NotYet(option.to_owned()));
        }
    }
    let reply = admin::reap(v1::ReapRequest::default())?;
    match args.output.output {
        Output::Json => {
            let left: Vec<_> = reply.left.iter().map(json::debt).collect();
            json::print(&json!({ "tried": reply.tried, "left": left }))?;
        }
        Output::Text => {
            println!("tried {}", reply.tried);
            debt::print(&reply.left, Output::Text)?;
        }
    }
    Ok(())
}
