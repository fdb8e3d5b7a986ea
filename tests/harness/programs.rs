//! Where things are: the programs under test, the source tree, cargo's target directory, other programs, Python.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::left_out::left_out;

/// `target/<profile>`, from this program's own place in it.
fn profile_directory() -> PathBuf {
    let own = std::env::current_exe().expect("/proc names this program");
    let place = own.parent().expect("a program is in a directory");
    let profile = if place.ends_with("deps") { place.parent() } else { Some(place) };
    profile.expect("deps is in a directory").to_path_buf()
}

/// Cargo's target directory, which may be anywhere.
pub(crate) fn target_directory() -> PathBuf {
    let profile = profile_directory();
    let tagged = profile.ancestors().find(|place| place.join("CACHEDIR.TAG").exists());
    tagged.or_else(|| profile.parent()).expect("a profile's directory is in the target directory").to_path_buf()
}

/// The root of the source tree.
#[must_use]
pub fn source_tree() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("this crate is a folder of the source tree")
}

/// A program of this workspace.
///
/// # Panics
/// When it is not built.
#[must_use]
pub fn program(name: &str) -> PathBuf {
    let path = profile_directory().join(name);
    assert!(path.exists(), "{} is not built: run cargo xtask test", path.display());
    path
}

/// The broker's program.
///
/// # Panics
/// When it is not built.
#[must_use]
pub fn scratchd() -> PathBuf {
    program("scratchd")
}

/// The command line's program.
///
/// # Panics
/// When it is not built.
#[must_use]
pub fn scratch() -> PathBuf {
    program("scratch")
}

/// A copy of `program` that every user may run: the source tree may be in a private home. Only in a contained test.
pub(crate) fn for_every_user(program: &Path) -> PathBuf {
    let name = program.file_name().expect("a program has a name");
    let copy = Path::new("/tmp").join(name);
    if !copy.exists() {
        std::fs::copy(program, &copy).expect("/tmp is our own and has room");
    }
    copy
}

/// Runs a copy of `program` as another user, without any group but its own. Only in a contained test.
#[must_use]
pub fn as_user(user: u32, program: &Path) -> Command {
    let mut command = Command::new("setpriv");
    command.arg(format!("--reuid={user}")).arg(format!("--regid={user}")).args(["--clear-groups", "--"]);
    command.arg(for_every_user(program));
    command
}

/// A shell script, run by another user or by the test's own.
#[must_use]
pub fn shell(user: Option<u32>, script: &str) -> Command {
    let program = Path::new("/bin/sh");
    let mut command = user.map_or_else(|| Command::new(program), |user| as_user(user, program));
    command.args(["-c", script]).stdin(Stdio::null());
    command
}

/// Whether a program of the system is there; if not, the test is left out.
pub fn installed(test: &str, program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    // Debian keeps mkfs and its like where a user's PATH does not look.
    let places = std::env::split_paths(&path).chain(["/usr/sbin", "/sbin"].map(PathBuf::from));
    let found = places.into_iter().any(|place| place.join(program).is_file());
    if !found {
        left_out(test, &format!("{program} is not installed"));
    }
    found
}

/// What tests/python/requirements.txt has.
const PACKAGES: &str = "import google.protobuf, google.rpc, grpc, grpc_health, grpc_reflection, grpc_tools, mypy, setuptools, pytest, django, starlette, httpx, multipart";

/// A Python with the packages of the tests, or the test is left out. `cargo xtask test` prepares one.
#[must_use]
pub fn python(test: &str) -> Option<PathBuf> {
    let python = std::env::var_os("SCRATCH_TEST_PYTHON").map(PathBuf::from);
    let works = |python: &Path| {
        let mut try_import = Command::new(python);
        try_import.args(["-c", PACKAGES]).stdout(Stdio::null()).stderr(Stdio::null());
        try_import.status().is_ok_and(|status| status.success())
    };
    match python {
        Some(python) if works(&python) => Some(python),
        Some(_) => {
            left_out(test, "SCRATCH_TEST_PYTHON lacks a package of tests/python/requirements.txt");
            None
        }
        None => {
            left_out(test, "needs a Python with protobuf and gRPC, which cargo xtask test sets up");
            None
        }
    }
}

/// Writes the contract's FileDescriptorSet below `place`, for clients that load it at run time.
///
/// # Panics
/// When `place` can't be written.
#[must_use]
pub fn descriptors_file(place: &Path) -> PathBuf {
    let path = place.join(OsStr::new("descriptors.bin"));
    std::fs::write(&path, scratch_proto::DESCRIPTORS).expect("a test's place is writable");
    path
}
