//! `cargo xtask ci`: what must pass before a change goes in. Every step runs, so that one look shows all that is wrong.

use std::process::Stdio;

use crate::step::{Outcome, cargo, step};
use crate::{lint, test, tidy};

type Step = (&'static str, fn() -> Outcome);

pub(crate) fn run() -> Outcome {
    let steps: [Step; 4] =
        [("lint", lint::run), ("tidy", tidy::run), ("dependencies", dependencies), ("test", || test::run(&[]))];
    let mut failed = Vec::new();
    for (name, run) in steps {
        println!("\n== {name} ==");
        if let Err(why) = run() {
            println!("{name} failed: {why}");
            failed.push(name);
        }
    }
    println!();
    if failed.is_empty() {
        println!("ci: all steps passed");
        return Ok(());
    }
    Err(format!("ci: failed: {}", failed.join(", ")))
}

/// Licences, sources and advisories, where cargo-deny is installed.
fn dependencies() -> Outcome {
    let probe = cargo(&["deny", "--version"]).stdout(Stdio::null()).stderr(Stdio::null()).status();
    if probe.is_ok_and(|status| status.success()) {
        step(&mut cargo(&["deny", "check"]))
    } else {
        println!("left out: cargo deny check: cargo-deny is not installed");
        Ok(())
    }
}
