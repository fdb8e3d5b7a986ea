//! Kills a program that uses `scratch_client::temp` at random moments: what it has persisted is whole, all else is gone. The
//! seed is printed.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use rustix::process::{Signal, kill_process};
use scratch_tests::{
    Broker, DEADLINE, Dialogue, Options, Random, contained, eventually, figures, is_whole, long_or_short, names_in,
};

use crate::regressions::nothing_is_left;

/// After its first round it is killed within this time, at a moment of its own each time.
const LATEST: Duration = Duration::from_millis(120);
/// In each directory that is persisted into: a file, one by its path, one not to replace, a directory.
const EACH_ROUND: [&str; 4] = ["file", "path", "once", "directory"];
/// From a directory of one's own, into one of them.
const FROM_THERE: [&str; 2] = ["there", "there-once"];

#[test]
fn with_areas_made_by_itself() {
    again_and_again("sdk::killed::with_areas_made_by_itself", "auto");
}

#[test]
fn with_areas_made_by_the_broker() {
    again_and_again("sdk::killed::with_areas_made_by_the_broker", "broker");
}

/// Where one process works.
struct Places {
    named: PathBuf,
    targets: PathBuf,
    other: PathBuf,
    temporary: PathBuf,
    rounds: PathBuf,
}

impl Places {
    fn new(broker: &Broker, number: usize) -> Self {
        let place = broker.place().join(format!("process-{number}"));
        let [named, targets, temporary] = ["named", "targets", "tmp"].map(|name| place.join(name));
        let other = PathBuf::from(format!("/dev/shm/process-{number}"));
        for path in [&place, &named, &named.join("kept"), &targets, &temporary, &other] {
            fs::create_dir(path).expect("the place and /dev/shm are our own");
        }
        Self { named, targets, other, temporary, rounds: place.join("rounds") }
    }

    fn process(&self, broker: &Broker, create: &str) -> Dialogue {
        let mut command = Command::new(env!("CARGO_BIN_EXE_guards-client"));
        command.args([&self.named, &self.targets, &self.other, &self.rounds]);
        command.env("SCRATCHD_RUNTIME_DIR", broker.runtime_dir()).env("SCRATCHD_CREATE", create);
        command.env("TMPDIR", &self.temporary);
        Dialogue::start(command)
    }

    /// Rounds that the process has come to the end of.
    fn rounds(&self) -> u64 {
        fs::read_to_string(&self.rounds).expect("it was written").lines().count() as u64
    }

    fn check(&self, rounds: u64) {
        eventually(DEADLINE, "nothing is left in the directory that was named", || names_in(&self.named) == ["kept"]);
        for (target, from_there) in [(&self.targets, &FROM_THERE[..]), (&self.other, &[])] {
            let kinds: Vec<_> = EACH_ROUND.iter().chain(from_there).copied().collect();
            eventually(DEADLINE, "nothing is left of copies", || strangers(target, &kinds).is_empty());
            for kind in &kinds {
                for round in 0..rounds {
                    assert_eq!(is_whole(&target.join(format!("{kind}-{round}"))), Ok(round));
                }
                // The last round may have got so far.
                let last = target.join(format!("{kind}-{rounds}"));
                assert!(!last.exists() || is_whole(&last) == Ok(rounds), "{:?}", is_whole(&last));
            }
            let latest = is_whole(&target.join("latest")).expect("there is always one");
            assert!((rounds - 1..=rounds).contains(&latest), "{latest} after {rounds} rounds");
        }
        for (kept, each) in [(self.named.join("kept"), 1), (self.temporary.clone(), 2)] {
            let complete = || names_in(&kept).iter().all(|name| is_whole(&kept.join(name)).is_ok());
            eventually(DEADLINE, "only what is whole was kept", complete);
            let found = names_in(&kept).len() as u64;
            assert!((rounds * each..=(rounds + 1) * each).contains(&found), "{found} kept in {rounds} rounds");
        }
    }
}

/// Names that nobody persisted to.
fn strangers(target: &Path, kinds: &[&str]) -> Vec<String> {
    let is_known = |name: &String| {
        let numbered = name.rsplit_once('-').filter(|(kind, _)| kinds.contains(kind));
        name == "latest" || numbered.is_some_and(|(_, number)| number.parse::<u64>().is_ok())
    };
    names_in(target)
        .into_iter()
        .map(|name| name.to_string_lossy().into_owned())
        .filter(|name| !is_known(name))
        .collect()
}

fn again_and_again(test: &str, create: &str) {
    contained(test, || {
        let mut random = Random::new(test);
        let broker = Broker::start(Options::default());
        let (kills, mut all) = (long_or_short(300, 6), 0);
        for number in 0..kills {
            let places = Places::new(&broker, number);
            let mut process = places.process(&broker, create);
            assert_eq!(process.line(), "well");
            // The moment is what the test is about; nothing is waited for here.
            std::thread::sleep(random.moment(LATEST));
            kill_process(process.process(), Signal::KILL).expect("our own child can be killed");
            assert_eq!(process.wait().code(), None);
            nothing_is_left(&broker);
            let rounds = places.rounds();
            places.check(rounds);
            all += rounds;
            for path in [places.named.parent().expect("it is in a place"), &places.other] {
                assert!(Command::new("rm").arg("-r").arg(path).status().is_ok_and(|status| status.success()));
            }
        }
        figures(test, &format!("{kills} kills in {all} rounds of 16 things persisted each: all whole, all else gone"));
    });
}
