//! After a restart: everything that lives is there and whole, everything dead goes, and when all has ended nothing is left.

use std::collections::BTreeSet;
use std::fs;
use std::os::fd::AsFd;
use std::path::Path;
use std::time::{Duration, Instant};

use scratch_proto::v1::channel_request::Op;
use scratch_proto::v1::channel_response::Result as Reply;
use scratch_proto::v1::{AttachRequest, Kind, RevokeRequest};
use scratch_tests::{Broker, Channel, DEADLINE, names_in, threads};
use serde_json::Value;

use super::clients::{Clients, Unanswered, done_before};
use super::ledger::Fate;
use super::workload::{exact, of_connection, unmount_below};

/// `restart.grace` of the brokers that are swept.
pub(crate) const GRACE: &str = "1s";
const GRACE_TIME: Duration = Duration::from_secs(1);

/// What happens while no broker runs.
pub(crate) fn without_a_broker(clients: &mut Clients) {
    clients.ledger.broker_died();
    clients.end_process("until the broker is away");
}

/// Compares a restarted broker and its pool with what the clients know. `since`: before it was started.
///
/// # Panics
/// When anything is lost, or stays that is dead.
pub(crate) fn restarted(clients: &mut Clients, broker: &Broker, since: Instant) {
    let mut channel = Channel::connect(&broker.handle_socket());
    come_back(clients, &mut channel, since);
    send_again(clients, &mut channel);
    clients.ledger.check(&clients.pool);
    let listed = listed(broker);
    for (id, _) in clients.ledger.leases.iter().filter(|(_, lease)| lease.fate == Fate::Live) {
        assert!(listed.contains(id), "{id} lives and is not listed");
        let create = Op::Create(exact(id, Kind::File, "after"));
        let reply = channel.ask(create);
        assert!(matches!(reply, Reply::Create(_)), "{id} lives, and {reply:?}");
    }
    let may_be = |fates: &[Fate]| -> BTreeSet<String> {
        let leases = clients.ledger.leases.iter().filter(|(_, lease)| fates.contains(&lease.fate));
        leases.map(|(id, _)| id.clone()).collect()
    };
    let (live, not_dead) = (may_be(&[Fate::Live]), may_be(&[Fate::Live, Fate::Open]));
    comes(broker, "the pool holds what lives and nothing else", || {
        let there = leases_on_disk(broker.pool_root());
        there.is_superset(&live) && there.is_subset(&not_dead)
    });
    comes(broker, "the clients' directory holds what lives and nothing else", || {
        clients.made_in_own().iter().all(|made| clients.ledger.own_alive().any(|alive| alive == made))
    });
    clients.ledger.check(&clients.pool);
    nothing_new_in(&clients.near, clients);
    nothing_new_in(&clients.far, clients);
    everything_ends(clients, broker, channel, Records::GoWithTheirLeases);
}

/// Who was held by the connection comes back on a new one.
fn come_back(clients: &mut Clients, channel: &mut Channel, since: Instant) {
    for (id, lease) in &mut clients.ledger.leases {
        if lease.comes_back && lease.fate == Fate::Live {
            let attach = AttachRequest { lease: id.clone(), holder: Some(of_connection()) };
            let reply = channel.ask(Op::Attach(attach));
            if since.elapsed() < GRACE_TIME {
                assert!(matches!(reply, Reply::Attach(_)), "{id} was not given back: {reply:?}");
            } else if !matches!(reply, Reply::Attach(_)) {
                // A machine so slow that the grace was over shows nothing.
                lease.fate = Fate::Open;
            }
        }
    }
}

/// What was not answered is sent again, twice: it has one result.
fn send_again(clients: &mut Clients, channel: &mut Channel) {
    let Some(Unanswered { op, descriptors }) = clients.unanswered.take() else { return };
    let passed: Vec<_> = descriptors.iter().map(AsFd::as_fd).collect();
    let mut granted = None;
    for _ in 0..2 {
        let (reply, _) = channel.try_ask_with(op.clone(), &passed).expect("the broker answers");
        match reply {
            Reply::Error(error) => {
                let over = done_before(&op, &error.reason) || holder_is_gone(clients, &op, &error.reason);
                assert!(over, "sent again: {op:?}: {error:?}");
            }
            Reply::Grant(grant) if descriptors.is_empty() && !is_short(&op) => {
                assert!(granted.as_ref().is_none_or(|other| *other == grant.id), "two leases of one nonce");
                clients.ledger.lease(&grant.id, Fate::Live);
                granted = Some(grant.id);
            }
            // By what may be gone by now.
            Reply::Grant(grant) => clients.ledger.lease(&grant.id, Fate::Open),
            _ => {}
        }
    }
}

/// It may end between two requests.
fn is_short(op: &Op) -> bool {
    matches!(op, Op::Grant(grant) if grant.lifetime_max.is_some())
}

/// What should have held it died with the broker, or while there was none.
fn holder_is_gone(clients: &Clients, op: &Op, reason: &str) -> bool {
    let dead = |lease: &str| clients.ledger.leases.get(lease).is_some_and(|lease| lease.fate != Fate::Live);
    match op {
        Op::Grant(_) => reason == "PROCESS_GONE",
        Op::Create(create) => reason == "LEASE_UNKNOWN" && dead(&create.lease),
        _ => false,
    }
}

/// As `eventually`; tells what the broker's threads wait for before it gives up.
fn comes(broker: &Broker, what: &str, holds: impl Fn() -> bool) {
    let end = Instant::now() + DEADLINE;
    while !holds() {
        if Instant::now() > end {
            for (thread, role) in threads(broker.pid()) {
                let about = |name: &str| fs::read_to_string(format!("/proc/{thread}/{name}")).unwrap_or_default();
                println!("{role} {thread}: {}{}", about("syscall"), about("stack"));
            }
            for place in ["", ".scratch/trash", ".scratch/leases", ".scratch/new", ".scratch/foreign", "../own"] {
                println!("{place}: {:?}", names_in(&broker.pool_root().join(place)));
            }
            panic!("not within {DEADLINE:?}: {what}");
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn leases_on_disk(pool: &Path) -> BTreeSet<String> {
    let names = names_in(pool).into_iter().filter(|name| name != ".scratch");
    names.map(|name| name.into_string().expect("an id is plain")).collect()
}

fn listed(broker: &Broker) -> BTreeSet<String> {
    let leases = broker.json(&["ls"]);
    let leases = leases.as_array().expect("scratch ls prints an array");
    leases.iter().map(|lease| lease["id"].as_str().expect("a lease has an id").to_owned()).collect()
}

/// A directory that things were persisted to has them and no half of them.
fn nothing_new_in(directory: &Path, clients: &Clients) {
    for name in names_in(directory).into_iter().filter(|name| name != "strace") {
        let known = clients.ledger.targets().any(|target| target.starts_with(directory.join(&name)));
        assert!(known, "left in a client's directory: {name:?}");
    }
}

/// How long the record of a lease may outlive it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Records {
    GoWithTheirLeases,
    /// One that could not be dropped is told in the log, and is nothing to the next start.
    UntilTheNextStart,
}

/// All holders go, or are overruled; a lease that is open may be gone already.
pub(crate) fn everything_ends(clients: &mut Clients, broker: &Broker, mut channel: Channel, records: Records) {
    clients.processes.clear();
    clients.held.clear();
    clients.second = None;
    unmount_below(&clients.pool);
    for id in leases_on_disk(broker.pool_root()) {
        let reply = channel.ask(Op::Revoke(RevokeRequest { lease: id, ..RevokeRequest::default() }));
        let ended = match &reply {
            Reply::Error(error) => error.reason == "LEASE_UNKNOWN",
            other => matches!(other, Reply::Revoke(_)),
        };
        assert!(ended, "{reply:?}");
    }
    let reap = broker.scratch(&["reap"]).output().expect("the command line's program can be run");
    println!("scratch reap: {}", String::from_utf8_lossy(&reap.stdout).trim_end());
    comes(broker, "the pool is empty", || names_in(broker.pool_root()) == [".scratch"]);
    comes(broker, "nothing is left in the clients' directory", || clients.made_in_own().is_empty());
    for place in ["trash", "new", "leases", "foreign"] {
        if place == "leases" && records == Records::UntilTheNextStart {
            continue;
        }
        let place = broker.pool_root().join(".scratch").join(place);
        comes(broker, &format!("{} is empty", place.display()), || names_in(&place).is_empty());
    }
    comes(broker, "nothing is owed", || broker.json(&["debt"]) == Value::Array(Vec::new()));
    assert!(listed(broker).is_empty(), "nothing is on disk, and leases are listed");
}
