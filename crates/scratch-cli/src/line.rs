//! Lines of results and of complaints. `println!` and `eprintln!` would end the program without an exit code of ours where
//! nobody reads.

use std::io::{Result, Write, stderr, stdout};

/// Writes a line to standard output.
pub(crate) fn print(line: &str) -> Result<()> {
    writeln!(stdout().lock(), "{line}")
}

/// Writes a line to standard error; where that is closed there is nobody to tell.
pub(crate) fn complain(line: &str) {
    let _ = writeln!(stderr(), "{line}");
}
