//! What can't be copied is not copied in part: nothing is left under any name, and the original is what it was.

use std::fs;
use std::os::unix::net::UnixListener;
use std::path::Path;

use rustix::fs::FileType;
use rustix::io::Errno;
use scratch_fs::Replace;

use crate::contain::{contained, contained_unprivileged};
use crate::fixture::{Fixture, held, make, make_node, mount_again, mount_small, set_mode, succeeds};

const WAYS: [Replace; 3] = [Replace::Never, Replace::Always, Replace::Exchange];

/// Something to be exchanged with, and not to be lost.
fn prepare(fixture: &Fixture, replace: Replace) {
    fs::create_dir_all(fixture.from.join("area/sub/sub")).unwrap();
    fs::write(fixture.from.join("area/sub/file"), "content").unwrap();
    make(if replace == Replace::Exchange { "full" } else { "nothing" }, &fixture.to.join("new"));
}

#[test]
fn what_is_mounted_in_it_is_not_copied() {
    if !contained(what_is_mounted_in_it_is_not_copied) {
        return;
    }
    for replace in WAYS {
        let fixture = Fixture::on_two();
        prepare(&fixture, replace);
        for (from, to) in [("", "area/sub/sub"), ("file", "area/sub/file"), ("", "area")] {
            let (from, at) = (fixture.canary(from), fixture.from.join(to));
            assert!(succeeds("mount", &["-n", "--bind", from.to_str().unwrap(), at.to_str().unwrap()]));
            fixture.assert_refused("area", replace, Errno::XDEV, to);
            assert!(succeeds("umount", &["-n", at.to_str().unwrap()]));
        }
        assert!(fixture.persist("area", "new", replace).unwrap().copied, "without it, it is");
    }
}

#[test]
fn sockets_and_devices_are_not_copied() {
    if !contained(sockets_and_devices_are_not_copied) {
        return;
    }
    for replace in WAYS {
        let fixture = Fixture::on_two();
        prepare(&fixture, replace);
        let socket = UnixListener::bind(fixture.from.join("area/sub/sub/socket")).unwrap();
        fixture.assert_refused("area", replace, Errno::OPNOTSUPP, "area/sub/sub/socket");
        fs::remove_file(fixture.from.join("area/sub/sub/socket")).unwrap();
        drop(socket);
        // /dev/null's number; a user namespace may not make it.
        let device = fixture.from.join("area/device");
        match make_node(&device, FileType::CharacterDevice, rustix::fs::makedev(1, 3)) {
            Ok(()) => fixture.assert_refused("area", replace, Errno::OPNOTSUPP, "area/device"),
            Err(errno) => println!("left out: device: {errno}"),
        }
        let _socket = UnixListener::bind(fixture.from.join("socket")).unwrap();
        fixture.assert_refused("socket", replace, Errno::OPNOTSUPP, "socket");
    }
}

#[test]
fn what_can_not_be_read_is_not_copied() {
    if !contained_unprivileged(what_can_not_be_read_is_not_copied) {
        return;
    }
    for replace in WAYS {
        let fixture = Fixture::on_two();
        prepare(&fixture, replace);
        for path in ["area/sub/file", "area/sub/sub", "area"] {
            let mode = if path.ends_with("file") { 0o600 } else { 0o700 };
            set_mode(&fixture.from.join(path), 0o000);
            // Closed directories are not looked into by the assertion either.
            fixture.assert_refused("area", replace, Errno::ACCESS, path);
            set_mode(&fixture.from.join(path), mode);
        }
        // Directories that are finished when it fails, and have to be removed from.
        set_mode(&fixture.from.join("area/sub"), 0o500);
        fs::create_dir(fixture.from.join("area/a")).unwrap();
        fs::write(fixture.from.join("area/a/file"), "").unwrap();
        set_mode(&fixture.from.join("area/a"), 0o500);
        for path in ["area/sub/sub", "area/a/file"] {
            set_mode(&fixture.from.join(path), 0o000);
            fixture.assert_refused("area", replace, Errno::ACCESS, path);
            set_mode(&fixture.from.join(path), 0o700);
        }
    }
}

#[test]
fn where_there_is_no_space_nothing_is_left() {
    if !contained(where_there_is_no_space_nothing_is_left) {
        return;
    }
    let small = mount_small(1 << 20);
    for replace in WAYS {
        let fixture = Fixture::below(Path::new("/tmp"), &small);
        prepare(&fixture, replace);
        fs::write(fixture.from.join("area/sub/sub/big"), vec![7; 900 << 10]).unwrap();
        fs::write(fixture.from.join("area/sub/sub/more"), vec![7; 900 << 10]).unwrap();
        let before = free(&small);
        let error = fixture.persist("area", "new", replace).unwrap_err();
        assert_eq!(error.errno, Errno::NOSPC, "{error}");
        assert!(error.path.starts_with("area/sub/sub"), "{error}");
        fixture.assert_refused("area", replace, Errno::NOSPC, error.path.to_str().unwrap());

        fs::write(fixture.from.join("file"), vec![7; 1100 << 10]).unwrap();
        fixture.assert_refused("file", replace, Errno::NOSPC, "file");
        assert_eq!(free(&small), before, "{replace:?}");
    }
}

#[test]
fn where_there_is_no_space_for_what_comes_back_everything_is_where_it_was() {
    if !contained(where_there_is_no_space_for_what_comes_back_everything_is_where_it_was) {
        return;
    }
    let fixture = Fixture::below(&mount_small(1 << 20), Path::new("/tmp"));
    for area in ["file", "full"] {
        make(area, &fixture.from.join(area));
        fs::create_dir(fixture.to.join("new")).unwrap();
        for name in ["new/one", "new/two"] {
            fs::write(fixture.to.join(name), vec![7; 700 << 10]).unwrap();
        }
        let before = (held(&fixture.from), held(&fixture.to));
        let error = fixture.persist(area, "new", Replace::Exchange).unwrap_err();
        // The listing decides which one is the first.
        assert!(
            error.errno == Errno::NOSPC && error.path.starts_with("new") && error.path != Path::new("new"),
            "{error}"
        );
        assert_eq!((held(&fixture.from), held(&fixture.to)), before);
        assert_eq!(before.1.len(), 3);
        fs::rename(fixture.to.join("new"), fixture.to.join("..").join(area)).unwrap();
    }
}

#[test]
fn a_tree_is_not_copied_into_itself() {
    if !contained(a_tree_is_not_copied_into_itself) {
        return;
    }
    let mut fixture = Fixture::on_one();
    prepare(&fixture, Replace::Never);
    for path in ["area", "area/sub", "area/sub/sub"] {
        fixture.to = mount_again(&fixture.from.join(path));
        let error = fixture.persist("area", "new", Replace::Never).unwrap_err();
        assert_eq!(error.errno, Errno::INVAL, "{error}");
        assert_eq!(held(&fixture.from).len(), 4);
        assert!(!fixture.to.join("new").exists());
    }
}

#[test]
fn an_original_that_can_not_be_unlinked_is_told() {
    if !contained_unprivileged(an_original_that_can_not_be_unlinked_is_told) {
        return;
    }
    let fixture = Fixture::on_two();
    make("file", &fixture.from.join("area"));
    set_mode(&fixture.from, 0o500);
    let persisted = fixture.persist("area", "new", Replace::Never).unwrap();
    assert_eq!((persisted.copied, persisted.source.as_deref()), (true, Some(c"area")));
    assert_eq!(fs::read(fixture.to.join("new")).unwrap(), b"content");
}

fn free(path: &Path) -> (u64, u64) {
    let found = rustix::fs::statvfs(path).unwrap();
    (found.f_bfree, found.f_ffree)
}
