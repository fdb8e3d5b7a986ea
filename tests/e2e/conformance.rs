//! The conformance table, run by the plain Python client: every file of tests/conformance, against the broker that it asks for.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use rustix::process::{Resource, Rlimit, prlimit};
use scratch_tests::{
    Broker, DEADLINE, Filesystem, Options, Place, contained, eventually, is_root, left_out, names_in, python,
    source_tree,
};
use serde_json::{Map, Value};

/// Who runs the table.
const PLAIN: &str = "plain";
const SDK: &str = "sdk";
/// Which test shows the reasons that the table has not.
const ELSEWHERE: &str = "elsewhere.json";
/// Of a pool whose leases are in memory.
const MEMORY: &str = "backend = \"tmpfs\"\nsize = \"16MiB\"\nlease_bytes = \"1MiB\"\nlease_inodes = 64\n";
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// A file of the table, and the broker that it wants: nothing, if any will do.
pub(crate) struct Table {
    pub(crate) path: PathBuf,
    pub(crate) broker: Option<Map<String, Value>>,
}

/// All of them, so that none is forgotten.
pub(crate) fn tables() -> Vec<Table> {
    let directory = source_tree().join("tests/conformance");
    let read = |name: std::ffi::OsString| {
        let path = directory.join(name);
        let text = std::fs::read(&path).expect("the table can be read");
        let content: Value = serde_json::from_slice(&text).expect("the table is JSON");
        let broker = content.get("broker").map(|broker| broker.as_object().expect("broker is an object").clone());
        Table { path, broker }
    };
    let is_table = |name: &std::ffi::OsString| Path::new(name).extension().is_some_and(|kind| kind == "json");
    names_in(&directory).into_iter().filter(is_table).filter(|name| name != ELSEWHERE).map(read).collect()
}

/// By the plain client, or `sdk`, by that of the Python SDK.
fn runner(python: &Path, by: &str) -> Command {
    let mut runner = Command::new(python);
    runner.arg(source_tree().join("tests/python/conformance.py"));
    if by == SDK {
        runner.env("CONFORMANCE_BY", by).env("PYTHONPATH", source_tree().join("sdk/python/src"));
    }
    runner
}

/// Runs these files; what the runner can't do here is left out by its own words.
fn run(test: &str, (python, by): (&Path, &str), broker: &Broker, files: &[PathBuf]) -> bool {
    let mut runner = runner(python, by);
    runner.args(files).env("SCRATCHD_RUNTIME_DIR", broker.runtime_dir()).stdout(Stdio::piped());
    let mut runner = runner.spawn().expect("python was there a moment ago");
    for line in BufReader::new(runner.stdout.take().expect("stdout is piped")).lines() {
        let line = line.expect("the runner prints UTF-8");
        println!("{line}");
        if let Some(case) = line.strip_prefix("left out ") {
            left_out(test, case);
        }
    }
    runner.wait().expect("our own child can be waited for").success()
}

#[test]
fn the_table_is_whole() {
    let test = "conformance::the_table_is_whole";
    contained(test, || {
        let Some(python) = python(test) else { return };
        let files = tables().into_iter().map(|table| table.path);
        let status = runner(&python, PLAIN).arg("--check").args(files).status().expect("python was there a moment ago");
        assert!(status.success(), "{status}");
    });
}

/// All files that any broker will do for.
fn with_one(test: &str, by: &str) {
    contained(test, || {
        let Some(python) = python(test) else { return };
        let broker = Broker::start(Options::default());
        let files: Vec<PathBuf> = tables().into_iter().filter(|t| t.broker.is_none()).map(|t| t.path).collect();
        assert!(run(test, (&python, by), &broker, &files), "not every case held");
        eventually(DEADLINE, "nothing is left of any case", || names_in(broker.pool_root()) == [".scratch"]);
    });
}

/// Each other file with the broker that it asks for.
fn with_its_own(test: &str, by: &str) {
    contained(test, || {
        let Some(python) = python(test) else { return };
        let mut failed = Vec::new();
        for Table { path, broker } in tables() {
            let Some(broker) = broker.and_then(|wanted| started(test, &wanted)) else { continue };
            if !run(test, (&python, by), &broker, std::slice::from_ref(&path)) {
                failed.push(path);
            }
        }
        assert!(failed.is_empty(), "not every case held: {failed:?}");
    });
}

#[test]
fn with_any_broker() {
    with_one("conformance::with_any_broker", PLAIN);
}

#[test]
fn with_a_broker_of_its_own() {
    with_its_own("conformance::with_a_broker_of_its_own", PLAIN);
}

#[test]
fn by_the_python_sdk_with_any_broker() {
    with_one("conformance::by_the_python_sdk_with_any_broker", SDK);
}

#[test]
fn by_the_python_sdk_with_a_broker_of_its_own() {
    with_its_own("conformance::by_the_python_sdk_with_a_broker_of_its_own", SDK);
}

/// The broker that a file asks for, or the file is left out.
pub(crate) fn started(test: &str, wanted: &Map<String, Value>) -> Option<Broker> {
    let pool = wanted.get("pool").map(|pool| pool.as_str().expect("pool is a text"));
    let place = match pool {
        Some("tmpfs-1m") => tmpfs_of_1_mib(test)?,
        // The only kind of file system here that can turn read-only under the broker's open files.
        Some("read-only") => Place::on(test, Filesystem::Ext4)?,
        Some("memory") if !is_root() => {
            left_out(test, "leases in memory are root's broker's");
            return None;
        }
        Some("memory") => Place::new(),
        Some(other) => panic!("no such pool: {other}"),
        None => Place::new(),
    };
    let config = wanted.get("config").map(|config| toml(config.as_object().expect("config is an object")));
    let config = if pool == Some("memory") { Some(format!("{}{MEMORY}", toml(&Map::new()))) } else { config };
    let broker = Broker::start(Options { place: Some(place), config, ..Options::default() });
    if let Some(limit) = wanted.get("descriptors") {
        let limit = limit.as_u64().expect("descriptors is a number");
        let limit = Rlimit { current: Some(limit), maximum: Some(limit) };
        prlimit(Some(broker.pid()), Resource::Nofile, limit).expect("a child of ours can be limited");
    }
    if pool == Some("read-only") {
        // What ext4 does by itself after an error.
        mount(&["-o", "remount,abort"], broker.place());
    }
    Some(broker)
}

/// A place whose pool is a file system with 1 MiB and 64 inodes.
fn tmpfs_of_1_mib(test: &str) -> Option<Place> {
    if !is_root() {
        left_out(test, "mounting a tmpfs needs root");
        return None;
    }
    let place = Place::new();
    let pool = place.path().join("pool");
    std::fs::create_dir(&pool).expect("a place is writable");
    mount(&["-t", "tmpfs", "-o", "size=1m,nr_inodes=64,mode=711", "tmpfs"], &pool);
    Some(place)
}

fn mount(arguments: &[&str], path: &Path) {
    let mut mount = Command::new("mount");
    mount.arg("-n").args(arguments).arg(path).env("PATH", PATH);
    assert!(mount.status().is_ok_and(|status| status.success()), "mount {arguments:?} {}", path.display());
}

/// Sections of plain values, which look in TOML as they do in JSON; the pool comes by itself.
fn toml(config: &Map<String, Value>) -> String {
    let mut text = "[[pool]]\nname = \"default\"\nroot = \"@PLACE@/pool\"\n".to_owned();
    for (section, keys) in config {
        text += &format!("\n[{section}]\n");
        for (key, value) in keys.as_object().expect("a section is an object") {
            text += &format!("{key} = {value}\n");
        }
    }
    text
}
