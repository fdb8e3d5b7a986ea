//! What is ended goes whole, whatever is in it; what can't go is told, stays in the book, and goes later.

use std::fs::{self, File};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{PermissionsExt, lchown, symlink};
use std::path::Path;

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use scratch_fs::Blocker;

use crate::contain::{contained, has_all_ids};
use crate::fixture::{Fixture, TENANT};

fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

/// All that is below it becomes the tenant's.
fn give(path: &Path) {
    lchown(path, Some(Fixture::uid()), Some(Fixture::uid())).unwrap();
    if fs::symlink_metadata(path).unwrap().is_dir() {
        fs::read_dir(path).unwrap().for_each(|entry| give(&entry.unwrap().path()));
    }
}

#[test]
fn a_directory_goes_with_everything_in_it() {
    if !contained(a_directory_goes_with_everything_in_it) {
        return;
    }
    let fixture = Fixture::new();
    let mut entry = fixture.make(true).entry;
    let area = fixture.path(&entry);
    for directory in ["a/b/c", "closed/inner", "read-only/inner"] {
        fs::create_dir_all(area.join(directory)).unwrap();
    }
    for file in ["file", "a/file", "a/b/c/file", "closed/inner/file", "read-only/file", "new\nline"] {
        fs::write(area.join(file), "content").unwrap();
    }
    symlink(fixture.canary(""), area.join("link")).unwrap();
    symlink(fixture.canary("inner"), area.join("a/link")).unwrap();
    fs::hard_link(fixture.canary("file"), area.join("hard")).unwrap();
    rustix::fs::mknodat(rustix::fs::CWD, area.join("fifo"), rustix::fs::FileType::Fifo, Mode::RUSR, 0).unwrap();
    give(&area.join("a"));
    give(&area.join("closed"));
    give(&area.join("read-only"));
    set_mode(&area.join("closed"), 0);
    set_mode(&area.join("read-only"), 0o500);
    set_mode(&area, 0o500);
    fixture.end(&mut entry).unwrap();
    fixture.assert_gone();
}

#[test]
fn depth_and_number_do_not_matter() {
    if !contained(depth_and_number_do_not_matter) {
        return;
    }
    let fixture = Fixture::new();
    let mut entry = fixture.make(true).entry;
    let area = fixture.path(&entry);
    for number in 0..5000 {
        let path = area.join(number.to_string());
        if number % 10 == 0 { fs::create_dir(path).unwrap() } else { fs::write(path, "").unwrap() }
    }
    let mut at: OwnedFd = File::open(&area).unwrap().into();
    for _ in 0..2000 {
        rustix::fs::mkdirat(&at, c"d", Mode::RWXU).unwrap();
        rustix::fs::fchown(&at, Some(rustix::fs::Uid::from_raw(Fixture::uid())), None).unwrap();
        at = rustix::fs::openat(&at, c"d", OFlags::DIRECTORY, Mode::empty()).unwrap();
    }
    rustix::fs::fchown(&at, Some(rustix::fs::Uid::from_raw(Fixture::uid())), None).unwrap();
    fs::read_dir(&area).unwrap().for_each(|entry| {
        lchown(entry.unwrap().path(), Some(Fixture::uid()), Some(Fixture::uid())).unwrap();
    });
    fixture.end(&mut entry).unwrap();
    fixture.assert_gone();
}

#[test]
fn what_the_tenant_may_not_remove_stays_and_is_told() {
    if !contained(what_the_tenant_may_not_remove_stays_and_is_told) {
        return;
    }
    if !has_all_ids() {
        return println!("left out: needs a second user");
    }
    let fixture = Fixture::new();
    let mut entry = fixture.make(true).entry;
    let area = fixture.path(&entry);
    fs::create_dir_all(area.join("anothers/sub")).unwrap();
    fs::write(area.join("anothers/file"), "alive").unwrap();
    fs::write(area.join("file"), "").unwrap();
    lchown(area.join("anothers"), Some(TENANT + 1), None).unwrap();
    let left = fixture.end(&mut entry).unwrap_err();
    assert_eq!((left.error.errno, left.blocker), (Errno::ACCESS, Blocker::Permission), "{left:?}");
    assert!(left.bytes > 0, "{left:?}");
    let aside = fixture.directory().join(std::str::from_utf8(&entry.aside).unwrap());
    assert!(!area.exists() && !aside.join("file").exists(), "out of the name space, and all else is gone");
    let stays = fs::read_dir(&aside).unwrap().map(|entry| entry.unwrap().path()).next().unwrap();
    assert_eq!(fs::read(stays.join("file")).unwrap(), b"alive");
    assert_eq!(fixture.entries().len(), 1);
    fixture.assert_others();
    lchown(&stays, Some(TENANT), None).unwrap();
    lchown(stays.join("sub"), Some(TENANT), None).unwrap();
    fixture.end(&mut fixture.entries().remove(0).2.unwrap()).unwrap();
    fixture.assert_gone();
}

#[test]
fn a_directory_that_was_closed_to_the_tenant_keeps_its_area_until_it_is_open_again() {
    if !contained(a_directory_that_was_closed_to_the_tenant_keeps_its_area_until_it_is_open_again) {
        return;
    }
    if !has_all_ids() {
        return println!("left out: needs a second user");
    }
    let fixture = Fixture::new();
    let mut entry = fixture.make(false).entry;
    lchown(fixture.directory(), Some(0), None).unwrap();
    set_mode(&fixture.directory(), 0o755);
    let left = fixture.end(&mut entry).unwrap_err();
    assert_eq!((left.error.errno, left.blocker), (Errno::ACCESS, Blocker::Permission));
    assert!(fixture.path(&entry).exists());
    lchown(fixture.directory(), Some(TENANT), None).unwrap();
    fixture.end(&mut entry).unwrap();
    fixture.assert_gone();
}

#[test]
fn what_was_renamed_by_its_client_is_its_clients() {
    if !contained(what_was_renamed_by_its_client_is_its_clients) {
        return;
    }
    for is_directory in [false, true] {
        let fixture = Fixture::new();
        let mut entry = fixture.make(is_directory).entry;
        fs::rename(fixture.path(&entry), fixture.directory().join("mine")).unwrap();
        fixture.end(&mut entry).unwrap();
        assert_eq!((fixture.names(), fixture.entries()), (vec!["mine".to_owned(), "other".to_owned()], vec![]));
    }
}

#[test]
fn nothing_mounted_is_entered() {
    if !contained(nothing_mounted_is_entered) {
        return;
    }
    for below in [false, true] {
        let fixture = Fixture::new();
        let mut entry = fixture.make(true).entry;
        let at = if below { fixture.path(&entry).join("mount") } else { fixture.path(&entry) };
        fs::create_dir_all(&at).unwrap();
        if let Err(errno) = rustix::mount::mount_bind(fixture.canary(""), &at) {
            return println!("left out: bind mounts: {errno}");
        }
        let left = fixture.end(&mut entry).unwrap_err();
        assert_eq!(left.blocker, Blocker::Mount, "{left:?}");
        fixture.assert_others();
        let at = if below { fixture.directory().join(std::str::from_utf8(&entry.aside).unwrap()) } else { at };
        let at = if below { fs::read_dir(&at).unwrap().next().unwrap().unwrap().path() } else { at };
        rustix::mount::unmount(&at, rustix::mount::UnmountFlags::DETACH).unwrap();
        fixture.end(&mut entry).unwrap();
        fixture.assert_gone();
    }
}

#[test]
fn a_file_is_not_removed_under_the_name_that_its_client_knows() {
    if !contained(a_file_is_not_removed_under_the_name_that_its_client_knows) {
        return;
    }
    let fixture = Fixture::new();
    let mut entry = fixture.make(false).entry;
    let (area, aside) = (fixture.path(&entry), std::str::from_utf8(&entry.aside).unwrap().to_owned());
    fs::write(&area, "the area").unwrap();
    // Somebody who has learnt it has taken the name that it would get.
    let taken = fixture.directory().join(aside);
    fs::write(&taken, "another's").unwrap();
    let left = fixture.end(&mut entry).unwrap_err();
    assert_eq!(left.error.errno, Errno::EXIST, "{left:?}");
    assert_eq!((fs::read(&area).unwrap(), fs::read(&taken).unwrap()), (b"the area".to_vec(), b"another's".to_vec()));
    fs::remove_file(taken).unwrap();
    fixture.end(&mut entry).unwrap();
    fixture.assert_gone();
}
