//! What ends a lease and what does not, where that went wrong once.

mod mixed;

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Resource, Rlimit, Signal, getrlimit, kill_process, prlimit};
use scratch_proto::v1::channel_request::Op;
use scratch_proto::v1::channel_response::Result as Reply;
use scratch_proto::v1::holder_spec::Kind;
use scratch_proto::v1::{
    ConnectionHolder, CreateRequest, GrantRequest, HolderSpec, KeepAliveRequest, RevokeRequest, TtlHolder,
};
use scratch_tests::{
    Broker, Channel, DEADLINE, Dialogue, Options, Place, contained, eventually, scratch, scratchd, shell, wait_gone,
};
use serde_json::Value;

use crate::regressions::{granted, nothing_is_left, python_case, python_case_at, said_done};

pub(crate) fn ttl(time: Duration) -> HolderSpec {
    let ttl = time.try_into().expect("a short time");
    HolderSpec { kind: Some(Kind::Ttl(TtlHolder { ttl: Some(ttl) })) }
}

/// Sets it to what no `Duration` can be.
pub(crate) fn set_ttl(spec: &mut HolderSpec, seconds: i64, nanos: i32) {
    let Some(Kind::Ttl(TtlHolder { ttl: Some(ttl) })) = &mut spec.kind else { panic!("a ttl holder was asked for") };
    (ttl.seconds, ttl.nanos) = (seconds, nanos);
}

fn lasting(time: Duration) -> GrantRequest {
    GrantRequest { holders: vec![ttl(time)], ..GrantRequest::default() }
}

fn listed(broker: &Broker, lease: &str) -> bool {
    let leases = broker.json(&["ls"]);
    leases.as_array().expect("scratch ls prints an array").iter().any(|one| one["id"] == lease)
}

/// A case of regressions.py whose requests are all refused: nothing must have been granted.
fn nothing_is_granted(test: &str, case: &str) {
    let broker = Broker::start(Options::default());
    let Some(command) = python_case(test, &broker, case) else { return };
    let mut case = Dialogue::start(command);
    said_done(&mut case);
    assert_eq!(broker.json(&["ls"]), Value::Array(Vec::new()));
    assert!(case.end().success());
    nothing_is_left(&broker);
}

#[test]
fn a_holder_named_twice_is_refused() {
    let test = "holders::a_holder_named_twice_is_refused";
    contained(test, || nothing_is_granted(test, "the_same_holder_twice"));
}

#[test]
fn a_socket_that_never_hangs_up_holds_nothing() {
    let test = "holders::a_socket_that_never_hangs_up_holds_nothing";
    contained(test, || nothing_is_granted(test, "sockets_that_never_hang_up"));
}

/// A case of regressions.py that leaves nothing held when it ends.
fn nothing_is_held(test: &str, case: &str) {
    let broker = Broker::start(Options::default());
    let Some(mut case) = python_case(test, &broker, case) else { return };
    assert!(case.status().expect("python was there a moment ago").success());
    nothing_is_left(&broker);
}

#[test]
fn a_connection_closed_while_it_attaches_holds_nothing() {
    let test = "holders::a_connection_closed_while_it_attaches_holds_nothing";
    contained(test, || nothing_is_held(test, "closed_while_attaching"));
}

/// The socket beside it is to be watched all the same.
#[test]
fn a_connection_closed_while_it_is_granted_holds_nothing() {
    let test = "holders::a_connection_closed_while_it_is_granted_holds_nothing";
    contained(test, || nothing_is_held(test, "closed_while_granted"));
}

#[test]
fn a_restart_does_not_shorten_a_lifetime() {
    contained("holders::a_restart_does_not_shorten_a_lifetime", || {
        const LIFETIME: Duration = Duration::from_secs(8);
        let mut broker = Broker::start(Options::default());
        let mut channel = Channel::connect(&broker.handle_socket());
        let asked = Instant::now();
        let lifetime_max = LIFETIME.try_into().ok();
        let lease = granted(&mut channel, GrantRequest { lifetime_max, ..GrantRequest::default() }).id;
        // The clock of this test: more than half of the lifetime.
        let half = granted(&mut channel, lasting(LIFETIME * 5 / 8)).id;
        wait_gone(&broker.pool_root().join(half), DEADLINE);
        broker.kill();
        broker.restart();

        Channel::connect(&broker.handle_socket()).ping();
        let is_there = listed(&broker, &lease);
        // On a machine that is so slow that it had to end meanwhile, this shows nothing.
        assert!(is_there || asked.elapsed() >= LIFETIME, "ended before its time");
        wait_gone(&broker.pool_root().join(lease), DEADLINE);
    });
}

#[test]
fn a_ttl_ends_beside_others_that_are_renewed() {
    contained("holders::a_ttl_ends_beside_others_that_are_renewed", || {
        let broker = Broker::start(Options::default());
        let mut channel = Channel::connect(&broker.handle_socket());
        let renewed = granted(&mut channel, lasting(Duration::from_secs(2))).id;
        let connection = HolderSpec { kind: Some(Kind::Connection(ConnectionHolder {})) };
        let brief = GrantRequest { holders: vec![connection], ..GrantRequest::default() };
        // The second is granted when the timer has fired and been moved many times.
        for seconds in [3, 3] {
            let dying = broker.pool_root().join(granted(&mut channel, lasting(Duration::from_secs(seconds))).id);
            eventually(DEADLINE, "a ttl that nobody renews ends", || {
                let reply = channel.ask(Op::KeepAlive(KeepAliveRequest { lease: renewed.clone() }));
                assert!(matches!(reply, Reply::KeepAlive(_)), "{reply:?}");
                let lease = granted(&mut channel, brief.clone()).id;
                let reply = channel.ask(Op::Revoke(RevokeRequest { lease, ..RevokeRequest::default() }));
                assert!(matches!(reply, Reply::Revoke(_)), "{reply:?}");
                !dying.exists()
            });
        }
        assert!(broker.pool_root().join(renewed).is_dir(), "what was renewed all the time is gone");
    });
}

#[test]
fn a_torn_parent_record_does_not_end_a_living_child() {
    contained("holders::a_torn_parent_record_does_not_end_a_living_child", || {
        a_child_outlives_the_record_of_its_parent(|record| {
            let torn = File::options().write(true).open(record).expect("a lease has a record");
            let whole = torn.metadata().expect("a file has a length").len();
            torn.set_len(whole - 1).expect("a place is writable");
        });
    });
}

#[test]
fn a_lost_parent_record_does_not_end_a_living_child() {
    contained("holders::a_lost_parent_record_does_not_end_a_living_child", || {
        a_child_outlives_the_record_of_its_parent(|record| fs::remove_file(record).expect("a lease has a record"));
    });
}

fn a_child_outlives_the_record_of_its_parent(spoil: impl FnOnce(&Path)) {
    let mut broker = Broker::start(Options::default());
    let mut channel = Channel::connect(&broker.handle_socket());
    let parent = granted(&mut channel, GrantRequest::default()).id;
    let child = granted(&mut channel, GrantRequest { parent: parent.clone(), ..GrantRequest::default() }).id;
    let area = broker.pool_root().join(&child);
    fs::write(area.join("precious"), "content").expect("an area is writable");
    broker.kill();
    spoil(&broker.pool_root().join(".scratch/leases").join(&parent));
    broker.restart();

    let mut channel = Channel::connect(&broker.handle_socket());
    channel.ping();
    channel.ping();
    let create = CreateRequest { lease: child.clone(), kind: 1, ..CreateRequest::default() };
    let reply = channel.ask(Op::Create(create));
    assert!(matches!(reply, Reply::Create(_)), "{reply:?}");
    assert!(listed(&broker, &child));
    assert_eq!(fs::read_to_string(area.join("precious")).expect("what lives is never taken away"), "content");
}

/// A broker, its runtime directory, and the file that has what it says. Killed with the dialogue.
fn broker_with_a_log(place: &Place) -> (Dialogue, PathBuf, PathBuf) {
    let path = |name| place.path().join(name);
    let script = r#"mkdir pool run; exec "$SCRATCHD" --pool "$PWD/pool" --runtime-dir "$PWD/run" 2>said"#;
    let mut command = shell(None, script);
    command.current_dir(place.path()).env("SCRATCHD", scratchd());
    let mut broker = Dialogue::start(command);
    let ready = broker.line();
    assert!(ready.starts_with("scratchd ready"), "{ready}");
    (broker, path("run"), path("said"))
}

/// Limits what descriptors a process may open; returns its limit until now.
fn limit_descriptors(process: Pid, limit: Option<u64>) -> Option<u64> {
    let maximum = getrlimit(Resource::Nofile).maximum;
    let before = prlimit(Some(process), Resource::Nofile, Rlimit { current: limit, maximum });
    before.expect("our own child, within our own limit").current
}

#[test]
fn a_search_that_can_not_be_finished_ends_nothing() {
    let test = "holders::a_search_that_can_not_be_finished_ends_nothing";
    contained(test, || {
        let place = Place::new();
        let (broker, runtime, said) = broker_with_a_log(&place);
        let Some(command) = python_case_at(test, &runtime, place.path(), "leaving_a_process") else { return };
        let mut command = Dialogue::start(command);
        let left: i32 = command.line().parse().expect("a process is named by its number");
        let left = Pid::from_raw(left).expect("a process has a number");
        let area = PathBuf::from(command.line());
        fs::write(area.join("precious"), "content").expect("an area is writable");

        // No more than it has: the first three are never free.
        let enough = limit_descriptors(broker.process(), Some(3));
        assert!(command.end().success());
        let searched = || fs::read_to_string(&said).is_ok_and(|said| said.contains("the search for processes"));
        eventually(DEADLINE, "the search is refused its descriptors", searched);
        assert!(area.join("precious").exists(), "ended, though nobody could look");

        limit_descriptors(broker.process(), enough);
        let found = || {
            let mut list = Command::new(scratch());
            list.args(["ls", "--output", "json"]).env("SCRATCHD_RUNTIME_DIR", &runtime);
            let leases = list.output().expect("the command line's program can be run").stdout;
            let leases: Value = serde_json::from_slice(&leases).unwrap_or_default();
            leases[0]["holders"][0]["pid"] == left.as_raw_nonzero().get()
        };
        eventually(DEADLINE, "what was left holds the lease", found);
        assert_eq!(fs::read_to_string(area.join("precious")).expect("what lives is never taken away"), "content");
        kill_process(left, Signal::KILL).expect("it is our own user's");
        wait_gone(&area, DEADLINE);
    });
}
