//! `scratch doctor`: looks at this machine and at the broker, and says what is wrong and what to do. It changes nothing.

mod broker;
mod clocks;
mod finding;
mod kernel;
mod pool;
mod rights;
mod runtime;
mod tmpfiles;

use std::path::{Path, PathBuf};

use scratch_client::ConnectOptions;
use scratch_proto::v1;
use serde_json::json;

use crate::failure::Failure;
use crate::table::Table;
use crate::{Output, OutputArgs, json, line};
use finding::Finding;

const EXAMPLES: &str = "Examples:
  scratch doctor
  scratch doctor --output json | jq '.[] | select(.result == \"fail\")'

Exit codes:
  0 nothing fails, 69 the broker does, 77 somebody else's broker or runtime
  directory, 70 anything else";

/// Look at this machine and the broker, and say what is wrong and what to do
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct DoctorArgs {
    #[command(flatten)]
    output: OutputArgs,
}

/// Runs every check; one that fails is the command's failure.
pub(crate) fn doctor(args: &DoctorArgs) -> Result<(), Failure> {
    let findings = examine();
    match args.output.output {
        Output::Json => json::print(&findings.iter().map(value).collect())?,
        Output::Text => text(&findings)?,
    }
    match finding::exit_code(&findings) {
        None => Ok(()),
        Some(code) => Err(Failure::Sick(code)),
    }
}

fn examine() -> Vec<Finding> {
    let directory = ConnectOptions::default().find_runtime_directory();
    let mut findings = runtime::check(&directory);
    let (told, status) = broker::check(&directory);
    findings.extend(told);
    findings.push(rights::user());
    findings.extend(rights::capabilities());
    findings.extend(clocks::check());
    findings.extend(kernel::check());
    for root in pool_roots(status.as_ref()) {
        findings.extend(pool::check(&root));
        findings.push(tmpfiles::check(&root));
    }
    findings
}

/// The broker's; without one that of the session broker that would be started.
fn pool_roots(status: Option<&v1::StatusResponse>) -> Vec<PathBuf> {
    match status {
        Some(status) => status.pools.iter().map(|pool| path(&pool.root)).collect(),
        None => pool::session_root().into_iter().collect(),
    }
}

fn path(bytes: &[u8]) -> PathBuf {
    use std::os::unix::ffi::OsStrExt;
    Path::new(std::ffi::OsStr::from_bytes(bytes)).to_owned()
}

fn value(finding: &Finding) -> serde_json::Value {
    json!({
        "check": finding.check,
        "result": finding.verdict.name(),
        "finding": finding.text,
        "remedy": finding.remedy,
    })
}

fn text(findings: &[Finding]) -> std::io::Result<()> {
    let mut table = Table::wrapping(&["CHECK", "RESULT", "FINDING"]);
    for finding in findings {
        table.row(vec![finding.check.to_owned(), finding.verdict.name().to_owned(), finding.text.clone()]);
    }
    table.print()?;
    let mut remedies = Table::wrapping(&["CHECK", "WHAT TO DO"]);
    for finding in findings {
        let Some(remedy) = &finding.remedy else { continue };
        remedies.row(vec![finding.check.to_owned(), remedy.clone()]);
    }
    if findings.iter().any(|finding| finding.remedy.is_some()) {
        line::print("")?;
        remedies.print()?;
    }
    Ok(())
}

/// A name that is not there, or why it can't be looked at.
fn of_io(error: &std::io::Error) -> rustix::io::Errno {
    rustix::io::Errno::from_io_error(error).unwrap_or(rustix::io::Errno::IO)
}
