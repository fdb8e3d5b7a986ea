//! Scopes: what a piece of work makes, and what becomes of it when the work ends, fails or panics.

use std::fs;
use std::io::{self, Read, Seek};
use std::os::unix::fs::MetadataExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use scratch_client::{ClientError, GrantOptions, Lease, Left, Scope, ScopeError, ScopeOptions};
use scratch_tests::{DEADLINE, eventually, names_in, wait_gone};

use super::{both_ways, client, grant, path, shown};

fn options() -> ScopeOptions {
    ScopeOptions { prefix: "job-".into(), ..ScopeOptions::default() }
}

/// Makes one of each kind that stays.
fn fill(scope: &Scope) -> [std::path::PathBuf; 2] {
    let file = scope.create_temp_file(".txt").expect("a file is made");
    let directory = scope.create_temp_dir("").expect("a directory is made");
    fs::write(&file, "content").expect("it is ours");
    fs::create_dir_all(directory.join("a/b")).expect("it is ours");
    [file, directory]
}

fn name(path: &Path) -> &str {
    path.file_name().and_then(|name| name.to_str()).expect("names are plain")
}

fn fails(scope: &Scope) -> Result<(), ScopeError<io::Error>> {
    scope.run(|scope| {
        fill(scope);
        Err(io::Error::other("it could not be done"))
    })
}

#[test]
fn removes_all_at_once_and_begins_anew() {
    both_ways("sdk::scope::removes_all_at_once_and_begins_anew", |broker, create| {
        let client = client(broker, create);
        let leases = || names_in(broker.pool_root()).len();
        let none = leases();
        let scope = client.scope(&options());
        assert_eq!((scope.lease(), scope.path(), leases()), (None, None, none), "{create:?}: nothing was made yet");
        scope.cleanup_all().expect("there is nothing to remove");

        let stays = fill(&scope);
        let (file, directory) = (scope.temp_file(".a").expect("made"), scope.temp_directory(".b").expect("made"));
        let own = scope.path().expect("it has one");
        assert_eq!(names_in(&own).len(), 4);
        for path in [&*stays[0], &stays[1], file.path().expect("it has one"), directory.path().expect("it has one")] {
            assert_eq!(path.parent(), Some(&*own));
            assert!(name(path).starts_with("job-"), "{create:?}: {path:?}");
        }
        assert!(name(&stays[0]).ends_with(".txt") && file.name().as_encoded_bytes().ends_with(b".a"));
        drop(file);
        directory.close().expect("it can be removed");
        let left = scope.temp_file("").expect("made");
        assert_eq!(names_in(&own).len(), 3, "{create:?}: guards end what they guard before");

        scope.cleanup_all().expect("the broker answers");
        assert!(!own.exists(), "{create:?}: still there after it was removed");
        assert_eq!((scope.lease(), leases()), (None, none));
        left.close().expect("it went with its lease");

        let again = fill(&scope);
        assert_ne!(scope.path(), Some(own), "{create:?}: the lease that was ended");
        assert!(again.iter().all(|path| path.exists()));
        drop(scope);
        assert_eq!(leases(), none, "{create:?}: a guard left its scope");
    });
}

#[test]
fn failed_work_is_removed_or_left() {
    both_ways("sdk::scope::failed_work_is_removed_or_left", |broker, create| {
        let client = client(broker, create);
        let leases = || names_in(broker.pool_root()).len();
        let none = leases();
        let scope = client.scope(&options());
        let done = scope.run(|scope| Ok::<_, ClientError>(fill(scope))).expect("it was done");
        assert!(done.iter().all(|path| path.exists()), "{create:?}: good work stays until the scope ends");
        let failed = fails(&scope).expect_err("it says so");
        assert_eq!((failed.to_string(), failed.left), ("it could not be done".to_owned(), None));
        assert_eq!(leases(), none, "{create:?}: what was there before went, too");

        scope.cleanup_on_error(false);
        let failed = fails(&scope).expect_err("it says so");
        let left = *failed.left.clone().expect("it says where");
        let there = left.path.clone().expect("it has a path");
        assert_eq!(failed.to_string(), format!("it could not be done; what was made is still in {}", there.display()));
        assert_eq!((names_in(&there).len(), scope.left(), scope.lease()), (2, Some(left.clone()), None));
        fill(&scope);
        assert_ne!(scope.path(), left.path, "{create:?}: what was left is not touched any more");
        scope.cleanup_all().expect("the broker answers");
        drop(scope);
        assert_eq!(names_in(&there).len(), 2, "{create:?}: it lives as long as its holders");
        client.revoke(&left.lease).expect("it lives");
        assert_eq!(leases(), none);
    });
}

#[test]
fn a_panic_is_a_failure() {
    both_ways("sdk::scope::a_panic_is_a_failure", |broker, create| {
        let client = client(broker, create);
        for cleanup in [true, false] {
            let scope = client.scope(&ScopeOptions { cleanup_on_error: cleanup, ..options() });
            let mut own = None;
            let panics = AssertUnwindSafe(|| {
                scope.run(|scope| {
                    fill(scope);
                    own = scope.path();
                    if own.is_some() { panic!("as it is to be") } else { Ok::<(), ClientError>(()) }
                })
            });
            catch_unwind(panics).expect_err("it goes on");
            let own = own.expect("it has one");
            let left = scope.left().and_then(|Left { path, .. }| path);
            assert_eq!(left, (!cleanup).then(|| own.clone()), "{create:?}");
            assert_eq!(own.exists(), !cleanup, "{create:?}");
        }
    });
}

#[test]
fn its_lease_may_be_below_another() {
    both_ways("sdk::scope::its_lease_may_be_below_another", |broker, create| {
        let client = client(broker, create);
        let below = |lease: &Lease| GrantOptions { parent: Some(lease.id().to_owned()), ..GrantOptions::default() };
        let (first, second) = (grant(&client), grant(&client));
        let labels = GrantOptions { labels: [("job".to_owned(), "7".to_owned())].into(), ..below(&second) };
        let scopes = [
            client.scope(&ScopeOptions { lease: below(&first), ..options() }),
            first.scope(&ScopeOptions { lease: labels, ..options() }),
        ];
        scopes.iter().for_each(|scope| drop(fill(scope)));
        let paths = scopes.each_ref().map(|scope| scope.path().expect("it has one"));
        let labelled = shown(broker, &scopes[1].lease().expect("it has one")).expect("it lives");
        assert_eq!(labelled["labels"]["job"], "7");
        first.revoke().expect("it lives");
        paths.iter().for_each(|path| wait_gone(path, DEADLINE));
        let refused = || scopes.each_ref().map(|scope| scope.temp_directory("").is_err()) == [true, true];
        eventually(DEADLINE, "nothing is made in them any more", refused);
        // It ended with its parent: there is nothing to remove, and the next call has none to be below.
        for scope in &scopes {
            scope.cleanup_all().expect("all is gone");
            assert!(scope.temp_file("").expect_err("the parent is gone").is_refusal("LEASE_UNKNOWN"), "{create:?}");
        }
        assert!(path(&second).is_dir());
    });
}

#[test]
fn what_could_not_be_removed_can_be_later() {
    both_ways("sdk::scope::what_could_not_be_removed_can_be_later", |broker, create| {
        let client = client(broker, create);
        let scope = client.scope(&options());
        fill(&scope);
        let own = scope.path().expect("it has one");
        broker.kill();
        let error = scope.cleanup_all().expect_err("nobody is there to remove it");
        assert!(matches!(error, ClientError::NoBroker { .. }), "{create:?}: {error:?}");
        let failed = scope.run(|_| Err::<(), _>("no")).expect_err("it says so");
        assert_eq!(failed.left.and_then(|left| left.path), Some(own.clone()), "{create:?}: said to be gone");
        broker.restart();
        scope.cleanup_all().expect("the next broker removes it");
        assert!(!own.exists() && scope.path().is_none(), "{create:?}");
    });
}

#[test]
fn secrets_are_for_this_user_alone() {
    both_ways("sdk::scope::secrets_are_for_this_user_alone", |broker, create| {
        let client = client(broker, create);
        let scope = client.scope(&options());
        let mut secret = scope.secure_temp_write(b"hunter2", ".key").expect("it is written");
        let path = secret.path().expect("it has one").to_owned();
        assert!(name(&path).ends_with(".key"));
        assert_eq!(fs::metadata(&path).expect("it is there").mode() & 0o7777, 0o600, "{create:?}");
        assert_eq!(fs::read(&path).expect("it is ours"), b"hunter2");
        let mut read = String::new();
        secret.file.rewind().and_then(|()| secret.file.read_to_string(&mut read)).expect("it is open for both");
        assert_eq!(read, "hunter2");
        drop(secret);
        assert!(!path.exists(), "{create:?}: a guard left its secret");
    });
}

mod aio {
    use std::future::pending;

    use scratch_client::tokio::Scope;
    use tokio::sync::Notify;

    use super::*;
    use crate::sdk::aio::{client, runtime};

    async fn fill(scope: &Scope) -> Result<(), ClientError> {
        let file = scope.create_temp_file(".txt").await?;
        let directory = scope.create_temp_dir("").await?;
        assert!(name(&file).starts_with("job-") && name(&file).ends_with(".txt") && directory.is_dir());
        Ok(())
    }

    #[test]
    fn removes_all_at_once_and_begins_anew() {
        both_ways("sdk::scope::aio::removes_all_at_once_and_begins_anew", |broker, create| {
            runtime().block_on(async {
                let client = client(broker, create).await;
                let scope = client.scope(&options());
                fill(&scope).await.expect("they are made");
                let file = scope.temp_file("").await.expect("a file is made");
                let directory = scope.temp_directory("").await.expect("a directory is made");
                let own = scope.path().expect("it has one");
                assert_eq!(names_in(&own).len(), 4);
                scope.cleanup_all().await.expect("the broker answers");
                assert!(!own.exists(), "{create:?}: still there after it was removed");
                file.close().await.expect("it went with its lease");
                directory.close().await.expect("it went with its lease");
                fill(&scope).await.expect("they are made");
                let again = scope.path().expect("it has one");
                assert_ne!(again, own);
                let secret = scope.secure_temp_write(vec![7; 100_000], "").await.expect("it is written");
                let path = secret.path().expect("it has one").to_owned();
                assert_eq!(fs::metadata(&path).expect("it is there").mode() & 0o7777, 0o600, "{create:?}");
                assert_eq!(fs::read(&path).expect("it is ours"), vec![7; 100_000]);
                drop(scope);
                wait_gone(&again, DEADLINE);
            });
        });
    }

    #[test]
    fn work_that_fails_or_is_given_up_is_removed_or_left() {
        both_ways("sdk::scope::aio::work_that_fails_or_is_given_up_is_removed_or_left", |broker, create| {
            let runtime = runtime();
            let client = runtime.block_on(client(broker, create));
            for cleanup in [true, false] {
                let scope = client.scope(&ScopeOptions { cleanup_on_error: cleanup, ..options() });
                // Another task's work: its future can be sent.
                let fails = async move {
                    let failed = scope.run(async {
                        fill(&scope).await?;
                        Err::<(), _>(ClientError::NoProgram)
                    });
                    let failed = failed.await.expect_err("it says so");
                    (scope, failed.left.map(|left| *left))
                };
                let (scope, left) = runtime.block_on(runtime.spawn(fails)).expect("no task panics");
                assert_eq!((left.is_some(), &scope.left()), (!cleanup, &left), "{create:?}");
                if let Some(Left { path: Some(path), .. }) = left {
                    assert_eq!(names_in(&path).len(), 2);
                }
                let mut own = None;
                let reached = Notify::new();
                let work = async {
                    fill(&scope).await?;
                    own = scope.path();
                    reached.notify_one();
                    pending::<Result<(), ClientError>>().await
                };
                runtime.block_on(async {
                    tokio::select! {
                        _ = scope.run(work) => panic!("it never ends"),
                        () = reached.notified() => {}
                    }
                });
                let own = own.expect("it has one");
                if cleanup {
                    wait_gone(&own, DEADLINE);
                } else {
                    assert_eq!(scope.left().and_then(|left| left.path), Some(own.clone()), "{create:?}");
                    assert_eq!(names_in(&own).len(), 2);
                }
            }
        });
    }
}
