//! Modes and owners of what the SDK makes are exact, whatever the umask of who asks. Run in a process of its own, as the
//! umask is the whole process's, and as another user than the broker's too.

use std::fs::{File, Metadata};
use std::os::unix::fs::{FileTypeExt, MetadataExt};

use rustix::fs::{Mode, SealFlags};
use rustix::process::{getegid, geteuid, umask};
use scratch_client::{AreaOptions, Client, ConnectOptions, Lease};
use scratch_tests::{Broker, Options, contained, is_root, left_out};

use super::process::{Role, process};
use super::{both_ways, client, grant, path};

const TENANT: u32 = 1234;
const UMASKS: [u32; 4] = [0, 0o022, 0o077, 0o777];

#[test]
fn are_exact() {
    contained("sdk::modes::are_exact", || of(&Broker::start(Options::default()), None));
}

#[test]
fn are_exact_for_another_user() {
    contained("sdk::modes::are_exact_for_another_user", || {
        if !is_root() {
            return left_out("sdk::modes::are_exact_for_another_user", "being another user needs root");
        }
        of(&Broker::start(Options::default()), Some(TENANT));
    });
}

#[test]
fn without_any_permission_is_a_mode_too() {
    both_ways("sdk::modes::without_any_permission_is_a_mode_too", |broker, create| {
        let client = client(broker, create);
        let lease = grant(&client);
        let options = AreaOptions { mode: Some(0), ..AreaOptions::default() };
        let file = lease.file(&options).expect("a file is made");
        looks(&metadata(&file.file), 0, &format!("{create:?}: a file"));
    });
}

#[test]
fn of_memory_files() {
    both_ways("sdk::modes::of_memory_files", |broker, create| {
        let client = client(broker, create);
        let memory = grant(&client).memory().expect("a file is made");
        rustix::fs::fcntl_add_seals(&memory, SealFlags::GROW | SealFlags::SHRINK).expect("it can be sealed");
        assert!(memory.set_len(1).is_err());
        assert_eq!(metadata(&memory).nlink(), 0);
        looks(&metadata(&memory), 0o600, &format!("{create:?}: a memory file"));
    });
}

fn of(broker: &Broker, user: Option<u32>) {
    for create in ["auto", "broker"] {
        let mut command = process(broker, Role::Modes, user);
        let status = command.env("SCRATCHD_CREATE", create).status().expect("this program can be run");
        assert!(status.success(), "SCRATCHD_CREATE={create}, user {user:?}: {status}");
    }
}

/// What the other process does.
pub(super) fn check() {
    let client = Client::connect(&ConnectOptions::default()).expect("the broker listens");
    for mask in UMASKS {
        umask(Mode::from_raw_mode(mask));
        let lease = grant(&client);
        let about = path(&lease).symlink_metadata().expect("a lease has a directory");
        assert!(about.is_dir());
        looks(&about, 0o700, &format!("umask {mask:o}: the lease"));
        named_areas(&lease, mask);
        nameless_areas(&lease, mask);
        assert_eq!(umask(Mode::empty()), Mode::from_raw_mode(mask), "the caller's umask was changed");
    }
}

#[track_caller]
fn looks(about: &Metadata, mode: u32, what: &str) {
    let found = (about.mode() & 0o7777, about.uid(), about.gid());
    assert_eq!(found, (mode, geteuid().as_raw(), getegid().as_raw()), "{what}: mode {:o}", found.0);
    assert!(!about.file_type().is_symlink() && !about.file_type().is_fifo());
}

fn named_areas(lease: &Lease, mask: u32) {
    for mode in [None, Some(0o400), Some(0o640), Some(0o666), Some(0o777)] {
        let what = format!("umask {mask:o}, mode {:o}", mode.unwrap_or(0));
        let options = AreaOptions { mode, ..AreaOptions::default() };
        let file = lease.file(&options).expect("a file is made");
        let (opened, named) = (metadata(&file.file), file.path().expect("it has a path").symlink_metadata());
        let named = named.expect("it is there");
        assert!(opened.is_file() && (opened.dev(), opened.ino()) == (named.dev(), named.ino()), "{what}: another file");
        looks(&opened, mode.unwrap_or(0o600), &format!("{what}: a file"));
        assert_eq!(opened.nlink(), 1);
        let directory = lease.directory(&options).expect("a directory is made");
        let about = directory.path().expect("it has a path").symlink_metadata().expect("it is there");
        assert!(about.is_dir());
        looks(&about, mode.unwrap_or(0o700), &format!("{what}: a directory"));
        for file in lease.files(&options, 3).expect("files are made") {
            looks(&metadata(&file.file), mode.unwrap_or(0o600), &format!("{what}: a file of a batch"));
        }
    }
}

fn nameless_areas(lease: &Lease, mask: u32) {
    let stock = lease.anonymous_files(3).expect("files are made");
    for file in stock.into_iter().chain([lease.anonymous().expect("a file is made")]) {
        looks(&metadata(&file), 0o600, &format!("umask {mask:o}: an anonymous file"));
        assert_eq!(metadata(&file).nlink(), 0);
    }
}

fn metadata(file: &File) -> Metadata {
    file.metadata().expect("an open file can be looked at")
}
