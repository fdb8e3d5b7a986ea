//! A lease that is emptied where it is, for want of room to move it.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use rustix::io::Errno;
use scratch_fs::{Backend, Blocker, Ended, Place, Pool, Rights};

use crate::contain::{contained, has_all_ids};
use crate::fixture::{Fixture, TENANT, own, set_mode};

fn pool(at: &Path) -> Pool {
    fs::create_dir(at).unwrap();
    set_mode(at, 0o711);
    Pool::open(at, Backend::Dir, &[], at.parent().unwrap()).unwrap()
}

fn place_of(directory: &Path) -> Place {
    let found = fs::metadata(directory).unwrap();
    Place::This { device: found.dev(), inode: found.ino() }
}

#[test]
fn all_of_it_goes_but_the_directory() {
    if !contained(all_of_it_goes_but_the_directory) {
        return;
    }
    let fixture = Fixture::new();
    let pool = pool(&fixture.lease().join("pool"));
    let lease = pool.lease_path(Fixture::id());
    // Deeper than the walk holds directories, and closed.
    let mut deep = lease.clone();
    (0..40).for_each(|_| deep.push("d"));
    fs::create_dir_all(&deep).unwrap();
    fs::write(deep.join("file"), "x").unwrap();
    set_mode(&lease.join("d/d"), 0);
    std::os::unix::fs::symlink(fixture.canary(""), lease.join("link")).unwrap();
    let place = place_of(&lease);
    assert_eq!(pool.empty_lease(Fixture::id(), TENANT, place, Rights::Own).unwrap(), []);
    assert_eq!(fs::read_dir(&lease).unwrap().count(), 0);
    assert!(pool.trash().is_empty().unwrap());
    fixture.assert_canary();
    assert!(matches!(pool.end_lease(Fixture::id(), TENANT, place).unwrap(), Ended::Trashed(_)));
}

#[test]
fn what_is_anothers_is_left_alone() {
    if !contained(what_is_anothers_is_left_alone) || !has_all_ids() {
        return;
    }
    let fixture = Fixture::new();
    let pool = pool(&fixture.lease().join("pool"));
    let lease = pool.lease_path(Fixture::id());
    fs::create_dir(&lease).unwrap();
    let mut deep = lease.clone();
    (0..40).for_each(|_| deep.push("d"));
    fs::create_dir_all(&deep).unwrap();
    fs::write(deep.join("file"), "x").unwrap();
    own(&deep, TENANT + 1);
    let mut tenants = deep.parent();
    while let Some(directory) = tenants.filter(|directory| directory.starts_with(&lease)) {
        own(directory, TENANT);
        tenants = directory.parent();
    }
    let left = pool.empty_lease(Fixture::id(), TENANT, place_of(&lease), Rights::TakeOver).unwrap();
    // What was lifted out of it is told of, as it is somewhere else now.
    let [left] = left.as_slice() else { panic!("{left:?}") };
    assert_eq!(left.blocker, Blocker::ForeignOwner);
    assert_eq!(fs::read_dir(&lease).unwrap().count(), 0);
    let wrong = Place::This { device: 1, inode: 1 };
    fs::write(lease.join("file"), "x").unwrap();
    let error = pool.empty_lease(Fixture::id(), TENANT, wrong, Rights::TakeOver).unwrap_err();
    assert_eq!(error.errno, Errno::STALE);
    assert!(lease.join("file").exists());
}
