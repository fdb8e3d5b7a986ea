//! What a copy has of its original: modes, times, extended attributes, ACLs; and whose it is.

use std::fs;
use std::os::fd::AsFd;
use std::os::unix::fs::{MetadataExt, lchown};
use std::path::Path;

use rustix::fs::{CWD, FileType, XattrFlags};
use scratch_fs::{Replace, persist};

use crate::contain::{contained, contained_unprivileged, has_all_ids};
use crate::fixture::{Fixture, held, make_node, set_mode, set_time};

#[test]
fn modes_and_times_are_kept_to_the_last_bit() {
    if contained_unprivileged(modes_and_times_are_kept_to_the_last_bit) {
        modes_and_times_are_kept();
    }
}

#[test]
fn modes_and_times_are_kept_as_root() {
    if contained(modes_and_times_are_kept_as_root) {
        modes_and_times_are_kept();
    }
}

fn modes_and_times_are_kept() {
    for umask in [0o000, 0o077] {
        rustix::process::umask(rustix::fs::Mode::from_raw_mode(umask));
        let fixture = Fixture::on_two();
        let area = fixture.from.join("area");
        let directories = ["", "a", "a/b"].map(|path| area.join(path));
        for directory in &directories {
            fs::create_dir(directory).unwrap();
            for mode in [0o400, 0o644, 0o666, 0o777, 0o4755, 0o2755, 0o1644] {
                let path = directory.join(format!("{mode:o}"));
                fs::write(&path, "content").unwrap();
                set_mode(&path, mode);
                set_time(&path, i64::from(mode));
            }
            make_node(&directory.join("fifo"), FileType::Fifo, 0).unwrap();
            set_mode(&directory.join("fifo"), 0o622);
            set_time(&directory.join("fifo"), 5);
            std::os::unix::fs::symlink("x", directory.join("link")).unwrap();
            set_time(&directory.join("link"), 6);
        }
        for (directory, mode) in directories.iter().zip([0o1777, 0o2500, 0o555]).rev() {
            set_mode(directory, mode);
            set_time(directory, i64::from(mode));
        }
        let before = held(&fixture.from);
        // After the reading of it, which counts as an access.
        let accessed = accessed(&area);
        fixture.persist("area", "area", Replace::Never).unwrap();
        assert_eq!(self::accessed(&fixture.to.join("area")), accessed);
        assert_eq!(held(&fixture.to), before);
        let found = fs::metadata(fixture.to.join("area/400")).unwrap();
        assert_eq!(found.mtime_nsec(), 123_456_789);
    }
}

fn accessed(area: &Path) -> (i64, i64) {
    let found = fs::metadata(area.join("400")).unwrap();
    (found.atime(), found.atime_nsec())
}

#[test]
fn extended_attributes_and_acls_are_kept() {
    if !contained(extended_attributes_and_acls_are_kept) {
        return;
    }
    // user::rw-, user:7:rw-, group::r--, mask::rw-, other::---
    let acl = acl(&[(0x01, 6, u32::MAX), (0x02, 6, 7), (0x04, 4, u32::MAX), (0x10, 6, u32::MAX), (0x20, 0, u32::MAX)]);
    let fixture = Fixture::on_two();
    fs::create_dir_all(fixture.from.join("area/sub")).unwrap();
    fs::write(fixture.from.join("area/file"), "content").unwrap();
    fs::write(fixture.from.join("area/plain"), "content").unwrap();
    let given = [
        ("area/file", "user.big", &[7; 3000][..]),
        ("area/file", "user.empty", b""),
        ("area/sub", "user.one", b"1"),
        ("area/file", "system.posix_acl_access", &acl),
        ("area", "system.posix_acl_default", &acl),
    ];
    for (path, name, value) in given {
        if let Err(errno) = rustix::fs::setxattr(fixture.from.join(path), name, value, XattrFlags::empty()) {
            println!("left out: {name}: {errno}");
            return;
        }
    }
    // What the target hands down is not for a copy, which has a mode of its own.
    rustix::fs::setxattr(&fixture.to, "system.posix_acl_default", &acl, XattrFlags::empty()).unwrap();

    let before = held(&fixture.from);
    fixture.persist("area", "area", Replace::Never).unwrap();
    assert_eq!(held(&fixture.to), before);
    for (path, name, value) in given {
        assert_eq!(xattr(&fixture.to.join(path), name).as_deref(), Some(value), "{path} {name}");
    }
    for path in ["area", "area/sub", "area/plain"] {
        assert_eq!(xattr(&fixture.to.join(path), "system.posix_acl_access"), None, "{path}");
    }
    fs::write(fixture.from.join("plain"), "content").unwrap();
    fixture.persist("plain", "plain", Replace::Never).unwrap();
    assert_eq!(xattr(&fixture.to.join("plain"), "system.posix_acl_access"), None);
}

#[test]
fn what_is_another_users_loses_the_right_to_run_as_that_user() {
    if !contained(what_is_another_users_loses_the_right_to_run_as_that_user) || !has_all_ids() {
        return;
    }
    let fixture = Fixture::on_two();
    let area = fixture.from.join("area");
    fs::write(&area, "content").unwrap();
    lchown(&area, Some(54_321), Some(54_321)).unwrap();
    set_mode(&area, 0o6755);
    fixture.persist("area", "new", Replace::Never).unwrap();
    let found = fs::metadata(fixture.to.join("new")).unwrap();
    assert_eq!((found.uid(), found.mode() & 0o7777), (0, 0o755));
}

#[test]
fn a_thread_with_a_tenants_identity_has_the_rights_of_the_tenant() {
    if !contained(a_thread_with_a_tenants_identity_has_the_rights_of_the_tenant) || !has_all_ids() {
        return;
    }
    scratch_sys::drop_groups().unwrap();
    let fixture = Fixture::on_two();
    let [from, to] = [&fixture.from, &fixture.to].map(|path| fs::File::open(path).unwrap());
    for path in [&fixture.from, &fixture.to] {
        lchown(path, Some(54_321), Some(54_321)).unwrap();
    }
    for name in ["own", "secret"] {
        fs::create_dir(fixture.from.join(name)).unwrap();
        fs::write(fixture.from.join(name).join("file"), name).unwrap();
        let owner = if name == "own" { 54_321 } else { 0 };
        for path in [name.to_owned(), format!("{name}/file")] {
            lchown(fixture.from.join(path), Some(owner), Some(owner)).unwrap();
        }
    }
    set_mode(&fixture.from.join("secret/file"), 0o600);
    {
        let _assumed = scratch_sys::assume(54_321, 54_321, &[]).unwrap();
        let own = persist(from.as_fd(), c"own", to.as_fd(), c"own", Replace::Never).unwrap();
        assert_eq!((own.copied, own.source.as_deref()), (true, Some(c"own")));
        let secret = persist(from.as_fd(), c"secret", to.as_fd(), c"secret", Replace::Never).unwrap_err();
        assert_eq!((secret.errno, secret.path.as_path()), (rustix::io::Errno::ACCESS, Path::new("secret/file")));
    }
    assert_eq!(held(&fixture.to).len(), 2);
    for path in ["own", "own/file"] {
        assert_eq!(fs::metadata(fixture.to.join(path)).unwrap().uid(), 54_321);
    }
}

/// Version 2 as setxattr(2) takes it: tag, permissions, id.
fn acl(entries: &[(u16, u16, u32)]) -> Vec<u8> {
    let mut bytes = 2_u32.to_le_bytes().to_vec();
    for (tag, permissions, id) in entries {
        bytes.extend([tag.to_le_bytes(), permissions.to_le_bytes()].concat());
        bytes.extend(id.to_le_bytes());
    }
    bytes
}

fn xattr(path: &Path, name: &str) -> Option<Vec<u8>> {
    let held = rustix::fs::openat(CWD, path, rustix::fs::OFlags::RDONLY, rustix::fs::Mode::empty()).unwrap();
    let mut value = vec![0; 4096];
    let length = rustix::fs::fgetxattr(&held, name, &mut value[..]).ok()?;
    value.truncate(length);
    Some(value)
}
