//! What others do to a pool while its broker runs, or while none does: noticed and told, and nothing that is not the
//! broker's is ever removed.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use scratch_proto::v1::areas_client::AreasClient;
use scratch_proto::v1::{CreateRequest, Kind, ReleaseRequest};
use scratch_tests::{Broker, DEADLINE, Held, Options, contained, eventually, names_in, snapshot, with_grpc};
use serde_json::Value;
use tonic_types::StatusExt;

use crate::trees::canary;

/// The state of a lease in `ls`.
fn state(broker: &Broker, lease: &str) -> Option<String> {
    let leases = broker.json(&["ls"]);
    let of_lease = leases.as_array().expect("an array").iter().find(|shown| shown["id"] == lease)?;
    of_lease["state"].as_str().map(str::to_owned)
}

/// What `verify` finds: kind and path.
pub(crate) fn findings(broker: &Broker) -> Vec<(String, PathBuf)> {
    let output = broker.scratch(&["verify", "--output", "json"]).output().expect("the program can be run");
    let found: Value = serde_json::from_slice(&output.stdout).expect("verify prints JSON");
    let found: Vec<_> = found.as_array().expect("an array").iter().map(finding).collect();
    let faults = found.iter().filter(|(kind, _)| kind != "area").count();
    assert_eq!(output.status.code(), Some(i32::from(faults > 0)), "{found:?}");
    found
}

fn finding(finding: &Value) -> (String, PathBuf) {
    let text = |key: &str| finding[key].as_str().expect("text").to_owned();
    (text("kind"), text("path").into())
}

fn ends(held: Held, broker: &Broker) {
    let lease = held.lease().to_owned();
    assert!(held.end().success());
    eventually(DEADLINE, "the lease has ended", || state(broker, &lease).is_none());
}

fn debts(broker: &Broker) -> Vec<(String, PathBuf)> {
    let debts = broker.json(&["debt"]);
    let debt =
        |debt: &Value| (debt["blocker"].as_str().unwrap_or("").to_owned(), debt["path"].as_str().unwrap_or("").into());
    debts.as_array().expect("an array").iter().map(debt).collect()
}

/// Does something to a live lease's directory: the lease is lost, others are not, and what has its name then stays.
fn is_lost_after(act: impl Fn(&Path, &Path)) {
    let mut broker = Broker::start(Options::default());
    let (held, mut other) = (Held::start(&broker), Held::start(&broker));
    let (lease, path) = (held.lease().to_owned(), held.path().to_path_buf());
    let precious = broker.place().join("canary");
    canary(&precious);
    act(&path, &precious);
    let foreign = |broker: &Broker| {
        let mut all = snapshot(broker.place());
        all.retain(|name, _| name.starts_with(&precious) || name.starts_with(&path));
        all
    };
    let before = foreign(&broker);
    eventually(DEADLINE, "the lease is lost", || state(&broker, &lease).as_deref() == Some("lost"));
    assert_eq!(state(&broker, other.lease()).as_deref(), Some("live"));
    assert_eq!(broker.json(&["status"])["lost"], 1);
    assert!(
        broker.json(&["lease", "show", &lease])["reason"]["text"].as_str().is_some_and(|text| text.contains("lost"))
    );
    assert!(findings(&broker).contains(&("lost".to_owned(), path.clone())));
    ends(held, &broker);
    assert_eq!(foreign(&broker), before, "what is not the broker's was touched");
    let is_replaced = path.symlink_metadata().is_ok();
    let expected =
        if is_replaced { vec![("not the directory of its record".to_owned(), path.clone())] } else { Vec::new() };
    assert_eq!(debts(&broker), expected);
    other.write_line("unaffected");

    // Nor does a later start take it away.
    broker.kill();
    broker.restart_with_grace("0s");
    assert_eq!(foreign(&broker), before, "what is not the broker's was touched by the next start");
    assert_eq!(debts(&broker), expected);
    if is_replaced {
        assert!(findings(&broker).contains(&("other directory".to_owned(), path.clone())));
        take_away(&path);
        assert!(broker.scratch(&["reap"]).status().is_ok_and(|status| status.success()));
    }
    assert_eq!(debts(&broker), []);
    assert_eq!(findings(&broker), []);
}

/// As an administrator would.
fn take_away(path: &Path) {
    let status = Command::new("rm").args(["-r", "--"]).arg(path).status();
    assert!(status.is_ok_and(|status| status.success()), "rm -r {}", path.display());
}

#[test]
fn a_lease_that_is_removed() {
    contained("tamper::a_lease_that_is_removed", || {
        is_lost_after(|path, _| take_away(path));
    });
}

#[test]
fn a_lease_that_is_renamed() {
    contained("tamper::a_lease_that_is_renamed", || {
        is_lost_after(|path, precious| fs::rename(path, precious.join("taken")).expect("renamed"));
    });
}

#[test]
fn a_lease_that_is_replaced() {
    contained("tamper::a_lease_that_is_replaced", || {
        is_lost_after(|path, precious| {
            fs::rename(path, precious.join("taken")).expect("renamed");
            canary(path);
        });
    });
}

#[test]
fn a_lease_that_is_replaced_by_a_link() {
    contained("tamper::a_lease_that_is_replaced_by_a_link", || {
        is_lost_after(|path, precious| {
            fs::rename(path, precious.join("taken")).expect("renamed");
            symlink(precious, path).expect("linked");
        });
    });
}

#[test]
fn two_leases_that_are_swapped() {
    contained("tamper::two_leases_that_are_swapped", || {
        let broker = Broker::start(Options::default());
        let (one, two) = (Held::start(&broker), Held::start(&broker));
        canary(&one.path().join("one"));
        canary(&two.path().join("two"));
        let aside = broker.place().join("aside");
        let paths = [one.path().to_path_buf(), two.path().to_path_buf()];
        for (from, to) in [(&paths[0], &aside), (&paths[1], &paths[0]), (&aside, &paths[1])] {
            fs::rename(from, to).expect("renamed");
        }
        for held in [&one, &two] {
            eventually(DEADLINE, "it is lost", || state(&broker, held.lease()).as_deref() == Some("lost"));
        }
        let before = paths.clone().map(|path| snapshot(&path));
        ends(one, &broker);
        ends(two, &broker);
        assert_eq!(paths.clone().map(|path| snapshot(&path)), before);
        assert_eq!(debts(&broker).len(), 2);
    });
}

#[test]
fn a_lease_that_is_put_back_is_found_again() {
    contained("tamper::a_lease_that_is_put_back_is_found_again", || {
        let broker = Broker::start(Options::default());
        let mut held = Held::start(&broker);
        let (path, aside) = (held.path().to_path_buf(), broker.place().join("aside"));
        fs::rename(&path, &aside).expect("renamed");
        eventually(DEADLINE, "it is lost", || state(&broker, held.lease()).as_deref() == Some("lost"));
        fs::rename(&aside, &path).expect("renamed");
        assert_eq!(findings(&broker), []);
        assert_eq!(state(&broker, held.lease()).as_deref(), Some("live"));
        held.write_line("back");
        ends(held, &broker);
        assert!(!path.exists());
    });
}

/// Takes a directory of the pool's own away and puts it back: nothing is granted meanwhile, and all goes on after.
fn is_noticed(name: &str) {
    let broker = Broker::start(Options::default());
    let held = Held::start(&broker);
    let own = broker.pool_root().join(name);
    let aside = broker.place().join("aside");
    fs::rename(&own, &aside).expect("renamed");
    canary(&own);
    let before = snapshot(&own);
    let run = || broker.scratch(&["run", "--", "true"]).output().expect("the program can be run");
    eventually(DEADLINE, "nothing is granted", || {
        let said = run();
        !said.status.success() && String::from_utf8_lossy(&said.stderr).contains("POOL_LOST")
    });
    assert!(!broker.json(&["status"])["pools"][0]["problem"].is_null());
    assert!(findings(&broker).iter().any(|(kind, path)| kind == "pool" && path.starts_with(&own)));
    assert_eq!(state(&broker, held.lease()).as_deref(), Some("live"));
    ends(held, &broker);
    assert_eq!(snapshot(&own), before, "what has the path now is not the broker's");
    take_away(&own);
    fs::rename(&aside, &own).expect("renamed");
    assert!(broker.json(&["status"])["pools"][0]["problem"].is_null());
    assert!(run().status.success());
    eventually(DEADLINE, "all is freed", || names_in(&broker.pool_root().join(".scratch/trash")).is_empty());
    assert_eq!(findings(&broker), []);
}

#[test]
fn a_root_that_is_replaced() {
    contained("tamper::a_root_that_is_replaced", || is_noticed(""));
}

#[test]
fn the_brokers_own_directory_that_is_replaced() {
    contained("tamper::the_brokers_own_directory_that_is_replaced", || is_noticed(".scratch"));
}

#[test]
fn records_that_are_replaced() {
    contained("tamper::records_that_are_replaced", || is_noticed(".scratch/leases"));
}

/// Trash that is gone takes nothing, so that an ended lease stays where it is, as debt.
#[test]
fn trash_that_is_removed_loses_no_lease() {
    contained("tamper::trash_that_is_removed_loses_no_lease", || {
        let mut broker = Broker::start(Options::default());
        let held = Held::start(&broker);
        let (lease, path) = (held.lease().to_owned(), held.path().to_path_buf());
        fs::remove_dir(broker.pool_root().join(".scratch/trash")).expect("it is empty");
        assert!(held.end().success());
        eventually(DEADLINE, "it is owed", || debts(&broker).iter().any(|(_, owed)| *owed == path));
        assert_eq!(state(&broker, &lease).as_deref(), Some("ending"));
        broker.kill();
        broker.restart();
        eventually(DEADLINE, "it is gone", || !path.exists() && debts(&broker).is_empty());
    });
}

#[test]
fn a_record_that_is_removed() {
    contained("tamper::a_record_that_is_removed", || {
        let mut broker = Broker::start(Options::default());
        let mut held = Held::start(&broker);
        let record = broker.pool_root().join(".scratch/leases").join(held.lease());
        fs::remove_file(&record).expect("it is there");
        assert_eq!(findings(&broker), [("record missing".to_owned(), record)]);
        held.write_line("goes on");
        broker.kill();
        broker.restart();
        assert_eq!(debts(&broker), [("no record".to_owned(), held.path().to_path_buf())]);
        held.write_line("goes on");
    });
}

#[test]
fn a_name_that_is_used_again_while_no_broker_runs() {
    contained("tamper::a_name_that_is_used_again_while_no_broker_runs", || {
        let mut broker = Broker::start(Options::default());
        let held = Held::start(&broker);
        let path = held.path().to_path_buf();
        broker.kill();
        fs::rename(&path, broker.place().join("taken")).expect("renamed");
        canary(&path);
        let before = snapshot(&path);
        for grace in ["30s", "0s"] {
            broker.restart_with_grace(grace);
            assert_eq!(debts(&broker), [("not the directory of its record".to_owned(), path.clone())], "{grace}");
            assert_eq!(snapshot(&path), before, "{grace}");
            broker.kill();
        }
    });
}

#[test]
fn a_lost_lease_takes_nothing_new() {
    contained("tamper::a_lost_lease_takes_nothing_new", || {
        let broker = Broker::start(Options::default());
        let held = Held::start(&broker);
        fs::rename(held.path(), broker.place().join("taken")).expect("renamed");
        let lease = held.lease().to_owned();
        let create = CreateRequest { lease: lease.clone(), kind: Kind::File.into(), ..CreateRequest::default() };
        let release = ReleaseRequest { lease, area: b"log".to_vec(), ..ReleaseRequest::default() };
        let said = with_grpc(&broker, async |grpc| {
            let mut areas = AreasClient::new(grpc);
            let created = areas.create(create).await.expect_err("there is no directory");
            [created, areas.release(release).await.expect_err("there is no directory")]
        });
        for status in said {
            let reason = status.get_details_error_info().map(|info| info.reason);
            assert_eq!(reason.as_deref(), Some("LEASE_LOST"), "{status:?}");
        }
        ends(held, &broker);
    });
}
