//! `scratch debt`.

use scratch_proto::v1;
use serde_json::Value;

use crate::admin::list_debt;
use crate::failure::Failure;
use crate::table::{Table, clean};
use crate::{Output, json, line, ls};

/// Lists what could not be removed yet.
pub(crate) fn debt(output: Output) -> Result<(), Failure> {
    print(&list_debt()?, output)
}

/// Writes debts.
pub(crate) fn print(debts: &[v1::Debt], output: Output) -> Result<(), Failure> {
    match output {
        Output::Json => json::print(&Value::Array(debts.iter().map(json::debt).collect()))?,
        Output::Text if debts.is_empty() => line::print("no debt: everything that has ended is gone")?,
        Output::Text => {
            table(debts).print()?;
            for debt in debts.iter().filter(|debt| has_more(debt)) {
                line::print(&in_the_way(debt))?;
            }
        }
    }
    Ok(())
}

/// Whether more is known than that something is mounted on the path itself.
pub(crate) fn has_more(debt: &v1::Debt) -> bool {
    let elsewhere = !debt.detail.is_empty() && !debt.detail.contains(&*String::from_utf8_lossy(&debt.path));
    elsewhere || !debt.pids.is_empty()
}

/// What is mounted there, and which processes have something open below.
fn in_the_way(debt: &v1::Debt) -> String {
    let pids: Vec<_> = debt.pids.iter().map(ToString::to_string).collect();
    let users = if pids.is_empty() { String::new() } else { format!("in use by {}", pids.join(", ")) };
    let known: Vec<_> = [debt.detail.as_str(), &users].into_iter().filter(|text| !text.is_empty()).collect();
    clean(&format!("{}: {}", String::from_utf8_lossy(&debt.path), known.join("; ")))
}

fn table(debts: &[v1::Debt]) -> Table {
    let mut table = Table::new(&["TENANT", "BLOCKER", "ERRNO", "TRIES", "NEXT TRY", "BYTES", "PATH"]);
    for debt in debts {
        let next = json::time(debt.next_try);
        table.row(vec![
            ls::tenant(debt.tenant.as_ref()),
            debt.blocker.clone(),
            debt.errno.clone(),
            debt.tries.to_string(),
            next.as_str().unwrap_or("never by itself").to_owned(),
            debt.bytes.to_string(),
            String::from_utf8_lossy(&debt.path).into_owned(),
        ]);
    }
    table
}
