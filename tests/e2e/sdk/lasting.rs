//! Areas that stay for good, by path, from a lease and from a directory of one's own; files that are opened once more; and files
//! that are in memory as long as they are small.

use std::fs::{self, File};
use std::io::{self, Read, Seek, Write};
use std::path::{Path, PathBuf};

use scratch_client::temp::SpooledData;
use scratch_client::{AreaOptions, ClientError, CreateMode, Replace};
use scratch_tests::{Broker, DEADLINE, eventually, names_in, wait_gone};

use super::{aio, both_ways, client, grant, kind, named, path};

/// A directory of this user's own, outside of any lease.
fn own_directory(broker: &Broker) -> PathBuf {
    let directory = broker.place().join("own");
    fs::create_dir(&directory).expect("a place is writable");
    directory
}

fn content(path: &Path) -> String {
    fs::read_to_string(path).expect("it is there")
}

#[test]
fn persists_to_a_path() {
    both_ways("sdk::lasting::persists_to_a_path", |broker, create| {
        let own = own_directory(broker);
        let client = client(broker, create);
        let lease = grant(&client);
        let file = |text: &str| {
            let mut made = lease.file(&AreaOptions::default()).expect("a file is made");
            made.file.write_all(text.as_bytes()).expect("it is open for writing");
            made
        };
        let target = own.join("report");
        let (_, copied) = file("1").persist_to(&target, Replace::Never).expect("the name is free");
        assert!(!copied && content(&target) == "1", "{create:?}");
        let refused = file("2").persist_to(&target, Replace::Never).expect_err("the name is taken");
        assert_eq!(kind(refused.error), io::ErrorKind::AlreadyExists, "{create:?}");
        let refused =
            refused.guard.persist_to(own.join("no/such"), Replace::Always).expect_err("there is no directory");
        assert_eq!(kind(refused.error), io::ErrorKind::NotFound, "{create:?}");
        let refused = refused.guard.persist_to("/", Replace::Always).expect_err("it has no name");
        assert_eq!(kind(refused.error), io::ErrorKind::InvalidInput, "{create:?}");
        refused.guard.persist_to(&target, Replace::Always).expect("it may be replaced");
        let directory = lease.directory(&AreaOptions::default()).expect("a directory is made");
        fs::write(directory.path().expect("it has a path").join("in it"), "3").expect("it is ours");
        directory.persist_to(own.join("directory"), Replace::Never).expect("the name is free");
        assert!(names_in(&path(&lease)).is_empty());

        // Another file system: /dev/shm is one of its own.
        let elsewhere = Path::new("/dev/shm/persisted");
        let (_, copied) = file("4").persist_to(elsewhere, Replace::Never).expect("the name is free");
        assert!(copied && content(elsewhere) == "4", "{create:?}");
        fs::remove_file(elsewhere).expect("it is ours");
        lease.revoke().expect("it lives");
        assert_eq!((content(&target), content(&own.join("directory/in it"))), ("2".to_owned(), "3".to_owned()));
    });
}

#[test]
fn keeps_for_good() {
    both_ways("sdk::lasting::keeps_for_good", |broker, create| {
        let client = client(broker, create);
        let lease = grant(&client);
        let mut file = lease.file(&AreaOptions::default()).expect("a file is made");
        file.file.write_all(b"kept").expect("it is open for writing");
        let (name, directory) = (file.name().to_owned(), lease.directory(&AreaOptions::default()).expect("made"));
        let (_, kept) = file.keep_for_good().expect("there is a place for it");
        let kept_directory = directory.keep_for_good().expect("there is a place for it");
        lease.revoke().expect("it lives");
        drop(client);
        assert_eq!((content(&kept), kept.file_name()), ("kept".to_owned(), Some(&*name)), "{create:?}");
        assert!(kept_directory.is_dir() && kept_directory.is_absolute());
        fs::remove_file(kept).expect("it is ours");
        fs::remove_dir(kept_directory).expect("it is ours");
    });
}

#[test]
fn reopens_the_very_file() {
    both_ways("sdk::lasting::reopens_the_very_file", |broker, create| {
        let own = own_directory(broker);
        let client = client(broker, create);
        let lease = grant(&client);
        let made = [lease.file(&AreaOptions::default()), client.file_in(&own, &AreaOptions::default())];
        for mut file in made.map(|made| made.expect("a file is made")) {
            file.file.write_all(b"content").expect("it is open for writing");
            let mut again = file.reopen().expect("it has its name");
            let mut read = String::new();
            again.read_to_string(&mut read).expect("it is open for reading");
            again.write_all(b"s").expect("it is open for writing");
            assert_eq!((read.as_str(), file.file.stream_position().expect("it has one")), ("content", 7));

            let path = file.path().expect("it has a path").to_owned();
            fs::remove_file(&path).expect("it is ours");
            assert_eq!(kind(file.reopen().expect_err("it is gone")), io::ErrorKind::NotFound, "{create:?}");
            fs::write(&path, "another's").expect("the name is free");
            assert_eq!(kind(file.reopen().expect_err("it is another")), io::ErrorKind::NotFound, "{create:?}");
            fs::remove_file(&path).expect("it is ours");
            std::os::unix::fs::symlink("/dev/null", &path).expect("the name is free");
            file.reopen().expect_err("a link is followed by nobody");
            fs::remove_file(&path).expect("it is ours");
        }
        let sandbox = lease.delegate(scratch_client::Limits::default()).expect("a channel is made");
        let sandbox = scratch_client::Client::delegated(sandbox).expect("a socket can be watched");
        let hidden = sandbox.file(&AreaOptions::default()).expect("a file is made");
        assert_eq!(kind(hidden.reopen().expect_err("it has no path")), io::ErrorKind::Unsupported);
    });
}

#[test]
fn stays_in_a_directory_of_ones_own() {
    both_ways("sdk::lasting::stays_in_a_directory_of_ones_own", |broker, create| {
        let own = own_directory(broker);
        let client = client(broker, create);
        let file = |name: &str| {
            let mut made = client.file_in(&own, &named(name)).expect("a file is made");
            made.file.write_all(name.as_bytes()).expect("it is open for writing");
            assert_eq!(made.path(), Some(&*own.join(name)));
            made
        };
        let made = client.directory_in(&own, &named("directory")).expect("a directory is made");
        drop(file("dropped"));
        wait_gone(&own.join("dropped"), DEADLINE);
        file("a").persist_to(own.join("b"), Replace::Never).expect("the name is free");
        let (_, kept) = file("kept").keep_for_good().expect("it can stay");
        assert_eq!(kept, own.join("kept"), "{create:?}: it is where it was asked for");
        // To the name that it has, which replaces nothing: it stays, too.
        file("same").persist_to(own.join("same"), Replace::Always).expect("it has that name");
        made.keep_for_good().expect("it can stay");
        // The broker was told of each, and might still be at it when that has its name again.
        let many: Vec<String> = (0..20).map(|number| format!("many-{number}")).collect();
        for name in &many {
            let made = client.directory_in(&own, &named(name)).expect("a directory is made");
            fs::write(made.path().expect("it has one").join("in it"), "").expect("it is ours");
            made.keep_for_good().expect("it can stay");
        }
        let revoked = client.file_in(&own, &named("revoked")).expect("a file is made");
        drop(revoked.keep());
        let leases = broker.json(&["ls"]);
        let id = leases[0]["id"].as_str().expect("a lease has one").to_owned();
        client.revoke(&id).expect("it lives");
        wait_gone(&own.join("revoked"), DEADLINE);
        for name in &many {
            fs::remove_file(own.join(name).join("in it")).expect("it stays, with what is in it");
            fs::remove_dir(own.join(name)).expect("it is ours");
        }
        assert_eq!(names_in(&own), ["b", "directory", "kept", "same"], "{create:?}");
        assert_eq!((content(&own.join("b")), content(&own.join("same"))), ("a".to_owned(), "same".to_owned()));
    });
}

#[test]
fn what_stays_needs_no_broker_any_more() {
    both_ways("sdk::lasting::what_stays_needs_no_broker_any_more", |broker, create| {
        let own = own_directory(broker);
        let client = client(broker, create);
        let file = client.file_in(&own, &named("a")).expect("a file is made");
        broker.kill();
        file.persist_to(own.join("b"), Replace::Never).expect("the rename is one's own");
        drop(client);
        broker.restart_with_grace("0s");
        eventually(DEADLINE, "nothing is left of its lease", || names_in(broker.pool_root()) == [".scratch"]);
        eventually(DEADLINE, "the broker looks for it no more", || {
            names_in(&broker.pool_root().join(".scratch/foreign")).is_empty()
        });
        assert_eq!(names_in(&own), ["b"], "{create:?}");
    });
}

#[test]
fn by_the_async_flavour_too() {
    both_ways("sdk::lasting::by_the_async_flavour_too", |broker, create| {
        let own = own_directory(broker);
        aio::runtime().block_on(async {
            let client = aio::client(broker, create).await;
            let lease = aio::grant(&client).await;
            let (target, options) = (own.join("report"), AreaOptions::default());
            fs::write(&target, "old").expect("it is ours");
            let mut file = lease.file(&options).await.expect("a file is made");
            file.file.write_all(b"new").expect("it is open for writing");
            let mut again = file.reopen().expect("it has its name");
            let mut read = String::new();
            again.read_to_string(&mut read).expect("it is open for reading");
            assert_eq!(read, "new");
            let refused = file.persist_to(&target, Replace::Never).await.expect_err("the name is taken");
            assert_eq!(kind(refused.error), io::ErrorKind::AlreadyExists, "{create:?}");
            refused.guard.persist_to(&target, Replace::Always).await.expect("it may be replaced");
            let directory = lease.directory(&options).await.expect("a directory is made");
            directory.persist_to(own.join("directory"), Replace::Never).await.expect("the name is free");
            let (_, kept) = lease.file(&options).await.expect("a file is made").keep_for_good().await.expect("a place");
            let directory = lease.directory(&options).await.expect("a directory is made");
            let kept_directory = directory.keep_for_good().await.expect("there is a place for it");
            assert!(names_in(&aio::path(&lease)).is_empty());
            lease.revoke().await.expect("it lives");
            assert_eq!(content(&target), "new", "{create:?}");
            assert!(kept.is_file() && kept_directory.is_dir() && own.join("directory").is_dir());
            fs::remove_file(kept).expect("it is ours");
            fs::remove_dir(kept_directory).expect("it is ours");
        });
    });
}

#[test]
fn in_a_directory_of_ones_own_by_the_async_flavour_too() {
    both_ways("sdk::lasting::in_a_directory_of_ones_own_by_the_async_flavour_too", |broker, create| {
        let own = own_directory(broker);
        aio::runtime().block_on(async {
            let client = aio::client(broker, create).await;
            let lease = aio::grant(&client).await;
            let place = File::open(&own).expect("it is ours");
            let file = lease.file_in(&own, &named("a")).await.expect("a file is made");
            let taken = lease.file_in(&own, &named("a")).await.expect_err("it is taken");
            assert!(taken.is_refusal("NAME_EXISTS"), "{taken}");
            file.persist(&place, "b", Replace::Never).await.expect("the name is free");
            let directory = lease.directory_in(&own, &named("c")).await.expect("a directory is made");
            fs::write(directory.path().expect("it has one").join("in it"), "").expect("it is ours");
            directory.persist_to(own.join("d"), Replace::Never).await.expect("the name is free");
            let (_, kept) = client.file_in(&own, &named("e")).await.expect("made").keep_for_good().await.expect("kept");
            assert_eq!(kept, own.join("e"));
            let full = client.directory_in(&own, &named("f")).await.expect("a directory is made");
            fs::create_dir_all(full.path().expect("it has one").join("a/b")).expect("it is ours");
            full.close().await.expect("it can be removed");
            drop(client.file_in(&own, &named("g")).await.expect("a file is made"));
            wait_gone(&own.join("g"), DEADLINE);
            drop(lease.file_in(&own, &named("h")).await.expect("a file is made").keep());
            lease.revoke().await.expect("it lives");
            wait_gone(&own.join("h"), DEADLINE);
            assert_eq!(names_in(&own), ["b", "d", "e"], "{create:?}");
        });
    });
}

/// Wherever keeping is given up: it was kept, or it goes with its guard, and nothing has another name then.
#[test]
fn keeping_that_is_given_up_keeps_or_removes() {
    both_ways("sdk::lasting::keeping_that_is_given_up_keeps_or_removes", |broker, create| {
        let own = own_directory(broker);
        aio::runtime().block_on(async {
            let client = aio::client(broker, create).await;
            let mut polls = 1;
            loop {
                let file = client.file_in(&own, &named("file")).await.expect("a file is made");
                let keeping = async { drop(file.keep_for_good().await.expect("it can stay")) };
                let is_kept = aio::is_done_within(polls, broker, keeping).await;
                client.ping().await.expect("the connection is good");
                let settled = || !names_in(&own).iter().any(|name| name != "file");
                eventually(DEADLINE, "it has its name or none", settled);
                if is_kept {
                    break;
                }
                // The broker was told once more: it may have been asked to let go of it before.
                eventually(DEADLINE, "it is gone, or nobody's", || {
                    names_in(&own).is_empty() || names_in(&broker.pool_root().join(".scratch/foreign")).is_empty()
                });
                if own.join("file").exists() {
                    fs::remove_file(own.join("file")).expect("it is ours");
                }
                polls += 1;
            }
            assert!(polls > 1, "{create:?}: it never waited");
            assert_eq!(names_in(&own), ["file"]);
        });
    });
}

#[test]
fn spools() {
    both_ways("sdk::lasting::spools", |broker, create| {
        aio::runtime().block_on(async {
            let client = aio::client(broker, create).await;
            let leases = || names_in(broker.pool_root()).len();
            let none = leases();
            let mut spooled = client.spooled(10);
            spooled.write_all(b"01234").await.expect("there is room for it");
            spooled.write_all(b"56789").await.expect("it is as large as it may be");
            assert!(!spooled.is_rolled() && leases() == none, "{create:?}: nothing is made before it rolls");
            spooled.write_all(b"x").await.expect("a file takes it");
            assert!(spooled.is_rolled());
            spooled.write_all(&[b'y'; 100_000]).await.expect("a file takes it");
            let SpooledData::OnDisk(mut file) = spooled.into_inner().await.expect("it is written") else {
                panic!("{create:?}: it had rolled");
            };
            assert_eq!(file.stream_position().expect("it has one"), 100_011);
            let mut read = String::new();
            file.rewind().and_then(|()| file.read_to_string(&mut read)).expect("it is open for both");
            assert!(read.starts_with("0123456789xyy") && read.len() == 100_011, "{create:?}");

            let lease = aio::grant(&client).await;
            let mut small = lease.spooled(10);
            small.write_all(b"small").await.expect("there is room for it");
            let SpooledData::InMemory(cursor) = small.into_inner().await.expect("nothing can go wrong") else {
                panic!("it is small");
            };
            assert_eq!((cursor.position(), cursor.get_ref().as_slice()), (5, &b"small"[..]));

            // It rolls before the write, so that what can't be made takes nothing along.
            let mut left = lease.spooled(3);
            left.write_all(b"abc").await.expect("there is room for it");
            lease.revoke().await.expect("it lives");
            if create == CreateMode::Broker {
                let refused: ClientError = left.write_all(b"d").await.expect_err("its lease has ended");
                assert!(refused.is_refusal("LEASE_UNKNOWN") || refused.is_refusal("LEASE_ENDING"), "{refused}");
                assert!(!left.is_rolled());
            }
            let mut whole = client.spooled(3);
            whole.write_all(b"abc").await.expect("there is room for it");
            let mut file = whole.into_file().await.expect("it can be rolled");
            let mut read = String::new();
            file.rewind().and_then(|()| file.read_to_string(&mut read)).expect("it is open for both");
            assert_eq!(read, "abc");
        });
    });
}
