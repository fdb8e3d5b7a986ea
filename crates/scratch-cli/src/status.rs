//! `scratch status`.

use std::io::{self, Write, stdout};

use scratch_proto::v1;
use serde_json::{Value, json};

use crate::failure::Failure;
use crate::status::tenants::{tenant, tenants};
use crate::{Output, OutputArgs, admin, json};

mod tenants;

/// `scratch status`.
#[derive(Debug, clap::Args)]
pub(crate) struct StatusArgs {
    /// Show what each tenant has of what it may have: your own, for admins everybody's
    #[arg(long)]
    tenants: bool,
    #[command(flatten)]
    output: OutputArgs,
}

/// Shows the broker.
pub(crate) fn status(args: &StatusArgs) -> Result<(), Failure> {
    let status = admin::status(args.tenants)?;
    match args.output.output {
        Output::Json => {
            let mut value = value(&status);
            if args.tenants {
                value["tenants"] = status.tenants.iter().map(tenant).collect();
                value["tenants_left_out"] = json!(status.tenants_left_out);
            }
            json::print(&value)?;
        }
        Output::Text if args.tenants => tenants(&status)?,
        Output::Text => text(&status)?,
    }
    Ok(())
}

fn value(status: &v1::StatusResponse) -> Value {
    let pools: Vec<_> = status.pools.iter().map(pool).collect();
    let mut value = json!({
        "version": status.version,
        "generation": status.generation,
        "pid": status.pid,
        "start_time": json::time(status.start_time),
        "session": status.session,
        "pools": pools,
        "leases": status.leases,
        "kept": status.kept,
        "areas": status.areas,
        "connections": status.connections,
        "trash": status.trash,
        "debt": status.debt,
        "debt_bytes": status.debt_bytes,
        "lost": status.lost,
        "draining": status.draining,
    });
    json::insert_bytes(&mut value, "runtime_directory", &status.runtime_directory);
    value
}

fn pool(pool: &v1::PoolStatus) -> Value {
    let mut value = json!({
        "name": pool.name,
        "backend": pool.backend,
        "firmness": json::firmness(pool.firmness()),
        "inodes_firmness": json::firmness(pool.inodes_firmness()),
        "bytes_promised": pool.bytes_promised,
        "inodes_promised": pool.inodes_promised,
        "bytes_total": pool.bytes_total,
        "bytes_free": pool.bytes_free,
        "inodes_total": pool.inodes_total,
        "inodes_free": pool.inodes_free,
        "full": if pool.full.is_empty() { Value::Null } else { json!(pool.full) },
        "problem": if pool.problem.is_empty() { Value::Null } else { json!(pool.problem) },
    });
    json::insert_bytes(&mut value, "root", &pool.root);
    value
}

fn text(status: &v1::StatusResponse) -> io::Result<()> {
    let mut out = stdout().lock();
    let kind = if status.session { "session broker" } else { "system broker" };
    let start = json::time(status.start_time);
    writeln!(out, "scratchd {} ({kind}), pid {}, generation {}", status.version, status.pid, status.generation)?;
    writeln!(out, "  since    {}", start.as_str().unwrap_or("?"))?;
    writeln!(out, "  sockets  {}", String::from_utf8_lossy(&status.runtime_directory))?;
    for pool in &status.pools {
        writeln!(
            out,
            "  pool     {} at {} ({}, limits {}): {} MiB and {} inodes free",
            pool.name,
            String::from_utf8_lossy(&pool.root),
            pool.backend,
            json::firmness(pool.firmness()),
            pool.bytes_free >> 20,
            pool.inodes_free
        )?;
        if !pool.full.is_empty() {
            writeln!(out, "  FULL     {}: above its high water of {}, nothing is granted in it", pool.name, pool.full)?;
        }
        if !pool.problem.is_empty() {
            writeln!(out, "  LOST     {}: nothing is granted; see `scratch verify`", pool.problem)?;
        }
    }
    writeln!(out, "  live     {} leases, {} areas, {} connections", status.leases, status.areas, status.connections)?;
    if status.kept > 0 {
        writeln!(out, "  kept     {} leases that have ended, see `scratch ls`", status.kept)?;
    }
    if status.lost > 0 {
        writeln!(
            out,
            "  lost     {} leases whose directory somebody has taken away; see `scratch verify`",
            status.lost
        )?;
    }
    if status.draining {
        writeln!(out, "  drains   nothing is granted; `scratch drain --undo` calls it off")?;
    }
    writeln!(
        out,
        "  ended    {} trees waiting to be freed, {} debts of {} bytes",
        status.trash, status.debt, status.debt_bytes
    )
}
