//! The Python SDK: CPython's own tests with the module replaced, what those do not catch, and the package as it is installed.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use scratch_tests::{
    Broker, DEADLINE, Dialogue, Options, contained, descriptors_file, eventually, is_root, left_out, names_in, python,
    scratch, scratchd, source_tree, torture, wait_gone,
};

/// Any user but root.
const USER: u32 = 1234;
/// What CPython has tests of that use tempfile.
const USERS_OF_TEMPFILE: [&str; 6] =
    ["test_shutil", "test_zipfile", "test_mailbox", "test_urllib_response", "test_subprocess", "test_tarfile"];
/// As few areas as a test can use up.
const FEW: &str = "[[pool]]\nname = \"default\"\nroot = \"@PLACE@/pool\"\n\n[foreign]\nareas = 20\n";

/// Runs an interpreter, as another user or the test's own.
fn command(user: Option<u32>, python: &Path) -> Command {
    let Some(user) = user else { return Command::new(python) };
    let mut command = Command::new("setpriv");
    command.arg(format!("--reuid={user}")).arg(format!("--regid={user}")).args(["--clear-groups", "--"]).arg(python);
    command
}

/// An interpreter that this user can run, with CPython's own tests.
fn with_tests(test: &str, user: Option<u32>) -> Option<PathBuf> {
    let prepared = std::env::var_os("SCRATCH_TEST_PYTHON").map(PathBuf::from);
    let candidates = prepared.into_iter().chain(["python3", "/usr/bin/python3"].map(PathBuf::from));
    // It says where it is: what PATH leads to depends on who asks. And it starts another one: with `setpriv` the first is found by
    // root's rights.
    let can = "import subprocess, sys, test.test_tempfile, test.test_tarfile; \
               subprocess.run([sys.executable, '-c', ''], check=True); \
               sys.version_info >= (3, 11) and print(sys.executable)";
    let found = candidates.into_iter().find_map(|python| {
        let mut probe = command(user, &python);
        // Importing them makes a file, to see what modes do there.
        let told = probe.args(["-c", can]).current_dir("/tmp").stderr(Stdio::null()).output().ok()?;
        let path = PathBuf::from(String::from_utf8(told.stdout).ok()?.trim());
        (told.status.success() && path.is_absolute()).then_some(path)
    });
    if found.is_none() {
        left_out(test, "no Python of 3.11 or later with CPython's own tests (libpython3.N-testsuite)");
    }
    found
}

/// The package's modules, readable for everybody.
fn modules(into: &Path) {
    let from = source_tree().join("sdk/python/src/scratchd");
    let copied = Command::new("cp").arg("-r").arg(from).arg(into).status();
    assert!(copied.is_ok_and(|status| status.success()), "a place is writable");
}

/// An environment whose every interpreter has the module replaced from its start, also those that are started with -I.
fn replaced(python: &Path, place: &Path) -> PathBuf {
    let environment = place.join("environment");
    let made = Command::new(python).args(["-m", "venv", "--without-pip"]).arg(&environment).status();
    assert!(made.is_ok_and(|status| status.success()), "venv is of the standard library");
    let packages = names_in(&environment.join("lib")).remove(0);
    let packages = environment.join("lib").join(packages).join("site-packages");
    modules(&packages);
    std::fs::write(packages.join("replaced.pth"), "import scratchd; scratchd.install()\n").expect("it is our own");
    environment.join("bin/python")
}

fn cpythons_tests(test: &str, user: Option<u32>, create: &str, suites: &[&str]) {
    contained(test, || {
        if user.is_some() && !is_root() {
            return left_out(test, "needs root to become another user");
        }
        let Some(python) = with_tests(test, user) else { return };
        let broker = Broker::start(Options::default());
        let python = replaced(&python, broker.place());
        let work = broker.place().join("work");
        std::fs::create_dir(&work).expect("a place is writable");
        std::os::unix::fs::chown(&work, user, user).expect("it is our own, or we are root");
        let run = |arguments: &[&str]| {
            let mut tests = command(user, &python);
            tests.args(arguments).args(suites).current_dir(&work).stdin(Stdio::null());
            tests.env("SCRATCHD_RUNTIME_DIR", broker.runtime_dir()).env("SCRATCHD_CREATE", create).env("HOME", &work);
            tests.output().expect("python was there a moment ago")
        };
        let which = run(&["-c", "import tempfile; print(tempfile.__name__, tempfile.gettempdir())"]);
        let which = String::from_utf8_lossy(&which.stdout).into_owned();
        let pool = broker.pool_root().display();
        assert!(which.starts_with(&format!("scratchd.tempfile {pool}/")), "not replaced: {which}");
        let output = run(&["-m", "test", "--verbose3"]);
        let told = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success(), "{told}\n{}", String::from_utf8_lossy(&output.stderr));
        eventually(DEADLINE, "nothing is left", || names_in(broker.pool_root()) == [".scratch"]);
    });
}

#[test]
fn test_tempfile_as_root() {
    cpythons_tests("python::test_tempfile_as_root", None, "auto", &["test_tempfile"]);
}

#[test]
fn test_tempfile_as_root_by_the_broker() {
    cpythons_tests("python::test_tempfile_as_root_by_the_broker", None, "broker", &["test_tempfile"]);
}

#[test]
fn test_tempfile_as_a_user() {
    cpythons_tests("python::test_tempfile_as_a_user", Some(USER), "auto", &["test_tempfile"]);
}

#[test]
fn test_tempfile_as_a_user_by_the_broker() {
    cpythons_tests("python::test_tempfile_as_a_user_by_the_broker", Some(USER), "broker", &["test_tempfile"]);
}

/// The last two take a minute.
fn what_uses_tempfile(test: &str, user: Option<u32>, create: &str) {
    cpythons_tests(test, user, create, if torture() { &USERS_OF_TEMPFILE } else { &USERS_OF_TEMPFILE[..4] });
}

#[test]
fn what_uses_tempfile_as_root() {
    what_uses_tempfile("python::what_uses_tempfile_as_root", None, "auto");
}

#[test]
fn what_uses_tempfile_as_root_by_the_broker() {
    what_uses_tempfile("python::what_uses_tempfile_as_root_by_the_broker", None, "broker");
}

#[test]
fn what_uses_tempfile_as_a_user() {
    what_uses_tempfile("python::what_uses_tempfile_as_a_user", Some(USER), "auto");
}

#[test]
fn what_uses_tempfile_as_a_user_by_the_broker() {
    what_uses_tempfile("python::what_uses_tempfile_as_a_user_by_the_broker", Some(USER), "broker");
}

/// What CPython's tests do not catch.
fn more(test: &str, create: &str) {
    contained(test, || {
        let Some(python) = python(test) else { return };
        let broker = Broker::start(Options { config: Some(FEW.to_owned()), ..Options::default() });
        let place = broker.place();
        modules(place);
        let work = place.join("work");
        std::fs::create_dir(&work).expect("a place is writable");
        let mut checks = Command::new(python);
        checks.arg(source_tree().join("tests/python/dropin.py")).current_dir(work).env("PYTHONPATH", place);
        checks
            .env("SCRATCHD_RUNTIME_DIR", broker.runtime_dir())
            .env("SCRATCHD_CREATE", create)
            .env("SCRATCH", scratch());
        let status = checks.status().expect("python was there a moment ago");
        assert!(status.success(), "not every check held: {status}");
        eventually(DEADLINE, "nothing is left", || names_in(broker.pool_root()) == [".scratch"]);
    });
}

#[test]
fn more_than_cpythons_tests() {
    more("python::more_than_cpythons_tests", "auto");
}

#[test]
fn more_than_cpythons_tests_by_the_broker() {
    more("python::more_than_cpythons_tests_by_the_broker", "broker");
}

#[test]
fn its_messages_are_those_of_the_contract() {
    let test = "python::its_messages_are_those_of_the_contract";
    contained(test, || {
        let Some(python) = python(test) else { return };
        let mut check = Command::new(python);
        check.arg(source_tree().join("tests/python/sdk_messages.py")).arg("--check");
        check.env("SCRATCH_DESCRIPTORS", descriptors_file(Path::new("/tmp")));
        assert!(check.status().is_ok_and(|status| status.success()), "they are not");
    });
}

/// Builds the package, installs it in a fresh environment, and runs the README's first example there.
#[test]
fn a_wheel_is_all_it_takes() {
    let test = "python::a_wheel_is_all_it_takes";
    contained(test, || {
        let Some(python) = python(test) else { return };
        let broker = Broker::start(Options::default());
        let place = broker.place();
        let succeed = |what: &str, command: &mut Command| {
            let output = command.stdin(Stdio::null()).output().expect("python was there a moment ago");
            let told = [output.stdout, output.stderr].map(|told| String::from_utf8_lossy(&told).into_owned());
            assert!(output.status.success(), "{what}: {told:?}");
            told
        };
        // Built where it may leave something.
        let source = place.join("python");
        succeed("cp", Command::new("cp").arg("-rL").arg(source_tree().join("sdk/python")).arg(&source));
        let build =
            "import os, setuptools.build_meta as b; os.mkdir('out'); b.build_wheel('out'); b.build_sdist('out')";
        succeed("build", Command::new(&python).args(["-c", build]).current_dir(&source));
        let made = names_in(&source.join("out"));
        let wheel = made.iter().find(|name| Path::new(name).extension().is_some_and(|kind| kind == "whl"));
        assert!(made.len() == 2 && wheel.is_some(), "a wheel and a source distribution: {made:?}");
        let environment = place.join("fresh");
        let base = "import sys; print(sys._base_executable)";
        let [base, _] = succeed("base", Command::new(&python).args(["-c", base]));
        succeed("venv", Command::new(base.trim()).args(["-m", "venv", "--without-pip"]).arg(&environment));
        let fresh = environment.join("bin/python");
        let mut install = Command::new(&python);
        install.args(["-m", "pip", "--python"]).arg(&fresh).args(["install", "--quiet", "--no-index"]);
        succeed("pip install", install.arg(source.join("out").join(wheel.expect("it was looked for"))));
        let readme = std::fs::read_to_string(source.join("README.md")).expect("it was copied");
        let example = readme.split("```python\n").nth(1).and_then(|rest| rest.split("```").next());
        let mut run = Command::new(&fresh);
        run.args(["-c", example.expect("it has one")])
            .env("SCRATCHD_RUNTIME_DIR", broker.runtime_dir())
            .current_dir(place);
        let [told, _] = succeed("the README's example", &mut run);
        assert!(told.contains(&format!("{}/", broker.pool_root().display())), "{told}");
        eventually(DEADLINE, "nothing is left", || names_in(broker.pool_root()) == [".scratch"]);
    });
}

/// sdk/python/tests: leases, guards, scopes, uploads, asyncio, watching, the pytest plugin, the examples. They start brokers.
#[test]
fn its_own_tests() {
    let test = "python::its_own_tests";
    contained(test, || {
        let Some(python) = python(test) else { return };
        let source = source_tree().join("sdk/python");
        let mut tests = Command::new(python);
        tests.args(["-m", "pytest", "-q", "-p", "no:scratchd", "-p", "no:cacheprovider", "tests"]).current_dir(&source);
        tests.env("PYTHONPATH", source.join("src")).env("PYTHONDONTWRITEBYTECODE", "1").stdin(Stdio::null());
        tests.env("SCRATCH_BINARIES", scratchd().parent().expect("a program is in a directory"));
        let output = tests.output().expect("python was there a moment ago");
        let told = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success(), "{told}\n{}", String::from_utf8_lossy(&output.stderr));
        println!("{}", told.lines().last().unwrap_or_default());
    });
}

#[test]
fn its_types_are_whole() {
    let test = "python::its_types_are_whole";
    contained(test, || {
        let Some(python) = python(test) else { return };
        let mut check = Command::new(python);
        check.args(["-m", "mypy", "--cache-dir=/dev/null"]).current_dir(source_tree().join("sdk/python"));
        let output = check.output().expect("python was there a moment ago");
        assert!(
            output.status.success(),
            "{}{}",
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
    });
}

/// Lives through its broker's end.
const GOES_ON: &str = r#"
import os, sys, threading
from scratchd import tempfile
elsewhere = sys.argv[1]
before = tempfile.TemporaryDirectory()
open(before.name + "/file", "w").close()
there = tempfile.NamedTemporaryFile(dir=elsewhere)
print(tempfile.gettempdir(), flush=True)
def again():
    with tempfile.NamedTemporaryFile(dir=elsewhere) as file, tempfile.TemporaryFile(), tempfile.NamedTemporaryFile():
        assert os.path.exists(file.name)
for line in sys.stdin:
    # Several that meet the lost connection at once.
    threads = [threading.Thread(target=again) for _ in range(4)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    assert os.path.exists(there.name) and os.path.exists(before.name + "/file")
    print(len(os.listdir(elsewhere)), flush=True)
before.cleanup()
there.close()
assert not os.path.exists(before.name) and not os.listdir(elsewhere)
"#;

fn with_the_next_broker(test: &str, create: &str) {
    contained(test, || {
        let Some(python) = python(test) else { return };
        let mut broker = Broker::start(Options::default());
        modules(broker.place());
        let elsewhere = broker.place().join("elsewhere");
        std::fs::create_dir(&elsewhere).expect("a place is writable");
        let mut program = Command::new(python);
        program.args(["-c", GOES_ON]).arg(&elsewhere).env("PYTHONPATH", broker.place());
        program.env("SCRATCHD_RUNTIME_DIR", broker.runtime_dir()).env("SCRATCHD_CREATE", create);
        let mut program = Dialogue::start(program);
        let lease = PathBuf::from(program.line());
        for orderly in [false, true, false] {
            if orderly {
                assert!(broker.terminate().success());
            } else {
                broker.kill();
            }
            broker.restart();
            program.say("go on");
            assert_eq!(program.line(), "1", "only what is held is there");
        }
        assert!(program.end().success());
        wait_gone(&lease, DEADLINE);
        eventually(DEADLINE, "nothing is left", || names_in(broker.pool_root()) == [".scratch"]);
    });
}

#[test]
fn goes_on_with_the_next_broker() {
    with_the_next_broker("python::goes_on_with_the_next_broker", "auto");
}

#[test]
fn goes_on_with_the_next_broker_by_the_broker() {
    with_the_next_broker("python::goes_on_with_the_next_broker_by_the_broker", "broker");
}
