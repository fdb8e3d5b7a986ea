//! Watch and `scratch events`: what happens is told in order, once, to whom it belongs, and for as long as it is held.

use std::process::Command;

use rustix::process::{Signal, kill_process};
use scratch_proto::v1::admin_client::AdminClient;
use scratch_proto::v1::areas_client::AreasClient;
use scratch_proto::v1::leases_client::LeasesClient;
use scratch_proto::v1::{
    CreateRequest, GrantRequest, Kind, ReapRequest, ReleaseRequest, RevokeRequest, Wait, WatchRequest, WatchResponse,
};
use scratch_tests::{
    Broker, DEADLINE, Dialogue, Held, Options, connect_grpc, contained, eventually, is_root, left_out, wait_gone,
    with_grpc,
};
use serde_json::Value;
use tonic::Streaming;
use tonic::transport::Channel as Grpc;
use tonic_types::StatusExt;

const TENANT: u32 = 1234;
/// More leases than the log has events.
const MANY: usize = 4200;

/// A stream, and what it has told.
struct Watched(Streaming<WatchResponse>);

impl Watched {
    async fn start(grpc: &Grpc, request: WatchRequest) -> Result<Watched, tonic::Status> {
        Ok(Watched(LeasesClient::new(grpc.clone()).watch(request).await?.into_inner()))
    }

    /// From now on: the stream, and the revision where it begins.
    async fn from_now(grpc: &Grpc) -> (Watched, String) {
        let mut watched = Watched::start(grpc, WatchRequest::default()).await.expect("it is watched");
        let mark = watched.next().await.expect("a mark comes first");
        assert_eq!(mark.event, None);
        (watched, mark.revision)
    }

    async fn next(&mut self) -> Result<WatchResponse, tonic::Status> {
        let next = tokio::time::timeout(DEADLINE, self.0.message()).await.expect("it is told within the deadline");
        Ok(next?.expect("a watch does not end by itself"))
    }

    /// What is told until an event with this code.
    async fn until(&mut self, code: &str) -> Vec<WatchResponse> {
        let mut told = Vec::new();
        while told.last().is_none_or(|last| self::code(last) != code) {
            told.push(self.next().await.expect("it goes on"));
        }
        told
    }
}

fn code(message: &WatchResponse) -> &str {
    message.event.as_ref().map_or("", |event| &event.code)
}

fn codes(told: &[WatchResponse]) -> Vec<&str> {
    told.iter().map(code).collect()
}

fn reason(status: &tonic::Status) -> String {
    status.get_details_error_info().expect("every error carries ErrorInfo").reason
}

fn since(revision: &str) -> WatchRequest {
    WatchRequest { since: revision.to_owned(), ..WatchRequest::default() }
}

async fn granted(grpc: &Grpc) -> String {
    let granted = LeasesClient::new(grpc.clone()).grant(GrantRequest::default()).await;
    granted.expect("it grants").into_inner().id
}

async fn revoked(grpc: &Grpc, lease: &str) {
    let request = RevokeRequest { lease: lease.to_owned(), wait: Wait::Freed.into() };
    LeasesClient::new(grpc.clone()).revoke(request).await.expect("it revokes");
}

#[test]
fn a_lease_is_followed_from_its_grant_to_its_end() {
    contained("events::a_lease_is_followed_from_its_grant_to_its_end", || {
        let broker = Broker::start(Options::default());
        with_grpc(&broker, async |grpc| {
            let (mut watched, _) = Watched::from_now(&grpc).await;
            let lease = granted(&grpc).await;
            let mut areas = AreasClient::new(grpc.clone());
            let kind = Kind::File.into();
            let create = CreateRequest { lease: lease.clone(), kind, name: b"f".to_vec(), ..CreateRequest::default() };
            areas.create(create).await.expect("it creates");
            let release = ReleaseRequest { lease: lease.clone(), area: b"f".to_vec(), ..ReleaseRequest::default() };
            areas.release(release).await.expect("it releases");
            revoked(&grpc, &lease).await;
            let told = watched.until("REAPED").await;
            assert_eq!(codes(&told), ["GRANTED", "RELEASED", "ENDING", "ENDED", "REAPED"]);
            assert!(told.iter().all(|event| event.lease == lease && event.tenant.is_some()), "{told:?}");
            assert_eq!(told[1].metadata["areas"], "1");
            assert_eq!(told[3].metadata["reason"], "REVOKED");
            assert!(told.iter().all(|event| event.event.as_ref().is_some_and(|event| event.time.is_some())));
        });
    });
}

#[test]
fn after_a_disconnect_nothing_is_missing_and_nothing_doubled() {
    contained("events::after_a_disconnect_nothing_is_missing_and_nothing_doubled", || {
        let broker = Broker::start(Options::default());
        with_grpc(&broker, async |grpc| {
            let (mut watched, mut revision) = Watched::from_now(&grpc).await;
            let (mut leases, mut told) = (Vec::new(), Vec::new());
            for _ in 0..10 {
                for _ in 0..7 {
                    leases.push(granted(&grpc).await);
                }
                // Some of them only; then it comes back with the last revision that it has.
                for _ in 0..4 {
                    let event = watched.next().await.expect("it goes on");
                    revision.clone_from(&event.revision);
                    told.extend(event.event.is_some().then_some(event.lease));
                }
                drop(watched);
                let other = connect_grpc(&broker.grpc_socket()).await.expect("the broker listens");
                watched = Watched::start(&other, since(&revision)).await.expect("the revision is held");
            }
            while told.len() < leases.len() {
                let event = watched.next().await.expect("it goes on");
                told.extend(event.event.is_some().then_some(event.lease));
            }
            assert_eq!(told, leases);
        });
    });
}

#[test]
fn another_run_of_the_broker_begins_anew() {
    contained("events::another_run_of_the_broker_begins_anew", || {
        let mut broker = Broker::start(Options::default());
        let held = Held::start(&broker);
        let revision = with_grpc(&broker, async |grpc| {
            let (mut watched, revision) = Watched::from_now(&grpc).await;
            kill_process(broker.pid(), Signal::TERM).expect("the broker lives");
            let ended = watched.next().await.expect_err("the broker stops");
            assert_eq!((ended.code(), reason(&ended).as_str()), (tonic::Code::Unavailable, "STOPPING"));
            revision
        });
        assert!(broker.wait().success(), "a watcher does not hold up a stop");
        broker.restart();
        with_grpc(&broker, async |grpc| {
            let refused = Watched::start(&grpc, since(&revision)).await.err().expect("it is another run's");
            assert_eq!((refused.code(), reason(&refused).as_str()), (tonic::Code::Aborted, "COMPACTED"));
            let all = WatchRequest { held: true, ..WatchRequest::default() };
            let mut watched = Watched::start(&grpc, all).await.expect("it is watched");
            let told = watched.until("ADOPTED").await;
            assert_eq!(codes(&told), ["RESTARTED", "ADOPTED"]);
            assert_eq!((told[0].metadata["generation"].as_str(), told[1].lease.as_str()), ("2", held.lease()));
        });
    });
}

#[test]
fn what_the_log_has_dropped_is_compacted() {
    contained("events::what_the_log_has_dropped_is_compacted", || {
        let broker = Broker::start(Options::default());
        with_grpc(&broker, async |grpc| {
            let (_, revision) = Watched::from_now(&grpc).await;
            for _ in 0..MANY / 3 {
                let lease = granted(&grpc).await;
                revoked(&grpc, &lease).await;
            }
            let refused = Watched::start(&grpc, since(&revision)).await.err().expect("it is dropped");
            assert_eq!((refused.code(), reason(&refused).as_str()), (tonic::Code::Aborted, "COMPACTED"));
            let all = WatchRequest { held: true, ..WatchRequest::default() };
            let mut watched = Watched::start(&grpc, all).await.expect("what is left is held");
            watched.until("GRANTED").await;
        });
        let gone = broker.scratch(&["events", "--no-follow", "--since", "1.2"]).output().expect("it runs");
        assert_eq!(gone.status.code(), Some(75));
        assert!(String::from_utf8_lossy(&gone.stderr).contains("COMPACTED"), "{gone:?}");
    });
}

#[test]
fn another_tenant_sees_nothing() {
    let test = "events::another_tenant_sees_nothing";
    contained(test, || {
        if !is_root() {
            return left_out(test, "a second tenant needs root");
        }
        let broker = Broker::start(Options::default());
        let held = Held::start(&broker);
        let seen = |command: &mut Command| -> Vec<Value> {
            let output = command.output().expect("the command line's program can be run");
            assert!(output.status.success(), "{output:?}");
            let text = String::from_utf8(output.stdout).expect("JSON is UTF-8");
            text.lines().map(|line| serde_json::from_str(line).expect("each line is an object")).collect()
        };
        let arguments = ["events", "--no-follow", "--output", "json"];
        let of_lease = [&arguments[..], &["--lease", held.lease()]].concat();
        for arguments in [&arguments[..], &of_lease] {
            let theirs = seen(&mut broker.scratch_as(TENANT, arguments));
            assert!(theirs.iter().all(|event| event["event"]["code"] == "RESTARTED"), "{theirs:?}");
            let mine = seen(&mut broker.scratch(arguments));
            assert!(mine.iter().any(|event| event["lease"] == held.lease()), "{mine:?}");
        }
        // An admin sees theirs.
        let theirs = Held::start_as(&broker, Some(TENANT));
        let mine = seen(&mut broker.scratch(&arguments));
        let grant = mine.iter().find(|event| event["lease"] == theirs.lease()).expect("root sees everything");
        assert_eq!(grant["tenant"]["uid"], TENANT);
    });
}

#[test]
fn watches_and_refusals_are_limited_and_told() {
    contained("events::watches_and_refusals_are_limited_and_told", || {
        let config = "[[pool]]\nname = \"p\"\nroot = \"@PLACE@/pool\"\n[limits]\nwatches = 2\nleases = 1\n";
        let broker = Broker::start(Options { config: Some(config.to_owned()), ..Options::default() });
        with_grpc(&broker, async |grpc| {
            let (mut one, _) = Watched::from_now(&grpc).await;
            let (two, _) = Watched::from_now(&grpc).await;
            let refused = Watched::start(&grpc, WatchRequest::default()).await.err().expect("a third is too many");
            assert_eq!((refused.code(), reason(&refused).as_str()), (tonic::Code::ResourceExhausted, "LIMIT_WATCHES"));
            drop(two);
            let end = std::time::Instant::now() + DEADLINE;
            while Watched::start(&grpc, WatchRequest::default()).await.is_err() {
                assert!(std::time::Instant::now() < end, "a watch that has ended counts on");
                tokio::task::yield_now().await;
            }
            granted(&grpc).await;
            let mut leases = LeasesClient::new(grpc.clone());
            for _ in 0..50 {
                leases.grant(GrantRequest::default()).await.expect_err("one lease is the limit");
            }
            // At once, and then the rest of them together.
            let mut counted = 0;
            while counted < 50 {
                let event = one.next().await.expect("it goes on");
                if event.metadata.get("reason").is_some_and(|reason| reason == "LIMIT_LEASES") {
                    counted += event.metadata["requests"].parse::<u32>().expect("it is a number");
                }
            }
            assert_eq!(counted, 50);
        });
    });
}

#[test]
fn debts_are_told_and_that_they_are_gone() {
    let test = "events::debts_are_told_and_that_they_are_gone";
    contained(test, || {
        if !is_root() {
            return left_out(test, "mounting in the broker's name space needs root");
        }
        let broker = Broker::start(Options::default());
        with_grpc(&broker, async |grpc| {
            let (mut watched, _) = Watched::from_now(&grpc).await;
            let lease = granted(&grpc).await;
            let point = broker.pool_root().join(&lease).join("mount");
            std::fs::create_dir(&point).expect("a lease is writable");
            let mount = Command::new("mount").args(["-n", "-t", "tmpfs", "events-mount"]).arg(&point).status();
            assert!(mount.is_ok_and(|status| status.success()), "a tmpfs can be mounted");
            revoked(&grpc, &lease).await;
            let told = watched.until("DEBT").await;
            let debt = told.last().expect("a debt was told");
            assert_eq!((debt.lease.as_str(), debt.metadata["blocker"].as_str()), (lease.as_str(), "mount"));
            let shown = broker.json(&["lease", "show", &lease]);
            let text = shown["reason"]["text"].as_str().expect("there is a reason");
            assert!(text.contains(&debt.metadata["debt"]) && text.contains("mount"), "{text}");
            // It moved with what it is mounted on.
            let point = "umount -n $(awk '$1 == \"events-mount\" { print $2 }' /proc/self/mounts)";
            let umount = Command::new("sh").args(["-c", point]).status();
            assert!(umount.is_ok_and(|status| status.success()), "it can be unmounted");
            AdminClient::new(grpc.clone()).reap(ReapRequest::default()).await.expect("it reaps");
            let told = watched.until("SETTLED").await;
            assert_eq!(told.last().expect("it was told").metadata["debt"], debt.metadata["debt"]);
        });
    });
}

#[test]
fn the_command_line_goes_on_with_the_next_broker() {
    contained("events::the_command_line_goes_on_with_the_next_broker", || {
        let mut broker = Broker::start(Options::default());
        let mut events = Dialogue::start(broker.scratch(&["events", "--output", "json"]));
        let mut next = |code: &str| loop {
            let event: Value = serde_json::from_str(&events.line()).expect("each line is an object");
            if event["event"]["code"] == code {
                return event;
            }
        };
        assert_eq!(next("RESTARTED")["metadata"]["generation"], "1");
        let held = Held::start(&broker);
        let event = next("GRANTED");
        assert_eq!(event["lease"], held.lease());
        for key in ["revision", "time", "event", "lease", "tenant", "metadata"] {
            assert!(!event[key].is_null(), "{key}: {event}");
        }
        for (generation, orderly) in [("2", false), ("3", true)] {
            if orderly {
                assert!(broker.terminate().success());
            } else {
                broker.kill();
            }
            broker.restart();
            assert_eq!(next("RESTARTED")["metadata"]["generation"], generation);
            assert_eq!(next("ADOPTED")["lease"], held.lease());
        }
        let path = held.path().to_path_buf();
        held.kill();
        wait_gone(&path, DEADLINE);
        assert_eq!(next("ENDED")["metadata"]["reason"], "HOLDERS_GONE");
    });
}

#[test]
fn a_revision_is_gone_on_after_exactly() {
    contained("events::a_revision_is_gone_on_after_exactly", || {
        let broker = Broker::start(Options::default());
        let _held = (Held::start(&broker), Held::start(&broker));
        let lines = |arguments: &[&str]| -> Vec<Value> {
            let output = broker.scratch(arguments).args(["--no-follow", "--output", "json"]).output().expect("it runs");
            assert!(output.status.success(), "{output:?}");
            let text = String::from_utf8(output.stdout).expect("JSON is UTF-8");
            text.lines().map(|line| serde_json::from_str(line).expect("each line is an object")).collect()
        };
        let all = lines(&["events"]);
        assert!(all.len() >= 3, "{all:?}");
        for (number, event) in all.iter().enumerate() {
            let revision = event["revision"].as_str().expect("a revision is a text");
            assert_eq!(lines(&["events", "--since", revision]), all[number + 1..]);
        }
        let table = broker.scratch(&["events", "--no-follow"]).output().expect("it runs");
        let table = String::from_utf8(table.stdout).expect("a table is UTF-8");
        assert_eq!(table.lines().count(), all.len() + 1, "{table}");
        for (revision, expected) in [("nonsense", 64), ("7.1", 75)] {
            let refused = broker.scratch(&["events", "--since", revision]).output().expect("it runs");
            assert_eq!(refused.status.code(), Some(expected), "{refused:?}");
        }
    });
}

#[test]
fn a_lease_says_why_it_is_there_and_why_it_went() {
    contained("events::a_lease_says_why_it_is_there_and_why_it_went", || {
        let broker = Broker::start(Options::default());
        let held = Held::start(&broker);
        let lease = held.lease().to_owned();
        let below = broker.json(&["lease", "grant", "--ttl", "1h", "--parent", &lease]);
        let shown = broker.json(&["lease", "show", &lease]);
        let text = shown["reason"]["text"].as_str().expect("there is a reason").to_owned();
        assert!(text.starts_with("held by process "), "{text}");
        assert!(text.contains(" (sh)") || text.contains(" (scratch)"), "the process has its name: {text}");
        assert!(text.ends_with("; 1 lease below it"), "{text}");
        assert_eq!(shown["events"][0]["event"]["code"], "GRANTED");
        let below = below["id"].as_str().expect("a lease has an id");
        let text = broker.json(&["lease", "show", below])["reason"]["text"].as_str().map(str::to_owned);
        assert!(text.as_ref().is_some_and(|text| text.starts_with("held by a ttl until 2")), "{text:?}");

        let path = held.path().to_path_buf();
        assert!(held.end().success());
        wait_gone(&path, DEADLINE);
        eventually(DEADLINE, "it is freed, and says so", || {
            let shown = broker.json(&["lease", "show", &lease]);
            let events = shown["events"].as_array().cloned().unwrap_or_default();
            let codes: Vec<_> = events.iter().map(|event| event["event"]["code"].clone()).collect();
            let freed = shown["reason"]["text"].as_str().is_some_and(|text| text.ends_with("; it is freed"));
            freed && shown["state"] == "ended" && codes.ends_with(&["ENDING".into(), "ENDED".into(), "REAPED".into()])
        });
    });
}
