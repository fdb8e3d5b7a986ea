//! Every kind under every kind of name with every way to replace: what rename(2) makes of it, a copy makes of it too.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use rustix::io::Errno;
use scratch_fs::Replace;

use crate::contain::{contained, contained_unprivileged};
use crate::fixture::{Fixture, Held, held, make, mount_again, mount_image};

const KINDS: [&str; 5] = ["file", "directory", "full", "symlink", "fifo"];
const WAYS: [Replace; 3] = [Replace::Never, Replace::Always, Replace::Exchange];

type Outcome = (Result<(), Errno>, Held, Held);

fn outcome(fixture: &Fixture, kind: &str, there: &str, replace: Replace, copied: bool) -> Outcome {
    make(kind, &fixture.from.join("area"));
    make(there, &fixture.to.join("new"));
    let persisted = fixture.persist_and_trash("area", "new", replace);
    if let Ok(persisted) = &persisted {
        assert_eq!((persisted.copied, &persisted.leftover), (copied, &None));
    }
    fixture.assert_canary();
    let mut held = [&fixture.from, &fixture.to].map(|path| held(path));
    if replace == Replace::Exchange {
        // XFS gives directories that change places a new time, others do not.
        let directories = held.iter_mut().flat_map(Held::values_mut).filter(|(mode, ..)| mode & 0o170_000 == 0o040_000);
        directories.for_each(|(_, time, _)| *time = 0);
    }
    let [from, to] = held;
    (persisted.map(drop).map_err(one_errno), from, to)
}

/// XFS says the one, others the other, and POSIX both.
fn one_errno(errno: Errno) -> Errno {
    if errno == Errno::NOTEMPTY { Errno::EXIST } else { errno }
}

fn both_ways_agree_between(from: &Path, to: &Path) {
    for kind in KINDS {
        for there in ["nothing"].into_iter().chain(KINDS) {
            for replace in WAYS {
                let renamed = outcome(&Fixture::below(from, from), kind, there, replace, false);
                let copied = outcome(&Fixture::below(from, to), kind, there, replace, true);
                assert_eq!(copied, renamed, "{kind} to {there}, {replace:?}");
                let worked = match replace {
                    Replace::Never => there == "nothing",
                    Replace::Exchange => there != "nothing",
                    Replace::Always => continue,
                };
                assert_eq!(renamed.0.is_ok(), worked, "{kind} to {there}, {replace:?}");
            }
        }
    }
}

#[test]
fn a_copy_has_the_outcome_of_a_rename() {
    if contained(a_copy_has_the_outcome_of_a_rename) {
        both_ways_agree_between(Path::new("/tmp"), Path::new("/dev/shm"));
    }
}

#[test]
fn a_copy_has_the_outcome_of_a_rename_without_privileges() {
    if contained_unprivileged(a_copy_has_the_outcome_of_a_rename_without_privileges) {
        both_ways_agree_between(Path::new("/tmp"), Path::new("/dev/shm"));
    }
}

#[test]
fn a_copy_has_the_outcome_of_a_rename_on_ext4() {
    if contained(a_copy_has_the_outcome_of_a_rename_on_ext4) {
        both_ways_agree_on("ext4");
    }
}

#[test]
fn a_copy_has_the_outcome_of_a_rename_on_xfs() {
    if contained(a_copy_has_the_outcome_of_a_rename_on_xfs) {
        both_ways_agree_on("xfs");
    }
}

#[test]
fn a_copy_has_the_outcome_of_a_rename_on_btrfs() {
    if contained(a_copy_has_the_outcome_of_a_rename_on_btrfs) {
        both_ways_agree_on("btrfs");
    }
}

fn both_ways_agree_on(kind: &str) {
    if let Some(image) = mount_image(kind) {
        both_ways_agree_between(Path::new("/tmp"), &image);
        both_ways_agree_between(&image, &mount_again(&image));
    }
}

#[test]
fn a_rename_is_no_copy() {
    if !contained(a_rename_is_no_copy) {
        return;
    }
    let fixture = Fixture::on_one();
    make("file", &fixture.from.join("area"));
    let inode = fs::metadata(fixture.from.join("area")).unwrap().ino();
    assert!(!fixture.persist("area", "new", Replace::Never).unwrap().copied);
    assert_eq!(fs::metadata(fixture.to.join("new")).unwrap().ino(), inode);
    fixture.assert_refused("area", Replace::Never, Errno::NOENT, "area");
    make("file", &fixture.from.join("area"));
    fixture.assert_refused("area", Replace::Never, Errno::EXIST, "new");
}
