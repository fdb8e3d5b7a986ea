//! Debt: every blocker with what is known of it, kept over restarts, tried again for ever, and let go on an admin's word.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use scratch_tests::{Broker, DEADLINE, Held, Options, contained, eventually, is_root, left_out, shell, snapshot};
use serde_json::Value;

use crate::trees::canary;

const TENANT: u32 = 1234;
const OTHER: u32 = 4321;

fn debts(broker: &Broker) -> Vec<Value> {
    broker.json(&["debt"]).as_array().expect("scratch debt prints an array").clone()
}

fn owed(broker: &Broker, blocker: &str) -> Value {
    let mut found = None;
    eventually(DEADLINE, "it is debt", || {
        found = debts(broker).into_iter().find(|debt| debt["blocker"] == blocker);
        found.is_some()
    });
    found.expect("it was found")
}

fn succeeds(command: &mut Command) {
    assert!(command.status().is_ok_and(|status| status.success()), "{command:?}");
}

fn path_of(debt: &Value) -> PathBuf {
    debt["path"].as_str().expect("a path").into()
}

/// Waits until what is owed now is written down.
fn written_since(broker: &Broker, act: impl FnOnce()) {
    let book = broker.pool_root().join(".scratch/debts");
    let written = || book.metadata().map(|about| about.ino()).ok();
    let before = written();
    act();
    eventually(DEADLINE, "the book is written", || written() != before);
}

#[test]
fn a_mount_is_named_and_outlives_a_restart() {
    let test = "debt::a_mount_is_named_and_outlives_a_restart";
    contained(test, || {
        if !is_root() {
            return left_out(test, "mounting in the broker's name space needs root");
        }
        let mut broker = Broker::start(Options::default());
        let held = Held::start(&broker);
        let point = held.path().join("mount");
        fs::create_dir(&point).expect("an area is writable");
        succeeds(Command::new("mount").args(["-n", "-t", "tmpfs", "the-source"]).arg(&point));
        let mut stays =
            shell(None, "read -r end").current_dir(&point).stdin(Stdio::piped()).spawn().expect("a shell is there");
        let lease = held.lease().to_owned();
        assert!(held.end().success());
        let debt = owed(&broker, "mount");
        assert_eq!(
            (&debt["lease"], &debt["errno"], &debt["tenant"]["uid"]),
            (&lease.into(), &"EXDEV".into(), &0.into())
        );
        assert!(debt["detail"].as_str().is_some_and(|detail| detail.starts_with("the-source (tmpfs)")), "{debt}");
        assert_eq!(debt["pids"], Value::from(vec![stays.id()]));
        assert!(!debt["next_try"].is_null() && debt["bytes"].is_u64(), "{debt}");
        assert_eq!(broker.json(&["status"])["debt"], 1);

        written_since(&broker, || {
            let reaped = broker.json(&["reap"]);
            assert_eq!((&reaped["tried"], reaped["left"].as_array().map(Vec::len)), (&1.into(), Some(1)));
        });
        let before = owed(&broker, "mount");
        assert!(before["tries"].as_u64() >= Some(2), "{before}");
        broker.kill();
        broker.restart();
        let after = owed(&broker, "mount");
        assert!(after["tries"].as_u64() >= before["tries"].as_u64(), "{after}");
        for key in ["path", "errno", "lease", "tenant"] {
            assert_eq!(after[key], before[key], "{key}");
        }
        drop(stays.stdin.take());
        stays.wait().expect("our own child");
        succeeds(Command::new("umount").arg("-n").arg(path_of(&after)));
        eventually(DEADLINE, "it is tried again by itself", || debts(&broker).is_empty());
    });
}

#[test]
fn an_immutable_file_with_two_names_is_named() {
    let test = "debt::an_immutable_file_with_two_names_is_named";
    contained(test, || {
        if !is_root() {
            return left_out(test, "an immutable flag needs root");
        }
        let broker = Broker::start(Options::default());
        let held = Held::start(&broker);
        let (inside, outside) = (held.path().join("file"), broker.place().join("file"));
        fs::write(&outside, "precious").expect("a place is writable");
        fs::hard_link(&outside, &inside).expect("one file system");
        let chattr = |flag: &str| Command::new("chattr").arg(flag).arg(&outside).stderr(Stdio::null()).status();
        if !chattr("+i").is_ok_and(|status| status.success()) {
            return left_out(test, "chattr(1) sets no flags here");
        }
        assert!(held.end().success());
        let debt = owed(&broker, "immutable");
        assert_eq!((&debt["errno"], path_of(&debt).file_name()), (&"EPERM".into(), inside.file_name()));
        assert!(chattr("-i").is_ok_and(|status| status.success()));
        eventually(DEADLINE, "it is tried again by itself", || debts(&broker).is_empty());
        assert_eq!(fs::read_to_string(&outside).expect("the other name stays"), "precious");
    });
}

/// What another user has, moved into a tenant's own tree.
fn foreign(into: &Path, precious: &Path) {
    let theirs = into.join("theirs");
    fs::create_dir(&theirs).expect("root may");
    fs::create_dir(theirs.join("deeper")).expect("root may");
    fs::write(theirs.join("deeper/file"), "theirs").expect("root may");
    symlink(precious, theirs.join("link")).expect("root may");
    for path in [theirs.join("deeper"), theirs] {
        chown(&path, Some(OTHER), Some(OTHER)).expect("root may");
        fs::set_permissions(&path, PermissionsExt::from_mode(0o700)).expect("root may");
    }
}

#[test]
fn what_another_owner_has_goes_on_an_admins_word_alone() {
    let test = "debt::what_another_owner_has_goes_on_an_admins_word_alone";
    contained(test, || {
        if !is_root() {
            return left_out(test, "several users need root");
        }
        let mut broker = Broker::start(Options::default());
        let precious = broker.place().join("canary");
        canary(&precious);
        let held = Held::start_as(&broker, Some(TENANT));
        foreign(held.path(), &precious);
        assert!(held.end().success());
        let debt = owed(&broker, "foreign owner");
        assert_eq!((&debt["tenant"]["uid"], path_of(&debt).file_name()), (&TENANT.into(), Some("theirs".as_ref())));
        assert!(debt["bytes"].is_u64());

        // Said first, done later, and neither by a tenant nor by a plain reap.
        let place = broker.pool_root().join(".scratch/trash");
        let before = snapshot(&place);
        for arguments in [&["reap", "--dry-run"][..], &["reap", "--dry-run", "--foreign"]] {
            let would = broker.json(arguments);
            assert_eq!((&would["would_try"], &would["would_go"][0]["path"]), (&1.into(), &debt["path"]), "{would}");
        }
        for arguments in [&["reap"][..], &["reap", "--foreign"], &["reap", "--foreign", "--dry-run"]] {
            let code =
                broker.scratch_as(TENANT, arguments).stderr(Stdio::null()).status().expect("it can be run").code();
            assert_eq!(code, Some(77), "{arguments:?}");
        }
        assert_eq!(broker.json(&["reap"])["left"][0]["blocker"], "foreign owner");
        broker.kill();
        broker.restart();
        assert_eq!(owed(&broker, "foreign owner")["path"], debt["path"]);
        assert_eq!(snapshot(&place), before, "only saying it changed something");

        let canary_before = snapshot(&precious);
        let reaped = broker.json(&["reap", "--foreign"]);
        assert_eq!((&reaped["tried"], &reaped["left"]), (&1.into(), &Value::Array(Vec::new())));
        assert_eq!(snapshot(&precious), canary_before, "a link was followed");
        assert_eq!((debts(&broker), snapshot(&place).len()), (Vec::new(), 1));
    });
}
