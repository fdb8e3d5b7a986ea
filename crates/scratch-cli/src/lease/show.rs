//! `scratch lease show`.

use scratch_proto::v1;
use scratch_proto::v1::areas_client::AreasClient;
use scratch_proto::v1::holder::Kind;
use scratch_proto::v1::leases_client::LeasesClient;
use tonic::transport::Channel;
use tonic_types::StatusExt;

use crate::broker::with_broker;
use crate::failure::Failure;
use crate::table::{Table, clean};
use crate::{Output, OutputArgs, events, json, line, ls};

/// So many events are shown to people.
const EVENTS_SHOWN: usize = 10;

/// Show a lease: who holds it, what is in it, why it is there; for a while after its end, why it went
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  scratch lease show \"$id\"\n  scratch lease show \"$id\" --output json | jq -r .path"
)]
pub(super) struct ShowArgs {
    lease: String,
    #[command(flatten)]
    output: OutputArgs,
}

/// Shows one lease and everything in it.
pub(super) fn show(args: ShowArgs) -> Result<(), Failure> {
    let (lease, areas, events) = with_broker(async |channel| {
        let request = v1::GetLeaseRequest { lease: args.lease };
        let lease = LeasesClient::new(channel.clone()).get(request).await?.into_inner();
        let areas = areas(channel.clone(), &lease.id).await?;
        // Best effort: a broker that has too many watchers, or none in its version, shows the lease all the same.
        let events = events::of_lease(channel, &lease.id).await.unwrap_or_default();
        Ok((lease, areas, events))
    })?;
    match args.output.output {
        Output::Json => json::print(&json::lease_with_areas(&lease, &areas, &events))?,
        Output::Text => text(&lease, &areas, &events)?,
    }
    Ok(())
}

/// Every page; nothing of a lease that has ended or is lost.
async fn areas(channel: Channel, lease: &str) -> Result<Vec<v1::Area>, Failure> {
    let mut client = AreasClient::new(channel).max_decoding_message_size(ls::MESSAGE_BYTES_MAX);
    let mut areas = Vec::new();
    let mut page_token = String::new();
    loop {
        let request = v1::ListAreasRequest { lease: lease.to_owned(), page_size: 0, page_token };
        let page = match client.list(request).await {
            Ok(page) => page.into_inner(),
            Err(status) if has_no_list(&status) => return Ok(Vec::new()),
            Err(status) => return Err(status.into()),
        };
        areas.extend(page.areas);
        page_token = page.next_page_token;
        if page_token.is_empty() {
            return Ok(areas);
        }
    }
}

fn has_no_list(status: &tonic::Status) -> bool {
    let reason = status.get_details_error_info().map(|info| info.reason);
    matches!(reason.as_deref(), Some("LEASE_UNKNOWN" | "LEASE_ENDING" | "LEASE_LOST" | "MEMORY_LOST"))
}

fn text(lease: &v1::Lease, areas: &[v1::Area], events: &[v1::WatchResponse]) -> std::io::Result<()> {
    for (field, value) in fields(lease) {
        line::print(&format!("{field:<8} {}", clean(&value)))?;
    }
    if !lease.holders.is_empty() {
        line::print("")?;
        holders(&lease.holders).print()?;
    }
    if !areas.is_empty() {
        line::print("")?;
        table(areas).print()?;
    }
    if !events.is_empty() {
        line::print("")?;
        happened(events).print()?;
    }
    Ok(())
}

/// What there is to say, in the order of interest.
fn fields(lease: &v1::Lease) -> Vec<(&'static str, String)> {
    let when = |value: serde_json::Value| value.as_str().unwrap_or_default().to_owned();
    let (own, left) = (lease.limits.unwrap_or_default(), lease.limits_left.unwrap_or_default());
    let reason = lease.reason.as_ref();
    let reason = reason.map(|reason| match when(json::time(reason.time)) {
        time if time.is_empty() => format!("{} ({})", reason.text, reason.code),
        time => format!("{} ({}, {time})", reason.text, reason.code),
    });
    let labels: Vec<String> = lease.labels.iter().map(|(key, value)| format!("{key}={value}")).collect();
    let fields = [
        ("lease", lease.id.clone()),
        ("tenant", ls::tenant(lease.tenant.as_ref())),
        ("by", ls::tenant(lease.granted_by.as_ref())),
        ("pool", lease.pool.clone()),
        ("path", String::from_utf8_lossy(&lease.path).into_owned()),
        ("state", json::state(lease.state()).to_owned()),
        ("reason", reason.unwrap_or_default()),
        ("parent", lease.parent.clone()),
        ("labels", labels.join(" ")),
        ("bytes", limit(own.bytes, left.bytes)),
        ("inodes", limit(own.inodes, left.inodes)),
        ("ttl", when(json::duration(lease.granted_ttl))),
        ("expires", when(json::time(lease.expire_time))),
        ("since", when(json::time(lease.create_time))),
    ];
    fields.into_iter().filter(|(_, value)| !value.is_empty()).collect()
}

/// A limit of its own, or one that it shares with a lease above it; and what is left of it.
fn limit(own: u64, left: Option<u64>) -> String {
    match (own, left) {
        (_, None) => String::new(),
        (0, Some(left)) => format!("{left} left of what a lease above has"),
        (own, Some(left)) => format!("{left} left of {own}"),
    }
}

fn holders(holders: &[v1::Holder]) -> Table {
    let mut table = Table::new(&["HOLDER", "KIND", "WHAT"]);
    for holder in holders {
        let what = match &holder.kind {
            Some(Kind::Process(process)) => format!("pid {}", process.pid),
            Some(Kind::Ttl(ttl)) => {
                format!("until {}", json::time(ttl.expire_time).as_str().unwrap_or("it is not renewed"))
            }
            Some(Kind::Cgroup(cgroup)) => String::from_utf8_lossy(&cgroup.path).into_owned(),
            Some(Kind::Connection(connection)) if connection.lost => "waited for".to_owned(),
            Some(Kind::Connection(_) | Kind::Descriptor(_) | Kind::Hold(_)) | None => String::new(),
        };
        table.row(vec![holder.id.to_string(), json::kind(holder).to_owned(), what]);
    }
    table
}

/// What happened to it last.
fn happened(events: &[v1::WatchResponse]) -> Table {
    let mut table = Table::wrapping(&["TIME", "EVENT", "TEXT"]);
    for event in events[events.len().saturating_sub(EVENTS_SHOWN)..].iter().filter_map(|event| event.event.as_ref()) {
        let time = json::time(event.time);
        table.row(vec![time.as_str().unwrap_or_default().to_owned(), event.code.clone(), event.text.clone()]);
    }
    table
}

fn table(areas: &[v1::Area]) -> Table {
    let mut table = Table::new(&["KIND", "BYTES", "AREA"]);
    for area in areas {
        let bytes = area.bytes.map_or_else(|| "?".to_owned(), |bytes| bytes.to_string());
        table.row(vec![json::area_kind(area.kind()).to_owned(), bytes, String::from_utf8_lossy(&area.id).into_owned()]);
    }
    table
}
