//! Says what a run left out and why. `cargo xtask test` prints the lines at its end.

use std::fs::OpenOptions;
use std::io::Write;

use crate::contain::is_inside;
use crate::programs::target_directory;

/// How a contained test, which can write nothing outside, tells the outer side.
pub(crate) const PREFIX: &str = "left out: ";

/// Notes that `test`, or a part of it, was left out. One line; the reason should name what is missing.
///
/// # Panics
/// When cargo's target directory can't be written.
pub fn left_out(test: &str, why: &str) {
    let line = format!("{test}: {why}");
    if is_inside() {
        // libtest leaves its own line open under --nocapture.
        println!("\n{PREFIX}{line}");
    } else {
        append(&line);
    }
}

pub(crate) fn append(line: &str) {
    let path = target_directory().join("left-out.txt");
    let mut file = OpenOptions::new().create(true).append(true).open(path).expect("the target directory is writable");
    // One write a line: tests append at the same time.
    file.write_all(format!("{line}\n").as_bytes()).expect("the target directory is writable");
}
