//! What a tenant or an admin may not do with files of others: the broker may do more than they, and does it not for them.

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::Command;

use scratch_tests::{
    Broker, Held, Options, contained, descriptors_file, is_root, left_out, names_in, python, snapshot, source_tree,
};

use crate::regressions::{nothing_is_left, some_group};

const TENANT: u32 = 1234;
const OTHER: u32 = 4321;

/// A case of rights.py by that user, with these groups, that must hold.
fn holds(python: &Path, broker: &Broker, user: Option<u32>, groups: &str, case: &[&str]) {
    let user = user.map_or_else(|| "root".to_owned(), |user| user.to_string());
    let mut command = Command::new(python);
    command.arg(source_tree().join("tests/python/rights.py")).args([case[0], &user, groups]).args(&case[1..]);
    command.env("SCRATCHD_RUNTIME_DIR", broker.runtime_dir());
    command.env("SCRATCH_DESCRIPTORS", descriptors_file(broker.place()));
    let status = command.status().expect("python was there a moment ago");
    assert!(status.success(), "{case:?}: {status}");
}

/// Python, where a test may be several users.
fn python_of_root(test: &str) -> Option<PathBuf> {
    if !is_root() {
        left_out(test, "needs root");
        return None;
    }
    python(test)
}

fn directory(path: PathBuf, owner: u32, mode: u32) -> PathBuf {
    fs::create_dir(&path).expect("a place is writable");
    chown(&path, Some(owner), Some(owner)).expect("giving away needs root");
    fs::set_permissions(&path, PermissionsExt::from_mode(mode)).expect("root may");
    path
}

fn file(path: &Path, owner: u32, mode: u32) {
    fs::write(path, "precious").expect("a place is writable");
    chown(path, Some(owner), Some(owner)).expect("giving away needs root");
    fs::set_permissions(path, PermissionsExt::from_mode(mode)).expect("root may");
}

fn text(path: &Path) -> &str {
    path.to_str().expect("a test's paths are text")
}

#[test]
fn an_admin_persists_nothing_out_of_anothers_lease() {
    let test = "rights::an_admin_persists_nothing_out_of_anothers_lease";
    contained(test, || {
        let Some(python) = python_of_root(test) else { return };
        let Some((group, number)) = some_group() else { return left_out(test, "needs a group besides root's") };
        let pool = "[[pool]]\nname = \"default\"\nroot = \"@PLACE@/pool\"\n";
        let config = Some(format!("{pool}\n[admin]\ngroup = \"{group}\"\n"));
        let broker = Broker::start(Options { config, ..Options::default() });
        for (owner, mode) in [(0, 0o755), (OTHER, 0o700)] {
            let held = Held::start_as(&broker, (owner != 0).then_some(owner));
            let into = directory(broker.place().join(owner.to_string()), owner, mode);
            let admin = number.to_string();
            holds(&python, &broker, Some(TENANT), &admin, &["an_admin_persists", held.lease(), text(&into)]);
            assert_eq!(names_in(&into), [""; 0], "an admin wrote where only user {owner} may");
            holds(&python, &broker, None, "", &["root_persists", held.lease(), text(&into)]);
            assert!(held.end().success());
        }
        nothing_is_left(&broker);
    });
}

/// What another user has, in a directory of the tenant, which may move all of it: that takes no right to what is below.
fn of_others(broker: &Broker, mode: u32) -> PathBuf {
    let home = directory(broker.place().join("home"), TENANT, 0o755);
    let own = directory(home.join("own"), TENANT, 0o777);
    let theirs = directory(own.join("D"), OTHER, mode);
    let tree = directory(theirs.join("tree"), OTHER, 0o755);
    file(&tree.join("file"), OTHER, 0o644);
    file(&theirs.join("file"), OTHER, 0o644);
    file(&theirs.join("secret"), OTHER, 0o600);
    own
}

#[test]
fn what_is_persisted_is_the_tenants_to_take_away() {
    let test = "rights::what_is_persisted_is_the_tenants_to_take_away";
    contained(test, || {
        let Some(python) = python_of_root(test) else { return };
        let broker = Broker::start(Options::default());
        let own = of_others(&broker, 0o755);
        let before = snapshot(&own);
        let beside = directory(broker.place().join("beside"), TENANT, 0o700);
        let elsewhere = directory(PathBuf::from("/dev/shm/elsewhere"), TENANT, 0o700);
        let case = ["persist_what_others_have", text(&own), text(&beside), text(&elsewhere)];
        holds(&python, &broker, Some(TENANT), "", &case);
        nothing_is_left(&broker);
        assert_eq!(snapshot(&own), before, "another user's files were taken away");
    });
}

#[test]
fn what_is_released_is_the_tenants_to_take_away() {
    let test = "rights::what_is_released_is_the_tenants_to_take_away";
    contained(test, || {
        let Some(python) = python_of_root(test) else { return };
        let broker = Broker::start(Options::default());
        let own = of_others(&broker, 0o1777);
        let before = snapshot(&own);
        holds(&python, &broker, Some(TENANT), "", &["release_what_others_have", text(&own)]);
        nothing_is_left(&broker);
        assert_eq!(snapshot(&own), before, "another user's files were taken away");
    });
}
