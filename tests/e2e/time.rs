//! Time that passes for some and not for others: stopped brokers, stopped clients, a wall clock that jumps.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use rustix::process::{Signal, kill_process};
use scratch_proto::v1::channel_request::Op;
use scratch_proto::v1::channel_response::Result as Reply;
use scratch_proto::v1::{GrantRequest, KeepAliveRequest};
use scratch_tests::{Broker, Channel, DEADLINE, Dialogue, Options, contained, installed, wait_gone};

use crate::holders::ttl;
use crate::regressions::granted;

const TTL: Duration = Duration::from_secs(2);
/// Far more than any lease lasts here.
const YEARS: i64 = 10 * 365 * 86_400;

fn lasting(time: Duration) -> GrantRequest {
    GrantRequest { holders: vec![ttl(time)], ..GrantRequest::default() }
}

/// While it is stopped nobody could renew, so that nobody's time is over.
#[test]
fn a_stopped_broker_takes_no_ttl() {
    contained("time::a_stopped_broker_takes_no_ttl", || {
        let broker = Broker::start(Options::default());
        let mut channel = Channel::connect(&broker.handle_socket());
        let leases: Vec<String> = (0..20).map(|_| granted(&mut channel, lasting(TTL)).id).collect();
        broker.freeze();
        // The time is what the test is about; there is nothing to wait for.
        std::thread::sleep(TTL * 2);
        broker.thaw();
        for lease in &leases {
            let reply = channel.ask(Op::KeepAlive(KeepAliveRequest { lease: lease.clone() }));
            assert!(matches!(reply, Reply::KeepAlive(_)), "{reply:?}");
        }
        leases.iter().for_each(|lease| wait_gone(&broker.pool_root().join(lease), DEADLINE));
    });
}

/// A ttl is a promise to come again, and a stopped client breaks it; a process that is stopped lives.
#[test]
fn a_stopped_client_loses_its_ttl_alone() {
    contained("time::a_stopped_client_loses_its_ttl_alone", || {
        let broker = Broker::start(Options::default());
        let client = |holder: &str| {
            let mut command = Command::new(env!("CARGO_BIN_EXE_grpc-client"));
            command.arg(broker.grpc_socket()).arg(holder);
            let mut client = Dialogue::start(command);
            let (_, path) = (client.line(), client.line());
            (client, path)
        };
        let ((renewing, ttl), (mut process, held), (mut stream, streamed)) =
            (client("ttl"), client("process"), client("connection"));
        for stopped in [&renewing, &process, &stream] {
            kill_process(stopped.process(), Signal::STOP).expect("our own child can be stopped");
        }
        wait_gone(Path::new(&ttl), DEADLINE);
        assert!(Path::new(&held).is_dir() && Path::new(&streamed).is_dir(), "a stopped process lives");
        for stopped in [&process, &stream] {
            kill_process(stopped.process(), Signal::CONT).expect("our own child can go on");
        }
        for client in [&mut process, &mut stream] {
            client.say("is it there?");
            assert_eq!(client.line(), "there");
        }
    });
}

/// What sets a broker's wall clock, if it can be built here.
fn wall_clock(test: &str, place: &Path) -> Option<String> {
    if !installed(test, "cc") {
        return None;
    }
    let shim = place.join("wall_clock.so");
    let source = scratch_tests::source_tree().join("tests/e2e/time/wall_clock.c");
    let mut compile = Command::new("cc");
    compile.args(["-shared", "-fPIC", "-O1", "-o"]).arg(&shim).arg(source).stdin(Stdio::null());
    assert!(compile.status().is_ok_and(|status| status.success()), "the shim can't be built");
    Some(shim.to_str().expect("a test's paths are plain").to_owned())
}

#[test]
fn the_wall_clock_decides_nothing() {
    let test = "time::the_wall_clock_decides_nothing";
    contained(test, || {
        let place = scratch_tests::Place::new();
        let Some(shim) = wall_clock(test, place.path()) else { return };
        let offset = place.path().join("offset");
        let set = |seconds: i64| fs::write(&offset, seconds.to_string()).expect("a place is writable");
        set(0);
        let path = offset.to_str().expect("a test's paths are plain").to_owned();
        let environment = vec![("LD_PRELOAD".to_owned(), shim), ("WALL_CLOCK_OFFSET".to_owned(), path)];
        let mut broker = Broker::start(Options { environment, ..Options::default() });
        let mut channel = Channel::connect(&broker.handle_socket());
        let kept = granted(&mut channel, lasting(Duration::from_secs(600))).id;
        let held = granted(&mut channel, GrantRequest::default()).id;
        let year_of = |broker: &Broker| {
            let leases = broker.json(&["ls"]);
            let lease = leases.as_array().expect("scratch ls prints an array").iter().find(|one| one["id"] == kept);
            let time = lease.expect("it lives")["expire_time"].as_str().expect("it has a ttl").to_owned();
            time[..4].parse::<i64>().expect("a time begins with its year")
        };
        let year = year_of(&broker);
        for (years, restarts) in [(YEARS, false), (-YEARS, false), (YEARS, true), (-YEARS, true), (0, false)] {
            set(years);
            if restarts {
                broker.kill();
                broker.restart();
                channel = Channel::connect(&broker.handle_socket());
            }
            // That the clock was set is seen in what is shown to people.
            let moved = years / (365 * 86_400);
            assert!((year_of(&broker) - year - moved).abs() <= 1, "the wall clock was not set");
            // A ttl granted now takes its time, and its end is decided beside the others.
            let brief = broker.pool_root().join(granted(&mut channel, lasting(Duration::from_secs(1))).id);
            wait_gone(&brief, DEADLINE);
            for lease in [&kept, &held] {
                assert!(broker.pool_root().join(lease).is_dir(), "ended by the wall clock");
            }
            let reply = channel.ask(Op::KeepAlive(KeepAliveRequest { lease: kept.clone() }));
            assert!(matches!(reply, Reply::KeepAlive(_)), "{reply:?}");
        }
    });
}
