//! Trees that a tenant builds against the broker, and the broker's way through them: what is outside stays as it was, the
//! broker lives, and the tree is gone or owed for the right reason.

mod canaries;
mod full;
mod races;
mod trees;

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use scratch_tests::{
    Broker, DEADLINE, Filesystem, Held, Options, Place, contained, eventually, is_root, left_out, long_or_short,
    names_in, snapshot, wait_gone,
};
use serde_json::Value;

use canaries::Canaries;
use trees::{By, IN_THE_WAY, Site, TREES, Tree, leave_theirs};

pub(crate) const TENANT: u32 = 1234;
/// Neither the tenant nor the broker.
pub(crate) const OTHER: u32 = 4321;

/// For very many names on a loop image on a busy machine.
fn reaped() -> Duration {
    long_or_short(Duration::from_secs(1200), Duration::from_secs(120))
}

/// Does something with the tenant's rights, which without root's are the test's own.
fn as_tenant<T: Send>(act: impl FnOnce() -> T + Send) -> T {
    let with_its_rights = || {
        // A thread's own, which ends with it.
        let _identity = is_root().then(|| scratch_sys::assume(TENANT, TENANT, &[]).expect("root may"));
        act()
    };
    std::thread::scope(|scope| scope.spawn(with_its_rights).join().expect("it was said what is wrong"))
}

fn trash(broker: &Broker) -> PathBuf {
    broker.pool_root().join(".scratch/trash")
}

fn debts(broker: &Broker) -> Vec<Value> {
    broker.json(&["debt"]).as_array().expect("scratch debt prints an array").clone()
}

#[track_caller]
fn all_gone(broker: &Broker) {
    eventually(reaped(), "the trash is empty", || names_in(&trash(broker)).is_empty());
    assert_eq!(debts(broker), [Value::Null; 0]);
}

#[track_caller]
fn succeeds(command: &mut Command) {
    let output = command.output().expect("the program is there");
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}

/// What is in a tree, wherever it is now.
fn seen(root: &Path) -> Vec<String> {
    snapshot(root).into_values().collect()
}

/// It is owed for this reason, all else has gone, and it is as it was. It goes when the reason does.
fn is_owed(broker: &Broker, lease: &str, blocker: &str, before: &[String]) {
    let mut found = None;
    eventually(reaped(), "it is debt", || {
        found = debts(broker).into_iter().find(|debt| debt["lease"] == lease);
        found.is_some()
    });
    let found = found.expect("it was found");
    assert_eq!((&found["blocker"], &found["tenant"]["uid"]), (&blocker.into(), &TENANT.into()), "{found}");
    let [entry] = names_in(&trash(broker)).try_into().expect("one tree is left");
    let entry = trash(broker).join(entry);
    assert_eq!(names_in(&entry), [IN_THE_WAY]);
    let left = entry.join(IN_THE_WAY);
    assert_eq!(seen(&left), before);
    let mut reap = vec!["reap"];
    match blocker {
        "mount" => succeeds(Command::new("umount").arg("-n").arg(&left)),
        _ => reap.push("--foreign"),
    }
    succeeds(&mut broker.scratch(&reap));
}

/// Builds one tree, ends its lease, and sees it go. False where it can't be built here.
fn comes_and_goes(broker: &Broker, canaries: &Canaries, filesystem: Filesystem, tree: &Tree) -> bool {
    let tenant = is_root().then_some(TENANT);
    let held = Held::start_as(broker, tenant);
    let (path, lease) = (held.path().to_path_buf(), held.lease().to_owned());
    let site = Site { tree: &path, canaries, shared: &broker.place().join("shared"), filesystem };
    let built = if tree.by == By::Tenant { as_tenant(|| (tree.build)(&site)) } else { (tree.build)(&site) };
    let blocker = tree.blocker.filter(|_| built);
    let before = blocker.map(|_| seen(&path.join(IN_THE_WAY))).unwrap_or_default();
    assert!(held.end().success());
    wait_gone(&path, DEADLINE);
    if let Some(blocker) = blocker {
        is_owed(broker, &lease, blocker, &before);
    }
    all_gone(broker);
    canaries.are_untouched();
    built
}

fn on(test: &str, filesystem: Filesystem) {
    contained(test, || {
        let Some(place) = Place::on(test, filesystem) else { return };
        let broker = Broker::start(Options { place: Some(place), ..Options::default() });
        let canaries = Canaries::new(broker.place());
        let shared = broker.place().join("shared");
        fs::create_dir(&shared).expect("a place is writable");
        fs::set_permissions(&shared, Permissions::from_mode(0o777)).expect("it was just made");
        if is_root() {
            leave_theirs(&shared);
        } else {
            left_out(test, "trees that take a second user, mounts or flags need root");
        }
        for tree in TREES.iter().filter(|tree| is_root() || (tree.by == By::Tenant && tree.blocker.is_none())) {
            let began = std::time::Instant::now();
            let built = comes_and_goes(&broker, &canaries, filesystem, tree);
            println!("{}: {} in {:?}", tree.name, if built { "built and reaped" } else { "not here" }, began.elapsed());
        }
    });
}

#[test]
fn on_tmpfs() {
    on("hostile::on_tmpfs", Filesystem::Tmpfs);
}

#[test]
fn on_ext4() {
    on("hostile::on_ext4", Filesystem::Ext4);
}

#[test]
fn on_xfs() {
    on("hostile::on_xfs", Filesystem::Xfs);
}

#[test]
fn on_btrfs() {
    on("hostile::on_btrfs", Filesystem::Btrfs);
}
