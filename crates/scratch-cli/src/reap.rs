//! `scratch reap`.

use scratch_proto::v1;
use serde_json::json;

use crate::failure::Failure;
use crate::{Output, OutputArgs, admin, debt, json, line};

/// Options of `reap`.
#[derive(Debug, clap::Args)]
pub(crate) struct ReapArgs {
    /// Show what would be tried, and change nothing
    #[arg(long)]
    dry_run: bool,
    /// Try only what is debt for its foreign owner, and enter directories whoever owns them; for root and the admin group
    #[arg(long)]
    foreign: bool,
    #[command(flatten)]
    output: OutputArgs,
}

/// Tries all debt now; what is left is shown.
pub(crate) fn reap(args: &ReapArgs) -> Result<(), Failure> {
    let reply = admin::reap(v1::ReapRequest { foreign: args.foreign, dry_run: args.dry_run })?;
    let (count, list) = if args.dry_run { ("would_try", "would_go") } else { ("tried", "left") };
    match args.output.output {
        Output::Json => {
            let debts: Vec<_> = reply.left.iter().map(json::debt).collect();
            json::print(&json!({ count: reply.tried, list: debts }))?;
        }
        Output::Text if args.dry_run => {
            line::print(&format!("would try {}", reply.tried))?;
            if reply.tried > 0 {
                debt::print(&reply.left, Output::Text)?;
            }
        }
        Output::Text => {
            line::print(&format!("tried {}", reply.tried))?;
            debt::print(&reply.left, Output::Text)?;
        }
    }
    Ok(())
}
