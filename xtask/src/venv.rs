//! The Python of the tests: a virtual environment in `.venv` with what tests/python/requirements.txt names.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::step::root;

/// A Python that has the packages, made if need be; or why there is none.
pub(crate) fn python() -> Result<PathBuf, String> {
    let directory = root().join(".venv");
    let python = directory.join("bin/python");
    if has_packages(&python) {
        return Ok(python);
    }
    // A system that ships the package is good enough, and needs no network.
    let system = PathBuf::from("python3");
    if has_packages(&system) {
        return Ok(system);
    }
    eprintln!("making .venv for the tests in Python");
    // Again over one that is there but broken: another machine's, or a Python that has gone.
    succeed(Command::new("python3").args(["-m", "venv", "--clear"]).arg(&directory))?;
    let requirements = root().join("tests/python/requirements.txt");
    let mut install = Command::new(&python);
    install.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--requirement"]);
    succeed(install.arg(requirements))?;
    if has_packages(&python) { Ok(python) } else { Err("the packages are installed, but can't be imported".into()) }
}

fn has_packages(python: &Path) -> bool {
    let mut probe = Command::new(python);
    probe.args(["-c", "import google.rpc.error_details_pb2, grpc_health.v1.health, grpc_reflection.v1alpha.reflection, grpc_tools.protoc, mypy, setuptools, pytest, django, starlette, httpx, multipart"]);
    probe.stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok_and(|status| status.success())
}

fn succeed(command: &mut Command) -> Result<(), String> {
    let program = command.get_args().find(|word| *word != "-m").unwrap_or_default().to_string_lossy().into_owned();
    let output = command.stdin(Stdio::null()).output().map_err(|error| format!("python3: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    let said = [output.stderr, output.stdout].concat();
    let said = String::from_utf8_lossy(&said);
    Err(format!("{program}: {}", said.lines().map(str::trim).find(|line| !line.is_empty()).unwrap_or("failed")))
}
