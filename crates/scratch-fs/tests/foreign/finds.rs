//! A client's directory is found again where it was and where it was moved to, and another one is not taken for it.

use std::fs;
use std::os::fd::AsFd;

use scratch_fs::{FoundParent, Node};

use crate::contain::contained;
use crate::fixture::Fixture;

fn handles_work(fixture: &Fixture) -> bool {
    let held = fixture.passed();
    let works = scratch_sys::file_handle(held.as_fd())
        .and_then(|handle| scratch_sys::open_by_handle(held.as_fd(), &handle, rustix::fs::OFlags::PATH));
    works.inspect_err(|errno| println!("left out: file handles: {errno}")).is_ok()
}

#[test]
fn a_directory_is_found_by_its_path_or_by_its_handle() {
    if !contained(a_directory_is_found_by_its_path_or_by_its_handle) {
        return;
    }
    let fixture = Fixture::new();
    let (entry, held) = fixture.entry(1, false);
    let expected = Node::of(held.as_fd()).unwrap();
    let assert_found = || {
        let FoundParent::There(found) = entry.find_parent(true).unwrap() else { panic!("it is there") };
        assert_eq!(Node::of(found.as_fd()).unwrap(), expected);
    };
    assert_found();
    if !handles_work(&fixture) {
        return;
    }
    let moved = fixture.canary("moved");
    fs::rename(fixture.directory(), &moved).unwrap();
    assert_found();
    fs::create_dir(fixture.directory()).unwrap();
    assert_found();
    std::os::unix::fs::symlink("nowhere", fixture.canary("link")).unwrap();
    fs::remove_dir(fixture.directory()).unwrap();
    std::os::unix::fs::symlink(&moved, fixture.directory()).unwrap();
    assert_found();
    fs::remove_file(moved.join("other")).unwrap();
    fs::remove_dir(&moved).unwrap();
    drop(held);
    assert!(matches!(entry.find_parent(true), Ok(FoundParent::Gone)));
}

#[test]
fn without_a_handle_another_directory_at_its_path_is_unknown() {
    if !contained(without_a_handle_another_directory_at_its_path_is_unknown) {
        return;
    }
    let fixture = Fixture::new();
    let (mut entry, held) = fixture.entry(1, false);
    entry.parent = entry.parent.map(|parent| Node { handle: Vec::new(), ..parent });
    fs::rename(fixture.directory(), fixture.canary("moved")).unwrap();
    fs::create_dir(fixture.directory()).unwrap();
    assert!(entry.find_parent(true).is_err());
    fs::remove_dir(fixture.directory()).unwrap();
    assert!(entry.find_parent(true).is_err());
    fs::rename(fixture.canary("moved"), fixture.directory()).unwrap();
    assert!(matches!(entry.find_parent(true), Ok(FoundParent::There(_))));
    drop(held);
}

#[test]
fn memory_does_not_outlive_its_boot() {
    if !contained(memory_does_not_outlive_its_boot) {
        return;
    }
    let fixture = Fixture::new();
    let (entry, _) = fixture.entry(1, false);
    if !entry.parent.as_ref().unwrap().is_memory {
        return println!("left out: /tmp is on a disk");
    }
    assert!(matches!(entry.find_parent(false), Ok(FoundParent::Gone)));
    assert!(matches!(entry.find_parent(true), Ok(FoundParent::There(_))));
}
