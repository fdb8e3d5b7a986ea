//! Others at work on the tree while it is copied: whole or nothing, and never through a link that was swapped in.

use std::fs;
use std::os::unix::fs::symlink;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use rustix::fs::{CWD, RenameFlags, renameat_with};
use scratch_fs::Replace;

use crate::contain::contained;
use crate::fixture::{Fixture, held};

#[test]
fn what_is_seen_under_the_new_name_is_whole() {
    if !contained(what_is_seen_under_the_new_name_is_whole) {
        return;
    }
    let fixture = Fixture::on_two();
    let done = AtomicBool::new(false);
    let new = fixture.to.join("new");
    thread::scope(|scope| {
        let watcher = scope.spawn(|| {
            let mut seen = 0;
            // Once more after the end, so that something is seen for certain.
            loop {
                let last = done.load(Ordering::SeqCst);
                if let Ok(names) = fs::read_dir(&new) {
                    assert_eq!(names.count(), 300);
                    seen += 1;
                }
                if last {
                    return seen;
                }
            }
        });
        let area = fixture.from.join("area");
        fs::create_dir(&area).unwrap();
        for file in 0..300 {
            fs::write(area.join(file.to_string()), vec![7; 10_000]).unwrap();
        }
        fixture.persist("area", "new", Replace::Never).unwrap();
        done.store(true, Ordering::SeqCst);
        assert!(watcher.join().unwrap() > 0);
    });
}

#[test]
fn what_is_taken_away_meanwhile_makes_it_fail_or_was_copied() {
    if !contained(what_is_taken_away_meanwhile_makes_it_fail_or_was_copied) {
        return;
    }
    let fixture = Fixture::on_two();
    let area = fixture.from.join("area");
    let done = AtomicBool::new(false);
    fs::create_dir_all(area.join("sub/sub")).unwrap();
    for file in 0..200 {
        fs::write(area.join(format!("sub/sub/{file}")), vec![7; 5_000]).unwrap();
    }
    symlink(fixture.canary(""), fixture.from.join("link")).unwrap();
    let (mut copied, mut refused) = (0, 0);
    thread::scope(|scope| {
        scope.spawn(|| {
            // A directory and a link to the canary change places all the time, as does a file in it.
            let swaps = [("link", "area/sub"), ("link", "area/sub/sub"), ("link", "area/sub/sub/7")];
            while !done.load(Ordering::SeqCst) {
                for (one, other) in swaps {
                    let [one, other] = [one, other].map(|path| fixture.from.join(path));
                    for _ in 0..2 {
                        renameat_with(CWD, &one, CWD, &other, RenameFlags::EXCHANGE).unwrap();
                    }
                }
            }
        });
        for round in 0..200 {
            let name = format!("new{round}");
            match fixture.persist("area", &name, Replace::Never) {
                Ok(_) => copied += 1,
                Err(error) => {
                    assert!(!fixture.to.join(&name).exists(), "{error}");
                    refused += 1;
                }
            }
        }
        done.store(true, Ordering::SeqCst);
    });
    println!("{copied} copied, {refused} refused");
    let held = held(&fixture.to);
    assert!(held.values().all(|(_, _, content)| content != b"alive"), "the canary was copied");
    assert_eq!(fs::read_dir(&fixture.to).unwrap().count(), copied);
    fixture.assert_canary();
}
