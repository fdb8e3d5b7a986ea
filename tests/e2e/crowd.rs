//! Many clients of gRPC, each a process of its own with a KeepAlive stream: who dies takes its lease along, and no other's.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::process::Command;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use scratch_tests::{Broker, DEADLINE, Dialogue, Options, contained, eventually, names_in, wait_gone};

use crate::regressions::nothing_is_left;

const CROWD: usize = 1000;
/// So many start at once: a crowd that comes on two processors all at once waits for itself.
const BATCH: usize = 50;
const HOLDERS: [&str; 3] = ["connection", "process", "ttl"];

/// A running grpc-client and its lease. Killed when dropped.
struct Client {
    lease: String,
    path: PathBuf,
    dialogue: Dialogue,
}

impl Client {
    /// So many of them, all alive at once, held in turn by what `holders` says.
    fn crowd(broker: &Broker, number: usize, holders: &[&str]) -> Vec<Client> {
        let mut crowd = Vec::new();
        let holders: Vec<&str> = holders.iter().copied().cycle().take(number).collect();
        for batch in holders.chunks(BATCH) {
            let start = |holder: &&str| {
                let mut command = Command::new(env!("CARGO_BIN_EXE_grpc-client"));
                command.arg(broker.grpc_socket()).arg(holder);
                Dialogue::start(command)
            };
            let started: Vec<Dialogue> = batch.iter().map(start).collect();
            crowd.extend(started.into_iter().map(|mut dialogue| {
                let (lease, path) = (dialogue.line(), PathBuf::from(dialogue.line()));
                Client { lease, path, dialogue }
            }));
        }
        crowd
    }
}

/// Each has its areas, and its stream is answered.
fn all_are_there(crowd: &mut [Client]) {
    crowd.iter_mut().for_each(|client| client.dialogue.say("is it there?"));
    for client in crowd {
        assert_eq!(client.dialogue.line(), "there", "{}", client.lease);
    }
}

fn leases(crowd: &[Client]) -> BTreeSet<String> {
    crowd.iter().map(|client| client.lease.clone()).collect()
}

fn listed(broker: &Broker) -> BTreeSet<String> {
    let leases = broker.json(&["ls"]);
    let leases = leases.as_array().expect("scratch ls prints an array");
    leases.iter().map(|lease| lease["id"].as_str().expect("a lease has an id").to_owned()).collect()
}

/// What stands in the pool beside the broker's own.
fn on_disk(broker: &Broker) -> BTreeSet<String> {
    let names = names_in(broker.pool_root()).into_iter().filter(|name| name != ".scratch");
    names.map(|name| name.into_string().expect("an id is plain")).collect()
}

/// Two pipes for each client of a crowd.
fn raise_descriptor_limit() {
    let maximum = getrlimit(Resource::Nofile).maximum;
    setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }).expect("up to the maximum, anybody may");
}

#[test]
fn half_of_a_thousand_are_killed() {
    contained("crowd::half_of_a_thousand_are_killed", || {
        raise_descriptor_limit();
        let broker = Broker::start(Options::default());
        let mut crowd = Client::crowd(&broker, CROWD, &HOLDERS);
        assert_eq!(leases(&crowd).len(), CROWD);
        assert_eq!((listed(&broker), on_disk(&broker)), (leases(&crowd), leases(&crowd)));
        all_are_there(&mut crowd);

        // Every other pair, so that each kind of holder is killed and left.
        let mut at = 0..;
        let (killed, mut left): (Vec<_>, Vec<_>) =
            crowd.into_iter().partition(|_| at.next().is_some_and(|at| at / 2 % 2 == 0));
        drop(killed);
        eventually(DEADLINE, "only who was left has a directory", || on_disk(&broker) == leases(&left));
        // A moment later it is forgotten as well.
        eventually(DEADLINE, "only who was left is listed", || listed(&broker) == leases(&left));
        all_are_there(&mut left);

        for client in left {
            assert!(client.dialogue.end().success());
        }
        nothing_is_left(&broker);
        eventually(DEADLINE, "nobody is listed", || listed(&broker).is_empty());
    });
}

/// One that does not come back shows when the grace is over: after that nothing but the streams holds what is held.
#[test]
fn streams_come_back_to_the_next_broker() {
    contained("crowd::streams_come_back_to_the_next_broker", || {
        let mut broker = Broker::start(Options { grace: Some("5s"), ..Options::default() });
        let mut crowd = Client::crowd(&broker, 100, &["connection"]);
        for killed in [true, false] {
            if killed {
                broker.kill();
            } else {
                assert!(broker.terminate().success());
            }
            let absent = crowd.pop().expect("a crowd");
            let path = absent.path.clone();
            drop(absent);
            assert!(path.is_dir(), "without a broker nothing is taken away");
            broker.restart();
            for client in &mut crowd {
                assert_eq!(client.dialogue.line(), "back", "{}", client.lease);
            }
            wait_gone(&path, DEADLINE);
            eventually(DEADLINE, "all who came back are listed", || listed(&broker) == leases(&crowd));
            all_are_there(&mut crowd);
        }
        drop(crowd);
        nothing_is_left(&broker);
    });
}
