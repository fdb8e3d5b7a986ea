//! `cargo xtask ported`: a program of somebody else's, fetched, changed over from the tempfile crate as docs/migrating-from-tempfile.md
//! says, built, and its own tests run contained, under a real broker (tests/e2e/ported.rs).

use std::ffi::{OsStr, OsString};
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::step::{Outcome, cargo, root, step, target_directory};

const FETCH: &str = include_str!("../../tests/ported/fetch.toml");
const CHANGES: &str = include_str!("../../tests/ported/changes");
const GUIDE: &str = include_str!("../../docs/migrating-from-tempfile.md");
/// As it is called in fetch.toml.
const PROGRAM: &str = "sd-1.0.0";

pub(crate) fn run() -> Outcome {
    let place = target_directory()?.join("ported");
    fs::create_dir_all(place.join("fetch")).map_err(|error| failed(&place, &error))?;
    let fetched = match fetch(&place) {
        Ok(fetched) => fetched,
        Err(why) => {
            println!("left out: a program that is ported can't be fetched: {why}");
            return Ok(());
        }
    };
    let source = place.join("source");
    // Over what was there before: what is built of it is mostly good still.
    step(Command::new("cp").args(["--recursive", "--no-target-directory"]).args([&fetched, &source]))?;
    change(&place, &source)?;
    step(&mut cargo(&["build", "--workspace", "--bins"]))?;
    let programs = build(&place, &source)?;
    let mut tests = cargo(&["test", "--package", "scratch-tests", "--test", "e2e", "--", "ported::"]);
    tests.env("SCRATCH_PORTED", &source).env("SCRATCH_PORTED_TESTS", programs);
    step(&mut tests)
}

/// Fetches the program and what it depends on; gives where it is.
fn fetch(place: &Path) -> Result<PathBuf, String> {
    let package = place.join("fetch");
    for (name, content) in [("Cargo.toml", FETCH), ("lib.rs", "")] {
        fs::write(package.join(name), content).map_err(|error| failed(&package.join(name), &error))?;
    }
    let mut vendor = cargo(&["vendor", "--quiet", "--versioned-dirs"]);
    let output = vendor.arg("../fetched").current_dir(&package).stdin(Stdio::null()).output();
    let output = output.map_err(|error| format!("cargo vendor: {error}"))?;
    if output.status.success() {
        return Ok(place.join("fetched").join(PROGRAM));
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(said.lines().find(|line| line.starts_with("error")).unwrap_or("cargo vendor failed").to_owned())
}

/// Makes the changes, each of which must be one that the guide has a word for.
fn change(place: &Path, source: &Path) -> Outcome {
    match symlink(root(), place.join("tree")) {
        Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => return Err(failed(place, &error)),
        _ => {}
    }
    let guide = GUIDE.split_whitespace().collect::<Vec<_>>().join(" ");
    for block in CHANGES.split("\n\n").skip(1) {
        let mut lines = block.lines();
        let rule = lines.next().and_then(|line| line.strip_prefix("# ")).unwrap_or_default();
        let file = lines.next().unwrap_or_default();
        let behind =
            |sign: &str| block.lines().filter_map(|line| line.strip_prefix(sign)).collect::<Vec<_>>().join("\n");
        let (from, to) = (behind("- "), behind("+ "));
        if rule.is_empty() || !guide.contains(rule) {
            return Err(format!("tests/ported/changes: the guide says nothing of {rule:?}"));
        }
        let path = source.join(file);
        let content = fs::read_to_string(&path).map_err(|error| failed(&path, &error))?;
        if from.is_empty() || !content.contains(&from) {
            return Err(format!("tests/ported/changes: no {from:?} in {file}"));
        }
        fs::write(&path, content.replace(&from, &to)).map_err(|error| failed(&path, &error))?;
    }
    // It is in nobody's workspace, wherever the target directory is.
    let path = source.join("Cargo.toml");
    let manifest = fs::read_to_string(&path).map_err(|error| failed(&path, &error))?;
    fs::write(&path, manifest + "\n[workspace]\n").map_err(|error| failed(&path, &error))
}

/// Builds it and its tests; gives those, as PATH would have them.
fn build(place: &Path, source: &Path) -> Result<OsString, String> {
    let mut build = cargo(&["test", "--no-run", "--message-format", "json-render-diagnostics"]);
    build.current_dir(source).env("CARGO_TARGET_DIR", place.join("target")).stderr(Stdio::inherit());
    eprintln!("$ cargo test --no-run (in {})", source.display());
    let output = build.output().map_err(|error| format!("cargo test: {error}"))?;
    if !output.status.success() {
        return Err(format!("cargo test --no-run in {}: {}", source.display(), output.status));
    }
    let said = String::from_utf8_lossy(&output.stdout);
    let is_test = |line: &str| {
        let profile = line.split_once("\"profile\":{").and_then(|(_, rest)| rest.split_once('}'));
        profile.is_some_and(|(profile, _)| profile.contains("\"test\":true"))
    };
    let tests = said.lines().filter(|line| is_test(line));
    let programs = tests.filter_map(|line| line.split_once("\"executable\":\"")?.1.split('"').next()).map(OsStr::new);
    std::env::join_paths(programs).map_err(|error| error.to_string())
}

fn failed(path: &Path, error: &std::io::Error) -> String {
    format!("{}: {error}", path.display())
}
