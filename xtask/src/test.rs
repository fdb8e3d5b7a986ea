//! `cargo xtask test`: every test that needs no extra privilege or finds that it has it; the rest is named at the end.

use std::collections::BTreeSet;
use std::fs;
use std::io::ErrorKind;
use std::path::Path;

use crate::step::{Outcome, cargo, step, target_directory};
use crate::venv::python;

pub(crate) fn run(arguments: &[String]) -> Outcome {
    // The system tests run the built programs, which `cargo test` alone does not build.
    step(&mut cargo(&["build", "--workspace", "--bins"]))?;
    let left_out = target_directory()?.join("left-out.txt");
    match fs::remove_file(&left_out) {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(format!("{}: {error}", left_out.display())),
        _ => {}
    }

    let mut tests = cargo(&["test", "--no-fail-fast"]);
    if !arguments.iter().any(|word| word.starts_with("-p") || word.starts_with("--package")) {
        tests.arg("--workspace");
    }
    tests.args(arguments).env_remove("SCRATCH_TEST_PYTHON");
    let python = python();
    match &python {
        Ok(python) => drop(tests.env("SCRATCH_TEST_PYTHON", python)),
        Err(why) => eprintln!("no Python for the tests: {why}"),
    }
    let result = step(&mut tests);
    report(&left_out, python.err());
    result
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
