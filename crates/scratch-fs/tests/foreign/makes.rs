//! What is made, and what is refused.

use std::fs::{self, File};
use std::io::{Read, Seek, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

use rustix::io::Errno;
use scratch_fs::{NamePattern, Naming};

use crate::contain::{contained, has_all_ids};
use crate::fixture::{Fixture, TENANT};

#[test]
fn files_and_directories_are_the_tenants_with_the_mode_that_was_asked_for() {
    if !contained(files_and_directories_are_the_tenants_with_the_mode_that_was_asked_for) {
        return;
    }
    for umask in [0, 0o077, 0o777] {
        for (is_directory, mode) in [(false, 0o600), (false, 0o644), (false, 0o400), (true, 0o700), (true, 0o751)] {
            let fixture = Fixture::new();
            let (entry, held) = fixture.entry(1, is_directory);
            let before = rustix::process::umask(rustix::fs::Mode::from_raw_mode(umask));
            let made = fixture.book.make(held.as_fd(), entry, &Naming::Exact(c"area"), mode, true).unwrap();
            rustix::process::umask(before);
            let found = fs::symlink_metadata(fixture.directory().join("area")).unwrap();
            assert_eq!((found.mode() & 0o7777, found.is_dir()), (mode, is_directory), "umask {umask:o}");
            assert_eq!((found.uid(), found.gid()), (Fixture::uid(), Fixture::uid()));
            assert_eq!(fixture.names(), ["area", "other"], "no other name is left");
            let handle = File::from(made.handle.unwrap());
            assert_eq!(handle.metadata().unwrap().ino(), found.ino());
            if !is_directory {
                let mut handle = handle;
                handle.write_all(b"content").unwrap();
                handle.rewind().unwrap();
                let mut read = String::new();
                handle.read_to_string(&mut read).unwrap();
                assert_eq!(read, "content");
            }
            let mut entry = fixture.entries().remove(0).2.unwrap();
            assert_eq!(entry, made.entry);
            assert!(entry.is_named && !entry.has_ended);
            fixture.end(&mut entry).unwrap();
            fixture.assert_gone();
        }
    }
}

#[test]
fn a_name_that_is_taken_is_refused_and_random_ones_are_drawn_again() {
    if !contained(a_name_that_is_taken_is_refused_and_random_ones_are_drawn_again) {
        return;
    }
    let fixture = Fixture::new();
    symlink("nowhere", fixture.directory().join("link")).unwrap();
    for name in [c"other", c"link"] {
        for is_directory in [false, true] {
            let unmade = fixture.try_make(is_directory, &Naming::Exact(name)).unwrap_err();
            assert_eq!((unmade.error.errno, unmade.left), (Errno::EXIST, None), "{name:?}");
        }
    }
    fs::remove_file(fixture.directory().join("link")).unwrap();
    fixture.assert_gone();
    let pattern = NamePattern::new(b"a", b"z", 3).unwrap();
    let mut made: Vec<_> = (1..=20)
        .map(|number| {
            let (entry, held) = fixture.entry(number, number % 2 == 0);
            fixture.book.make(held.as_fd(), entry, &Naming::Random(pattern), 0o600, false).unwrap().entry
        })
        .collect();
    assert!(
        made.iter().all(|entry| entry.name.len() == 5 && entry.name.starts_with(b"a") && entry.name.ends_with(b"z"))
    );
    made.iter_mut().for_each(|entry| fixture.end(entry).unwrap());
    fixture.assert_gone();
}

#[test]
fn the_kernel_decides_where_a_tenant_may_make_anything() {
    if !contained(the_kernel_decides_where_a_tenant_may_make_anything) {
        return;
    }
    if !has_all_ids() {
        return println!("left out: needs a second user");
    }
    let fixture = Fixture::new();
    let other = TENANT + 1;
    for (owner, mode, errno) in
        [(other, 0o755, Errno::ACCESS), (0, 0o700, Errno::ACCESS), (other, 0o766, Errno::ACCESS)]
    {
        std::os::unix::fs::lchown(fixture.directory(), Some(owner), Some(owner)).unwrap();
        fs::set_permissions(fixture.directory(), fs::Permissions::from_mode(mode)).unwrap();
        let (mut entry, _) = (scratch_fs::ForeignEntry { uid: TENANT, gid: TENANT, ..Default::default() }, ());
        let refused = match entry.hold_parent(&fixture.passed()) {
            Err(error) => error.errno,
            Ok(_) => fixture.try_make(false, &Naming::Exact(c"area")).unwrap_err().error.errno,
        };
        assert_eq!(refused, errno, "{owner} {mode:o}");
        fixture.assert_gone();
    }
    let not_a_directory = File::open(fixture.directory().join("other")).unwrap().into();
    let mut entry = scratch_fs::ForeignEntry::default();
    assert_eq!(entry.hold_parent(&not_a_directory).unwrap_err().errno, Errno::NOTDIR);
}
