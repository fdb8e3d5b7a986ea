//! Tenants of one broker: every operation on somebody else's lease, by everybody who is not its tenant.

use std::process::Command;

use scratch_tests::{
    Broker, DEADLINE, Options, contained, descriptors_file, eventually, is_root, left_out, names_in, python,
    source_tree,
};

use crate::regressions::some_group;

const VICTIM: &str = "1234";
const OTHER: &str = "4321";

#[test]
fn nobody_gets_at_what_is_somebody_elses() {
    let test = "isolation::nobody_gets_at_what_is_somebody_elses";
    contained(test, || {
        if !is_root() {
            return left_out(test, "needs root, to be several users");
        }
        let Some(python) = python(test) else { return };
        let Some((group, number)) = some_group() else { return left_out(test, "needs a group besides root's") };
        let pool = "[[pool]]\nname = \"default\"\nroot = \"@PLACE@/pool\"\n";
        let config = Some(format!("{pool}\n[admin]\ngroup = \"{group}\"\n"));
        let broker = Broker::start(Options { config, ..Options::default() });
        let mut command = Command::new(python);
        command.arg(source_tree().join("tests/python/isolation.py")).args([VICTIM, OTHER]).arg(number.to_string());
        command.env("SCRATCHD_RUNTIME_DIR", broker.runtime_dir());
        command.env("SCRATCH_DESCRIPTORS", descriptors_file(broker.place()));
        let status = command.status().expect("python was there a moment ago");
        assert!(status.success(), "not every check held: {status}");
        eventually(DEADLINE, "nothing is left", || names_in(broker.pool_root()) == [".scratch"]);
    });
}
