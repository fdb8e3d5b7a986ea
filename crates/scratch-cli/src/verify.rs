//! `scratch verify`.

use scratch_proto::v1;
use serde_json::{Value, json};
use v1::finding::Kind;

use crate::failure::Failure;
use crate::table::Table;
use crate::{Output, admin, exit, json, line, ls};

/// Shows every path that is not as it should be. Fails if there is one for which somebody has to do something.
pub(crate) fn verify(output: Output) -> Result<(), Failure> {
    let reply = admin::verify()?;
    match output {
        Output::Json => json::print(&Value::Array(reply.findings.iter().map(value).collect()))?,
        Output::Text if reply.findings.is_empty() => line::print("all is well: records, memory and disk agree")?,
        Output::Text => table(&reply.findings).print()?,
    }
    if reply.left_out > 0 {
        line::complain(&format!("scratch: and {} more", reply.left_out));
    }
    // What a tenant does to its own areas is no fault of the pool.
    let faulty = reply.left_out > 0 || reply.findings.iter().any(|finding| finding.kind() != Kind::Area);
    if faulty { Err(Failure::Findings(exit::FINDINGS)) } else { Ok(()) }
}

fn value(finding: &v1::Finding) -> Value {
    let mut value = json!({
        "kind": kind(finding.kind()),
        "lease": if finding.lease.is_empty() { Value::Null } else { json!(finding.lease) },
        "tenant": json::tenant(finding.tenant.as_ref()),
        "text": finding.text,
    });
    json::insert_path(&mut value, &finding.path);
    value
}

fn table(findings: &[v1::Finding]) -> Table {
    let mut table = Table::wrapping(&["KIND", "TENANT", "PATH", "WHAT IT MEANS"]);
    for finding in findings {
        table.row(vec![
            kind(finding.kind()).to_owned(),
            ls::tenant(finding.tenant.as_ref()),
            String::from_utf8_lossy(&finding.path).into_owned(),
            finding.text.clone(),
        ]);
    }
    table
}

fn kind(kind: Kind) -> &'static str {
    match kind {
        Kind::Unspecified => "unknown",
        Kind::NoRecord => "no record",
        Kind::NoDirectory => "no directory",
        Kind::OtherDirectory => "other directory",
        Kind::TornRecord => "torn record",
        Kind::Lost => "lost",
        Kind::Stray => "stray",
        Kind::Trash => "trash",
        Kind::Unfinished => "unfinished",
        Kind::Pool => "pool",
        Kind::Area => "area",
        Kind::RecordMissing => "record missing",
    }
}
