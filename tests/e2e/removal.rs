//! Removing hostile trees: all of it goes or is listed as debt, and nothing outside is touched.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use scratch_tests::{
    Broker, DEADLINE, Filesystem, Held, Options, Place, contained, eventually, exit_of, is_root, left_out, names_in,
    shell, snapshot, wait_gone,
};
use serde_json::Value;

use crate::trees::{canary, hostile};

/// For trees of 25 000 entries on a loop image on a busy machine.
const REAPED: Duration = Duration::from_secs(120);
const TENANT: u32 = 1234;

fn trash(broker: &Broker) -> PathBuf {
    broker.pool_root().join(".scratch/trash")
}

fn debts(broker: &Broker) -> Vec<Value> {
    broker.json(&["debt"]).as_array().expect("scratch debt prints an array").clone()
}

fn all_gone(broker: &Broker) {
    eventually(REAPED, "the trash is empty", || names_in(&trash(broker)).is_empty());
    assert_eq!(debts(broker), [Value::Null; 0]);
}

fn hostile_tree(test: &str, filesystem: Filesystem, tenant: Option<u32>) {
    if tenant.is_some() && !is_root() {
        return left_out(test, "a tenant other than the broker's own user needs root");
    }
    let Some(place) = Place::on(test, filesystem) else { return };
    let broker = Broker::start(Options { place: Some(place), ..Options::default() });
    let precious = broker.place().join("canary");
    canary(&precious);
    let held = Held::start_as(&broker, tenant);
    let path = held.path().to_path_buf();
    hostile(&path, &precious, tenant);
    let before = snapshot(&precious);
    assert!(held.end().success());
    wait_gone(&path, DEADLINE);
    all_gone(&broker);
    assert_eq!(snapshot(&precious), before, "the canary was touched");
}

#[test]
fn on_tmpfs() {
    contained("removal::on_tmpfs", || hostile_tree("removal::on_tmpfs", Filesystem::Tmpfs, None));
}

#[test]
fn on_ext4() {
    contained("removal::on_ext4", || hostile_tree("removal::on_ext4", Filesystem::Ext4, None));
}

#[test]
fn on_xfs() {
    contained("removal::on_xfs", || hostile_tree("removal::on_xfs", Filesystem::Xfs, None));
}

#[test]
fn on_btrfs() {
    contained("removal::on_btrfs", || hostile_tree("removal::on_btrfs", Filesystem::Btrfs, None));
}

#[test]
fn of_another_tenant() {
    let test = "removal::of_another_tenant";
    contained(test, || hostile_tree(test, Filesystem::Tmpfs, Some(TENANT)));
}

#[test]
fn of_another_tenant_on_ext4() {
    let test = "removal::of_another_tenant_on_ext4";
    contained(test, || hostile_tree(test, Filesystem::Ext4, Some(TENANT)));
}

/// Where a file system of that source is mounted now.
fn mount_point(source: &str) -> Option<PathBuf> {
    let mounts = std::fs::read_to_string("/proc/self/mounts").expect("/proc lists the mounts");
    let mut of_source = mounts.lines().filter(|line| line.split(' ').next() == Some(source));
    of_source.next().and_then(|line| line.split(' ').nth(1)).map(PathBuf::from)
}

fn mounted(command: &mut Command) {
    assert!(command.status().is_ok_and(|status| status.success()), "{command:?} failed");
}

#[test]
fn a_mount_inside() {
    contained("removal::a_mount_inside", || {
        if !is_root() {
            return left_out("removal::a_mount_inside", "mounting in the broker's name space needs root");
        }
        let broker = Broker::start(Options::default());
        let held = Held::start(&broker);
        let path = held.path().to_path_buf();
        let point = path.join("a/mount");
        std::fs::create_dir_all(&point).expect("an area is writable");
        std::fs::write(path.join("a/beside"), "").expect("an area is writable");
        mounted(Command::new("mount").args(["-n", "-t", "tmpfs", "canary-mount"]).arg(&point));
        canary(&point);
        let before = snapshot(&point).into_values().collect::<Vec<_>>();
        assert!(held.end().success());
        wait_gone(&path, DEADLINE);

        eventually(REAPED, "the mount is debt", || debts(&broker).iter().any(|debt| debt["blocker"] == "mount"));
        let point = mount_point("canary-mount").expect("the mount is not the broker's to take away");
        assert_eq!(snapshot(&point).into_values().collect::<Vec<_>>(), before, "the broker went into the mount");
        let left = snapshot(&trash(&broker));
        assert!(!left.keys().any(|path| path.ends_with("beside")), "what is beside the mount stayed: {left:?}");

        mounted(Command::new("umount").arg("-n").arg(&point));
        assert!(broker.scratch(&["reap"]).status().is_ok_and(|status| status.success()));
        all_gone(&broker);
    });
}

/// A shell that keeps making files in the directory it stands in, until it can't.
const WRITER: &str = "i=0; while : >\"$i\"; do i=$((i+1)); done";

fn a_writer_goes_on(tenant: Option<u32>) {
    let broker = Broker::start(Options::default());
    let held = Held::start_as(&broker, tenant);
    let path = held.path().to_path_buf();
    let inner = path.join("inner");
    assert!(shell(tenant, "mkdir inner").current_dir(&path).status().is_ok_and(|status| status.success()));
    let mut writer = shell(tenant, WRITER).current_dir(&inner).spawn().expect("a shell is there");
    eventually(DEADLINE, "the writer writes", || !names_in(&inner).is_empty());
    assert!(held.end().success());
    wait_gone(&path, DEADLINE);

    // Taken over or out-run, or else named as debt: one of them, and never a broker that goes round for ever.
    eventually(REAPED, "the tree is gone or debt", || {
        names_in(&trash(&broker)).is_empty() || !debts(&broker).is_empty()
    });
    if tenant.is_some() {
        // The broker takes a tenant's directory over before it lists it, so the writer's next file fails.
        exit_of(&mut writer, DEADLINE).expect("the writer was not shut out");
    } else {
        writer.kill().and_then(|()| writer.wait()).expect("our own child can be killed");
        assert!(broker.scratch(&["reap"]).status().is_ok_and(|status| status.success()));
    }
    all_gone(&broker);
}

#[test]
fn a_writer_with_a_held_descriptor() {
    contained("removal::a_writer_with_a_held_descriptor", || a_writer_goes_on(None));
}

#[test]
fn a_tenants_writer_with_a_held_descriptor() {
    contained("removal::a_tenants_writer_with_a_held_descriptor", || {
        if !is_root() {
            return left_out("removal::a_tenants_writer_with_a_held_descriptor", "another tenant needs root");
        }
        a_writer_goes_on(Some(TENANT));
    });
}

#[test]
fn a_name_that_is_no_lease_stays() {
    contained("removal::a_name_that_is_no_lease_stays", || {
        let mut broker = Broker::start(Options { grace: Some("0s"), ..Options::default() });
        let strangers = ["notes", "ABCDEFGHIJKLMNOP", "abc", ".hidden"].map(|name| broker.pool_root().join(name));
        strangers.iter().for_each(|path| canary(path));
        let look = |path: &PathBuf| snapshot(Path::new(path));
        let before: Vec<_> = strangers.iter().map(look).collect();
        broker.kill();
        broker.restart();
        assert!(Held::start(&broker).end().success());
        all_gone(&broker);
        assert_eq!(strangers.iter().map(look).collect::<Vec<_>>(), before);
    });
}
