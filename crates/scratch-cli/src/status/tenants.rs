//! `scratch status --tenants`: use against limit.

use std::collections::BTreeMap;

use scratch_proto::v1;
use serde_json::{Value, json};

use crate::failure::Failure;
use crate::table::Table;
use crate::{json, line, ls};

/// What has a column of its own; what else there is stands in the last one.
const COLUMNS: [&str; 5] = ["leases", "areas", "bytes", "inodes", "connections"];

/// One tenant as JSON: by key, what is used and the limit, null for none.
pub(super) fn tenant(status: &v1::TenantStatus) -> Value {
    let uses: BTreeMap<&str, Value> =
        status.uses.iter().map(|one| (one.key.as_str(), json!({"used": one.used, "limit": one.limit}))).collect();
    json!({
        "tenant": json::tenant(status.tenant.as_ref()),
        "uses": uses,
        "trash": status.trash,
        "debt": status.debt,
        "debt_bytes": status.debt_bytes,
    })
}

/// One line a tenant.
pub(super) fn tenants(status: &v1::StatusResponse) -> Result<(), Failure> {
    let mut table = Table::wrapping(&["TENANT", "LEASES", "AREAS", "BYTES", "INODES", "CONN", "TRASH", "DEBT", "MORE"]);
    for one in &status.tenants {
        let mut cells = vec![ls::tenant(one.tenant.as_ref())];
        let of = |key: &str| one.uses.iter().find(|of| of.key == key).map_or_else(String::new, used_of);
        cells.extend(COLUMNS.map(of));
        cells.extend([short(one.trash), short(one.debt)]);
        let more = one.uses.iter().filter(|of| of.used > 0 && !COLUMNS.contains(&of.key.as_str()));
        cells.push(more.map(|of| format!("{} {}", of.key, used_of(of))).collect::<Vec<_>>().join(", "));
        table.row(cells);
    }
    table.print()?;
    if status.tenants_left_out > 0 {
        line::print(&format!("and {} more", status.tenants_left_out))?;
    }
    Ok(())
}

fn used_of(one: &v1::Use) -> String {
    let limit = one.limit.map(|limit| format!("/{}", short(limit))).unwrap_or_default();
    format!("{}{limit}", short(one.used))
}

/// As it is up to four figures, else with a letter for thousands, never more than it is.
fn short(number: u64) -> String {
    const LETTERS: [&str; 5] = ["k", "M", "G", "T", "P"];
    if number < 10_000 {
        return number.to_string();
    }
    let mut unit = 1000;
    for letter in LETTERS {
        let whole = number / unit;
        if whole < 1000 || letter == LETTERS[LETTERS.len() - 1] {
            let tenths = number / (unit / 10) % 10;
            return if whole < 10 && tenths > 0 {
                format!("{whole}.{tenths}{letter}")
            } else {
                format!("{whole}{letter}")
            };
        }
        unit *= 1000;
    }
    number.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_short_and_never_rounded_up() {
        for (number, expected) in [
            (0, "0"),
            (9_999, "9999"),
            (10_000, "10k"),
            (999_999, "999k"),
            (1_000_000, "1M"),
            (1_990_000, "1.9M"),
            (64 << 20, "67M"),
            (10 << 30, "10G"),
            (u64::MAX, "18446P"),
        ] {
            assert_eq!(short(number), expected);
        }
        assert_eq!(used_of(&v1::Use { key: "k".into(), used: 5, limit: Some(20_000) }), "5/20k");
        assert_eq!(used_of(&v1::Use { key: "k".into(), used: 5, limit: None }), "5");
    }
}
