//! Containment: a test that removes trees with privileges runs where a mistake, its own or the broker's, wipes nothing.
//! The test binary runs itself again for one test in mount and PID namespaces of its own; contain.sh does and proves the
//! rest. When the test ends, however it ends, the PID namespace goes and with it all that was started.

use std::ffi::OsStr;
use std::io::Read;
use std::path::Path;
use std::process::{Command, ExitStatus, Stdio};
use std::sync::OnceLock;
use std::time::Duration;

use rustix::process::{getgid, getuid};

use crate::left_out::{self, left_out};
use crate::programs::{source_tree, target_directory};
use crate::torture::{self, long_or_short};
use crate::wait::exit_of;

const CONTAINED: &str = "SCRATCH_CONTAINED";
const SCRIPT: &str = include_str!("contain.sh");
const DONE: &str = "contained test done: ";
/// Far beyond the longest test: a hang is to fail, not to hold up everything.
const OUTER_DEADLINE: Duration = Duration::from_secs(600);
const TORTURE_DEADLINE: Duration = Duration::from_secs(3600);

/// Runs `body` contained. `test` is the test's own full path, as in `contained("removal::deep", || …)`.
/// Where the machine allows no namespaces the test is left out.
///
/// # Panics
/// When the body panics, the containment can't be proved, or `test` is not the calling test's path.
pub fn contained(test: &str, body: impl FnOnce()) {
    if is_inside() {
        prove_inside();
        body();
        println!("\n{DONE}{test}");
    } else if let Err(why) = namespaces() {
        left_out(test, why);
    } else {
        run_inside(test);
    }
}

/// Runs this program again with the same arguments, contained, with one directory kept writable; `None` inside.
///
/// # Panics
/// When the machine allows no namespaces, or the containment can't be proved.
#[must_use]
pub fn contained_program(keep: &Path) -> Option<ExitStatus> {
    if is_inside() {
        prove_inside();
        return None;
    }
    if let Err(why) = namespaces() {
        panic!("this program removes trees, and runs contained or not at all: {why}");
    }
    let mut command = inside();
    command.args(std::env::args_os().skip(1)).env("CONTAIN_KEEP", keep);
    Some(command.status().expect("unshare was there a moment ago"))
}

/// Whether the tests have root's rights. Without, brokers under test are session brokers of this user.
#[must_use]
pub fn is_root() -> bool {
    getuid().is_root()
}

pub(crate) fn is_inside() -> bool {
    std::env::var_os(CONTAINED).is_some()
}

fn mount_namespace() -> std::path::PathBuf {
    std::fs::read_link("/proc/self/ns/mnt").expect("/proc names the mount namespace")
}

/// The variable alone proves nothing: someone may have exported it. It names the namespace that was left.
fn prove_inside() {
    let outside = std::env::var_os(CONTAINED).unwrap_or_default();
    let inside = mount_namespace();
    assert!(
        outside.as_encoded_bytes().starts_with(b"mnt:") && outside != inside.as_os_str(),
        "{CONTAINED} is set, but this is not a mount namespace of our own"
    );
}

fn unshare() -> Command {
    let mut command = Command::new("unshare");
    if !is_root() {
        command.args(["--user", "--map-root-user"]);
    }
    command.args(["--mount", "--propagation", "private", "--pid", "--fork", "--kill-child", "--mount-proc"]);
    command.stdin(Stdio::null());
    command
}

fn namespaces() -> Result<(), &'static str> {
    static PROBE: OnceLock<Result<(), String>> = OnceLock::new();
    let probe = PROBE.get_or_init(|| match unshare().arg("true").output() {
        Err(error) => Err(format!("needs unshare(1) of util-linux: {error}")),
        Ok(output) if !output.status.success() => {
            let said = String::from_utf8_lossy(&output.stderr);
            Err(format!("needs mount and PID namespaces of its own: {}", said.lines().next().unwrap_or("refused")))
        }
        Ok(_) => Ok(()),
    });
    probe.as_ref().copied().map_err(String::as_str)
}

/// This program, contained; its arguments are to be added.
fn inside() -> Command {
    let mut command = unshare();
    command.args(["sh", "-c", SCRIPT, "contain"]).arg(source_tree()).arg(target_directory());
    if !is_root() {
        // Back to the user's own ids, in a user namespace that has no rights over the mounts.
        let (user, group) = (getuid().as_raw(), getgid().as_raw());
        command.args(["unshare", "--user"]).arg(format!("--map-user={user}")).arg(format!("--map-group={group}"));
    }
    command.arg(std::env::current_exe().expect("/proc names this program"));
    command.env(CONTAINED, mount_namespace()).env_remove("SCRATCHD_LEASE").env_remove("TMPDIR");
    command.env_remove("SCRATCHD_RUNTIME_DIR").env("PYTHONDONTWRITEBYTECODE", OsStr::new("1"));
    command
}

fn run_inside(test: &str) {
    let mut command = inside();
    command.args([test, "--exact", "--nocapture", "--test-threads=1"]);

    let mut child = command.stdout(Stdio::piped()).spawn().expect("unshare was there a moment ago");
    let mut pipe = child.stdout.take().expect("stdout is piped");
    let reader = std::thread::spawn(move || {
        let mut said = Vec::new();
        pipe.read_to_end(&mut said).expect("a pipe can be read");
        String::from_utf8_lossy(&said).into_owned()
    });
    let deadline = long_or_short(TORTURE_DEADLINE, OUTER_DEADLINE);
    let status = exit_of(&mut child, deadline);
    if status.is_none() {
        // unshare takes the namespace's init with it, and init everything else.
        child.kill().and_then(|()| child.wait()).expect("our own child can be killed");
    }
    let said = reader.join().expect("the reader does not panic");
    print!("{said}");
    said.lines().filter_map(|line| line.strip_prefix(left_out::PREFIX)).for_each(left_out::append);
    said.lines().filter_map(|line| line.strip_prefix(torture::PREFIX)).for_each(torture::append);
    let Some(status) = status else { panic!("{test} was not done after {deadline:?}") };
    assert!(status.success(), "{test} failed in its containment: {status}");
    assert!(said.lines().any(|line| line == format!("{DONE}{test}")), "no test of this binary is called {test}");
}
