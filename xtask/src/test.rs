//! `cargo xtask test`: every test that needs no extra privilege or finds that it has it; the rest is named at the end.

use std::collections::BTreeSet;
use std::fs;
use std::io::ErrorKind;
use std::path::Path;
use std::process::Command;

use crate::step::{Outcome, cargo, root, step, target_directory};
use crate::venv::python;

pub(crate) fn run(arguments: &[String]) -> Outcome {
    // The system tests run the built programs, which `cargo test` alone does not build.
    step(&mut cargo(&["build", "--workspace", "--bins"]))?;
    let target = target_directory()?;
    let left_out = target.join("left-out.txt");
    match fs::remove_file(&left_out) {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(format!("{}: {error}", left_out.display())),
        _ => {}
    }

    let mut tests = cargo(&["test", "--no-fail-fast"]);
    if !arguments.iter().any(|word| word.starts_with("-p") || word.starts_with("--package")) {
        tests.arg("--workspace");
    }
    tests.args(arguments).env_remove("SCRATCH_TEST_PYTHON");
    run_examples_contained(&mut tests, &target)?;
    let python = python();
    match &python {
        Ok(python) => drop(tests.env("SCRATCH_TEST_PYTHON", python)),
        Err(why) => eprintln!("no Python for the tests: {why}"),
    }
    let result = step(&mut tests);
    report(&left_out, python.err());
    result
}

/// Examples are built where TMPDIR says, and /tmp is another one where they run.
fn run_examples_contained(tests: &mut Command, target: &Path) -> Outcome {
    let place = target.join("examples-of-docs");
    fs::create_dir_all(&place).map_err(|error| format!("{}: {error}", place.display()))?;
    let triple = format!("{}_unknown_linux_gnu", std::env::consts::ARCH).to_uppercase();
    let runner = root().join("tests/harness/runner.sh");
    tests.env(format!("CARGO_TARGET_{triple}_RUNNER"), runner).env("SCRATCH_TARGET", target).env("TMPDIR", place);
    Ok(())
}

fn report(left_out: &Path, no_python: Option<String>) {
    let noted = fs::read_to_string(left_out).unwrap_or_default();
    let mut lines: BTreeSet<String> = noted.lines().map(str::to_owned).collect();
    lines.extend(no_python.map(|why| format!("the tests in Python: {why}")));
    if lines.is_empty() {
        println!("\nleft out: nothing");
        return;
    }
    println!("\nleft out:");
    for line in lines {
        println!("  {line}");
    }
}
