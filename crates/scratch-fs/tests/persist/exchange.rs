//! Exchanges across file systems: nothing is lost, and no temporary name remains but the one that is told.

use std::fs;
use std::os::fd::AsFd;
use std::os::unix::fs::{MetadataExt, lchown};

use rustix::io::Errno;
use scratch_fs::{Replace, persist};

use crate::contain::{contained, has_all_ids};
use crate::fixture::{Fixture, held, make};

#[test]
fn the_original_of_a_directory_is_told_by_its_temporary_name() {
    if !contained(the_original_of_a_directory_is_told_by_its_temporary_name) {
        return;
    }
    let fixture = Fixture::on_two();
    make("full", &fixture.from.join("area"));
    let inode = fs::metadata(fixture.from.join("area")).unwrap().ino();
    make("file", &fixture.to.join("new"));
    let persisted = fixture.persist("area", "new", Replace::Exchange).unwrap();
    let source = persisted.source.unwrap().into_string().unwrap();
    assert!(source.starts_with(".scratch-") && source.len() == 25, "{source}");
    assert_eq!(fs::metadata(fixture.from.join(&source)).unwrap().ino(), inode);
    assert_eq!(fs::read(fixture.from.join("area")).unwrap(), b"content");
    assert_eq!(fs::read_dir(&fixture.from).unwrap().count(), 2);
    assert_eq!(held(&fixture.to).len(), 2);
}

#[test]
fn what_was_replaced_and_can_not_be_removed_is_told() {
    if !contained(what_was_replaced_and_can_not_be_removed_is_told) || !has_all_ids() {
        return;
    }
    scratch_sys::drop_groups().unwrap();
    let fixture = Fixture::on_two();
    make("file", &fixture.from.join("area"));
    // The tenant may read what root has put there, and take it away as a whole, but not empty it.
    fs::create_dir_all(fixture.to.join("new/roots")).unwrap();
    fs::write(fixture.to.join("new/roots/file"), "root's").unwrap();
    for path in [&fixture.from, &fixture.from.join("area"), &fixture.to, &fixture.to.join("new")] {
        lchown(path, Some(54_321), Some(54_321)).unwrap();
    }
    let [from, to] = [&fixture.from, &fixture.to].map(|path| fs::File::open(path).unwrap());
    let persisted = {
        let _assumed = scratch_sys::assume(54_321, 54_321, &[]).unwrap();
        persist(from.as_fd(), c"area", to.as_fd(), c"new", Replace::Exchange).unwrap()
    };
    let leftover = persisted.leftover.unwrap();
    assert_eq!(leftover.errno, Errno::ACCESS, "{leftover}");
    assert!(leftover.path.ends_with("roots/file"), "{leftover}");
    assert_eq!(fs::read(fixture.to.join(&leftover.path)).unwrap(), b"root's");
    assert_eq!(fs::read(fixture.to.join("new")).unwrap(), b"content");
    assert_eq!(fs::read(fixture.from.join("area/roots/file")).unwrap(), b"root's");
}
