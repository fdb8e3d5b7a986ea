//! A line of a result. `println!` would end the program without an exit code of ours where nobody reads.

use std::io::{Result, Write, stdout};

/// Writes a line to standard output.
pub(crate) fn print(line: &str) -> Result<()> {
    writeln!(stdout().lock(), "{line}")
}
