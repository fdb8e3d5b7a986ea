//! `scratch lease`: leases one by one.

mod grant;
mod holders;
pub(crate) mod keep;
mod revoke;
mod show;

use std::ffi::OsString;

use clap::Subcommand;

use crate::failure::Failure;

const EXAMPLES: &str = "Examples:
  id=$(scratch lease grant --ttl 10m)     print the new lease's id
  scratch lease renew \"$id\"               start its ten minutes anew
  scratch lease show \"$id\"                who holds it, what is in it
  scratch lease revoke --wait \"$id\"       return when all of it is freed";

/// Grant, renew, revoke and look at single leases
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct LeaseArgs {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Grant(grant::GrantArgs),
    Renew(holders::RenewArgs),
    Revoke(revoke::RevokeArgs),
    Show(show::ShowArgs),
    Attach(holders::AttachArgs),
    Detach(holders::DetachArgs),
    Keep(keep::KeepArgs),
    Undelete(keep::UndeleteArgs),
    #[command(external_subcommand)]
    Other(Vec<OsString>),
}

/// Does what is asked for.
pub(crate) fn lease(args: LeaseArgs) -> Result<(), Failure> {
    match args.command {
        Command::Grant(args) => grant::grant(args),
        Command::Renew(args) => holders::renew(&args),
        Command::Revoke(args) => revoke::revoke(&args),
        Command::Show(args) => show::show(args),
        Command::Attach(args) => holders::attach(&args),
        Command::Detach(args) => holders::detach(args),
        Command::Keep(args) => keep::keep(&args),
        Command::Undelete(args) => keep::undelete(args),
        Command::Other(words) => Err(unknown(&words)),
    }
}

fn unknown(words: &[OsString]) -> Failure {
    let word = words.first().map(|word| word.to_string_lossy().into_owned()).unwrap_or_default();
    Failure::UnknownCommand(format!("lease {word}"))
}
