//! A program of somebody else's that was changed over from the tempfile crate as the guide says: its own tests, under a real
//! broker. `cargo xtask ported` fetches, changes and builds it.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;
use std::process::{Command, ExitStatus, Stdio};

use scratch_tests::{Broker, Options, contained, figures, left_out, names_in, scratch};

use crate::regressions::nothing_is_left;

/// Set by `cargo xtask ported`: its source, and its tests.
const SOURCE: &str = "SCRATCH_PORTED";
const TESTS: &str = "SCRATCH_PORTED_TESTS";

/// Its source and the programs that are its tests; nothing where it was not built.
fn ported(test: &str) -> Option<(OsString, OsString)> {
    let built = std::env::var_os(SOURCE).zip(std::env::var_os(TESTS));
    if built.is_none() {
        left_out(test, "cargo xtask ported fetches and builds the program");
    }
    built
}

/// Runs one of its tests, with the environment that a program finds a broker by.
fn own_test(source: &OsStr, program: &Path, variables: &[(&str, &OsStr)]) -> ExitStatus {
    let mut command = Command::new(program);
    command.current_dir(source).stdin(Stdio::null()).envs(variables.iter().copied());
    // Its snapshots are looked for without asking cargo, and never written.
    command.env("INSTA_WORKSPACE_ROOT", source).env("INSTA_UPDATE", "no");
    command.status().expect("a test can be run")
}

#[test]
fn its_own_tests_pass() {
    let test = "ported::its_own_tests_pass";
    let Some((source, tests)) = ported(test) else { return };
    contained(test, || {
        for create in ["auto", "broker"] {
            let broker = Broker::start(Options::default());
            let runtime = broker.runtime_dir();
            for program in std::env::split_paths(&tests) {
                let variables = [("SCRATCHD_RUNTIME_DIR", runtime.as_os_str()), ("SCRATCHD_CREATE", create.as_ref())];
                assert!(own_test(&source, &program, &variables).success(), "{create}: {}", program.display());
            }
            nothing_is_left(&broker);
        }
        figures(test, "a program that used tempfile, with areas made by itself and by the broker: its own tests pass");
    });
}

#[test]
fn a_broker_is_started_for_it() {
    let test = "ported::a_broker_is_started_for_it";
    let Some((source, tests)) = ported(test) else { return };
    contained(test, || {
        let (runtime, none) = (Path::new("/tmp/runtime"), Path::new("/tmp/none"));
        fs::DirBuilder::new().mode(0o700).create(runtime).expect("the containment's /tmp is our own");
        let bin = scratch();
        let with = |bin: &Path| {
            let variables = [("XDG_RUNTIME_DIR", runtime.as_os_str()), ("SCRATCHD_BIN", bin.as_os_str())];
            std::env::split_paths(&tests).map(|program| own_test(&source, &program, &variables).success()).collect()
        };
        let results: Vec<bool> = with(&bin);
        assert!(results.iter().all(|passed| *passed) && names_in(runtime) == ["scratchd"]);
        // Otherwise it would be the old one still.
        fs::rename(runtime.join("scratchd"), none).expect("it is ours");
        let results: Vec<bool> = with(none);
        assert!(results.contains(&false), "it needs no broker");
    });
}
