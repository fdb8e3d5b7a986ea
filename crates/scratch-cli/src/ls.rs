//! `scratch ls`.

use scratch_proto::v1;
use scratch_proto::v1::leases_client::LeasesClient;
use serde_json::Value;

use crate::broker::with_broker;
use crate::failure::Failure;
use crate::table::Table;
use crate::{Output, json};

/// A reply may carry a thousand leases with long labels.
pub(crate) const MESSAGE_BYTES_MAX: usize = 256 * 1024 * 1024;

/// Lists the leases that the caller may see.
pub(crate) fn ls(output: Output) -> Result<(), Failure> {
    let leases = leases()?;
    match output {
        Output::Json => json::print(&Value::Array(leases.iter().map(json::lease).collect()))?,
        Output::Text => table(&leases).print()?,
    }
    Ok(())
}

fn leases() -> Result<Vec<v1::Lease>, Failure> {
    with_broker(async |channel| {
        let mut client = LeasesClient::new(channel).max_decoding_message_size(MESSAGE_BYTES_MAX);
        let mut leases = Vec::new();
        let mut page_token = String::new();
        loop {
            let page = client.list(v1::ListLeasesRequest { page_size: 0, page_token }).await?.into_inner();
            leases.extend(page.leases);
            page_token = page.next_page_token;
            if page_token.is_empty() {
                return Ok(leases);
            }
        }
    })
}

fn table(leases: &[v1::Lease]) -> Table {
    let mut table = Table::new(&["LEASE", "TENANT", "STATE", "AREAS", "HELD BY", "PATH"]);
    for lease in leases {
        table.row(vec![
            lease.id.clone(),
            tenant(lease.tenant.as_ref()),
            json::state(lease.state()).to_owned(),
            lease.areas.to_string(),
            held_by(lease),
            String::from_utf8_lossy(&lease.path).into_owned(),
        ]);
    }
    table
}

/// A tenant's name, or its number.
pub(crate) fn tenant(tenant: Option<&v1::Tenant>) -> String {
    tenant.map_or_else(
        String::new,
        |tenant| {
            if tenant.name.is_empty() { tenant.uid.to_string() } else { tenant.name.clone() }
        },
    )
}

/// The first few; a build may have hundreds.
fn held_by(lease: &v1::Lease) -> String {
    if lease.state() == v1::LeaseState::Kept {
        return format!("until {}", json::time(lease.expire_time).as_str().unwrap_or("its time is over"));
    }
    let holders = &lease.holders;
    let one = |holder: &v1::Holder| match &holder.kind {
        Some(v1::holder::Kind::Process(process)) => format!("pid {}", process.pid),
        Some(v1::holder::Kind::Cgroup(cgroup)) => {
            let path = String::from_utf8_lossy(&cgroup.path);
            format!("cgroup {}", path.rsplit('/').next().unwrap_or_default()).trim_end().to_owned()
        }
        _ => json::kind(holder).to_owned(),
    };
    let shown: Vec<_> = holders.iter().take(2).map(one).collect();
    match holders.len() {
        0 => "nobody".to_owned(),
        1 | 2 => shown.join(", "),
        count => format!("{} +{}", shown.join(", "), count - 2),
    }
}
