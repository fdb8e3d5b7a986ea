//! Removal in turns: what is unfinished goes on where it was, and nothing is lost in between.

use std::fs;
use std::sync::atomic::{AtomicU32, Ordering};

use scratch_fs::{Rights, TrashName, remove_in_turns};

use crate::contain::contained;
use crate::fixture::{Fixture, ONE, TWO};

/// Deep enough that parts are lifted out of it, and wide. Gives the names that were made.
fn build(fixture: &Fixture) -> u64 {
    let mut directory = fixture.lease();
    let mut made = 1;
    for _ in 0..100 {
        for file in 0..5 {
            fs::write(directory.join(file.to_string()), "").unwrap();
        }
        for beside in ["a", "b"] {
            fs::create_dir_all(directory.join(beside).join("empty")).unwrap();
        }
        directory.push("deeper");
        fs::create_dir(&directory).unwrap();
        made += 10;
    }
    made
}

#[test]
fn a_tree_goes_turn_by_turn() {
    if !contained(a_tree_goes_turn_by_turn) {
        return;
    }
    for workers in [ONE, TWO] {
        let fixture = Fixture::new();
        let made = build(&fixture);
        let mut entries = vec![fixture.take()];
        let (mut removed, mut turns) = (0, 0_u32);
        while !entries.is_empty() {
            let asked = AtomicU32::new(0);
            // Longer each time: the way down to where it was costs more than the first turns have.
            let is_over = || asked.fetch_add(1, Ordering::Relaxed) >= 10 << turns;
            let removal = remove_in_turns(&fixture.trash, entries, Rights::Own, workers, &is_over);
            assert_eq!(removal.left, []);
            removed += removal.names_removed;
            entries = removal.unfinished;
            turns += 1;
            let in_trash: Vec<_> = fixture.trash.entries().unwrap();
            let mut known = entries.clone();
            known.sort_unstable();
            assert_eq!(in_trash.iter().copied().filter(|name| !known.contains(name)).collect::<Vec<TrashName>>(), []);
        }
        assert_eq!(removed, made);
        assert!(turns > 3, "{turns}");
        fixture.assert_gone();
    }
}
