//! Trees that are copied: deep, wide, with links that lead out.

use std::fs;
use std::os::fd::AsFd;
use std::os::unix::fs::{MetadataExt, symlink};

use rustix::fs::{AtFlags, Mode, OFlags};
use rustix::process::{Resource, Rlimit, setrlimit};
use scratch_fs::{Replace, usage};

use crate::contain::contained;
use crate::fixture::{Fixture, held, make_chain, set_mode};

#[test]
fn two_thousand_levels_are_copied_with_few_descriptors() {
    if !contained(two_thousand_levels_are_copied_with_few_descriptors) {
        return;
    }
    let fixture = Fixture::on_two();
    let area = fixture.from.join("area");
    fs::create_dir(&area).unwrap();
    let bottom = make_chain(&area, 2_000);
    rustix::fs::symlinkat("bottom", &bottom, c"link").unwrap();
    // A name after the chain, met when everything is opened again.
    fs::create_dir_all(area.join("c/c")).unwrap();
    setrlimit(Resource::Nofile, Rlimit { current: Some(90), maximum: Some(90) }).unwrap();

    let persisted = fixture.persist("area", "new", Replace::Never).unwrap();
    assert_eq!(persisted.source.as_deref(), Some(c"area"), "a directory is the caller's to move away");
    let copy = fs::File::open(fixture.to.join("new")).unwrap();
    assert_eq!(usage(copy.as_fd()).inodes, 2_004);
    let mut at = copy.as_fd().try_clone_to_owned().unwrap();
    for _ in 0..2_000 {
        at = rustix::fs::openat(&at, c"d", OFlags::DIRECTORY | OFlags::NOFOLLOW, Mode::empty()).unwrap();
    }
    assert_eq!(rustix::fs::readlinkat(&at, c"link", Vec::new()).unwrap().as_c_str(), c"bottom");
}

#[test]
fn a_deep_copy_that_fails_is_removed_whole() {
    if !contained(a_deep_copy_that_fails_is_removed_whole) {
        return;
    }
    let fixture = Fixture::on_two();
    let area = fixture.from.join("area");
    fs::create_dir(&area).unwrap();
    let bottom = make_chain(&area, 2_000);
    let socket = rustix::fs::FileType::Socket;
    rustix::fs::mknodat(&bottom, c"socket", socket, Mode::RUSR, 0).unwrap();
    setrlimit(Resource::Nofile, Rlimit { current: Some(90), maximum: Some(90) }).unwrap();

    let error = fixture.persist("area", "new", Replace::Never).unwrap_err();
    assert_eq!(error.errno, rustix::io::Errno::OPNOTSUPP);
    assert_eq!(error.path.components().count(), 2_002, "the path from the name on");
    assert_eq!(fs::read_dir(&fixture.to).unwrap().count(), 0);
    rustix::fs::statat(&bottom, c"socket", AtFlags::SYMLINK_NOFOLLOW).unwrap();
}

#[test]
fn links_are_copied_as_links_and_what_they_name_stays() {
    if !contained(links_are_copied_as_links_and_what_they_name_stays) {
        return;
    }
    for replace in [Replace::Never, Replace::Exchange] {
        let fixture = Fixture::on_two();
        let area = fixture.from.join("area");
        fs::create_dir_all(area.join("sub")).unwrap();
        for directory in [&area, &area.join("sub")] {
            symlink(fixture.canary("file"), directory.join("file")).unwrap();
            symlink(fixture.canary(""), directory.join("directory")).unwrap();
            symlink("dangling", directory.join("dangling")).unwrap();
        }
        let expected = held(&area);
        if replace == Replace::Exchange {
            // Its target is another tree with such links, which is copied back and removed.
            fs::create_dir(fixture.to.join("new")).unwrap();
            symlink(fixture.canary(""), fixture.to.join("new/directory")).unwrap();
        }
        assert!(fixture.persist("area", "new", replace).unwrap().copied);
        assert_eq!(held(&fixture.to.join("new")), expected);
        fixture.assert_canary();
        if replace == Replace::Exchange {
            assert!(area.join("directory").is_symlink() && !area.join("sub").exists());
        }
    }
}

#[test]
fn hard_links_become_files_of_their_own() {
    if !contained(hard_links_become_files_of_their_own) {
        return;
    }
    let fixture = Fixture::on_two();
    fs::create_dir(fixture.from.join("area")).unwrap();
    fs::hard_link(fixture.canary("file"), fixture.from.join("area/one")).unwrap();
    fs::hard_link(fixture.canary("file"), fixture.from.join("area/two")).unwrap();
    fixture.persist("area", "new", Replace::Never).unwrap();
    for name in ["new/one", "new/two"] {
        assert_eq!(fs::metadata(fixture.to.join(name)).unwrap().nlink(), 1);
        fs::write(fixture.to.join(name), "other").unwrap();
    }
    fixture.assert_canary();
}

#[test]
fn many_files_in_many_directories_are_all_there() {
    if !contained(many_files_in_many_directories_are_all_there) {
        return;
    }
    let fixture = Fixture::on_two();
    let area = fixture.from.join("area");
    for wide in 0..30 {
        let directory = area.join(format!("{wide}/x/y"));
        fs::create_dir_all(&directory).unwrap();
        // More names than one listing holds.
        for file in 0..if wide == 7 { 3_000 } else { 20 } {
            fs::write(directory.join(format!("a-file-with-a-longer-name-{file}")), file.to_string()).unwrap();
        }
        set_mode(&directory, 0o500);
    }
    let expected = held(&area);
    fixture.persist("area", "new", Replace::Never).unwrap();
    assert_eq!(held(&fixture.to.join("new")), expected);
}
