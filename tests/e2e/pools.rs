//! More than one pool under one broker: leases in each, families across them, restarts with and without one of them.

use std::path::{Path, PathBuf};
use std::process::Command;

use scratch_tests::{Broker, DEADLINE, Held, Options, Place, contained, eventually, names_in, wait_gone};

const FIRST: &str = "[[pool]]\nname = \"default\"\nroot = \"@PLACE@/pool\"\n";
const SECOND: &str = "[[pool]]\nname = \"fast\"\nroot = \"@PLACE@/fast\"\n";

fn two_pools() -> (Broker, PathBuf) {
    let place = Place::new();
    let fast = place.path().join("fast");
    std::fs::create_dir(&fast).expect("a place is writable");
    let config = Some(format!("{FIRST}{SECOND}"));
    (Broker::start(Options { config, place: Some(place), ..Options::default() }), fast)
}

fn below(broker: &Broker, parent: &Held, options: &[&str]) -> Held {
    let mut command: Command = broker.scratch(&[]);
    command.env("SCRATCHD_LEASE", parent.lease());
    Held::with(command, options)
}

fn is_in(held: &Held, root: &Path) -> bool {
    held.path().parent() == Some(root)
}

#[test]
fn each_lease_lies_in_the_pool_that_was_asked_for() {
    contained("pools::each_lease_lies_in_the_pool_that_was_asked_for", || {
        let (broker, fast) = two_pools();
        let slow = Held::start(&broker);
        let quick = Held::with(broker.scratch(&[]), &["--pool", "fast"]);
        assert!(is_in(&slow, broker.pool_root()) && is_in(&quick, &fast));
        let pool = |held: &Held| broker.json(&["lease", "show", held.lease()])["pool"].clone();
        assert_eq!((pool(&slow), pool(&quick)), ("default".into(), "fast".into()));
        let status = broker.json(&["status"]);
        assert_eq!((&status["pools"][0]["name"], &status["pools"][1]["name"]), (&"default".into(), &"fast".into()));
        let unknown = broker.scratch(&["lease", "grant", "--pool", "none"]).output().expect("the program can be run");
        assert!(!unknown.status.success() && String::from_utf8_lossy(&unknown.stderr).contains("none"));
        let paths = [slow.path().to_owned(), quick.path().to_owned()];
        slow.kill();
        quick.kill();
        paths.iter().for_each(|path| wait_gone(path, DEADLINE));
        let is_empty =
            |root: &Path| names_in(root) == [".scratch"] && names_in(&root.join(".scratch/trash")).is_empty();
        eventually(DEADLINE, "both pools are empty", || is_empty(broker.pool_root()) && is_empty(&fast));
    });
}

#[test]
fn children_lie_where_their_parent_does_and_end_with_it_anywhere() {
    contained("pools::children_lie_where_their_parent_does_and_end_with_it_anywhere", || {
        let (broker, fast) = two_pools();
        let parent = Held::with(broker.scratch(&[]), &["--pool", "fast"]);
        let (near, far) = (below(&broker, &parent, &[]), below(&broker, &parent, &["--pool", "default"]));
        assert!(is_in(&near, &fast) && is_in(&far, broker.pool_root()));
        let revoked = broker.scratch(&["lease", "revoke", parent.lease()]).status().expect("the program can be run");
        assert!(revoked.success());
        [&near, &far].iter().for_each(|child| wait_gone(child.path(), DEADLINE));
    });
}

#[test]
fn a_pool_that_is_left_out_for_a_while_ends_nothing_elsewhere() {
    contained("pools::a_pool_that_is_left_out_for_a_while_ends_nothing_elsewhere", || {
        let (mut broker, fast) = two_pools();
        let mut parent = Held::with(broker.scratch(&[]), &["--pool", "fast"]);
        let mut child = below(&broker, &parent, &["--pool", "default"]);
        broker.kill();
        broker.restart_with_config(FIRST.to_owned());
        eventually(DEADLINE, "the child is adopted", || !broker.json(&["ls"])[0].is_null());
        assert_eq!(broker.json(&["lease", "show", child.lease()])["state"], "live");
        child.write_line("its parent is unknown, and so not dead");
        parent.write_line("nobody has touched this one");
        broker.terminate();
        broker.restart_with_config(format!("{SECOND}{FIRST}"));
        [&parent, &child].iter().for_each(|held| {
            assert_eq!(broker.json(&["lease", "show", held.lease()])["state"], "live");
        });
        assert!(is_in(&parent, &fast));
        let revoked = broker.scratch(&["lease", "revoke", parent.lease()]).status().expect("the program can be run");
        assert!(revoked.success());
        wait_gone(parent.path(), DEADLINE);
        wait_gone(child.path(), DEADLINE);
    });
}
