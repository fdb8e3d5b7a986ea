//! Delegated channels: a client in namespaces of its own, without sockets and files, under the user of its neighbours.

use std::process::Command;

use scratch_tests::{
    Broker, DEADLINE, Options, contained, descriptors_file, eventually, is_root, names_in, python, source_tree,
};

const TENANT: &str = "1234";

#[test]
fn a_sandbox_reaches_its_own_lease_and_nothing_else() {
    let test = "delegate::a_sandbox_reaches_its_own_lease_and_nothing_else";
    contained(test, || {
        let Some(python) = python(test) else { return };
        let broker = Broker::start(Options::default());
        let mut command = Command::new(python);
        command.arg(source_tree().join("tests/python/delegate.py"));
        command.args(if is_root() { [TENANT, "system"] } else { ["-", "session"] });
        command.env("SCRATCHD_RUNTIME_DIR", broker.runtime_dir());
        command.env("SCRATCH_DESCRIPTORS", descriptors_file(broker.place()));
        let status = command.status().expect("python was there a moment ago");
        assert!(status.success(), "not every check held: {status}");
        eventually(DEADLINE, "nothing is left", || names_in(broker.pool_root()) == [".scratch"]);
    });
}
