//! What is in a directory of a lease: areas that are made there, and what stands there by its path. Areas are made in the
//! lease's directory, never outside of it, by whichever road; what is refused is refused for one reason.

use std::fs;
use std::io::{ErrorKind, Write};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use scratch_client::temp::Builder;
use scratch_client::{AreaOptions, Client, ClientError, Lease, Limits, Replace};
use scratch_tests::{Broker, DEADLINE, eventually, names_in};

use super::{both_ways, client, grant, kind, named, path};

fn inside(directory: impl Into<PathBuf>) -> AreaOptions {
    AreaOptions { inside: Some(directory.into()), ..AreaOptions::default() }
}

/// A lease with the directories `d` and `d/e`.
fn with_directories(client: &Client) -> Lease {
    let lease = grant(client);
    lease.directory(&named("d")).expect("a directory is made").keep();
    lease.directory(&AreaOptions { name: Some("e".into()), ..inside("d") }).expect("a directory is made").keep();
    lease
}

/// Areas in directories that clients named, which the broker keeps book of.
fn foreign(broker: &Broker) -> usize {
    let book = broker.pool_root().join(".scratch/foreign");
    if book.exists() { names_in(&book).len() } else { 0 }
}

#[test]
fn guards_know_the_whole_path() {
    both_ways("sdk::inside::guards_know_the_whole_path", |broker, create| {
        let client = client(broker, create);
        let lease = with_directories(&client);
        for below in ["d", "d/e"] {
            let there = path(&lease).join(below);
            let is_there = |name: &Path| name.parent() == Some(&there) && name.exists();
            let file = || {
                let mut file = lease.file(&inside(below)).expect("a file is made");
                file.file.write_all(b"content").expect("it is open for writing");
                file
            };
            let [dropped, closed, persisted, kept, moved] = [(); 5].map(|()| file());
            let (directory, many) = (lease.directory(&inside(below)), lease.files(&inside(below), 201));
            let (directory, many) = (directory.expect("a directory is made"), many.expect("files are made"));
            assert!(many.iter().filter_map(|file| file.path()).all(is_there) && many.len() == 201);
            let paths = [dropped.path(), closed.path(), persisted.path(), moved.path(), directory.path()];
            let paths = paths.map(|path| path.expect("it has a path").to_owned());
            assert!(paths.iter().all(|path| is_there(path)), "{create:?}: {paths:?}");
            fs::create_dir(directory.path().expect("it has a path").join("in it")).expect("it is ours");
            drop((dropped, many, directory));
            closed.close().expect("it can be removed");
            let target = broker.place().join("target");
            persisted.persist_to(&target, Replace::Never).expect("the name is free");
            let (_, elsewhere) = moved.keep_for_good().expect("there is a place for it");
            assert!(paths.iter().all(|path| !path.exists()), "{create:?}: {paths:?}");
            let left = kept.name().to_owned();
            drop(kept.keep());
            let found: Vec<_> = names_in(&there).into_iter().filter(|name| name != "e").collect();
            assert_eq!(found, [left], "{create:?}: a guard left its area");
            for path in [target, elsewhere] {
                assert_eq!(fs::read(&path).expect("it is there"), b"content");
                fs::remove_file(path).expect("it is ours");
            }
        }
        let orphan = lease.file(&inside("d/e")).expect("a file is made");
        assert!(lease.release("d").expect("it can be removed"));
        orphan.close().expect("that it is gone already is no error");
        assert!(names_in(&path(&lease)).is_empty());
    });
}

#[test]
fn nothing_leads_out_of_a_lease() {
    both_ways("sdk::inside::nothing_leads_out_of_a_lease", |broker, create| {
        let client = client(broker, create);
        let lease = with_directories(&client);
        let outside = broker.place().join("outside");
        fs::create_dir_all(outside.join("below")).expect("a place is writable");
        fs::write(outside.join("file"), "alive").expect("a place is writable");
        symlink(&outside, path(&lease).join("out")).expect("the lease is ours");
        fs::write(path(&lease).join("plain"), "").expect("the lease is ours");
        let made = |directory: &str| {
            let of_file = lease.file(&inside(directory)).expect_err("it leads out");
            let of_directory = lease.directory(&inside(directory)).expect_err("it leads out");
            let (of_file, of_directory) = (reason(of_file), reason(of_directory));
            assert_eq!(of_file, of_directory, "{create:?}: {directory}");
            of_file
        };
        for (directory, expected) in [
            ("out", "PATH_LEAVES"),
            ("out/below", "PATH_LEAVES"),
            ("missing", "PATH_UNKNOWN"),
            ("plain", "PATH_UNKNOWN"),
            ("..", "(name)"),
            ("d/../..", "(name)"),
            ("/tmp", "(name)"),
            ("d/", "(name)"),
            ("", "(name)"),
        ] {
            assert_eq!(made(directory), expected, "{create:?}: {directory}");
        }
        for path in ["out/file", "out/below"] {
            let target = fs::File::open(broker.place()).expect("it is there");
            assert_eq!(reason(lease.release(path).expect_err("it leads out")), "PATH_LEAVES", "{create:?}");
            let refused = lease.persist(path, &target, "taken", Replace::Never).expect_err("it leads out");
            assert_eq!(reason(refused), "PATH_LEAVES", "{create:?}");
        }
        // Of a link it is the link that goes.
        assert!(lease.release("out").expect("it can be removed"));
        assert_eq!(names_in(&outside), ["below", "file"], "{create:?}");
    });
}

fn reason(error: ClientError) -> String {
    match error {
        ClientError::Refused { reason, .. } => reason,
        ClientError::Name(_) => "(name)".to_owned(),
        other => panic!("{other}"),
    }
}

#[test]
fn what_a_process_has_made_goes_by_its_path() {
    both_ways("sdk::inside::what_a_process_has_made_goes_by_its_path", |broker, create| {
        let client = client(broker, create);
        let target = broker.place().join("site");
        fs::create_dir(&target).and_then(|()| fs::write(target.join("page"), "old")).expect("a place is writable");
        let place = fs::File::open(broker.place()).expect("it is there");
        assert_eq!(client.lease_id(), None);
        for refused in [client.release("f").map(drop), client.persist("f", &place, "f", Replace::Never).map(drop)] {
            assert!(refused.expect_err("nothing was made yet").is_refusal("LEASE_UNKNOWN"), "{create:?}");
        }
        let files = client.files(&AreaOptions::default(), 3).expect("files are made");
        let own = files[0].path().and_then(Path::parent).expect("it has a path").to_owned();
        assert_eq!(client.lease_id().as_deref().map(AsRef::as_ref), own.file_name(), "{create:?}");
        assert_eq!(client.anonymous_files(3).expect("files are made").len(), 3);
        drop(files);

        fs::create_dir_all(own.join("build/site")).expect("the lease is ours");
        fs::write(own.join("build/site/page"), "new").expect("the lease is ours");
        fs::write(own.join("build/log"), "log").expect("the lease is ours");
        let copied = client.persist("build/site", &place, "site", Replace::Exchange).expect("they change places");
        assert!(!copied && fs::read(target.join("page")).expect("it is there") == b"new");
        assert_eq!(fs::read(own.join("build/site/page")).expect("it is there"), b"old", "{create:?}");
        assert!(client.release("build/log").expect("it can be removed"));
        assert!(!client.release("build/log").expect("that it is gone is no error"));
        assert!(client.release("build").expect("it can be removed"));
        assert!(names_in(&own).is_empty(), "{create:?}");
    });
}

#[test]
fn a_client_gets_another_lease_for_one_that_was_lost() {
    both_ways("sdk::inside::a_client_gets_another_lease_for_one_that_was_lost", |broker, create| {
        let client = client(broker, create);
        drop(client.delegate(Limits::default()).expect("a channel is made"));
        for _ in 0..2 {
            let first = client.lease_id().expect("it has one");
            assert!(client.revoke_until_freed(&first).expect("an own lease can be revoked").is_empty());
            let trash = broker.pool_root().join(".scratch/trash");
            assert!(names_in(&trash).is_empty(), "{create:?}: it was not freed");
            let refused = client.delegate(Limits::default()).expect_err("who loses its lease is told so");
            assert!(refused.is_refusal("LEASE_UNKNOWN"), "{create:?}");
            drop(client.delegate(Limits::default()).expect("there is another"));
            assert_ne!(client.lease_id(), Some(first), "{create:?}");
        }
    });
}

#[test]
fn by_a_delegated_channel_too() {
    both_ways("sdk::inside::by_a_delegated_channel_too", |broker, create| {
        let lease = grant(&client(broker, create));
        let sandbox = Client::delegated(lease.delegate(Limits::default()).expect("a channel is made"));
        let sandbox = sandbox.expect("a socket can be watched");
        assert_eq!(sandbox.lease_id(), None);
        let directory = sandbox.directory(&AreaOptions::default()).expect("a directory is made");
        let options = AreaOptions { name: Some("f".into()), ..inside(directory.name()) };
        let file = sandbox.file(&options).expect("a file is made");
        assert_eq!((file.path(), file.name()), (None, "f".as_ref()));
        assert_eq!(kind(sandbox.file(&options).expect_err("the name is taken")), ErrorKind::AlreadyExists);
        file.close().expect("it can be removed");
        drop(sandbox.file(&options).expect("the name is free again").keep());
        assert!(sandbox.release(Path::new(directory.name()).join("f")).expect("it can be removed"));
    });
}

#[test]
fn what_goes_into_a_directory_of_a_lease_is_not_foreign() {
    both_ways("sdk::inside::what_goes_into_a_directory_of_a_lease_is_not_foreign", |broker, create| {
        let client = client(broker, create);
        let lease = grant(&client);
        let mut builder = Builder::new();
        builder.under(&lease);
        let outer = builder.tempdir().expect("a directory is made");
        fs::create_dir(outer.path().join("below")).expect("the directory is ours");
        let places = [path(&lease), outer.path().to_owned(), outer.path().join("below")];
        let made = places.map(|place| (builder.tempfile_in(&place), builder.tempdir_in(&place)));
        let made = made.map(|(file, directory)| (file.expect("it is made"), directory.expect("it is made")));
        assert_eq!(foreign(broker), 0, "{create:?}");
        let paths: Vec<_> = made.iter().flat_map(|(file, directory)| [file.path(), directory.path()]).collect();
        let paths: Vec<PathBuf> = paths.into_iter().map(Path::to_owned).collect();
        assert!(paths.iter().all(|path| path.exists()), "{create:?}: {paths:?}");
        drop(made);
        assert!(paths.iter().all(|path| !path.exists()), "{create:?}: {paths:?}");

        // A path that only looks as if it led there is a foreign one.
        let link = outer.path().join("link");
        symlink(broker.place(), &link).expect("the directory is ours");
        let file = builder.tempfile_in(&link).expect("a file is made");
        assert!(foreign(broker) == 1 && broker.place().join(file.path().file_name().expect("a name")).is_file());
        drop(file);
        let up = builder.tempfile_in(outer.path().join("below/..")).expect("a file is made");
        assert!(foreign(broker) == 1 && up.path().is_file(), "{create:?}");
        drop(up);
        eventually(DEADLINE, "both are gone", || foreign(broker) == 0);
        let outer = outer.path().to_owned();
        lease.revoke().expect("it lives");
        assert!(!outer.exists(), "{create:?}");
    });
}

#[test]
fn anothers_lease_is_worked_in_by_its_id() {
    both_ways("sdk::inside::anothers_lease_is_worked_in_by_its_id", |broker, create| {
        let (theirs, other) = (client(broker, create), client(broker, create));
        let lease = with_directories(&theirs);
        // By a path that is not its own nothing is made there.
        let own = grant(&other);
        for (told, known) in [(None, None), (lease.path(), lease.path()), (own.path(), None)] {
            let borrowed = other.lease(lease.id(), told);
            assert_eq!((borrowed.id(), borrowed.path()), (lease.id(), known), "{create:?}");
            let file = borrowed.file(&AreaOptions { name: Some("f".into()), ..inside("d") }).expect("a file is made");
            assert_eq!(file.path(), known.map(|path| path.join("d/f")).as_deref(), "{create:?}");
            assert_eq!(names_in(&path(&lease).join("d")), ["e", "f"], "{create:?}");
            assert!(names_in(&path(&own)).is_empty(), "{create:?}");
            drop(file);
            assert_eq!(names_in(&path(&lease).join("d")), ["e"], "{create:?}");
        }
        theirs.ping().expect("the broker answers");
        assert!(path(&lease).is_dir(), "{create:?}: who only worked in it has ended it");
        let unknown = other.lease("aaaaaaaaaaaaaaaa", None).file(&AreaOptions::default());
        assert!(unknown.expect_err("there is none").is_refusal("LEASE_UNKNOWN"), "{create:?}");
        other.lease(lease.id(), None).revoke().expect("an own user's lease can be revoked");
        assert!(!path(&lease).exists(), "{create:?}");
    });
}

#[test]
fn a_slash_at_the_end_of_a_target_is_a_directorys() {
    both_ways("sdk::inside::a_slash_at_the_end_of_a_target_is_a_directorys", |broker, create| {
        let client = client(broker, create);
        let lease = grant(&client);
        let at = |name: &str| PathBuf::from(format!("{}/{name}", broker.place().display()));
        for target in ["free/", "taken//"] {
            let directory = lease.directory(&AreaOptions::default()).expect("a directory is made");
            fs::write(directory.path().expect("it has a path").join("in it"), "").expect("it is ours");
            if target.starts_with("taken") {
                fs::create_dir(at(target)).expect("a place is writable");
            }
            directory.persist_to(at(target), Replace::Always).expect("an empty directory is replaced");
            assert!(at(target).join("in it").is_file(), "{create:?}: {target}");
            let file = lease.file(&AreaOptions::default()).expect("a file is made");
            let refused = file.persist_to(at(target), Replace::Never).expect_err("it is taken");
            assert_eq!(kind(refused.error), ErrorKind::AlreadyExists, "{create:?}: {target}");
            let refused = refused.guard.persist_to(at(target), Replace::Always).expect_err("it is a file");
            assert_eq!(kind(refused.error), ErrorKind::NotADirectory, "{create:?}: {target}");
        }
        let directory = lease.directory(&AreaOptions::default()).expect("a directory is made");
        let refused = directory.persist_to(at("no/."), Replace::Always).expect_err("it is no name");
        assert!(!at("no").exists() && refused.guard.path().is_some_and(Path::exists), "{create:?}");
    });
}
