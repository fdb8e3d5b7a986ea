//! Others at work on the names of an area while it is made and ended.

use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use rustix::fs::{CWD, RenameFlags, renameat_with};

use crate::contain::contained;
use crate::fixture::Fixture;

const ROUNDS: usize = 300;

/// Puts `stand_in` under the area's name and takes it away again, as fast as it can, until it is told to stop.
fn swap_while(fixture: &Fixture, stand_in: &str, is_directory: bool) {
    let own = fixture.directory().join(stand_in);
    for _ in 0..ROUNDS {
        let mut entry = fixture.make(is_directory).entry;
        let area = fixture.path(&entry);
        let stop = AtomicBool::new(false);
        thread::scope(|scope| {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    let _ = renameat_with(CWD, &own, CWD, &area, RenameFlags::EXCHANGE);
                    let _ = renameat_with(CWD, &own, CWD, &area, RenameFlags::NOREPLACE);
                    let _ = renameat_with(CWD, &area, CWD, &own, RenameFlags::NOREPLACE);
                }
            });
            let _ = fixture.end(&mut entry);
            stop.store(true, Ordering::Relaxed);
        });
        if !fixture.entries().is_empty() {
            fixture.end(&mut fixture.entries().remove(0).2.unwrap()).unwrap();
        }
        assert_eq!(fixture.entries(), []);
    }
}

/// It is there under some name; what else is there was an area, under a name that the other gave it.
fn find(fixture: &Fixture, inode: u64) -> Option<std::path::PathBuf> {
    let mut paths = fixture.names().into_iter().map(|name| fixture.directory().join(name));
    paths.find(|path| fs::symlink_metadata(path).is_ok_and(|found| found.ino() == inode))
}

#[test]
fn a_file_that_takes_the_name_of_an_area_lives() {
    if !contained(a_file_that_takes_the_name_of_an_area_lives) {
        return;
    }
    for is_directory in [false, true] {
        let fixture = Fixture::new();
        let own = fixture.directory().join("own");
        fs::write(&own, "precious").unwrap();
        let inode = fs::metadata(&own).unwrap().ino();
        swap_while(&fixture, "own", is_directory);
        assert_eq!(fs::read(find(&fixture, inode).unwrap()).unwrap(), b"precious");
        fixture.assert_others();
    }
}

#[test]
fn a_link_in_the_place_of_an_area_leads_nowhere() {
    if !contained(a_link_in_the_place_of_an_area_leads_nowhere) {
        return;
    }
    for is_directory in [false, true] {
        let fixture = Fixture::new();
        let own = fixture.directory().join("own");
        symlink(fixture.canary(""), &own).unwrap();
        let inode = fs::symlink_metadata(&own).unwrap().ino();
        swap_while(&fixture, "own", is_directory);
        assert!(find(&fixture, inode).is_some(), "a link is somebody's, too");
        fixture.assert_others();
    }
}

#[test]
fn a_full_directory_in_the_place_of_an_area_stays_full() {
    if !contained(a_full_directory_in_the_place_of_an_area_stays_full) {
        return;
    }
    let fixture = Fixture::new();
    let own = fixture.directory().join("own");
    fs::create_dir(&own).unwrap();
    fs::write(own.join("file"), "precious").unwrap();
    let inode = fs::metadata(&own).unwrap().ino();
    swap_while(&fixture, "own", true);
    assert_eq!(fs::read(find(&fixture, inode).unwrap().join("file")).unwrap(), b"precious");
    fixture.assert_others();
}
