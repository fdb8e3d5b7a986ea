//! Everything a developer of scratchd runs, one file for each command.

mod bench;
mod ci;
mod fuzz;
mod lint;
mod ported;
mod step;
mod test;
mod tidy;
mod torture;
mod venv;

use std::process::ExitCode;

const HELP: &str = "\
cargo xtask COMMAND

  help                        this text
  test [ARG…]                 build the programs, then run every test that finds what it needs; ARGs go to cargo test
  lint                        formatting, clippy and docs, warnings denied
  tidy                        the rules of the house that no compiler checks
  ci                          lint, tidy, test: what must pass before a change goes in
  torture [NAME…]             the long proofs, with figures; --help names them
  ported                      a program of somebody else's, fetched and changed over from the tempfile crate, and its own tests
  fuzz [TARGET…] [--seconds N] the fuzz targets, on nightly with cargo-fuzz; --help names them
  bench [--json FILE] [CASE…] the benchmarks of docs/performance.md, release build
";

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    let command = arguments.next();
    let rest: Vec<String> = arguments.collect();
    let result = match command.as_deref() {
        Some("test") => test::run(&rest),
        Some("lint") => lint::run(),
        Some("tidy") => tidy::run(),
        Some("ci") => ci::run(),
        Some("torture") => torture::run(&rest),
        Some("ported") => ported::run(),
        Some("fuzz") => fuzz::run(&rest),
        Some("bench") => bench::run(&rest),
        None | Some("help" | "--help" | "-h") => {
            print!("{HELP}");
            Ok(())
        }
        Some(other) => {
            eprintln!("xtask: no command {other:?}\n\n{HELP}");
            return ExitCode::from(64);
        }
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("xtask: {why}");
            ExitCode::FAILURE
        }
    }
}
