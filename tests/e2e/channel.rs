//! The handle channel against a real broker, by a client that shares no code with it.

use std::path::{Path, PathBuf};
use std::process::Command;

use scratch_tests::{
    Broker, DEADLINE, Options, contained, descriptors_file, eventually, names_in, python, source_tree,
};

#[test]
fn tour() {
    contained("channel::tour", || {
        let Some(python) = python("channel::tour") else { return };
        let broker = Broker::start(Options::default());
        let descriptors = descriptors_file(broker.place());
        take_tour(&broker, &python, &descriptors);
        // Whatever the first tour left open for good (a thread's epoll, a log), a second must not add to it.
        let open = || names_in(&PathBuf::from(format!("/proc/{}/fd", broker.pid()))).len();
        let after_the_first = open();
        take_tour(&broker, &python, &descriptors);
        eventually(DEADLINE, "the broker closed what a client left", || open() <= after_the_first);
        eventually(DEADLINE, "nothing is left of either", || names_in(broker.pool_root()) == [".scratch"]);
    });
}

fn take_tour(broker: &Broker, python: &Path, descriptors: &Path) {
    let mut tour = Command::new(python);
    tour.arg(source_tree().join("tests/python/tour.py"));
    tour.env("SCRATCHD_RUNTIME_DIR", broker.runtime_dir()).env("SCRATCH_DESCRIPTORS", descriptors);
    let status = tour.status().expect("python was there a moment ago");
    assert!(status.success(), "the tour ended early: {status}");
}
