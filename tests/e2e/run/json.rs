//! What `--output json` prints has the contract's keys, all of them and no others.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use scratch_client::{GrantOptions, Holder};
use scratch_tests::{Broker, DEADLINE, Held, Options, Place, contained, eventually, is_root, left_out, scratch};
use serde_json::{Value, json};

use super::{client, lease};

const UNAVAILABLE: i32 = 69;

#[track_caller]
fn has_keys(value: &Value, keys: &[&str]) {
    let found: BTreeSet<_> = value.as_object().expect("it is an object").keys().map(String::as_str).collect();
    assert_eq!(found, keys.iter().copied().collect(), "{value}");
}

#[track_caller]
fn is_lease(value: &Value) {
    let keys = ["id", "tenant", "pool", "path", "state", "holders", "granted_ttl", "expire_time", "labels", "areas"];
    has_keys(value, &keys);
    has_keys(&value["tenant"], &["uid", "name"]);
    assert!(value["labels"].is_object() && value["areas"].is_u64(), "{value}");
    for holder in value["holders"].as_array().expect("holders is an array") {
        match holder["kind"].as_str().expect("a kind is a word") {
            "process" => has_keys(holder, &["id", "kind", "pid"]),
            "ttl" => has_keys(holder, &["id", "kind", "expire_time"]),
            _ => has_keys(holder, &["id", "kind"]),
        }
    }
}

/// As in 2026-01-31T12:00:00Z.
#[track_caller]
fn is_time(value: &Value) {
    let shape = |c: char| if c.is_ascii_digit() { '0' } else { c };
    let shape: String = value.as_str().expect("a time is a text").chars().map(shape).collect();
    assert_eq!(shape, "0000-00-00T00:00:00Z");
}

#[test]
fn of_leases() {
    contained("run::json::of_leases", || {
        let broker = Broker::start(Options::default());
        assert_eq!(broker.json(&["ls"]), json!([]));

        let held = Held::start(&broker);
        let shown = lease(&broker, held.lease()).expect("a live lease is listed");
        is_lease(&shown);
        assert_eq!((&shown["state"], shown["path"].as_str()), (&json!("live"), held.path().to_str()));
        assert_eq!((&shown["granted_ttl"], &shown["expire_time"]), (&Value::Null, &Value::Null));
        assert_eq!((&shown["labels"], &shown["areas"]), (&json!({}), &json!(0)));

        let client = client(&broker);
        let holders = vec![Holder::Ttl(Duration::from_secs(30)), Holder::Connection, Holder::Process];
        let timed = client.grant(&GrantOptions { holders, ..GrantOptions::default() }).expect("a lease is granted");
        let shown = lease(&broker, timed.id()).expect("a live lease is listed");
        is_lease(&shown);
        assert_eq!(shown["granted_ttl"], "30s");
        is_time(&shown["expire_time"]);
        let kinds = |holder: &Value| holder["kind"].as_str().map(str::to_owned);
        let kinds: BTreeSet<_> =
            shown["holders"].as_array().expect("is_lease looked").iter().filter_map(kinds).collect();
        assert_eq!(kinds, ["connection", "process", "ttl"].map(str::to_owned).into());
    });
}

#[test]
fn of_debt() {
    contained("run::json::of_debt", || {
        if !is_root() {
            return left_out("run::json::of_debt", "making debt needs a mount, and that root");
        }
        let broker = Broker::start(Options::default());
        assert_eq!(broker.json(&["debt"]), json!([]));
        let held = Held::start(&broker);
        let id = held.lease().to_owned();
        let point: PathBuf = held.path().join("mount");
        std::fs::create_dir(&point).expect("an area is writable");
        let mut mount = Command::new("mount");
        mount.args(["-n", "-t", "tmpfs", "debt"]).arg(&point);
        assert!(mount.status().is_ok_and(|status| status.success()));
        assert!(held.end().success());
        eventually(DEADLINE, "the mount is debt", || broker.json(&["debt"]) != json!([]));
        for debt in broker.json(&["debt"]).as_array().expect("scratch debt prints an array") {
            has_keys(debt, &["path", "lease", "tenant", "errno", "blocker", "tries", "next_try", "bytes"]);
            has_keys(&debt["tenant"], &["uid", "name"]);
            assert_eq!((&debt["lease"], &debt["blocker"]), (&json!(id), &json!("mount")), "{debt}");
            is_time(&debt["next_try"]);
        }
    });
}

#[test]
fn of_status() {
    contained("run::json::of_status", || {
        let broker = Broker::start(Options::default());
        assert!(broker.json(&["status"]).is_object());
        let place = Place::new();
        let mut status = Command::new(scratch());
        status.args(["status", "--output", "json"]).env("SCRATCHD_RUNTIME_DIR", place.path());
        let status = status.stdout(Stdio::null()).stderr(Stdio::null()).status().expect("the program can be run");
        assert_eq!(status.code(), Some(UNAVAILABLE));
    });
}
