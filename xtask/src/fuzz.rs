//! `cargo xtask fuzz`: the fuzz targets of fuzz/, each for a time, contained, on the corpus that is kept beside them.

use std::process::Command;

use crate::step::{Outcome, root, step, target_directory};

/// As in fuzz/Cargo.toml.
pub(crate) const TARGETS: &[&str] = &["packet", "request", "record", "config", "name", "tree"];

const HELP: &str = "\
cargo xtask fuzz [TARGET…] [--seconds N]: all of these, or those that are named, for 60 s each or so long

  packet   packets of the handle channel with descriptors
  request  gRPC requests where services take them over, and a connection's bytes before HTTP/2
  record   records, the book of debts, markers, names in the trash
  config   configuration files
  name     names, patterns, paths, ids
  tree     sequences of operations on files, with a canary beside them

It needs a nightly compiler and cargo-fuzz (cargo install cargo-fuzz). What fails is in fuzz/artifacts; it becomes a test, and
is mended. Inputs that reach more than fuzz/corpus does are in fuzz/found; a target's program with
`-merge=1 corpus/TARGET found/TARGET` takes over those that are worth it.
";

pub(crate) fn run(arguments: &[String]) -> Outcome {
    let (mut targets, mut seconds) = (Vec::new(), 60);
    let mut words = arguments.iter();
    while let Some(word) = words.next() {
        match word.as_str() {
            "--help" | "-h" => {
                print!("{HELP}");
                return Ok(());
            }
            "--seconds" => {
                let given = words.next().and_then(|number| number.parse().ok());
                seconds = given.ok_or("--seconds needs a number")?;
            }
            name => targets.push(
                *TARGETS.iter().find(|known| **known == name).ok_or_else(|| format!("no target {name:?}\n\n{HELP}"))?,
            ),
        }
    }
    if targets.is_empty() {
        targets = TARGETS.to_vec();
    }
    fuzz(&targets, seconds)
}

/// Builds the targets, and runs each.
pub(crate) fn fuzz(targets: &[&str], seconds: u32) -> Outcome {
    let (built, triple) = (target_directory()?.join("fuzz"), format!("{}-unknown-linux-gnu", std::env::consts::ARCH));
    let mut build = Command::new("cargo");
    // Its unsafe lines are few and checked by their own tests: without a sanitizer ten times as much is tried. The compiler that
    // runs this program is another one than nightly's.
    build.args(["+nightly", "fuzz", "build", "--sanitizer", "none", "--target", &triple, "--target-dir"]).arg(&built);
    build.current_dir(root().join("fuzz")).env_remove("RUSTUP_TOOLCHAIN").env_remove("CARGO");
    step(&mut build)?;
    let mut failed = Vec::new();
    for target in targets {
        let program = built.join(&triple).join("release").join(target);
        let folders = ["found", "corpus", "artifacts"].map(|folder| root().join("fuzz").join(folder).join(target));
        for folder in &folders {
            std::fs::create_dir_all(folder).map_err(|error| format!("{}: {error}", folder.display()))?;
        }
        let [found, corpus, artifacts] = folders;
        let mut run = contained()?;
        run.arg(program).args([found, corpus]).arg(format!("-artifact_prefix={}/", artifacts.display()));
        run.args([&format!("-max_total_time={seconds}"), "-max_len=4096", "-timeout=20", "-print_final_stats=1"]);
        if let Err(why) = step(&mut run) {
            println!("{target}: {why}");
            failed.push(*target);
        }
    }
    if failed.is_empty() { Ok(()) } else { Err(format!("fuzz: failed: {}", failed.join(", "))) }
}

/// Where the system tests run, too: of everything that can be written, only fuzz/ stays what it is outside.
fn contained() -> Result<Command, String> {
    let script = root().join("tests/harness/contain.sh");
    let script = std::fs::read_to_string(&script).map_err(|error| format!("{}: {error}", script.display()))?;
    let mut command = Command::new("unshare");
    // In a user namespace of its own root needs no user, and a user no root.
    command.args(["--user", "--map-root-user", "--mount", "--propagation", "private", "--pid", "--fork"]);
    command.args(["--kill-child", "--mount-proc", "sh", "-c", &script, "contain"]).arg(root()).arg(target_directory()?);
    command.env("CONTAIN_KEEP", root().join("fuzz")).env("SCRATCH_CONTAINED", "fuzz");
    Ok(command)
}
