//! Very many leases: all ending at the same moment, and all living across a restart.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use scratch_proto::v1::channel_request::Op;
use scratch_proto::v1::channel_response::Result as Reply;
use scratch_proto::v1::{CreateRequest, GrantRequest, Kind, ReleaseRequest, RevokeRequest};
use scratch_tests::{Broker, Channel, Dialogue, Options, contained, eventually, figures, long_or_short, names_in};

use crate::regressions::{granted, nothing_is_left};

/// Only turns a hang into a failure.
const ALL_GONE: Duration = Duration::from_secs(300);
/// Time to grant all of a long form before the first ends.
const TTL: Duration = Duration::from_secs(20);

fn broker() -> Broker {
    let config = "[[pool]]\nname = \"default\"\nroot = \"@PLACE@/pool\"\n\n[limits]\nleases = 1000000\n";
    Broker::start(Options { config: Some(config.to_owned()), ..Options::default() })
}

/// A process with so many leases, and their ids.
fn holder(broker: &Broker, number: usize, ttl: Option<Duration>) -> (Dialogue, BTreeSet<String>) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_leaseholder"));
    command.arg(broker.handle_socket()).arg(number.to_string());
    ttl.map(|ttl| command.arg(ttl.as_millis().to_string()));
    let mut holder = Dialogue::start(command);
    assert_eq!(holder.line(), "granted");
    let ids = (0..number).map(|_| holder.line()).collect();
    (holder, ids)
}

/// Somebody who has nothing to do with all this: each create and release is served, and nothing of it is lost.
struct Neighbour<'a> {
    over: &'a AtomicBool,
    rounds: &'a AtomicUsize,
}

impl Neighbour<'_> {
    fn live(&self, socket: &Path, pool: &Path) {
        let mut channel = Channel::connect(socket);
        let lease = granted(&mut channel, GrantRequest::default()).id;
        let precious = pool.join(&lease).join("precious");
        fs::write(&precious, "content").expect("a lease's directory is writable");
        while !self.over.load(Ordering::Relaxed) {
            let (lease, kind) = (lease.clone(), Kind::Directory.into());
            let reply =
                channel.ask(Op::Create(CreateRequest { lease: lease.clone(), kind, ..CreateRequest::default() }));
            let Reply::Create(created) = reply else { panic!("a neighbour is refused: {reply:?}") };
            let area = created.areas[0].name.clone();
            let reply = channel.ask(Op::Release(ReleaseRequest { lease, area, ..ReleaseRequest::default() }));
            assert!(matches!(reply, Reply::Release(_)), "a neighbour is refused: {reply:?}");
            self.rounds.fetch_add(1, Ordering::Relaxed);
            assert_eq!(fs::read_to_string(&precious).expect("what lives is never taken away"), "content");
        }
    }
}

/// All of them end at once by what `end` does, while a neighbour lives.
fn all_end(test: &str, number: usize, ttl: Option<Duration>, end: impl FnOnce(Dialogue)) {
    let broker = broker();
    let (over, rounds) = (AtomicBool::new(false), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        let neighbour = Neighbour { over: &over, rounds: &rounds };
        let (socket, pool) = (broker.handle_socket(), broker.pool_root());
        let neighbour = scope.spawn(move || neighbour.live(&socket, pool));
        let (holder, ids) = holder(&broker, number, ttl);
        let before = rounds.load(Ordering::Relaxed);
        let lives = |id: &String| broker.pool_root().join(id).exists();
        end(holder);
        let since = Instant::now();
        eventually(ALL_GONE, "none of them is visible", || !ids.iter().any(lives));
        let gone = since.elapsed().as_millis();
        let trash = broker.pool_root().join(".scratch/trash");
        // The neighbour's own is there now and then.
        eventually(ALL_GONE, "all is freed", || names_in(&trash).len() <= 1);
        let freed = since.elapsed().as_millis();
        let meanwhile = rounds.load(Ordering::Relaxed) - before;
        over.store(true, Ordering::Relaxed);
        neighbour.join().expect("a neighbour was hurt");
        figures(
            test,
            &format!(
                "{number} leases gone after {gone} ms, freed after {freed} ms; a neighbour made and released {meanwhile} meanwhile"
            ),
        );
    });
    // The neighbour was this process.
    let neighbour = names_in(broker.pool_root()).into_iter().find(|name| name != ".scratch").expect("it lives");
    let mut channel = Channel::connect(&broker.handle_socket());
    let lease = neighbour.into_string().expect("an id is plain");
    channel.ask(Op::Revoke(RevokeRequest { lease, ..RevokeRequest::default() }));
    nothing_is_left(&broker);
}

#[test]
fn leases_of_one_process_end_together() {
    let test = "scale::leases_of_one_process_end_together";
    contained(test, || all_end(test, long_or_short(10_000, 1_000), None, drop));
}

#[test]
fn ttls_end_together() {
    let test = "scale::ttls_end_together";
    contained(test, || {
        all_end(test, long_or_short(10_000, 1_000), Some(long_or_short(TTL, Duration::from_secs(3))), drop);
    });
}

#[test]
fn leases_live_across_restarts() {
    let test = "scale::leases_live_across_restarts";
    contained(test, || {
        let number = long_or_short(100_000, 5_000);
        let mut broker = broker();
        let (holder, ids) = holder(&broker, number, None);
        let on_disk = |broker: &Broker| -> BTreeSet<String> {
            let names = names_in(broker.pool_root()).into_iter().filter(|name| name != ".scratch");
            names.map(|name| name.into_string().expect("an id is plain")).collect()
        };
        assert!(on_disk(&broker) == ids);
        let mut times = Vec::new();
        for killed in [true, false] {
            if killed {
                broker.kill();
            } else {
                assert!(broker.terminate().success());
            }
            let since = Instant::now();
            broker.restart();
            times.push(since.elapsed().as_millis());
            assert!(on_disk(&broker) == ids, "some of {number} were lost");
            assert_eq!(broker.json(&["status"])["leases"], number);
        }
        drop(holder);
        let since = Instant::now();
        eventually(ALL_GONE, "all of them go", || names_in(broker.pool_root()) == [".scratch"]);
        let gone = since.elapsed().as_millis();
        let trash = broker.pool_root().join(".scratch/trash");
        eventually(ALL_GONE, "all is freed", || names_in(&trash).is_empty());
        nothing_is_left(&broker);
        figures(
            test,
            &format!(
                "{number} leases adopted after SIGKILL in {} ms, after SIGTERM in {} ms; none lost; gone after {gone} ms",
                times[0], times[1]
            ),
        );
    });
}
