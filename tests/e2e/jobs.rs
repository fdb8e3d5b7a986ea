//! `scratch run` at a terminal: Ctrl-C, Ctrl-Z, fg and bg do what they do without it. The terminal is Python's.

use std::process::Command;

use scratch_tests::{
    Broker, DEADLINE, Options, contained, eventually, installed, names_in, python, scratch, source_tree,
};

#[test]
fn at_a_terminal() {
    contained("jobs::at_a_terminal", || {
        if !installed("jobs::at_a_terminal", "bash") {
            return;
        }
        let Some(python) = python("jobs::at_a_terminal") else { return };
        let broker = Broker::start(Options::default());
        let mut jobs = Command::new(python);
        jobs.arg(source_tree().join("tests/python/jobs.py")).current_dir(broker.place());
        jobs.env("SCRATCHD_RUNTIME_DIR", broker.runtime_dir()).env("SCRATCH", scratch());
        let status = jobs.status().expect("python was there a moment ago");
        assert!(status.success(), "not every case held: {status}");
        eventually(DEADLINE, "nothing is left of any job", || names_in(broker.pool_root()) == [".scratch"]);
    });
}
