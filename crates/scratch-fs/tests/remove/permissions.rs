//! What an owner can put in the way: missing permission bits, immutable and append-only flags.

use std::fs;
use std::path::Path;

use rustix::fs::IFlags;
use scratch_fs::{Blocker, Rights};

use crate::contain::{contained, contained_unprivileged};
use crate::fixture::{Fixture, mount_ext4, set_flags, set_mode};

#[test]
fn closed_directories_are_opened_by_their_owner() {
    if !contained_unprivileged(closed_directories_are_opened_by_their_owner) {
        return;
    }
    // Readable but not searchable, searchable but not readable, not writable, nothing at all.
    for mode in [0o400, 0o100, 0o500, 0o000] {
        let fixture = Fixture::new();
        let mut directories = vec![fixture.lease()];
        for level in 0..40 {
            directories.push(directories[level].join("d"));
            fs::create_dir(&directories[level + 1]).unwrap();
            fs::write(directories[level].join("file"), b"").unwrap();
            set_mode(&directories[level].join("file"), 0o000);
        }
        for directory in directories.iter().rev() {
            set_mode(directory, mode);
        }
        // A directory without rights can't be moved either, so that this is a test of the rename too.
        assert_eq!(fixture.remove_all(Rights::Own), 81, "mode {mode:o}");
    }
}

#[test]
fn flags_are_cleared_on_tmpfs() {
    if contained(flags_are_cleared_on_tmpfs) {
        flags_are_cleared_below(Path::new("/tmp"));
    }
}

#[test]
fn flags_are_cleared_on_ext4() {
    if !contained(flags_are_cleared_on_ext4) {
        return;
    }
    if let Some(ext4) = mount_ext4("none") {
        flags_are_cleared_below(&ext4);
    }
}

fn flags_are_cleared_below(directory: &Path) {
    let fixture = Fixture::below(directory);
    for name in ["immutable", "append", "both"] {
        let directory = fixture.lease().join(name);
        fs::create_dir(&directory).unwrap();
        fs::create_dir(directory.join("empty")).unwrap();
        fs::write(directory.join("file"), b"").unwrap();
        let flags = match name {
            "immutable" => IFlags::IMMUTABLE,
            "append" => IFlags::APPEND,
            _ => IFlags::IMMUTABLE | IFlags::APPEND,
        };
        for path in ["file", "empty", ""] {
            if !set_flags(&directory.join(path), flags) {
                return;
            }
        }
    }
    // The tree itself too, which then can't be renamed.
    assert!(set_flags(&fixture.lease(), IFlags::IMMUTABLE));
    assert_eq!(fixture.remove_all(Rights::Own), 10);
}

#[test]
fn flags_of_a_file_with_another_name_are_left_alone() {
    if !contained(flags_of_a_file_with_another_name_are_left_alone) {
        return;
    }
    let fixture = Fixture::new();
    fs::create_dir(fixture.lease().join("sub")).unwrap();
    fs::write(fixture.lease().join("sub/other"), b"").unwrap();
    fs::hard_link(fixture.canary("file"), fixture.lease().join("sub/link")).unwrap();
    if !set_flags(&fixture.canary("file"), IFlags::IMMUTABLE) {
        return;
    }
    let removal = fixture.remove(Rights::Own);
    fixture.assert_left(&removal, Blocker::Immutable, "sub/link");
    assert_eq!(removal.names_removed, 1);
    assert!(fs::write(fixture.canary("file"), "dead").is_err(), "still immutable");
}
