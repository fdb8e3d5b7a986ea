//! Others who change the tree while it is removed.

use std::fs::{self, File};
use std::os::unix::fs::symlink;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use rustix::fs::{AtFlags, Mode, OFlags, RenameFlags};
use rustix::io::Errno;
use scratch_fs::{Blocker, Removal, Rights, remove};

use crate::contain::contained;
use crate::fixture::{Fixture, ONE, TWO};

#[test]
fn a_writer_that_goes_on_makes_it_busy_and_not_endless() {
    if !contained(a_writer_that_goes_on_makes_it_busy_and_not_endless) {
        return;
    }
    let fixture = Fixture::new();
    fs::create_dir(fixture.lease().join("sub")).unwrap();
    let held = File::open(fixture.lease().join("sub")).unwrap();
    let entry = fixture.take();
    let started = AtomicBool::new(false);
    let stop = AtomicBool::new(false);
    let removal = thread::scope(|scope| {
        scope.spawn(|| {
            for number in 0.. {
                let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY;
                match rustix::fs::openat(&held, format!("file-{number}"), flags, Mode::RUSR) {
                    Ok(_) => started.store(true, Ordering::Relaxed),
                    // The directory is gone.
                    Err(Errno::NOENT) => break,
                    Err(errno) => panic!("{errno}"),
                }
                if stop.load(Ordering::Relaxed) {
                    break;
                }
            }
        });
        while !started.load(Ordering::Relaxed) {
            thread::yield_now();
        }
        let removal = remove(&fixture.trash, entry, Rights::Own, TWO);
        stop.store(true, Ordering::Relaxed);
        removal
    });
    if !removal.left.is_empty() {
        fixture.assert_left(&removal, Blocker::Busy, "sub");
        assert_eq!(removal.left[0].error.errno, Errno::NOTEMPTY);
    }
    assert_eq!(remove(&fixture.trash, entry, Rights::Own, ONE).left, []);
    fixture.assert_gone();
}

#[test]
fn a_directory_swapped_for_a_link_leads_nowhere() {
    if !contained(a_directory_swapped_for_a_link_leads_nowhere) {
        return;
    }
    let fixture = Fixture::new();
    let mut swapped = 0;
    for round in 0..400 {
        if round > 0 {
            fs::create_dir(fixture.lease()).unwrap();
        }
        for directory in 0..20 {
            let directory = fixture.lease().join(directory.to_string());
            fs::create_dir_all(directory.join("inner")).unwrap();
            fs::write(directory.join("inner/file"), b"").unwrap();
        }
        symlink(fixture.canary(""), fixture.lease().join("link")).unwrap();
        let (removal, swaps) = remove_while_swapping(&fixture);
        swapped += swaps;
        for left in removal.left {
            assert_eq!(left.blocker, Blocker::Busy, "{left:?}");
            assert_eq!(remove(&fixture.trash, left.entry, Rights::Own, ONE).left, []);
        }
        fixture.assert_gone();
    }
    assert!(swapped > 1000, "only {swapped} swaps");
}

/// Exchanges sub-directories with a link to the canary until the tree is gone.
fn remove_while_swapping(fixture: &Fixture) -> (Removal, u64) {
    let lease = File::open(fixture.lease()).unwrap();
    let entry = fixture.take();
    let (started, stop) = (AtomicBool::new(false), AtomicBool::new(false));
    thread::scope(|scope| {
        let swapper = scope.spawn(|| {
            let mut swaps = 0;
            while !stop.load(Ordering::Relaxed) {
                for directory in 0..20 {
                    let name = directory.to_string();
                    for _ in 0..2 {
                        let swap = rustix::fs::renameat_with(&lease, &name, &lease, "link", RenameFlags::EXCHANGE);
                        swaps += u64::from(swap.is_ok());
                    }
                }
                started.store(true, Ordering::Relaxed);
            }
            swaps
        });
        while !started.load(Ordering::Relaxed) {
            thread::yield_now();
        }
        let removal = remove(&fixture.trash, entry, Rights::Own, TWO);
        stop.store(true, Ordering::Relaxed);
        (removal, swapper.join().unwrap())
    })
}

#[test]
fn two_removals_of_one_tree_do_not_disturb_each_other() {
    if !contained(two_removals_of_one_tree_do_not_disturb_each_other) {
        return;
    }
    let fixture = Fixture::new();
    for directory in 0..50 {
        let directory = fixture.lease().join(directory.to_string());
        fs::create_dir(&directory).unwrap();
        for file in 0..100 {
            fs::write(directory.join(file.to_string()), b"").unwrap();
        }
    }
    let entry = fixture.take();
    let names: u64 = thread::scope(|scope| {
        let removals = [(); 2].map(|()| scope.spawn(|| remove(&fixture.trash, entry, Rights::Own, TWO)));
        removals.into_iter().map(|removal| removal.join().unwrap()).map(|removal| removal.names_removed).sum()
    });
    // Sub-directories that one has lifted are that one's to finish; both have returned.
    assert_eq!(names, 5051);
    fixture.assert_gone();
    let missing = rustix::fs::unlinkat(fixture.trash.directory(), entry.to_cstring(), AtFlags::REMOVEDIR);
    assert_eq!(missing, Err(Errno::NOENT));
}
