//! Long and short forms of the same proof, and the figures that it ends with.

use std::fs::OpenOptions;
use std::io::Write;

use crate::contain::is_inside;
use crate::programs::target_directory;

/// Set by `cargo xtask torture`.
const LONG: &str = "SCRATCH_TORTURE";
/// How a contained test, which can write nothing outside, tells the outer side.
pub(crate) const PREFIX: &str = "figures: ";

/// Whether a proof is to be as long as it is meant to be; in the suite it is short.
#[must_use]
pub fn torture() -> bool {
    std::env::var_os(LONG).is_some()
}

/// One value for each form.
#[must_use]
pub fn long_or_short<T>(long: T, short: T) -> T {
    if torture() { long } else { short }
}

/// Notes what a proof has seen, in one line. `cargo xtask torture` prints the lines at its end.
///
/// # Panics
/// When cargo's target directory can't be written.
pub fn figures(test: &str, what: &str) {
    let line = format!("{test}: {what}");
    if is_inside() {
        // libtest leaves its own line open under --nocapture.
        println!("\n{PREFIX}{line}");
    } else {
        append(&line);
    }
}

pub(crate) fn append(line: &str) {
    let path = target_directory().join("figures.txt");
    let mut file = OpenOptions::new().create(true).append(true).open(path).expect("the target directory is writable");
    // One write a line: tests append at the same time.
    file.write_all(format!("{line}\n").as_bytes()).expect("the target directory is writable");
}
