//! Mounts in a tree are never crossed, and the rest of it goes. Also trees that the trash is another file system to.

use std::fs;
use std::path::Path;

use scratch_fs::{Blocker, Rights, remove, usage};
use std::os::fd::AsFd;

use crate::contain::contained;
use crate::fixture::{Fixture, ONE, TWO, make_chain, mount_ext4, succeeds};

#[test]
fn a_mounted_file_system_stays_until_it_is_unmounted() {
    if !contained(a_mounted_file_system_stays_until_it_is_unmounted) {
        return;
    }
    let fixture = Fixture::new();
    fs::create_dir_all(fixture.lease().join("a/mount")).unwrap();
    fs::write(fixture.lease().join("a/file"), b"").unwrap();
    fs::write(fixture.lease().join("b"), b"").unwrap();
    let entry = fixture.take();
    let mount = fixture.in_trash(entry).join("a/mount");
    assert!(succeeds("mount", &["-n", "-t", "tmpfs", "tmpfs", mount.to_str().unwrap()]));
    fs::write(mount.join("file"), "alive").unwrap();

    let removal = remove(&fixture.trash, entry, Rights::TakeOver, ONE);
    fixture.assert_left(&removal, Blocker::Mount, "a/mount");
    assert_eq!((removal.names_removed, fs::read(mount.join("file")).unwrap()), (2, b"alive".to_vec()));

    assert!(succeeds("umount", &["-n", mount.to_str().unwrap()]));
    let removal = remove(&fixture.trash, entry, Rights::TakeOver, ONE);
    assert_eq!((removal.names_removed, removal.left), (3, vec![]));
    fixture.assert_gone();
}

#[test]
fn a_bind_mount_of_the_same_file_system_is_a_mount() {
    if !contained(a_bind_mount_of_the_same_file_system_is_a_mount) {
        return;
    }
    let fixture = Fixture::new();
    fs::create_dir(fixture.lease().join("directory")).unwrap();
    fs::write(fixture.lease().join("file"), b"").unwrap();
    let entry = fixture.take();
    let held = fs::File::open(fixture.in_trash(entry)).unwrap();
    let mounts = [("inner", "directory"), ("file", "file")]
        .map(|(from, to)| (fixture.canary(from), fixture.in_trash(entry).join(to)));
    for (from, to) in &mounts {
        assert!(succeeds("mount", &["-n", "--bind", from.to_str().unwrap(), to.to_str().unwrap()]));
    }
    assert_eq!(usage(held.as_fd()).inodes, 1, "what is mounted does not count");
    for (_, to) in &mounts {
        let removal = remove(&fixture.trash, entry, Rights::TakeOver, TWO);
        assert_eq!((removal.left.len(), removal.left[0].blocker), (1, Blocker::Mount), "{removal:?}");
        fixture.assert_canary();
        assert!(succeeds("umount", &["-n", to.to_str().unwrap()]));
    }
    assert_eq!(remove(&fixture.trash, entry, Rights::TakeOver, ONE).left, []);
    fixture.assert_gone();
}

#[test]
fn what_can_not_be_lifted_into_the_trash_is_lifted_within_the_tree() {
    if !contained(what_can_not_be_lifted_into_the_trash_is_lifted_within_the_tree) {
        return;
    }
    // To rename(2) another project is another file system, as another btrfs subvolume is; and no kernel lacks ext4.
    let Some(ext4) = mount_ext4("project,quota") else { return };
    let fixture = Fixture::below(&ext4);
    make_chain(&fixture.lease(), 300);
    let entry = fixture.take();
    if set_project(fixture.trash.shown(), "9") {
        let removal = remove(&fixture.trash, entry, Rights::Own, TWO);
        assert_eq!((removal.names_removed, removal.left), (301, vec![]));
        fixture.assert_gone();
    }
}

#[test]
fn what_can_not_be_lifted_at_all_is_reached_by_lifting_what_is_around_it() {
    if !contained(what_can_not_be_lifted_at_all_is_reached_by_lifting_what_is_around_it) {
        return;
    }
    let Some(ext4) = mount_ext4("project,quota") else { return };
    let fixture = Fixture::below(&ext4);
    make_chain(&fixture.lease(), 100);
    let entry = fixture.take();
    // The first 32 levels and the trash are one project, below is another: as a subvolume's root is at level 32.
    let mut at = fixture.in_trash(entry);
    for level in 0..101 {
        if !set_project(&at, if level < 32 { "9" } else { "7" }) {
            return;
        }
        at.push("d");
    }
    assert!(set_project(fixture.trash.shown(), "9"));
    let removal = remove(&fixture.trash, entry, Rights::Own, ONE);
    assert_eq!((removal.names_removed, removal.left), (101, vec![]));
    fixture.assert_gone();
}

fn set_project(path: &Path, project: &str) -> bool {
    succeeds("chattr", &["+P", "-p", project, path.to_str().unwrap()])
}
