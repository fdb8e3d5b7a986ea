//! `cargo xtask torture`: the long forms of the proofs that the suite runs short, and what they have seen.

use std::fs;
use std::io::ErrorKind;

use crate::step::{Outcome, cargo, step, target_directory};
use crate::{fuzz, ported};

/// Not one of the daemon's: its own test target, of so many steps.
const MODEL: &str = "nothing_live_is_removed";
const MODEL_STEPS: &str = "1000000";

/// A name, the tests that it stands for, and what they prove.
type Proof = (&'static str, &'static str, &'static str);

/// Not a test at all: each of the fuzz targets for so many seconds.
const FUZZ: &str = "fuzz";
const FUZZ_SECONDS: u32 = 3600;
/// It is fetched first.
const PORTED: &str = "ported";

const PROOFS: &[Proof] = &[
    ("model", MODEL, "a million steps of the decisions under a simulated clock, holders and disk with crashes"),
    ("kill-sweep", "sweep::killed", "killed at every call of a workload, by thread role: no leak, no loss"),
    (
        "fault-sweep",
        "sweep::failed",
        "every call of a workload failed by the kernel, in turn: an error, and on it goes",
    ),
    ("storm", "storm::", "100 restarts under 50 clients that know every byte"),
    (
        "kill",
        "sdk::killed::",
        "600 kills of a program that persists, with areas made by it and by the broker: all is whole, or gone",
    ),
    ("scale", "scale::", "10 000 leases ending at once, 100 000 living across restarts"),
    ("time", "time::", "stopped processes, clocks set, suspend"),
    (PORTED, PORTED, "a program that used the tempfile crate, changed over: its own tests; needs the network once"),
    (FUZZ, FUZZ, "each fuzz target for an hour; needs nightly and cargo-fuzz"),
    ("identity", "identity::", "reused process numbers, exec, fork, threads"),
    (
        "hostile",
        "hostile::",
        "trees built against the broker, and 10 000 rounds of each race with it; canaries outside",
    ),
];

pub(crate) fn help() -> String {
    let lines = PROOFS.iter().map(|(name, _, what)| format!("  {name:<14} {what}\n"));
    format!("cargo xtask torture [NAME…]: all of these, or those that are named\n\n{}", lines.collect::<String>())
}

pub(crate) fn run(arguments: &[String]) -> Outcome {
    if arguments.iter().any(|word| word == "--help" || word == "-h") {
        print!("{}", help());
        return Ok(());
    }
    let known = |word: &&String| PROOFS.iter().any(|(name, ..)| name == word);
    if let Some(unknown) = arguments.iter().find(|word| !known(word)) {
        return Err(format!("no proof {unknown:?}\n\n{}", help()));
    }
    step(&mut cargo(&["build", "--workspace", "--bins"]))?;
    let figures = target_directory()?.join("figures.txt");
    match fs::remove_file(&figures) {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(format!("{}: {error}", figures.display())),
        _ => {}
    }
    let mut failed = Vec::new();
    for (name, filter, _) in PROOFS {
        if !arguments.is_empty() && !arguments.iter().any(|word| word == name) {
            continue;
        }
        if [FUZZ, PORTED].contains(filter) {
            let done = if *filter == FUZZ { fuzz::fuzz(fuzz::TARGETS, FUZZ_SECONDS) } else { ported::run() };
            if let Err(why) = done {
                println!("{name}: {why}");
                failed.push(*name);
            }
            continue;
        }
        let target = if *filter == MODEL { "model" } else { "e2e" };
        let mut tests = cargo(&["test", "--package", "scratch-tests", "--test", target, "--"]);
        // One at a time: each has the machine to itself.
        tests.args([filter, "--test-threads=1"]).env("SCRATCH_TORTURE", "1");
        if *filter == MODEL {
            tests.arg("--nocapture").env("SCRATCH_TEST_STEPS", MODEL_STEPS);
        }
        if let Err(why) = step(&mut tests) {
            println!("{name}: {why}");
            failed.push(*name);
        }
    }
    println!("\nfigures:");
    fs::read_to_string(&figures).unwrap_or_default().lines().for_each(|line| println!("  {line}"));
    if failed.is_empty() { Ok(()) } else { Err(format!("torture: failed: {}", failed.join(", "))) }
}
