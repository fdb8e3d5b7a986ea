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
    let area = fixture.from.join("area");
    fs::create_dir(&area).unwrap();
    for file in 0..300 {
        fs::write(area.join(file.to_string()), vec![7; 10_000]).unwrap();
    }
    let new = fixture.to.join("new");
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        let watcher = scope.spawn(|| {
            let mut seen = Vec::new();
            // Once more after the end, so that something is seen for certain.
            loop {
                let last = done.load(Ordering::SeqCst);
                seen.extend(fs::read_dir(&new).map(Iterator::count));
                if last {
                    return seen;
                }
            }
        });
        let persisted = fixture.persist("area", "new", Replace::Never);
        done.store(true, Ordering::SeqCst);
        persisted.unwrap();
        let seen = watcher.join().unwrap();
        assert!(!seen.is_empty() && seen.iter().all(|count| *count == 300), "{seen:?}");
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
    let outcomes = thread::scope(|scope| {
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
        let persist = |round| fixture.persist("area", &format!("new{round}"), Replace::Never);
        let outcomes: Vec<_> = (0..200).map(persist).collect();
        done.store(true, Ordering::SeqCst);
        outcomes
    });
    let copied = outcomes.iter().filter(|outcome| outcome.is_ok()).count();
    println!("{copied} of {} copied", outcomes.len());
    let held = held(&fixture.to);
    assert!(held.values().all(|(_, _, content)| content != b"alive"), "the canary was copied");
    assert_eq!(fs::read_dir(&fixture.to).unwrap().count(), copied);
    fixture.assert_canary();
}
