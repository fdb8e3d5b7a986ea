//! What the directory around gives new entries, and that their modes are exact all the same.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::fs::{self, File, Metadata};
use std::os::fd::AsFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::Path;

use rustix::fs::XattrFlags;
use scratch_fs::{Naming, create_directory, create_file};

const FILES: [u32; 4] = [0o600, 0o640, 0o666, 0o400];
const DIRECTORIES: [u32; 3] = [0o700, 0o755, 0o777];

/// Makes a file and a directory of each mode, and says what they are.
fn made_in(place: &Path) -> Vec<(u32, Metadata)> {
    let directory = File::open(place).unwrap();
    let mut made = Vec::new();
    for mode in FILES {
        let name = std::ffi::CString::new(format!("file-{mode:o}")).unwrap();
        let (file, _) = create_file(directory.as_fd(), &Naming::Exact(&name), mode).unwrap();
        made.push((mode, File::from(file).metadata().unwrap()));
    }
    for mode in DIRECTORIES {
        let name = format!("directory-{mode:o}");
        let exact = std::ffi::CString::new(name.as_str()).unwrap();
        create_directory(directory.as_fd(), &Naming::Exact(&exact), mode).unwrap();
        made.push((mode, fs::metadata(place.join(name)).unwrap()));
    }
    made
}

#[test]
fn a_set_group_id_directory_gives_its_group_and_the_bit() {
    let place = tempfile::tempdir().unwrap();
    let group = if rustix::process::geteuid().is_root() { 4321 } else { rustix::process::getegid().as_raw() };
    chown(place.path(), None, Some(group)).unwrap();
    fs::set_permissions(place.path(), PermissionsExt::from_mode(0o2755)).unwrap();
    for (mode, made) in made_in(place.path()) {
        let inherited = if made.is_dir() { 0o2000 } else { 0 };
        assert_eq!((made.mode() & 0o7777, made.gid()), (mode | inherited, group));
    }
}

/// Version 2: u32; then tag u16, permissions u16, id u32 of each entry.
fn acl(entries: &[(u16, u16, u32)]) -> Vec<u8> {
    let mut bytes = 2u32.to_le_bytes().to_vec();
    for (tag, permissions, id) in entries {
        bytes.extend(tag.to_le_bytes());
        bytes.extend(permissions.to_le_bytes());
        bytes.extend(id.to_le_bytes());
    }
    bytes
}

#[test]
fn a_default_acl_comes_along_and_gives_no_more_than_the_mode() {
    const NAME: &str = "system.posix_acl_default";
    let place = tempfile::tempdir().unwrap();
    let (owner, user, group, mask, other) = (1, 2, 4, 16, 32);
    let none = u32::MAX;
    let default = acl(&[(owner, 7, none), (user, 7, 1234), (group, 7, none), (mask, 7, none), (other, 7, none)]);
    if let Err(errno) = rustix::fs::setxattr(place.path(), NAME, &default, XattrFlags::empty()) {
        println!("left out: no ACLs here: {errno}");
        return;
    }
    for (mode, made) in made_in(place.path()) {
        // The group's bits of the mode are the ACL's mask.
        assert_eq!(made.mode() & 0o7777, mode, "directory: {}", made.is_dir());
    }
    let mut value = [0; 256];
    let length = rustix::fs::getxattr(place.path().join("directory-755"), NAME, &mut value[..]).unwrap();
    assert_eq!(&value[..length], default, "it goes on to what is made below");
    let length =
        rustix::fs::getxattr(place.path().join("file-640"), "system.posix_acl_access", &mut value[..]).unwrap();
    assert_eq!(
        value[..length],
        acl(&[(owner, 6, none), (user, 7, 1234), (group, 7, none), (mask, 4, none), (other, 0, none)])
    );
}
