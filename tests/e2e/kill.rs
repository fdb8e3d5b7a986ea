//! Processes that die with their lease, by the cgroup that holds it; and nobody's who has not asked for it with his own rights.

use std::fs;
use std::os::unix::fs::chown;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use scratch_tests::{Broker, Cgroup, DEADLINE, Dialogue, Options, contained, enter, eventually, names_in, wait_gone};
use serde_json::Value;

const TENANT: u32 = 1234;
const KILLED: Option<i32> = Some(9);

/// A process that waits for its input, moved into a cgroup.
fn process_in(cgroup: &Path) -> Dialogue {
    let process = Dialogue::start(Command::new("cat"));
    enter(cgroup, process.process());
    process
}

fn text(path: &Path) -> &str {
    path.to_str().expect("a test's paths are text")
}

fn granted(broker: &Broker, arguments: &[&str]) -> (String, PathBuf) {
    let lease = broker.json(&[&["lease", "grant"], arguments].concat());
    let word = |key: &str| lease[key].as_str().expect("a lease has both").to_owned();
    (word("id"), word("path").into())
}

fn succeeds(mut command: Command) -> bool {
    command.output().expect("the program can be run").status.success()
}

#[test]
fn what_a_lease_is_held_by_dies_with_it() {
    let test = "kill::what_a_lease_is_held_by_dies_with_it";
    contained(test, || {
        let Some(cgroups) = Cgroup::new(test) else { return };
        let mut broker = Broker::start(Options::default());
        let paths = ["revoked", "freed", "parent", "lifetime", "restart"].map(|name| cgroups.child(name));
        let processes = paths.each_ref().map(|path| process_in(path));
        let (parent, _) = granted(&broker, &["--hold"]);
        let more: [&[&str]; 5] = [&[], &[], &["--parent", &parent], &["--lifetime", "300ms"], &[]];
        let leases: Vec<_> = paths
            .iter()
            .zip(more)
            .map(|(path, more)| granted(&broker, &[&["--cgroup", text(path), "--kill"], more].concat()))
            .collect();
        let shown = broker.json(&["lease", "show", &leases[4].0]);
        assert_eq!(shown["holders"][0]["kill"], Value::Bool(true), "{shown}");
        assert!(succeeds(broker.scratch(&["lease", "revoke", &leases[0].0])));
        assert!(succeeds(broker.scratch(&["lease", "revoke", "--wait", &leases[1].0])));
        assert!(succeeds(broker.scratch(&["lease", "revoke", &parent])));
        broker.kill();
        broker.restart();
        assert!(succeeds(broker.scratch(&["lease", "revoke", &leases[4].0])));
        for ((_, area), process) in leases.iter().zip(processes) {
            assert_eq!(process.wait().signal(), KILLED, "{}", area.display());
            wait_gone(area, DEADLINE);
        }
        eventually(DEADLINE, "all is freed", || names_in(&broker.pool_root().join(".scratch/trash")).is_empty());
    });
}

#[test]
fn what_was_not_asked_for_lives() {
    let test = "kill::what_was_not_asked_for_lives";
    contained(test, || {
        let Some(cgroups) = Cgroup::new(test) else { return };
        let broker = Broker::start(Options::default());
        let (plain, detached) = (cgroups.child("plain"), cgroups.child("detached"));
        let processes = [process_in(&plain), process_in(&detached)];
        let (one, area) = granted(&broker, &["--cgroup", text(&plain)]);
        let (two, other) = granted(&broker, &["--hold"]);
        let attached = broker.json(&["lease", "attach", &two, "--cgroup", text(&detached), "--kill"]);
        assert!(succeeds(broker.scratch(&["lease", "detach", &two, &attached["holder"].to_string()])));
        for lease in [&one, &two] {
            assert!(succeeds(broker.scratch(&["lease", "revoke", lease])));
        }
        wait_gone(&area, DEADLINE);
        wait_gone(&other, DEADLINE);
        for process in processes {
            assert!(process.end().success(), "killed all the same");
        }
    });
}

#[test]
fn a_tenant_has_nobody_elses_processes_killed() {
    let test = "kill::a_tenant_has_nobody_elses_processes_killed";
    contained(test, || {
        let Some(cgroups) = Cgroup::new(test) else { return };
        let broker = Broker::start(Options::default());
        let (own, foreign) = (cgroups.child("own"), cgroups.child("foreign"));
        for path in [own.clone(), own.join("cgroup.kill")] {
            chown(path, Some(TENANT), Some(TENANT)).expect("root may");
        }
        let (dies, lives) = (process_in(&own), process_in(&foreign));
        let grant = |cgroup: &Path, more: &[&str]| {
            let arguments =
                [&["lease", "grant", "--ttl", "1h", "--output", "json", "--cgroup", text(cgroup)], more].concat();
            broker.scratch_as(TENANT, &arguments).output().expect("the program can be run")
        };
        let refused = grant(&foreign, &["--kill"]);
        let said = String::from_utf8_lossy(&refused.stderr);
        assert!(!refused.status.success() && said.contains("cgroup.kill") && said.contains("EACCES"), "{said}");
        // To hold it by a cgroup alone takes no right to that.
        for (output, is_own) in [(grant(&foreign, &[]), false), (grant(&own, &["--kill"]), true)] {
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
            let lease: Value = serde_json::from_slice(&output.stdout).expect("--output json prints JSON");
            // Its right was asked when it was attached: taken away since, it is not asked again.
            if is_own {
                chown(own.join("cgroup.kill"), Some(0), Some(0)).expect("root may");
            }
            let id = lease["id"].as_str().expect("a lease has an id");
            assert!(succeeds(broker.scratch_as(TENANT, &["lease", "revoke", id])));
        }
        assert_eq!(dies.wait().signal(), KILLED);
        assert!(fs::read_to_string(foreign.join("cgroup.events")).is_ok_and(|events| events.contains("populated 1")));
        assert!(lives.end().success());
    });
}
