//! The Rust SDK against a real broker, with areas made by this process and by the broker: what it makes, what its guards and
//! its holders do, and what a broker's end does to it.

mod aio;
mod behaviours;
mod conformance;
mod delegated;
mod forked;
mod inside;
mod killed;
mod lasting;
mod modes;
mod process;
mod renewal;
mod scope;
mod stock;
mod watch;

use std::collections::HashSet;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::io::{self, Read, Seek, Write};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use rustix::io::{FdFlags, fcntl_setfd};
use rustix::process::{PidfdFlags, PidfdGetfdFlags, getpid, pidfd_getfd, pidfd_open};
use scratch_client::{
    AreaOptions, Client, ClientError, ConnectOptions, CreateMode, GrantOptions, Holder, Lease, Replace,
};
use scratch_tests::{Broker, DEADLINE, Dialogue, Options, contained, eventually, names_in, wait_gone};
use serde_json::Value;

const BOTH: [CreateMode; 2] = [CreateMode::Auto, CreateMode::Broker];

/// Runs `body` once for each maker of areas, against a broker of its own.
fn both_ways(test: &str, body: impl Fn(&mut Broker, CreateMode)) {
    contained(test, || {
        for create in BOTH {
            body(&mut Broker::start(Options::default()), create);
        }
    });
}

fn client(broker: &Broker, create: CreateMode) -> Client {
    let options = ConnectOptions {
        runtime_directory: Some(broker.runtime_dir()),
        create: Some(create),
        ..ConnectOptions::default()
    };
    Client::connect(&options).expect("the broker listens")
}

fn grant(client: &Client) -> Lease {
    client.grant(&GrantOptions::default()).expect("a lease is granted")
}

fn held_by(client: &Client, holder: Holder) -> Lease {
    client.grant(&GrantOptions { holders: vec![holder], ..GrantOptions::default() }).expect("a lease is granted")
}

fn path(lease: &Lease) -> PathBuf {
    lease.path().expect("a directory pool's leases have paths").to_path_buf()
}

fn named(name: impl AsRef<OsStr>) -> AreaOptions {
    AreaOptions { name: Some(name.as_ref().to_owned()), ..AreaOptions::default() }
}

fn kind(error: ClientError) -> io::ErrorKind {
    io::Error::from(error).kind()
}

fn shown(broker: &Broker, id: &str) -> Option<Value> {
    let leases = broker.json(&["ls"]);
    leases.as_array().expect("scratch ls prints an array").iter().find(|lease| lease["id"] == id).cloned()
}

#[test]
fn drop_releases() {
    both_ways("sdk::drop_releases", |broker, create| {
        let client = client(broker, create);
        let lease = grant(&client);
        let file = lease.file(&AreaOptions::default()).expect("a file is made");
        let directory = lease.directory(&AreaOptions::default()).expect("a directory is made");
        let inner = directory.path().expect("it has a path").join("a/b");
        fs::create_dir_all(&inner).expect("the directory is ours");
        fs::write(inner.join("c"), "content").expect("the directory is ours");
        assert_eq!(names_in(&path(&lease)).len(), 2);
        drop(file);
        assert_eq!(names_in(&path(&lease)), [directory.name()]);
        drop(directory);
        assert!(names_in(&path(&lease)).is_empty(), "{create:?}: a guard left its area");
        let path = path(&lease);
        drop(lease);
        assert!(!path.exists(), "{create:?}: a guard left its lease");
    });
}

#[test]
fn drop_gives_up_on_a_broker_that_does_not_answer() {
    both_ways("sdk::drop_gives_up_on_a_broker_that_does_not_answer", |broker, create| {
        let client = client(broker, create);
        let lease = grant(&client);
        let directory = lease.directory(&AreaOptions::default()).expect("a directory is made");
        let (area, whole) = (directory.path().expect("it has a path").to_owned(), path(&lease));
        broker.freeze();
        drop(directory);
        drop(lease);
        assert!(area.exists(), "{create:?}: nobody can have removed it");
        broker.thaw();
        wait_gone(&whole, DEADLINE);
        let lease = grant(&client);
        let directory = lease.directory(&AreaOptions::default()).expect("a directory is made");
        let area = directory.path().expect("it has a path").to_owned();
        broker.kill();
        drop(directory);
        assert!(area.exists(), "{create:?}: nobody can have removed it");
        broker.restart();
        client.ping().expect("the next call connects, and says what is owed");
        wait_gone(&area, DEADLINE);
    });
}

#[test]
fn keep_keeps() {
    both_ways("sdk::keep_keeps", |broker, create| {
        let client = client(broker, create);
        let lease = grant(&client);
        let (file, directory) = ("file", "directory");
        let mut kept = lease.file(&named(file)).expect("a file is made").keep();
        lease.directory(&named(directory)).expect("a directory is made").keep();
        assert_eq!(names_in(&path(&lease)), [directory, file]);
        kept.write_all(b"content").expect("a kept file is open");
        assert_eq!(fs::read(path(&lease).join(file)).expect("it is there"), b"content");
        let path = path(&lease);
        lease.revoke().expect("an own lease can be revoked");
        assert!(!path.exists(), "{create:?}: what was kept outlived its lease");
    });
}

#[test]
fn close_reports() {
    both_ways("sdk::close_reports", |broker, create| {
        let client = client(broker, create);
        let lease = grant(&client);
        let file = || lease.file(&AreaOptions::default()).expect("a file is made");
        let directory = || lease.directory(&AreaOptions::default()).expect("a directory is made");
        file().close().expect("a file can be removed");
        directory().close().expect("a directory can be removed");
        // Gone already is as good as removed.
        let (gone, gone_directory) = (file(), directory());
        fs::remove_file(gone.path().expect("it has a path")).expect("it is ours");
        fs::remove_dir(gone_directory.path().expect("it has a path")).expect("it is ours");
        gone.close().expect("it is gone");
        gone_directory.close().expect("it is gone");
        assert!(names_in(&path(&lease)).is_empty());

        let (last, last_directory, dropped) = (file(), directory(), directory());
        broker.kill();
        assert_eq!(last.close().is_ok(), create == CreateMode::Auto, "only a file of our own needs no broker");
        let error = last_directory.close().expect_err("a directory is the broker's to remove");
        assert!(matches!(error, ClientError::NoBroker { .. }), "{error:?}");
        drop(dropped);
    });
}

#[test]
fn persist_moves_out_for_good() {
    both_ways("sdk::persist_moves_out_for_good", |broker, create| {
        let place = fs::File::open(broker.place()).expect("it is there");
        let read = |name: &str| fs::read_to_string(broker.place().join(name)).expect("it is there");
        let client = client(broker, create);
        let lease = grant(&client);
        let file = |content: &str| {
            let mut file = lease.file(&AreaOptions::default()).expect("a file is made");
            file.file.write_all(content.as_bytes()).expect("it is open for writing");
            file
        };
        let (mut open, copied) = file("1").persist(&place, "name", Replace::Never).expect("the name is free");
        assert!(!copied && read("name") == "1", "{create:?}");
        open.write_all(b"1").expect("it is still open");
        assert_eq!(read("name"), "11", "{create:?}: another file");
        let refused = file("2").persist(&place, "name", Replace::Never).expect_err("the name is taken");
        assert_eq!(kind(refused.error), io::ErrorKind::AlreadyExists, "{create:?}");
        assert!(refused.guard.path().expect("it has a path").is_file(), "{create:?}: it is still under guard");
        refused.guard.persist(&place, "name", Replace::Always).expect("it may be replaced");
        assert!(names_in(&path(&lease)).is_empty() && read("name") == "2");
        let area = file("3");
        let area_path = area.path().expect("it has a path").to_owned();
        area.persist(&place, "name", Replace::Exchange).expect("both are there");
        assert_eq!((read("name").as_str(), &*fs::read(&area_path).expect("it is there")), ("3", &b"2"[..]));

        let directory = lease.directory(&AreaOptions::default()).expect("a directory is made");
        fs::write(directory.path().expect("it has a path").join("in it"), "4").expect("it is ours");
        directory.persist(&place, "directory", Replace::Never).expect("the name is free");
        let outside = file("5").persist(&place, "../name", Replace::Always).expect_err("it is no name");
        assert_eq!(kind(outside.error), io::ErrorKind::InvalidInput, "{create:?}");
        lease.revoke().expect("it lives");
        assert_eq!((read("name"), read("directory/in it")), ("3".to_owned(), "4".to_owned()), "{create:?}");
    });
}

#[test]
fn batches() {
    both_ways("sdk::batches", |broker, create| {
        let client = client(broker, create);
        let lease = grant(&client);
        let options =
            AreaOptions { prefix: "p-".into(), suffix: ".s".into(), random_chars: 12, ..AreaOptions::default() };
        let files = lease.files(&options, 450).expect("files are made");
        let names: HashSet<_> = files.iter().map(|file| file.name().to_owned()).collect();
        assert_eq!((files.len(), names.len(), names_in(&path(&lease)).len()), (450, 450, 450));
        for mut file in files {
            let name = file.name().to_str().expect("random names are plain").to_owned();
            assert!(name.starts_with("p-") && name.ends_with(".s") && name.len() == 2 + 12 + 2, "{name}");
            file.file.write_all(name.as_bytes()).expect("a file is open for writing");
            let content = fs::read(file.path().expect("it has a path")).expect("it is there");
            assert_eq!(content, file.name().as_encoded_bytes(), "another file's handle");
        }
        assert!(names_in(&path(&lease)).is_empty(), "{create:?}: guards left their areas");

        let stock = lease.anonymous_files(250).expect("files are made");
        assert_eq!(stock.len(), 250);
        for mut file in stock {
            file.write_all(b"content").and_then(|()| file.rewind()).expect("it is open for both");
            let mut content = Vec::new();
            file.read_to_end(&mut content).expect("it is open for both");
            assert_eq!(content, b"content", "{create:?}: two handles of one file");
        }
        assert!(lease.files(&options, 0).expect("none can be made").is_empty());
        assert!(names_in(&path(&lease)).is_empty());
    });
}

#[test]
fn an_exact_name_is_taken_once() {
    both_ways("sdk::an_exact_name_is_taken_once", |broker, create| {
        let client = client(broker, create);
        let lease = grant(&client);
        let mut file = lease.file(&named("name")).expect("the name is free");
        file.file.write_all(b"first").expect("it is open for writing");
        assert_eq!(kind(lease.file(&named("name")).expect_err("taken")), io::ErrorKind::AlreadyExists);
        assert_eq!(kind(lease.directory(&named("name")).expect_err("taken")), io::ErrorKind::AlreadyExists);
        std::os::unix::fs::symlink("elsewhere", path(&lease).join("link")).expect("the lease is ours");
        assert_eq!(kind(lease.file(&named("link")).expect_err("taken")), io::ErrorKind::AlreadyExists);
        assert!(!path(&lease).join("elsewhere").exists(), "{create:?}: followed a symbolic link");
        assert_eq!(fs::read(path(&lease).join("name")).expect("it is there"), b"first");
        file.close().expect("it can be removed");
        lease.directory(&named("name")).expect("the name is free again").close().expect("it can be removed");
    });
}

#[test]
fn bad_names_are_refused() {
    both_ways("sdk::bad_names_are_refused", |broker, create| {
        let client = client(broker, create);
        let lease = grant(&client);
        let outside = names_in(broker.pool_root());
        let long = "n".repeat(256);
        for name in ["", ".", "..", "a/b", "../x", "/etc/x", "a\0b", &*long] {
            let error = lease.file(&named(name)).expect_err("a bad name");
            assert_eq!(kind(error), io::ErrorKind::InvalidInput, "{create:?}: {name:?}");
            let error = lease.directory(&named(name)).expect_err("a bad name");
            assert_eq!(kind(error), io::ErrorKind::InvalidInput, "{create:?}: {name:?}");
        }
        let with = |prefix: &str, suffix: &str, random_chars| AreaOptions {
            prefix: prefix.into(),
            suffix: suffix.into(),
            random_chars,
            ..AreaOptions::default()
        };
        for options in [with("../", "", 8), with("", "/x", 8), with("\0", "", 8), with("", "", 2), with("", "", 65)] {
            assert!(lease.file(&options).is_err(), "{create:?}: {options:?}");
            assert!(lease.files(&options, 2).is_err(), "{create:?}: {options:?}");
        }
        assert!(names_in(&path(&lease)).is_empty(), "{create:?}: something was made by what was refused");
        assert_eq!(names_in(broker.pool_root()), outside);
    });
}

#[test]
fn revoke_ends_a_lease() {
    both_ways("sdk::revoke_ends_a_lease", |broker, create| {
        let client = client(broker, create);
        let lease = grant(&client);
        let file = lease.file(&AreaOptions::default()).expect("a file is made");
        let path = path(&lease);
        client.revoke(lease.id()).expect("an own lease can be revoked by its id");
        assert!(!path.exists(), "{create:?}: still there after Revoke has answered");
        // The descriptor of its directory that this process holds is good until the directory has been freed: a broker of
        // the same user has no way to take it away.
        let freed =
            || lease.file(&AreaOptions::default()).is_err() && lease.directory(&AreaOptions::default()).is_err();
        eventually(DEADLINE, "nothing can be made under a lease that is gone", freed);
        eventually(DEADLINE, "nothing is left", || names_in(&broker.pool_root().join(".scratch/trash")).is_empty());
        file.close().expect("it went with its lease");
        assert!(lease.revoke().expect_err("it is gone").is_refusal("LEASE_UNKNOWN"));
        assert!(client.revoke("abcdefghijklm234").expect_err("there never was one").is_refusal("LEASE_UNKNOWN"));

        let outer = grant(&client);
        let below = GrantOptions { parent: Some(outer.id().to_owned()), ..GrantOptions::default() };
        let inner = client.grant(&below).expect("a lease may have children");
        let path = self::path(&inner);
        drop(outer);
        assert!(!path.exists(), "{create:?}: a child outlived its parent");
    });
}

#[test]
fn an_own_lease_that_was_revoked_is_followed_by_another() {
    both_ways("sdk::an_own_lease_that_was_revoked_is_followed_by_another", |broker, create| {
        let client = client(broker, create);
        let file = client.file(&AreaOptions::default()).expect("a file is made under the own lease");
        let first = file.path().and_then(Path::parent).expect("it is in its lease's directory").to_owned();
        let id = first.file_name().and_then(OsStr::to_str).expect("a lease's directory has its id for a name");
        // By somebody else.
        assert!(broker.scratch(&["lease", "revoke", id]).status().expect("scratch can be run").success());
        // The directory that this process holds is good until it has been freed.
        let is_told = || client.file(&AreaOptions::default()).is_err();
        eventually(DEADLINE, "who makes an area is told that the lease is gone", is_told);
        let next = client.file(&AreaOptions::default()).expect("the next area has another lease");
        assert!(next.path().is_some_and(|path| path.exists() && !path.starts_with(&first)), "{create:?}");
    });
}

#[test]
fn a_guard_that_was_given_up_ends_nothing() {
    both_ways("sdk::a_guard_that_was_given_up_ends_nothing", |broker, create| {
        let client = client(broker, create);
        let lease = grant(&client);
        let path = path(&lease);
        let id = lease.into_id();
        client.ping().expect("the broker answers");
        assert!(path.is_dir() && shown(broker, &id).is_some());
        client.revoke(&id).expect("an own lease can be revoked by its id");
        assert!(!path.exists());
    });
}

#[test]
fn a_connection_ends_what_it_holds() {
    both_ways("sdk::a_connection_ends_what_it_holds", |broker, create| {
        let (stays, goes) = (client(broker, create), client(broker, create));
        let [kept, ended] = [&stays, &goes].map(|client| held_by(client, Holder::Connection));
        let by_process = grant(&goes);
        drop(ended.file(&AreaOptions::default()).expect("a file is made").keep());
        let (kept_path, ended_path, process_path) = (path(&kept), path(&ended), path(&by_process));
        // The guards are given up: only holders count.
        ended.leave();
        by_process.leave();
        drop(goes);
        wait_gone(&ended_path, DEADLINE);
        assert!(kept_path.is_dir() && process_path.is_dir(), "{create:?}: the connection ended what it did not hold");
        drop(kept.file(&AreaOptions::default()).expect("the other connection serves"));
    });
}

#[test]
fn a_ttl_ends_by_itself() {
    both_ways("sdk::a_ttl_ends_by_itself", |broker, create| {
        let client = client(broker, create);
        let lease = held_by(&client, Holder::Ttl(Duration::from_secs(1)));
        wait_gone(&path(&lease), DEADLINE);
        // Between the end of its directory and its own it is ending.
        let unknown = || lease.keep_alive().expect_err("it has ended").is_refusal("LEASE_UNKNOWN");
        eventually(DEADLINE, "the lease is unknown", unknown);
    });
}

#[test]
fn keep_alive_prolongs_a_ttl() {
    both_ways("sdk::keep_alive_prolongs_a_ttl", |broker, create| {
        let client = client(broker, create);
        let ttl = Duration::from_secs(3600);
        let lease = held_by(&client, Holder::Ttl(ttl));
        // RFC 3339 times of one length compare as text.
        let expires = || shown(broker, lease.id()).expect("it lives")["expire_time"].as_str().map(str::to_owned);
        let first = expires();
        assert!(first.is_some());
        eventually(DEADLINE, "the lease expires later than it did", || {
            assert!(lease.keep_alive().expect("it lives") >= ttl, "less than was asked for");
            expires() > first
        });
    });
}

/// The numbers of this process's sockets.
fn sockets() -> HashSet<OsString> {
    let directory = Path::new("/proc/self/fd");
    let is_socket = |name: &OsString| {
        fs::read_link(directory.join(name)).is_ok_and(|to| to.as_os_str().as_encoded_bytes().starts_with(b"socket:"))
    };
    names_in(directory).into_iter().filter(is_socket).collect()
}

/// Makes a connection, and gives a copy of it to a child, as fork(2) does.
fn shared_with_child<C>(connect: impl FnOnce() -> C) -> (C, Dialogue) {
    let before = sockets();
    let client = connect();
    let after = sockets();
    let [number] = after.difference(&before).collect::<Vec<_>>()[..] else { panic!("a client has one connection") };
    let number = number.to_str().and_then(|number| number.parse().ok()).expect("a descriptor is a number");
    let own = pidfd_open(getpid(), PidfdFlags::empty()).expect("this process lives");
    let copy: OwnedFd = pidfd_getfd(&own, number, PidfdGetfdFlags::empty()).expect("our own descriptor can be copied");
    fcntl_setfd(&copy, FdFlags::empty()).expect("our own descriptor can be inherited");
    (client, Dialogue::start(Command::new("cat")))
}

#[test]
fn a_child_with_the_connection_ends_nothing() {
    both_ways("sdk::a_child_with_the_connection_ends_nothing", |broker, create| {
        let (client, child) = shared_with_child(|| client(broker, create));
        let leases = [held_by(&client, Holder::Connection), grant(&client)];
        let file = client.file(&AreaOptions::default()).expect("a file is made under the own lease");
        assert!(child.end().success());
        client.ping().expect("the parent's connection serves");
        for lease in &leases {
            assert_eq!(shown(broker, lease.id()).expect("it lives")["state"], "live", "{create:?}");
            drop(lease.file(&AreaOptions::default()).expect("it lives"));
        }
        assert!(file.path().expect("it has a path").exists());
    });
}

#[test]
fn a_connection_lives_as_long_as_a_copy_of_it() {
    both_ways("sdk::a_connection_lives_as_long_as_a_copy_of_it", |broker, create| {
        let (client, child) = shared_with_child(|| client(broker, create));
        let lease = held_by(&client, Holder::Connection);
        let path = path(&lease);
        let id = lease.into_id();
        drop(client);
        assert_eq!(shown(broker, &id).expect("a copy of its connection is open")["state"], "live");
        assert!(path.is_dir());
        assert!(child.end().success());
        wait_gone(&path, DEADLINE);
    });
}

#[test]
fn after_a_restart_all_goes_on() {
    contained("sdk::after_a_restart_all_goes_on", || {
        for create in BOTH {
            // As long as it takes to connect again on a machine that is busy with other things.
            after_a_restart(&mut Broker::start(Options { grace: Some("5s"), ..Options::default() }), create);
        }
    });
}

fn after_a_restart(broker: &mut Broker, create: CreateMode) {
    let (stays, goes) = (client(broker, create), client(broker, create));
    let leases =
        [held_by(&stays, Holder::Connection), grant(&stays), held_by(&stays, Holder::Ttl(Duration::from_secs(3600)))];
    for lease in &leases {
        lease.file(&named("file")).expect("a file is made").keep().write_all(b"content").expect("it is open");
    }
    let own = stays.file(&AreaOptions::default()).expect("a file is made under the own lease");
    let left = held_by(&goes, Holder::Connection);
    let left_path = path(&left);
    left.leave();

    broker.kill();
    drop(goes);
    assert!(matches!(stays.ping(), Err(ClientError::NoBroker { .. })), "{create:?}");
    let made = leases[1].file(&AreaOptions::default());
    assert_eq!(made.is_ok(), create == CreateMode::Auto, "only a process of its own needs no broker: {made:?}");
    drop(made);
    broker.restart();

    // The next call connects again by itself, and the connection holds what the last one held.
    let file = leases[0].file(&AreaOptions::default()).expect("the next call works");
    stays.ping().expect("the next call works");
    // The grace is over when the one that nobody came back for has gone.
    wait_gone(&left_path, DEADLINE);
    for lease in &leases {
        assert_eq!(fs::read(path(lease).join("file")).expect("the living lose nothing"), b"content", "{create:?}");
        assert_eq!(shown(broker, lease.id()).expect("it lives")["state"], "live", "{create:?}");
        lease.directory(&AreaOptions::default()).expect("it works").close().expect("it works");
    }
    assert!(own.path().expect("it has a path").exists());
    file.close().expect("it can be removed");
    let paths = leases.each_ref().map(path);
    drop(leases);
    assert!(paths.iter().all(|path| !path.exists()), "{create:?}: guards left their leases");
}
