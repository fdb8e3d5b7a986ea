//! Rows: what was measured, against whom, and how it is shown.

use std::path::Path;
use std::process::Command;
use std::time::Instant;

use serde_json::{Value, json};

/// One line of the table.
#[derive(Debug)]
pub(crate) struct Row {
    pub(crate) case: &'static str,
    pub(crate) peer: Option<&'static str>,
    pub(crate) file_system: &'static str,
    pub(crate) unit: &'static str,
    pub(crate) ours: f64,
    pub(crate) theirs: Option<f64>,
    pub(crate) goal: f64,
    pub(crate) samples: usize,
}

impl Row {
    fn ratio(&self) -> Option<f64> {
        self.theirs.map(|theirs| self.ours / theirs)
    }

    pub(crate) fn print(&self) {
        let theirs = self.theirs.map_or_else(|| "-".to_owned(), |theirs| format!("{theirs:.2}"));
        let ratio = self.ratio().map_or_else(|| "-".to_owned(), |ratio| format!("{ratio:.4}"));
        println!(
            "{:<18} {:<6} {:<4} {:>10.2} {:>12} {:>9} {:>9} {:>7}  {}",
            self.case,
            self.file_system,
            self.unit,
            self.ours,
            theirs,
            ratio,
            self.goal,
            self.samples,
            self.peer.unwrap_or("-")
        );
    }

    pub(crate) fn to_json(&self) -> Value {
        json!({
            "case": self.case,
            "peer": self.peer,
            "file_system": self.file_system,
            "unit": self.unit,
            "ours": self.ours,
            "theirs": self.theirs,
            "ratio": self.ratio(),
            "samples": self.samples,
        })
    }
}

pub(crate) fn print_head() {
    println!(
        "{:<18} {:<6} {:<4} {:>10} {:>12} {:>9} {:>9} {:>7}  peer",
        "case", "fs", "unit", "ours", "theirs", "ratio", "goal", "samples"
    );
}

/// Microseconds of one call each, ours and theirs in turn, so that both see the same machine. Medians of blocks of ten.
pub(crate) fn side_by_side(
    blocks: usize,
    mut ours: impl FnMut(&mut Watch),
    mut theirs: impl FnMut(&mut Watch),
) -> (f64, f64, usize) {
    const BLOCK: usize = 10;
    let (mut our_times, mut their_times) = (Vec::new(), Vec::new());
    for block in 0..blocks + blocks / 10 {
        let (mut our_watch, mut their_watch) = (Watch::default(), Watch::default());
        (0..BLOCK).for_each(|_| ours(&mut our_watch));
        (0..BLOCK).for_each(|_| theirs(&mut their_watch));
        // The first tenth warms up.
        if block >= blocks / 10 {
            our_times.push(our_watch.microseconds / 10.0);
            their_times.push(their_watch.microseconds / 10.0);
        }
    }
    (median(&mut our_times), median(&mut their_times), blocks * BLOCK)
}

/// Counts only what is to be counted.
#[derive(Debug, Default)]
pub(crate) struct Watch {
    microseconds: f64,
}

impl Watch {
    pub(crate) fn microseconds(&self) -> f64 {
        self.microseconds
    }

    pub(crate) fn time<T>(&mut self, act: impl FnOnce() -> T) -> T {
        let start = Instant::now();
        let result = act();
        self.microseconds += start.elapsed().as_secs_f64() * 1e6;
        result
    }
}

pub(crate) fn median(times: &mut [f64]) -> f64 {
    quantile(times, 0.5)
}

#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
pub(crate) fn quantile(times: &mut [f64], part: f64) -> f64 {
    times.sort_by(f64::total_cmp);
    times[((times.len() - 1) as f64 * part).round() as usize]
}

/// What the directory is on.
pub(crate) fn file_system_of(directory: &Path) -> &'static str {
    match rustix::fs::statfs(directory).map(|found| found.f_type) {
        Ok(0xef53) => "ext4",
        Ok(0x5846_5342) => "xfs",
        Ok(0x9123_683e) => "btrfs",
        Ok(0x0102_1994) => "tmpfs",
        _ => "other",
    }
}

/// Removes what a run has made, by the peer's own means.
pub(crate) fn clean(directory: &Path) -> std::io::Result<()> {
    let status = Command::new("rm").arg("-rf").arg(directory).status()?;
    if status.success() { Ok(()) } else { Err(std::io::Error::other("rm -rf failed")) }
}
