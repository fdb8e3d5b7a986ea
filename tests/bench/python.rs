//! The Python SDK against the standard library, in one interpreter: `python3` along PATH, or SCRATCH_TEST_PYTHON.

use std::path::PathBuf;
use std::process::Command;

use scratch_tests::source_tree;
use serde_json::Value;

use crate::Site;
use crate::measure::Row;

/// Each with its goal; importing has none in the design, and is to take no more than half as long again.
const CASES: [(&str, &str, f64); 4] = [
    ("python-mkstemp", "tempfile.mkstemp", 1.1),
    ("python-named", "NamedTemporaryFile", 1.1),
    ("python-directory", "TemporaryDirectory", 0.3),
    ("python-import", "import tempfile", 1.5),
];

pub(crate) fn rows(site: &Site) -> Vec<Row> {
    // A copy, so that the interpreter can keep what it compiles.
    let copied =
        Command::new("cp").arg("-r").arg(source_tree().join("sdk/python/src/scratchd")).arg(&site.beside).status();
    assert!(copied.is_ok_and(|status| status.success()), "the benchmark's place is writable");
    let python = std::env::var_os("SCRATCH_TEST_PYTHON").map_or_else(|| PathBuf::from("python3"), PathBuf::from);
    let mut bench = Command::new(python);
    bench.arg(source_tree().join("tests/python/bench.py")).arg(&site.beside);
    bench.env("PYTHONPATH", &site.beside).env("SCRATCHD_RUNTIME_DIR", site.broker.runtime_dir());
    let output = bench.output().expect("python3 can be run");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let measured: Value = serde_json::from_slice(&output.stdout).expect("it prints an object");
    let row = |(case, peer, goal): (&'static str, &'static str, f64)| {
        let number = |place: usize| measured[case][place].as_f64().expect("it prints numbers");
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
        let samples = number(2) as usize;
        let (ours, theirs) = (number(0), Some(number(1)));
        Row { case, peer: Some(peer), file_system: site.file_system, unit: "us", ours, theirs, goal, samples }
    };
    CASES.into_iter().map(row).collect()
}
