//! Restarts under a load of clients that know every byte they have written: no error, no loss, no leak. The seed is printed.

use std::os::unix::fs::symlink;
use std::process::Command;
use std::time::{Duration, Instant};

use scratch_tests::{Broker, Dialogue, Options, Random, contained, figures, is_root, left_out, long_or_short};

use crate::regressions::nothing_is_left;

/// Where clients wait for a broker that restarts.
const SYSTEM_DIRECTORY: &str = "/run/scratchd";
/// The flavours of the SDK, each with who makes the files; and a client without it.
const KINDS: [[&str; 2]; 5] =
    [["blocking", "auto"], ["blocking", "broker"], ["tokio", "auto"], ["tokio", "broker"], ["raw", "broker"]];
/// A client that knows no second connection.
const SINGLE: [&str; 2] = ["single", "broker"];
/// After this, at a moment of its own each time, comes the next restart.
const LATEST: Duration = Duration::from_millis(300);

/// How a broker goes and comes.
#[derive(Debug, Clone, Copy)]
enum Restart {
    /// SIGKILL, then another one.
    Killed,
    /// SIGTERM, then another one.
    Stopped,
    /// SIGTERM, and all connections are kept for another one by a service manager.
    HandedOn,
}

#[test]
fn killed_again_and_again() {
    storm("storm::killed_again_and_again", Restart::Killed);
}

#[test]
fn stopped_again_and_again() {
    storm("storm::stopped_again_and_again", Restart::Stopped);
}

#[test]
fn handed_on_again_and_again() {
    storm("storm::handed_on_again_and_again", Restart::HandedOn);
}

fn storm(test: &str, how: Restart) {
    contained(test, || {
        if !is_root() {
            return left_out(test, "only what is in /run/scratchd is waited for, and only root can put it there");
        }
        let mut random = Random::new(test);
        let handed_on = matches!(how, Restart::HandedOn);
        let mut broker = Broker::start(Options { service: handed_on, ..Options::default() });
        symlink(broker.runtime_dir(), SYSTEM_DIRECTORY).expect("the containment's /run is our own");
        let (number, restarts) = (long_or_short(50, 10), long_or_short(100, 5));
        let mut kinds = KINDS.to_vec();
        if handed_on {
            kinds.push(SINGLE);
        }
        let mut clients: Vec<Dialogue> = kinds.into_iter().cycle().take(number).map(client).collect();
        all_go_on(&mut clients);
        let mut longest = Duration::ZERO;
        for _ in 0..restarts {
            // The moment is what the test is about; nothing is waited for here.
            std::thread::sleep(random.moment(LATEST));
            let since = Instant::now();
            match how {
                Restart::Killed => broker.kill(),
                Restart::Stopped | Restart::HandedOn => assert!(broker.terminate().success()),
            }
            broker.restart();
            all_go_on(&mut clients);
            longest = longest.max(since.elapsed());
        }
        for client in clients {
            assert!(client.end().success());
        }
        nothing_is_left(&broker);
        let longest = longest.as_millis();
        figures(
            test,
            &format!(
                "{restarts} restarts ({how:?}) under {number} clients: no error, no loss, no leak; all went on after {longest} ms at most"
            ),
        );
    });
}

fn client(kind: [&str; 2]) -> Dialogue {
    let mut command = Command::new(env!("CARGO_BIN_EXE_storm-client"));
    command.arg(SYSTEM_DIRECTORY).args(kind);
    Dialogue::start(command)
}

/// Every client comes some rounds further.
fn all_go_on(clients: &mut [Dialogue]) {
    clients.iter_mut().for_each(|client| client.say("well?"));
    clients.iter_mut().for_each(|client| assert_eq!(client.line(), "well"));
}
