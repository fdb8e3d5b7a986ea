//! The tour of README.md, run again: each command by whom it is written for, and its output compared with what is shown.

#[rustfmt::skip]
mod program;

use std::path::Path;
use std::process::Command;

use scratch_tests::{Broker, Options, contained, installed, is_root, left_out, python, scratch, scratchd, source_tree};

use crate::regressions::nothing_is_left;

const README: &str = include_str!("../../README.md");
const PROGRAM: &str = include_str!("readme/program.rs");

#[test]
fn the_tour() {
    let test = "readme::the_tour";
    contained(test, || {
        if !is_root() {
            return left_out(test, "the tour has commands for root");
        }
        if !["bash", "jq"].iter().all(|program| installed(test, program)) {
            return;
        }
        let Some(python) = python(test) else { return };
        let programs = "/tmp/programs";
        std::fs::create_dir(programs).expect("the containment's /tmp is our own");
        for program in [scratch(), scratchd()] {
            let name = program.file_name().expect("a program has a name");
            std::fs::copy(&program, Path::new(programs).join(name)).expect("/tmp has room");
        }
        let mut tour = Command::new(python);
        tour.arg(source_tree().join("tests/python/readme.py")).current_dir(source_tree());
        let status = tour.env("SCRATCH_PROGRAMS", programs).status().expect("python was there a moment ago");
        assert!(status.success(), "the tour is not what README.md shows");
    });
}

/// What stands in the tour in this language.
fn blocks(language: &str) -> Vec<String> {
    let (_, tour) = README.split_once("\n## Ten minutes\n").expect("there is a tour");
    let (tour, _) = tour.split_once("\n## ").expect("there is more after the tour");
    let fence = format!("```{language}\n");
    let blocks = tour.split(&fence).skip(1).map(|rest| rest.split_once("```").expect("a block has an end").0);
    blocks.map(|block| block.lines().map(|line| format!("{}\n", line.trim())).collect()).collect()
}

#[test]
fn programs_are_those_that_are_compiled() {
    let compiled = PROGRAM.split("// README\n").skip(1).step_by(2);
    let compiled = compiled.map(|part| part.lines().map(|line| format!("{}\n", line.trim())).collect::<String>());
    let compiled: Vec<String> = compiled.map(|part| part.trim_end_matches('\n').to_owned() + "\n").collect();
    assert_eq!(blocks("rust"), compiled, "README.md and e2e/readme/program.rs");
}

/// Set where this program is started again, talking to a broker.
const ROLE: &str = "SCRATCH_README_ROLE";

#[test]
fn programs_do_what_is_said() {
    let test = "readme::programs_do_what_is_said";
    contained(test, || {
        if std::env::var_os(ROLE).is_some() {
            assert!(program::from_a_program().expect("the broker serves it"), "what it made is not there");
            return;
        }
        let broker = Broker::start(Options::default());
        let mut again = Command::new(std::env::current_exe().expect("/proc names this program"));
        again.args([test, "--exact", "--nocapture"]).env(ROLE, "program");
        again.env("SCRATCHD_RUNTIME_DIR", broker.runtime_dir());
        assert!(again.status().expect("this program can be run").success());
        nothing_is_left(&broker);
    });
}
