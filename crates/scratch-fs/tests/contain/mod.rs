//! Containment for tests that remove trees: each runs in a process and a mount namespace of its own in which nothing of
//! the machine can be written, since a mistake in such code, or in such a test, has wiped a machine before.

use std::any::type_name;
use std::process::{Command, Output};

const CONTAINED: &str = "SCRATCH_CONTAINED";
const UNPRIVILEGED: &str = "SCRATCH_UNPRIVILEGED";

/// What contain.sh exits with when it can't prove the containment.
const LEFT_OUT: i32 = 77;

/// Whether this is the contained process. If not, runs the test (which is given as itself, for its name) in one that is,
/// asserts that it passes there, and answers false: then the caller returns at once.
pub(crate) fn contained<F: Fn()>(test: F) -> bool {
    if std::env::var_os(CONTAINED).is_some() {
        return true;
    }
    let mut command = Command::new("unshare");
    if rustix::process::geteuid().is_root() {
        command.args(["--mount", "--propagation", "private"]);
    } else {
        command.args(["--user", "--map-root-user", "--mount"]);
    }
    command.args(["sh", concat!(env!("CARGO_MANIFEST_DIR"), "/tests/contain/contain.sh")]);
    command.arg(std::env::current_exe().unwrap()).env(CONTAINED, "1").env("TMPDIR", "/tmp");
    match run(&mut command, test) {
        Ok(output) if output.status.code() == Some(LEFT_OUT) => {
            println!("{}", String::from_utf8_lossy(&output.stdout).trim());
        }
        // unshare itself says so before it runs anything.
        Ok(output) if String::from_utf8_lossy(&output.stderr).starts_with("unshare: ") => {
            println!("left out: {}", String::from_utf8_lossy(&output.stderr).trim());
        }
        Ok(output) => assert_passed(&output),
        Err(error) => println!("left out: unshare can't be run: {error}"),
    }
    false
}

/// Whether this is a contained process without privileges, to be asked instead of [`contained`]. If not, runs the test in
/// one; as a user of no account, or as the one that we are.
pub(crate) fn contained_unprivileged<F: Fn()>(test: F) -> bool {
    if std::env::var_os(CONTAINED).is_none() {
        return contained(test);
    }
    if std::env::var_os(UNPRIVILEGED).is_some() {
        return true;
    }
    if !has_all_ids() {
        println!("left out: needs a second user");
        return false;
    }
    let mut command = Command::new("setpriv");
    command.args(["--reuid=65534", "--regid=65534", "--clear-groups", "--inh-caps=-all", "/tmp/test"]);
    assert_passed(&run(command.env(UNPRIVILEGED, "1"), test).unwrap());
    false
}

/// Whether we are the machine's root and not that of a user namespace, which has one user only.
pub(crate) fn has_all_ids() -> bool {
    let map = std::fs::read_to_string("/proc/self/uid_map").unwrap();
    rustix::process::geteuid().is_root() && map.split_whitespace().eq(["0", "0", "4294967295"])
}

fn run<F: Fn()>(command: &mut Command, _test: F) -> std::io::Result<Output> {
    // The path of the function without the crate, which is the name that the harness has for it.
    let name = type_name::<F>().split_once("::").unwrap().1;
    command.args(["--exact", name, "--nocapture", "--test-threads=1"]).output()
}

fn assert_passed(output: &Output) {
    let (stdout, stderr) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    // Behind the harness's own words on the same line.
    for (_, why) in stdout.lines().filter_map(|line| line.split_once("left out: ")) {
        println!("left out: {why}");
    }
    // A name that matches no test passes too, with 0.
    let passed = output.status.success() && stdout.contains(" 1 passed;");
    assert!(passed, "contained run: {}\n{stdout}{stderr}", output.status);
}
