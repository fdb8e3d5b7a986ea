//! `scratch events`: what happens, line by line; and what is held of one lease, for `scratch lease show`.

use std::time::{Duration, Instant};

use scratch_client::ClientError;
use scratch_proto::v1;
use scratch_proto::v1::leases_client::LeasesClient;
use tonic::transport::Channel;
use tonic_types::StatusExt;

use crate::broker::with_broker;
use crate::failure::Failure;
use crate::table::Rows;
use crate::{Output, OutputArgs, json, ls};

const EXAMPLES: &str = "Examples:
  scratch events                        what happened lately, and what happens
  scratch events --lease \"$id\"          of one lease, also after its end
  scratch events --no-follow            only what happened up to now
  scratch events --output json | jq --unbuffered -r .event.text
  scratch events --since 3.120          go on after the revision 3.120, which a
                                        line of --output json has

Ends with Ctrl-C, or when nobody reads its output any more. When the broker is
started anew it goes on with that one, whose first event is RESTARTED.

Exit codes:
  69 no broker, or none came back for 30 s; 75 events after REVISION are not
  held any more, or came faster than this was read: start without --since";

/// A broker that is started anew has so long to come back.
const COMES_BACK_WITHIN: Duration = Duration::from_secs(30);
/// How often it is looked for.
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// Show what happens to leases: grants, ends and why, releases, debts, refusals
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct EventsArgs {
    /// Go on after this revision; without it, begin with all that is held
    #[arg(long, value_name = "REVISION")]
    since: Option<String>,
    /// Only this lease's
    #[arg(long)]
    lease: Option<String>,
    /// End when all that is held is shown
    #[arg(long)]
    no_follow: bool,
    #[command(flatten)]
    output: OutputArgs,
}

/// How far this has come.
#[derive(Debug, Default)]
struct Place {
    /// The last revision seen; empty before the first.
    revision: String,
    /// All that was held has been shown.
    marked: bool,
    /// Since when the broker is away.
    lost_at: Option<Instant>,
}

/// Shows events until there is a reason to end.
pub(crate) fn events(args: &EventsArgs) -> Result<(), Failure> {
    let mut place = Place { revision: args.since.clone().unwrap_or_default(), ..Place::default() };
    let rows = Rows::new(&[("TIME", 20), ("TENANT", 8), ("LEASE", 16), ("EVENT", 11), ("TEXT", 0)]);
    let result = quietly(match args.output.output {
        Output::Json => Ok(()),
        Output::Text => rows.head().map_err(Failure::from),
    });
    result?;
    let mut show = |event: &v1::WatchResponse| match args.output.output {
        Output::Json => json::print(&json::event(event)),
        Output::Text => rows.row(&cells(event)),
    };
    quietly(follow(args, &mut place, &mut show))
}

/// Who reads no more has seen enough.
fn quietly(result: Result<(), Failure>) -> Result<(), Failure> {
    match result {
        Err(failure) if failure.is_unread() => Ok(()),
        other => other,
    }
}

/// Goes on with the next broker when one has stopped.
fn follow(
    args: &EventsArgs,
    place: &mut Place,
    show: &mut impl FnMut(&v1::WatchResponse) -> std::io::Result<()>,
) -> Result<(), Failure> {
    loop {
        let Err(failure) = with_broker(async |channel| watch(channel, args, place, show).await) else { return Ok(()) };
        if place.lost_at.is_some() && has_reason(&failure, "COMPACTED") {
            // Another run of the broker: all of it is new.
            place.revision.clear();
            continue;
        }
        let lost_at = *place.lost_at.get_or_insert_with(Instant::now);
        if !place.marked || !is_lost(&failure) || lost_at.elapsed() > COMES_BACK_WITHIN {
            return Err(failure);
        }
        std::thread::sleep(LOOK_EVERY);
    }
}

/// One stream, to its end. Fine only where nothing more is wanted.
async fn watch(
    channel: Channel,
    args: &EventsArgs,
    place: &mut Place,
    show: &mut impl FnMut(&v1::WatchResponse) -> std::io::Result<()>,
) -> Result<(), Failure> {
    let request = v1::WatchRequest {
        since: place.revision.clone(),
        lease: args.lease.clone().unwrap_or_default(),
        held: place.revision.is_empty(),
    };
    let mut stream = LeasesClient::new(channel).watch(request).await?.into_inner();
    while let Some(message) = stream.message().await? {
        place.lost_at = None;
        if message.event.is_some() {
            show(&message)?;
        } else {
            place.marked = true;
        }
        place.revision = message.revision;
        if place.marked && args.no_follow {
            return Ok(());
        }
    }
    Err(tonic::Status::unavailable("the broker has ended the stream").into())
}

/// What is held of one lease, oldest first.
pub(crate) async fn of_lease(channel: Channel, lease: &str) -> Result<Vec<v1::WatchResponse>, Failure> {
    let request = v1::WatchRequest { lease: lease.to_owned(), held: true, ..v1::WatchRequest::default() };
    let mut stream = LeasesClient::new(channel).watch(request).await?.into_inner();
    let mut events = Vec::new();
    while let Some(message) = stream.message().await? {
        if message.event.is_none() {
            break;
        }
        if message.lease == lease {
            events.push(message);
        }
    }
    Ok(events)
}

/// The broker, or the connection with it, has gone.
fn is_lost(failure: &Failure) -> bool {
    match failure {
        Failure::Transport(..) | Failure::Client(ClientError::NoBroker { .. } | ClientError::Closed { .. }) => true,
        // What the broker itself says has a reason.
        Failure::Refused(status) => status.get_details_error_info().is_none_or(|info| info.reason == "STOPPING"),
        _ => false,
    }
}

fn has_reason(failure: &Failure, reason: &str) -> bool {
    match failure {
        Failure::Refused(status) => status.get_details_error_info().is_some_and(|info| info.reason == reason),
        _ => false,
    }
}

fn cells(message: &v1::WatchResponse) -> [String; 5] {
    let event = message.event.clone().unwrap_or_default();
    let time = json::time(event.time).as_str().unwrap_or_default().to_owned();
    let or_dash = |text: String| if text.is_empty() { "-".to_owned() } else { text };
    [time, or_dash(ls::tenant(message.tenant.as_ref())), or_dash(message.lease.clone()), event.code, event.text]
}
