//! The system broker's removal: it takes directories over, and leaves those of other owners as they are.

use std::fs;
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use scratch_fs::{Blocker, Rights, remove};

use crate::contain::{contained, has_all_ids};
use crate::fixture::{Fixture, ONE, TENANT, TWO, own, set_mode};

/// Neither the tenant nor the broker.
const OTHER: u32 = 54_322;

#[test]
fn the_tenants_directories_are_taken_over() {
    if !contained(the_tenants_directories_are_taken_over) || !all_ids() {
        return;
    }
    let fixture = Fixture::new();
    // A foreign directory at the end keeps those on the way to it.
    let foreign = make_tree(&fixture.lease(), &["a", "a/b", "a/b/foreign"]);
    own(&foreign, OTHER);
    set_mode(&fixture.lease().join("a/b"), 0o777);
    own(&fixture.lease().join("a"), 0);
    set_mode(&fixture.lease().join("a"), 0o777);
    let removal = fixture.remove(Rights::TakeOver);
    fixture.assert_left(&removal, Blocker::ForeignOwner, "a/b/foreign");
    let entry = fixture.in_trash(removal.left[0].entry);
    for path in ["", "a", "a/b"] {
        let found = fs::metadata(entry.join(path)).unwrap();
        assert_eq!((found.uid(), found.gid(), found.mode() & 0o7777), (0, 0, 0o700), "{path}");
    }
}

#[test]
fn a_writer_finds_itself_shut_out() {
    if !contained(a_writer_finds_itself_shut_out) || !all_ids() {
        return;
    }
    let fixture = Fixture::new();
    let sub = make_tree(&fixture.lease(), &["sub"]);
    set_mode(fixture.lease().ancestors().nth(1).unwrap(), 0o711);
    // It holds the directory as its working directory, and ends with the first file that it can't make.
    let mut writer = Command::new("sh")
        .args(["-c", "echo; i=0; while : >$i-1 && : >$i-2; do i=$((i + 1)); done"])
        .current_dir(&sub)
        .uid(TENANT)
        .gid(TENANT)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    writer.stdout.take().unwrap().read_exact(&mut [0]).unwrap();
    while !sub.join("9-1").exists() {
        std::thread::yield_now();
    }
    assert!(fixture.remove_all(Rights::TakeOver) > 10);
    assert!(!writer.wait().unwrap().success());
}

#[test]
fn foreign_directories_stay_as_they_are_and_the_rest_goes() {
    if !contained(foreign_directories_stay_as_they_are_and_the_rest_goes) || !all_ids() {
        return;
    }
    let fixture = Fixture::new();
    let foreign = make_tree(&fixture.lease(), &["before", "foreign", "foreign/inside", "zzz"]).join("../foreign");
    fs::write(fixture.lease().join("file-of-another"), b"").unwrap();
    own(&fixture.lease().join("file-of-another"), OTHER);
    fs::write(foreign.join("file"), "alive").unwrap();
    own(&foreign, OTHER);
    set_mode(&foreign, 0o751);

    let removal = fixture.remove(Rights::TakeOver);
    fixture.assert_left(&removal, Blocker::ForeignOwner, "foreign");
    assert_eq!(removal.names_removed, 3);
    let entry = removal.left[0].entry;
    assert_foreign(&fixture.in_trash(entry).join("foreign"));
    assert!(removal.left[0].bytes > 0);

    // With an admin's word it goes.
    own(&fixture.in_trash(entry).join("foreign"), TENANT);
    assert_eq!(remove(&fixture.trash, entry, Rights::TakeOver, ONE).left, []);
    fixture.assert_gone();
}

#[test]
fn foreign_directories_are_not_lifted() {
    if !contained(foreign_directories_are_not_lifted) || !all_ids() {
        return;
    }
    let fixture = Fixture::new();
    // At level 33, and many beside each other for the workers to share.
    let mut deep = fixture.lease();
    for _ in 0..31 {
        deep.push("d");
    }
    fs::create_dir_all(deep.join("foreign")).unwrap();
    for number in 0..200 {
        let wide = fixture.lease().join(number.to_string());
        fs::create_dir(&wide).unwrap();
        for file in 0..50 {
            fs::write(wide.join(file.to_string()), "alive").unwrap();
        }
        if number % 10 == 0 {
            own(&wide, OTHER);
        }
    }
    fs::write(deep.join("foreign/file"), "alive").unwrap();
    own(&deep.join("foreign"), OTHER);
    set_mode(&deep.join("foreign"), 0o751);

    let entry = fixture.take();
    let removal = remove(&fixture.trash, entry, Rights::TakeOver, TWO);
    assert_eq!(removal.left.len(), 1, "{removal:?}");
    assert_eq!((removal.left[0].entry, removal.left[0].blocker), (entry, Blocker::ForeignOwner));
    assert_eq!(removal.names_removed, 180 * 51);
    let entry = fixture.in_trash(entry);
    assert_foreign(&entry.join(deep.strip_prefix(fixture.lease()).unwrap()).join("foreign"));
    for number in (0..200).step_by(10) {
        assert_eq!(fs::read_dir(entry.join(number.to_string())).unwrap().count(), 50);
    }
    fixture.assert_canary();
}

#[test]
fn an_entry_of_another_owner_is_left() {
    if !contained(an_entry_of_another_owner_is_left) || !all_ids() {
        return;
    }
    let fixture = Fixture::new();
    fs::write(fixture.lease().join("file"), "alive").unwrap();
    own(&fixture.lease(), OTHER);
    set_mode(&fixture.lease(), 0o751);
    let removal = fixture.remove(Rights::TakeOver);
    fixture.assert_left(&removal, Blocker::ForeignOwner, "");
    assert_foreign(&fixture.in_trash(removal.left[0].entry));
}

fn all_ids() -> bool {
    if !has_all_ids() {
        println!("left out: needs a second user");
    }
    has_all_ids()
}

/// Makes directories of the tenant and returns the last one.
fn make_tree(lease: &Path, paths: &[&str]) -> PathBuf {
    own(lease, TENANT);
    let mut last = lease.to_owned();
    for path in paths {
        last = lease.join(path);
        fs::create_dir(&last).unwrap();
        own(&last, TENANT);
    }
    last
}

#[track_caller]
fn assert_foreign(directory: &Path) {
    let found = fs::metadata(directory).unwrap();
    assert_eq!((found.uid(), found.mode() & 0o7777), (OTHER, 0o751));
    assert_eq!(fs::read(directory.join("file")).unwrap(), b"alive");
}
