//! `scratch doctor`: with a broker, without one, and with one that may not be trusted.

use std::fs;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::process::{Command, Stdio};

use rustix::process::{Signal, kill_process};
use scratch_tests::{Broker, Options, Place, contained, is_root, left_out, scratch};
use serde_json::Value;

const TENANT: u32 = 1234;
const BROKER_FAILS: i32 = 69;
const FOREIGN: i32 = 77;

/// Its exit code, and what it has found.
fn doctor(mut command: Command) -> (i32, Vec<Value>) {
    command.args(["doctor", "--output", "json"]).stdin(Stdio::null());
    let output = command.output().expect("the command line's program can be run");
    let found: Value = serde_json::from_slice(&output.stdout).expect("--output json prints JSON");
    (output.status.code().expect("it is not killed"), found.as_array().expect("an array").clone())
}

fn result<'a>(found: &'a [Value], check: &str) -> &'a str {
    let one = found.iter().find(|finding| finding["check"] == check);
    one.and_then(|finding| finding["result"].as_str()).unwrap_or("none")
}

#[test]
fn a_broker_in_good_health() {
    contained("doctor::a_broker_in_good_health", || {
        let broker = Broker::start(Options::default());
        let (code, found) = doctor(broker.scratch(&[]));
        assert_eq!(code, 0, "{found:?}");
        for check in ["broker", "health", "version", "boot id", "pool's lock", "room"] {
            assert_eq!(result(&found, check), "ok", "{check}: {found:?}");
        }
        for finding in &found {
            let [check, text] = ["check", "finding"].map(|key| finding[key].as_str().unwrap_or_default());
            assert!(!check.is_empty() && !text.is_empty(), "{finding}");
            assert!(["ok", "note", "warn"].iter().any(|result| finding["result"] == *result), "{finding}");
        }
        let text = broker.scratch(&["doctor"]).output().expect("the program can be run");
        assert!(text.status.success() && text.stderr.is_empty());
        let text = String::from_utf8_lossy(&text.stdout).into_owned();
        assert!(text.starts_with("CHECK ") && !text.contains('\x1b'), "{text}");
    });
}

#[test]
fn without_a_broker() {
    contained("doctor::without_a_broker", || {
        let place = Place::new();
        let runtime = place.path().join("runtime");
        fs::DirBuilder::new().mode(0o700).create(&runtime).expect("a place is writable");
        let mut command = Command::new(scratch());
        command.env("XDG_RUNTIME_DIR", &runtime).env_remove("SCRATCHD_RUNTIME_DIR").env_remove("TMPDIR");
        let (code, found) = doctor(command);
        assert_eq!((code, result(&found, "broker")), (0, "note"), "{found:?}");
        assert!(!runtime.join("scratchd").exists(), "it made something");
    });
}

#[test]
fn a_broker_that_does_not_answer() {
    contained("doctor::a_broker_that_does_not_answer", || {
        let broker = Broker::start(Options::default());
        kill_process(broker.pid(), Signal::STOP).expect("our own child can be stopped");
        let (code, found) = doctor(broker.scratch(&[]));
        assert_eq!((code, result(&found, "health")), (BROKER_FAILS, "fail"), "{found:?}");
    });
}

#[test]
fn where_others_have_a_say() {
    contained("doctor::where_others_have_a_say", || {
        const TEST: &str = "doctor::where_others_have_a_say";
        let broker = Broker::start(Options::default());
        let open = PermissionsExt::from_mode(0o777);
        fs::set_permissions(broker.runtime_dir(), open).expect("the harness made it");
        let (code, found) = doctor(broker.scratch(&[]));
        assert_eq!((code, result(&found, "runtime directory")), (FOREIGN, "fail"), "{found:?}");
        if !is_root() {
            return left_out(TEST, "another user's broker needs root");
        }
        let broker = Broker::start(Options { user: Some(TENANT), ..Options::default() });
        let (code, found) = doctor(broker.scratch(&[]));
        assert_eq!((code, result(&found, "broker")), (FOREIGN, "fail"), "{found:?}");
        assert_eq!(result(&found, "health"), "none", "it was talked with");
    });
}
