//! What outlives its end: kept for a while at its path, or brought back.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};
use scratch_tests::{Broker, DEADLINE, Held, Options, contained, eventually, is_root, left_out, names_in, wait_gone};
use serde_json::Value;

const TENANT: u32 = 1234;
const NOT_THERE: i32 = 73;
const TRY_LATER: i32 = 75;
const FAILS: &str = r#"echo content >"$TMPDIR/file"; printf '%s %s' "$SCRATCHD_LEASE" "$TMPDIR"; exit 3"#;

/// A broker with these lines below `[keep]`.
fn with(keep: &str) -> Broker {
    let pool = "[[pool]]\nname = \"default\"\nroot = \"@PLACE@/pool\"\n\n[keep]\n";
    Broker::start(Options { config: Some(format!("{pool}{keep}\n")), ..Options::default() })
}

/// Exit code, standard output without its last line's end, standard error.
fn outcome(mut command: Command) -> (i32, String, String) {
    let output = command.stdin(Stdio::null()).output().expect("the command line's program can be run");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim_end_matches('\n').to_owned();
    (output.status.code().expect("it is not killed"), text(&output.stdout), text(&output.stderr))
}

/// The output of a command that must succeed without a word of complaint.
fn says(broker: &Broker, arguments: &[&str]) -> String {
    let (code, said, complaint) = outcome(broker.scratch(arguments));
    assert_eq!((code, complaint.as_str()), (0, ""), "{arguments:?}");
    said
}

fn show(broker: &Broker, id: &str) -> Value {
    broker.json(&["lease", "show", id])
}

fn reason(broker: &Broker, id: &str) -> String {
    show(broker, id)["reason"]["code"].as_str().expect("a code is text").to_owned()
}

fn wait_kept(broker: &Broker, id: &str) {
    eventually(DEADLINE, "it is kept", || show(broker, id)["state"] == "kept");
}

/// A lease with a file in it that time holds, and its path.
fn grant(broker: &Broker) -> (String, PathBuf) {
    let id = says(broker, &["lease", "grant", "--ttl", "1h"]);
    let path = broker.pool_root().join(&id);
    fs::write(path.join("file"), "content").expect("the lease is ours");
    (id, path)
}

/// One of those that has ended and is kept.
fn kept(broker: &Broker) -> (String, PathBuf) {
    let (id, path) = grant(broker);
    says(broker, &["lease", "keep", &id, "--for", "1h"]);
    says(broker, &["lease", "detach", &id, "1"]);
    wait_kept(broker, &id);
    (id, path)
}

fn content(path: &Path) -> String {
    fs::read_to_string(path.join("file")).expect("what is kept is never removed before its time")
}

/// A command that fails under a lease that is to be kept for an hour: the lease and its path.
fn failed(broker: &Broker, script: &str) -> (String, PathBuf) {
    let (code, said, complaint) = outcome(broker.scratch(&["run", "--keep-on-failure=1h", "--", "sh", "-c", script]));
    let (id, path) = said.split_once(' ').expect("it says its lease and where it is");
    assert_eq!(code, 3, "not the command's code: {complaint}");
    assert!(complaint.contains(path) && complaint.contains(&format!("scratch lease revoke {id}")), "{complaint}");
    assert_eq!(complaint.lines().count(), 1, "{complaint}");
    (id.to_owned(), path.into())
}

#[test]
fn what_a_failed_command_leaves_is_kept_for_its_time() {
    contained("keep::what_a_failed_command_leaves_is_kept_for_its_time", || {
        let broker = Broker::start(Options::default());
        let (id, path) = failed(&broker, FAILS);
        wait_kept(&broker, &id);
        assert_eq!(content(&path), "content\n");
        let shown = show(&broker, &id);
        assert_eq!((&shown["reason"]["code"], &shown["areas"][0]["id"]), (&"KEPT".into(), &"file".into()));
        assert!(shown["expire_time"].is_string(), "{shown}");
        let status = broker.json(&["status"]);
        assert_eq!((&status["kept"], &status["leases"]), (&1.into(), &0.into()));
        assert!(says(&broker, &["ls"]).contains("kept"));

        assert_eq!(says(&broker, &["lease", "keep", &id, "--for", "1s"]), path.display().to_string());
        wait_gone(&path, DEADLINE);
        assert_eq!(reason(&broker, &id), "KEEP_OVER");
        let trash = broker.pool_root().join(".scratch/trash");
        eventually(DEADLINE, "what was kept is freed", || names_in(&trash).is_empty());
        assert_eq!(names_in(&broker.pool_root().join(".scratch/leases")), [""; 0]);
    });
}

#[test]
fn what_succeeds_or_is_revoked_is_not_kept() {
    contained("keep::what_succeeds_or_is_revoked_is_not_kept", || {
        let broker = Broker::start(Options::default());
        says(&broker, &["run", "--keep-on-failure", "--", "true"]);
        assert_eq!(names_in(broker.pool_root()), [".scratch"], "an area was left of a command that succeeded");
        let (code, _, complaint) = outcome(broker.scratch(&["run", "--keep-on-failure", "--", "no-such-program"]));
        assert_eq!((code, complaint.lines().count()), (127, 1), "{complaint}");
        assert_eq!(names_in(broker.pool_root()), [".scratch"], "an area was left of a command that never ran");

        let (id, path) = grant(&broker);
        says(&broker, &["lease", "keep", &id, "--for", "1h"]);
        says(&broker, &["lease", "revoke", &id]);
        assert!(!path.exists());
        let (id, path) = kept(&broker);
        says(&broker, &["lease", "revoke", "--wait", &id]);
        assert!(!path.exists());
        assert_eq!(reason(&broker, &id), "REVOKED");
        let (id, path) = grant(&broker);
        says(&broker, &["lease", "keep", &id, "--for", "1h"]);
        says(&broker, &["lease", "keep", &id, "--for", "0s"]);
        says(&broker, &["lease", "detach", &id, "1"]);
        wait_gone(&path, DEADLINE);
    });
}

/// A command that leaves a process behind, which says its number first and holds the lease.
fn leaves(code: u8) -> String {
    let sleeps = "sleep 1000 >/dev/null 2>&1 </dev/null & echo $! >pid";
    format!(r#"cd "$TMPDIR"; {sleeps}; echo content >file; printf '%s %s' "$SCRATCHD_LEASE" "$TMPDIR"; exit {code}"#)
}

fn kill_what_is_left(path: &Path) {
    let process = fs::read_to_string(path.join("pid")).expect("its lease lives");
    let process = process.trim().parse().ok().and_then(Pid::from_raw).expect("a process has a number");
    kill_process(process, Signal::KILL).expect("it runs still");
}

#[test]
fn what_is_left_running_comes_first() {
    contained("keep::what_is_left_running_comes_first", || {
        let broker = Broker::start(Options::default());
        let (id, path) = failed(&broker, &leaves(3));
        assert_eq!(show(&broker, &id)["state"], "live");
        kill_what_is_left(&path);
        wait_kept(&broker, &id);
        assert_eq!(content(&path), "content\n");

        let said = says(&broker, &["run", "--keep-on-failure", "--", "sh", "-c", &leaves(0)]);
        let path = PathBuf::from(said.split_once(' ').expect("it says where it is").1);
        assert_eq!(content(&path), "content\n");
        kill_what_is_left(&path);
        wait_gone(&path, DEADLINE);
    });
}

#[test]
fn a_killed_wrapper_is_a_failure() {
    contained("keep::a_killed_wrapper_is_a_failure", || {
        let broker = Broker::start(Options::default());
        let mut held = Held::with(broker.scratch(&[]), &["--keep-on-failure"]);
        held.write_line("evidence");
        let (id, path) = (held.lease().to_owned(), held.path().to_owned());
        held.kill();
        wait_kept(&broker, &id);
        assert_eq!(fs::read_to_string(path.join("log")).expect("it is kept"), "evidence\n");
    });
}

#[test]
fn too_much_or_too_many_are_not_kept() {
    contained("keep::too_much_or_too_many_are_not_kept", || {
        let broker = with("leases_max = 1\ntime_max = \"2h\"");
        let (much, path) = grant(&broker);
        fs::write(path.join("much"), [1; 100_000]).expect("the lease is ours");
        says(&broker, &["lease", "keep", &much, "--for", "1h", "--bytes", "50KiB"]);
        says(&broker, &["lease", "detach", &much, "1"]);
        wait_gone(&path, DEADLINE);
        assert_eq!(reason(&broker, &much), "KEEP_BUDGET");

        let ((one, _), (two, two_path)) = (grant(&broker), grant(&broker));
        for id in [&one, &two] {
            says(&broker, &["lease", "keep", id, "--for", "1h", "--bytes", "50KiB"]);
        }
        says(&broker, &["lease", "detach", &one, "1"]);
        wait_kept(&broker, &one);
        says(&broker, &["lease", "detach", &two, "1"]);
        wait_gone(&two_path, DEADLINE);
        assert_eq!(reason(&broker, &two), "LIMIT_KEEP");

        let (three, _) = grant(&broker);
        let too_many: &[&str] = &["lease", "keep", &three, "--for", "1h"];
        let too_long: &[&str] = &["lease", "keep", &one, "--for", "3h"];
        for arguments in [too_many, too_long] {
            let (code, _, complaint) = outcome(broker.scratch(arguments));
            assert_eq!(code, TRY_LATER, "{complaint}");
            assert!(complaint.contains("LIMIT_KEEP"), "{complaint}");
        }
        let (code, _, complaint) = outcome(broker.scratch(&["run", "--keep-on-failure", "--", "sh", "-c", "exit 5"]));
        assert_eq!((code, complaint.lines().count()), (5, 2), "{complaint}");
        assert!(complaint.lines().all(|line| line.contains("LIMIT_KEEP")), "{complaint}");
        says(&broker, &["lease", "revoke", &one]);
        says(&broker, too_many);
    });
}

#[test]
fn kept_across_a_restart() {
    contained("keep::kept_across_a_restart", || {
        let mut broker = Broker::start(Options::default());
        let (id, path) = kept(&broker);
        let record = broker.pool_root().join(".scratch/leases").join(&id);
        let before = fs::read(&record).expect("it has a record");
        broker.kill();
        broker.restart();
        assert_eq!((show(&broker, &id)["state"].as_str(), content(&path).as_str()), (Some("kept"), "content"));
        assert_eq!(fs::read(&record).expect("it has a record"), before, "not kept until the time it had");
        says(&broker, &["lease", "keep", &id, "--for", "2s"]);
        broker.kill();
        broker.restart();
        wait_gone(&path, DEADLINE);
        eventually(DEADLINE, "its record goes with it", || !record.exists());

        let (id, path) = kept(&broker);
        let other = kept(&broker).1;
        says(&broker, &["lease", "attach", &id, "--ttl", "1h"]);
        assert_eq!(show(&broker, &id)["state"], "live");
        broker.kill();
        broker.restart();
        assert_eq!((show(&broker, &id)["state"].as_str(), content(&path).as_str()), (Some("live"), "content"));
        broker.kill();
        broker.restart_with_grace("0s");
        assert!(!path.exists() && !other.exists(), "a restart that ends everything has kept something");
    });
}

#[test]
fn a_broker_killed_at_the_end_keeps_all_the_same() {
    contained("keep::a_broker_killed_at_the_end_keeps_all_the_same", || {
        let mut broker = Broker::start(Options { grace: Some("1s"), ..Options::default() });
        for broker_goes_first in [true, false, false, false, false, false] {
            let mut held = Held::with(broker.scratch(&[]), &["--keep-on-failure"]);
            held.write_line("evidence");
            let (id, path) = (held.lease().to_owned(), held.path().to_owned());
            if broker_goes_first {
                broker.kill();
                held.kill();
            } else {
                held.kill();
                broker.kill();
            }
            broker.restart();
            wait_kept(&broker, &id);
            assert_eq!(fs::read_to_string(path.join("log")).expect("it is kept"), "evidence\n");
        }
    });
}

#[test]
fn a_drain_leaves_it_to_the_next_broker() {
    contained("keep::a_drain_leaves_it_to_the_next_broker", || {
        let mut broker = with("undelete_window = \"1h\"");
        let (id, path) = kept(&broker);
        let (gone, _) = grant(&broker);
        says(&broker, &["lease", "revoke", &gone]);
        assert_eq!(outcome(broker.scratch(&["drain"])).0, 0);
        assert!(broker.wait().success());
        broker.restart();
        assert_eq!((show(&broker, &id)["state"].as_str(), content(&path).as_str()), (Some("kept"), "content"));
        says(&broker, &["lease", "undelete", &gone]);
    });
}

#[test]
fn brought_back_inside_the_window() {
    contained("keep::brought_back_inside_the_window", || {
        let mut broker = with("undelete_window = \"1h\"");
        let (id, path) = grant(&broker);
        says(&broker, &["lease", "revoke", &id]);
        assert!(!path.exists(), "its path is gone at once");
        assert_eq!(broker.json(&["ls"]), serde_json::json!([]));
        let shown = show(&broker, &id);
        assert_eq!((shown["state"].as_str(), shown["reason"]["code"].as_str()), (Some("ended"), Some("REVOKED")));
        for _ in 0..2 {
            assert_eq!(says(&broker, &["lease", "undelete", &id]), path.display().to_string());
            assert_eq!((content(&path), show(&broker, &id)["state"].as_str()), ("content".to_owned(), Some("kept")));
        }
        says(&broker, &["lease", "revoke", &id]);
        broker.kill();
        broker.restart();
        assert!(!path.exists() && names_in(&broker.pool_root().join(".scratch/trash")).is_empty());
        says(&broker, &["lease", "undelete", &id]);
        assert_eq!(content(&path), "content");
        broker.kill();
        broker.restart();
        wait_kept(&broker, &id);
        says(&broker, &["lease", "attach", &id, "--ttl", "1s"]);
        wait_kept(&broker, &id);
        assert_eq!(content(&path), "content");

        // Who waits for it to be freed wants it freed.
        says(&broker, &["lease", "revoke", &id]);
        says(&broker, &["lease", "revoke", "--wait", &id]);
        let (code, _, complaint) = outcome(broker.scratch(&["lease", "undelete", &id]));
        assert!(code == NOT_THERE && complaint.contains("UNDELETE_OVER"), "{complaint}");
        assert_eq!(names_in(&broker.pool_root().join(".scratch/gone")), [""; 0]);
    });
}

#[test]
fn the_window_ends_across_a_restart() {
    contained("keep::the_window_ends_across_a_restart", || {
        let mut broker = with("undelete_window = \"2s\"");
        let (first, _) = grant(&broker);
        says(&broker, &["lease", "revoke", &first]);
        let scratch = broker.pool_root().join(".scratch");
        let all_is_freed =
            || ["gone", "trash", "leases"].iter().all(|directory| names_in(&scratch.join(directory)).is_empty());
        eventually(DEADLINE, "what was not brought back is freed", all_is_freed);
        let (second, _) = grant(&broker);
        says(&broker, &["lease", "revoke", &second]);
        broker.kill();
        broker.restart();
        eventually(DEADLINE, "what was not brought back is freed", all_is_freed);
        let (code, _, complaint) = outcome(broker.scratch(&["lease", "undelete", &second]));
        assert!(code == NOT_THERE, "{complaint}");
    });
}

#[test]
fn another_boot_ends_all_of_it() {
    contained("keep::another_boot_ends_all_of_it", || {
        let mut broker = with("undelete_window = \"1h\"");
        let (_, path) = kept(&broker);
        let (gone, gone_path) = grant(&broker);
        says(&broker, &["lease", "revoke", &gone]);
        broker.kill();
        let scratch = broker.pool_root().join(".scratch");
        fs::write(scratch.join("boot"), "another\n1\n").expect("the pool is ours");
        broker.restart();
        assert!(!path.exists() && !gone_path.exists());
        assert_eq!((names_in(&scratch.join("gone")), names_in(&scratch.join("leases"))), (vec![], vec![]));
        eventually(DEADLINE, "it is freed", || names_in(&scratch.join("trash")).is_empty());
        assert_eq!(outcome(broker.scratch(&["lease", "undelete", &gone])).0, NOT_THERE);
    });
}

#[test]
fn only_its_tenant_keeps_and_brings_back() {
    let test = "keep::only_its_tenant_keeps_and_brings_back";
    contained(test, || {
        if !is_root() {
            return left_out(test, "a second tenant needs root");
        }
        let broker = with("undelete_window = \"1h\"");
        let (id, path) = grant(&broker);
        let refused = |arguments: &[&str]| {
            let (code, _, complaint) = outcome(broker.scratch_as(TENANT, arguments));
            assert!(code == NOT_THERE && complaint.contains("LEASE_UNKNOWN"), "{arguments:?}: {complaint}");
        };
        refused(&["lease", "keep", &id, "--for", "1h"]);
        says(&broker, &["lease", "revoke", &id]);
        refused(&["lease", "undelete", &id]);
        refused(&["lease", "undelete", "abcdefghijklm234"]);
        says(&broker, &["lease", "undelete", &id]);
        refused(&["lease", "keep", &id, "--for", "0s"]);
        refused(&["lease", "attach", &id, "--ttl", "1h"]);
        assert_eq!(content(&path), "content");

        let (code, own, complaint) = outcome(broker.scratch_as(TENANT, &["lease", "grant", "--ttl", "1h"]));
        assert_eq!(code, 0, "{complaint}");
        assert_eq!(outcome(broker.scratch_as(TENANT, &["lease", "revoke", &own])).0, 0);
        // An admin sees every tenant's.
        says(&broker, &["lease", "undelete", &own]);
        let owner =
            std::os::unix::fs::MetadataExt::uid(&fs::metadata(broker.pool_root().join(&own)).expect("it is back"));
        assert_eq!(owner, TENANT);
    });
}
