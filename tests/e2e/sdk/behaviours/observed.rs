//! What is seen of a library where the two differ, in words for the table of differences.

use std::fs::{self, File, Permissions};
use std::io::{self, ErrorKind};
use std::marker::PhantomData;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use rustix::fs::Mode;
use rustix::process::umask;
use scratch_tests::{DEADLINE, wait_gone};

use super::super::{Desk, temporary_directory};
use super::temp::{Builder, NamedTempFile, TempDir, TempPath, tempfile, tempfile_in};

/// Where a process that leaves a file behind finds which library is to do it.
const LEAVES: &str = "SCRATCH_SDK_LEAVES";

/// Stands in for functions that a library does not have: one of its own goes first.
#[allow(dead_code, reason = "one of the two libraries has them")]
trait Absent: Sized {
    fn make_in<R>(&self, _: &Path, _: impl FnMut(&Path) -> io::Result<R>) -> io::Result<NamedTempFile<R>> {
        Err(ErrorKind::Unsupported.into())
    }

    fn try_from_path(_: PathBuf) -> io::Result<Self> {
        Err(ErrorKind::Unsupported.into())
    }
}

impl Absent for TempPath {}
impl Absent for super::AnyBuilder {}

/// Whether a type is a path by value: the constant of its own goes first.
struct Is<T>(PhantomData<T>);

#[allow(dead_code, reason = "as that one above")]
trait Otherwise {
    const A_PATH: &str = "not a path";
}

impl<T> Otherwise for Is<T> {}

#[allow(dead_code, reason = "as that one above")]
impl<T: AsRef<Path>> Is<T> {
    const A_PATH: &str = "a path";
}

fn outcome<T>(result: io::Result<T>, done: &str) -> String {
    match result {
        Ok(_) => done.to_owned(),
        Err(error) if error.kind() == ErrorKind::Unsupported => "absent".to_owned(),
        Err(error) => format!("{:?}", error.kind()),
    }
}

fn mode(path: &Path) -> String {
    format!("{:04o}", path.metadata().expect("it is there").mode() & 0o7777)
}

fn with_umask<T>(mask: u32, body: impl FnOnce() -> T) -> T {
    let before = umask(Mode::from_raw_mode(mask));
    let result = body();
    umask(before);
    result
}

pub(in super::super) fn name(_: &Desk) -> String {
    let file = NamedTempFile::new().expect("a file is made");
    let name = file.path().file_name().and_then(|name| name.to_str()).expect("it is plain");
    let (start, random) = name.split_at(name.find("tmp").expect("it begins with it") + 3);
    format!("`{start}` and {} characters", random.len())
}

pub(in super::super) fn place(_: &Desk) -> String {
    let file = NamedTempFile::new().expect("a file is made");
    let is_there = file.path().parent() == Some(&*temporary_directory());
    if is_there { "TMPDIR" } else { "its lease" }.to_owned()
}

pub(in super::super) fn mode_of_a_directory(_: &Desk) -> String {
    with_umask(0o022, || mode(TempDir::new().expect("a directory is made").path()))
}

pub(in super::super) fn mode_of_a_nameless_file(_: &Desk) -> String {
    let file = with_umask(0o022, tempfile).expect("a file is made");
    format!("{:04o}", file.metadata().expect("it is open").mode() & 0o7777)
}

pub(in super::super) fn mode_under_an_umask(_: &Desk) -> String {
    let mut builder = Builder::new();
    builder.permissions(Permissions::from_mode(0o666));
    with_umask(0o077, || mode(builder.tempfile().expect("a file is made").path()))
}

pub(in super::super) fn prefix_with_a_separator(desk: &Desk) -> String {
    let below = desk.path.join("below");
    fs::create_dir(&below).expect("the desk is ours");
    let made = NamedTempFile::with_prefix_in("../x", &below);
    assert!(made.as_ref().is_err() || fs::read_dir(&below).expect("it is there").count() == 0);
    outcome(made, "a file outside")
}

pub(in super::super) fn name_of_many_bytes(_: &Desk) -> String {
    outcome(NamedTempFile::with_prefix("n".repeat(255)), "made")
}

pub(in super::super) fn few_random_characters(_: &Desk) -> String {
    outcome(Builder::new().rand_bytes(2).tempfile(), "made")
}

pub(in super::super) fn guards_by_value(_: &Desk) -> String {
    let all = [Is::<NamedTempFile>::A_PATH, Is::<TempPath>::A_PATH, Is::<TempDir>::A_PATH];
    assert!(all.iter().all(|one| *one == all[0]), "{all:?}");
    all[0].to_owned()
}

pub(in super::super) fn errors_without_a_guard(desk: &Desk) -> String {
    let missing = desk.path.join("missing");
    let made = tempfile_in(&missing).expect_err("there is no such directory");
    let persisted = NamedTempFile::new().and_then(|file| Ok(file.persist(missing.join("target"))?));
    let errors = [made, persisted.expect_err("there is no such directory")];
    let named = errors.map(|error| error.to_string().contains("/missing"));
    assert_eq!(named[0], named[1]);
    if named[0] { "with their path" } else { "without a path" }.to_owned()
}

pub(in super::super) fn closed_when_gone(desk: &Desk) -> String {
    let file = NamedTempFile::new_in(&desk.path).expect("a file is made");
    fs::remove_file(file.path()).expect("it is ours");
    let directory = TempDir::new().expect("a directory is made");
    fs::remove_dir(directory.path()).expect("it is ours");
    let closed = [file.close(), directory.close()].map(|closed| outcome(closed, "no error"));
    assert_eq!(closed[0], closed[1]);
    closed[0].clone()
}

pub(in super::super) fn dropped_when_replaced(desk: &Desk) -> String {
    let file = NamedTempFile::new_in(&desk.path).expect("a file is made");
    let path = file.path().to_owned();
    fs::rename(&path, desk.path.join("moved")).expect("it is ours");
    fs::write(&path, "another").expect("the desk is ours");
    drop(file);
    if path.exists() { "lives" } else { "is removed" }.to_owned()
}

pub(in super::super) fn persisted_elsewhere(desk: &Desk) -> String {
    let target = desk.other.join("target");
    let file = NamedTempFile::new().expect("a file is made");
    let moved = file.persist(&target).map_err(io::Error::from);
    assert_eq!(moved.is_ok(), target.exists());
    outcome(moved, "moved")
}

pub(in super::super) fn kept_by_default(_: &Desk) -> String {
    let file = NamedTempFile::new().expect("a file is made");
    let before = file.path().to_owned();
    let (_, path) = file.keep().expect("it can stay");
    let place = if path == before { "where it was" } else { "moved to TMPDIR" };
    assert_eq!(path.parent(), Some(&*temporary_directory()));
    fs::remove_file(path).expect("it is ours");
    place.to_owned()
}

pub(in super::super) fn keep_of_a_directory(desk: &Desk) -> String {
    let kept = TempDir::new_in(&desk.path).expect("a directory is made").keep();
    let of = std::any::type_name_of_val(&kept);
    if of.ends_with("PathBuf") { "a path" } else { "a result" }.to_owned()
}

pub(in super::super) fn making_in_a_directory(desk: &Desk) -> String {
    outcome(Builder::new().make_in(&desk.path, |path| File::create_new(path)), "made")
}

pub(in super::super) fn taking_a_path(desk: &Desk) -> String {
    let path = desk.path.join("mine");
    fs::write(&path, "mine").expect("the desk is ours");
    outcome(TempPath::try_from_path(path), "taken")
}

/// A file that was left is looked for when the process that made it has ended.
pub(in super::super) fn left_behind(_: &Desk) -> String {
    let mut command = Command::new(std::env::current_exe().expect("/proc names this program"));
    command.args(["sdk::behaviours::leaves_a_file", "--exact", "--nocapture", "--test-threads=1"]);
    let output = command.env(LEAVES, super::NAME).stderr(Stdio::inherit()).output().expect("this program can be run");
    let said = String::from_utf8(output.stdout).expect("the path is plain");
    let path = said.lines().find_map(|line| line.strip_prefix("left: ")).expect("it says where");
    let path = Path::new(path);
    if path.starts_with(temporary_directory()) {
        fs::remove_file(path).expect("nobody else removes it");
        return "stays".to_owned();
    }
    // With its lease.
    wait_gone(path.parent().expect("a file is in a directory"), DEADLINE);
    "goes with the process".to_owned()
}

pub(in super::super) fn leave() {
    if std::env::var_os(LEAVES).is_some_and(|name| name == super::NAME) {
        let file = Builder::new().disable_cleanup(true).tempfile().expect("a file is made");
        println!("\nleft: {}", file.path().display());
    }
}
