//! What users of the tempfile crate rely on, asked of the crate and of `scratch_client::temp` by the same cases; and the
//! differences, each of which is a decision.

mod differences;
/// The cases, of the crate.
#[path = "behaviours"]
mod theirs {
    pub(super) use tempfile as temp;

    #[allow(clippy::duplicate_mod, reason = "the same cases of two libraries")]
    pub(super) mod directories;
    #[allow(clippy::duplicate_mod, reason = "the same cases of two libraries")]
    pub(super) mod files;
    #[allow(clippy::duplicate_mod, reason = "the same cases of two libraries")]
    pub(super) mod observed;
    #[allow(clippy::duplicate_mod, reason = "the same cases of two libraries")]
    pub(super) mod paths;
    #[allow(clippy::duplicate_mod, reason = "the same cases of two libraries")]
    pub(super) mod places;
    #[allow(clippy::duplicate_mod, reason = "the same cases of two libraries")]
    pub(super) mod spooled;

    const NAME: &str = "tempfile";
    type AnyBuilder = temp::Builder<'static, 'static>;

    fn kept(directory: temp::TempDir) -> std::path::PathBuf {
        directory.keep()
    }
}
/// The cases, of ours.
#[path = "behaviours"]
mod ours {
    pub(super) use scratch_client::temp;

    pub(super) mod directories;
    pub(super) mod files;
    pub(super) mod observed;
    pub(super) mod paths;
    pub(super) mod places;
    pub(super) mod spooled;

    const NAME: &str = "scratch_client::temp";
    type AnyBuilder = temp::Builder;

    fn kept(directory: temp::TempDir) -> std::path::PathBuf {
        directory.keep().expect("it can be moved")
    }
}

use std::fs;
use std::io::{Read, Seek};
use std::panic::catch_unwind;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use scratch_tests::{Broker, DEADLINE, Options, contained, eventually, names_in};

use super::process::{Role, process};

/// A name, and what is to hold.
type Case = (&'static str, fn(&Desk));

/// Every case of one library.
macro_rules! cases_of {
    ($library:ident) => {
        [
            $library::directories::CASES,
            $library::files::CASES,
            $library::paths::CASES,
            $library::places::CASES,
            $library::spooled::CASES,
        ]
    };
}

/// A table of functions and their names.
macro_rules! cases {
    ($($case:ident),+ $(,)?) => {
        pub(in super::super) const CASES: &[super::super::Case] = &[$((stringify!($case), $case)),+];
    };
}
use cases;

/// Where a case works.
#[derive(Debug)]
struct Desk {
    /// An empty directory on the file system of the pool and of TMPDIR.
    path: PathBuf,
    /// An empty directory on another one.
    other: PathBuf,
}

impl Desk {
    fn new() -> Self {
        static MADE: AtomicU32 = AtomicU32::new(0);
        let number = MADE.fetch_add(1, Ordering::Relaxed);
        let name = format!("desk-{}-{number}", std::process::id());
        let [path, other] = [temporary_directory().with_file_name(&name), Path::new("/dev/shm").join(&name)];
        for path in [&path, &other] {
            fs::create_dir(path).expect("the place and /dev/shm are our own");
        }
        Self { path, other }
    }
}

/// As this process was told.
fn temporary_directory() -> PathBuf {
    std::env::var_os("TMPDIR").expect("it was set for this process").into()
}

fn all(mut file: impl Read + Seek) -> String {
    let mut content = String::new();
    file.rewind().and_then(|()| file.read_to_string(&mut content)).expect("it is open for reading");
    content
}

fn content(path: &Path) -> String {
    fs::read_to_string(path).expect("it is there")
}

#[test]
fn are_those_of_the_tempfile_crate() {
    in_both_modes("sdk::behaviours::are_those_of_the_tempfile_crate", Role::Behaviours);
}

#[test]
fn differ_where_it_was_decided() {
    in_both_modes("sdk::behaviours::differ_where_it_was_decided", Role::Differences);
}

/// Does nothing, unless it is told by its environment.
#[test]
fn leaves_a_file() {
    theirs::observed::leave();
    ours::observed::leave();
}

fn in_both_modes(test: &str, role: Role) {
    contained(test, || {
        for create in ["auto", "broker"] {
            let broker = Broker::start(Options::default());
            let temporary = broker.place().join("tmp");
            fs::create_dir(&temporary).expect("a place is writable");
            let mut command = process(&broker, role, None);
            let status = command.env("SCRATCHD_CREATE", create).env("TMPDIR", &temporary).status();
            assert!(status.expect("this program can be run").success(), "SCRATCHD_CREATE={create}");
            eventually(DEADLINE, "nothing is left", || names_in(broker.pool_root()) == [".scratch"]);
        }
    });
}

/// What the other process does: every case, of the crate first.
pub(super) fn check() {
    let own = ours::temp::NamedTempFile::new().expect("a file is made");
    let lease = own.path().parent().expect("a file is in a directory").to_owned();
    drop(own);
    let mut failed = Vec::new();
    for (library, cases) in [("theirs", cases_of!(theirs)), ("ours", cases_of!(ours))] {
        for (name, case) in cases.into_iter().flatten() {
            println!("{library}: {name}");
            if catch_unwind(|| case(&Desk::new())).is_err() {
                failed.push(format!("{library}: {name}"));
            }
            for directory in [&temporary_directory(), &lease] {
                if failed.is_empty() {
                    eventually(DEADLINE, "guards leave nothing", || names_in(directory).is_empty());
                }
            }
        }
    }
    assert!(failed.is_empty(), "{failed:#?}");
}

pub(super) use differences::check as check_differences;
