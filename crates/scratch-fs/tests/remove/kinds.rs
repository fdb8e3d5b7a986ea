//! Everything that a directory can hold, under every name it can have.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::symlink;
use std::os::unix::net::UnixListener;

use rustix::fs::{CWD, FileType, Mode};
use scratch_fs::Rights;

use crate::contain::contained;
use crate::fixture::{Fixture, set_mode};

#[test]
fn links_go_and_what_they_name_stays() {
    if !contained(links_go_and_what_they_name_stays) {
        return;
    }
    let fixture = Fixture::new();
    let sub = fixture.lease().join("sub");
    fs::create_dir(&sub).unwrap();
    for (index, directory) in [fixture.lease(), sub].iter().enumerate() {
        symlink(fixture.canary("file"), directory.join("file")).unwrap();
        symlink(fixture.canary("inner"), directory.join("directory")).unwrap();
        symlink(["../canary/inner", "../../canary/inner"][index], directory.join("relative")).unwrap();
        symlink("nowhere", directory.join("dangling")).unwrap();
        symlink("itself", directory.join("itself")).unwrap();
    }
    assert_eq!(fixture.remove_all(Rights::Own), 12);
}

#[test]
fn special_files_are_not_opened() {
    if !contained(special_files_are_not_opened) {
        return;
    }
    let fixture = Fixture::new();
    let make = |name: &str, kind, device| {
        rustix::fs::mknodat(CWD, fixture.lease().join(name), kind, Mode::RUSR | Mode::WUSR, device)
    };
    make("fifo", FileType::Fifo, 0).unwrap();
    let _listener = UnixListener::bind(fixture.lease().join("socket")).unwrap();
    let mut names = 3;
    // /dev/null's number; a user namespace may not make it.
    match make("device", FileType::CharacterDevice, rustix::fs::makedev(1, 3)) {
        Ok(()) => names += 1,
        Err(errno) => println!("left out: device: {errno}"),
    }
    assert_eq!(fixture.remove_all(Rights::Own), names);
}

#[test]
fn a_file_with_another_name_keeps_content_and_mode() {
    if !contained(a_file_with_another_name_keeps_content_and_mode) {
        return;
    }
    let fixture = Fixture::new();
    fs::hard_link(fixture.canary("file"), fixture.lease().join("link")).unwrap();
    fs::create_dir(fixture.lease().join("closed")).unwrap();
    fs::hard_link(fixture.canary("inner/file"), fixture.lease().join("closed/link")).unwrap();
    set_mode(&fixture.lease().join("closed"), 0o000);
    assert_eq!(fixture.remove_all(Rights::Own), 4);
}

#[test]
fn any_byte_may_be_in_a_name() {
    if !contained(any_byte_may_be_in_a_name) {
        return;
    }
    let fixture = Fixture::new();
    let longest = [b'x'; 255];
    let names = [&b"\xff\xfe"[..], b"new\nline", b" ", b"-rf", b"...", b"*", b"\x1b[2J", &longest];
    for name in names {
        let directory = fixture.lease().join(OsStr::from_bytes(name));
        fs::create_dir(&directory).unwrap();
        fs::write(directory.join(OsStr::from_bytes(name)), b"").unwrap();
    }
    assert_eq!(fixture.remove_all(Rights::Own), 17);
}

#[test]
fn an_entry_need_not_be_a_directory() {
    if !contained(an_entry_need_not_be_a_directory) {
        return;
    }
    let fixture = Fixture::new();
    let lease = fixture.lease();
    let end = |rights| {
        assert_eq!(fixture.remove_all(rights), 1);
    };
    end(Rights::Own);
    fs::write(&lease, "ended").unwrap();
    end(Rights::TakeOver);
    symlink(fixture.canary(""), &lease).unwrap();
    end(Rights::TakeOver);
    fs::hard_link(fixture.canary("file"), &lease).unwrap();
    end(Rights::TakeOver);
}
