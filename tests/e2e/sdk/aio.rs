//! The async flavour against a real broker: what its guards do, many tasks at once, and what a restart does to it.

use std::collections::HashSet;
use std::fs;
use std::future::poll_fn;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

use scratch_client::tokio::{Client, Lease};
use scratch_client::{AreaOptions, ClientError, ConnectOptions, CreateMode, GrantOptions, Holder, Replace};
use scratch_tests::{Broker, DEADLINE, Options, contained, eventually, names_in, wait_gone};
use tokio::runtime::Runtime;
use tokio::task::JoinSet;

use super::{BOTH, both_ways, kind, named, shared_with_child, shown};

pub(super) fn runtime() -> Runtime {
    Runtime::new().expect("threads can be started")
}

pub(super) async fn client(broker: &Broker, create: CreateMode) -> Client {
    let runtime_directory = Some(broker.runtime_dir());
    let options = ConnectOptions { runtime_directory, create: Some(create), ..ConnectOptions::default() };
    Client::connect(&options).await.expect("the broker listens")
}

pub(super) async fn grant(client: &Client) -> Lease {
    client.grant(&GrantOptions::default()).await.expect("a lease is granted")
}

pub(super) async fn held_by(client: &Client, holder: Holder) -> Lease {
    let options = GrantOptions { holders: vec![holder], ..GrantOptions::default() };
    client.grant(&options).await.expect("a lease is granted")
}

pub(super) fn path(lease: &Lease) -> PathBuf {
    lease.path().expect("a directory pool's leases have paths").to_path_buf()
}

#[test]
fn drop_releases_and_waits_for_nothing() {
    both_ways("sdk::aio::drop_releases_and_waits_for_nothing", |broker, create| {
        let runtime = runtime();
        let (client, lease, file, directory) = runtime.block_on(async {
            let client = client(broker, create).await;
            let lease = grant(&client).await;
            let file = lease.file(&AreaOptions::default()).await.expect("a file is made");
            let directory = lease.directory(&AreaOptions::default()).await.expect("a directory is made");
            (client, lease, file, directory)
        });
        fs::create_dir_all(directory.path().expect("it has a path").join("a/b")).expect("the directory is ours");
        let [file_path, directory_path] =
            [file.path(), directory.path()].map(|path| path.expect("it has one").to_owned());
        let lease_path = path(&lease);
        assert_eq!(names_in(&lease_path).len(), 2);
        // No runtime runs here, and then there is none.
        drop(file);
        wait_gone(&file_path, DEADLINE);
        drop(runtime);
        drop(directory);
        wait_gone(&directory_path, DEADLINE);
        drop(lease);
        wait_gone(&lease_path, DEADLINE);
        drop(client);
    });
}

#[test]
fn close_reports_and_keep_keeps() {
    both_ways("sdk::aio::close_reports_and_keep_keeps", |broker, create| {
        runtime().block_on(async {
            let client = client(broker, create).await;
            let lease = grant(&client).await;
            let options = AreaOptions::default();
            let [file, last] =
                [lease.file(&options).await, lease.file(&options).await].map(|made| made.expect("it is made"));
            let [directory, last_directory] = [lease.directory(&options).await, lease.directory(&options).await]
                .map(|made| made.expect("it is made"));
            file.close().await.expect("a file can be removed");
            directory.close().await.expect("a directory can be removed");
            assert_eq!(names_in(&path(&lease)).len(), 2, "closed is gone at once");
            let mut kept = lease.file(&named("kept")).await.expect("a file is made").keep();
            kept.write_all(b"content").expect("a kept file is open");
            let taken = lease.file(&named("kept")).await.expect_err("taken");
            assert_eq!(kind(taken), std::io::ErrorKind::AlreadyExists);
            lease.directory(&named("directory")).await.expect("a directory is made").keep();
            client.ping().await.expect("the broker answers");
            assert_eq!(fs::read(path(&lease).join("kept")).expect("it is there"), b"content");
            assert!(path(&lease).join("directory").is_dir());

            broker.kill();
            assert_eq!(
                last.close().await.is_ok(),
                create == CreateMode::Auto,
                "only a file of our own needs no broker"
            );
            let error = last_directory.close().await.expect_err("a directory is the broker's to remove");
            assert!(matches!(error, ClientError::NoBroker { .. }), "{error:?}");
        });
    });
}

#[test]
fn a_hundred_tasks_share_a_client() {
    both_ways("sdk::aio::a_hundred_tasks_share_a_client", |broker, create| {
        runtime().block_on(async {
            let client = client(broker, create).await;
            let before = names_in(Path::new("/proc/self/fd")).len();
            let mut tasks = JoinSet::new();
            for number in 0..100_u32 {
                let client = client.clone();
                tasks.spawn(async move { areas(&client, number).await });
            }
            let mut paths = HashSet::new();
            while let Some(done) = tasks.join_next().await {
                paths.extend(done.expect("no task panics"));
            }
            assert_eq!(paths.len(), 300, "{create:?}: two tasks have got the same");
            eventually(DEADLINE, "all are gone", || !paths.iter().any(|path| path.exists()));
            assert!(names_in(Path::new("/proc/self/fd")).len() <= before + 1, "only the own lease's directory is open");
        });
    });
}

/// One of each kind, under a lease of its own and under the client's. Gives their paths; their guards are dropped.
async fn areas(client: &Client, number: u32) -> Vec<PathBuf> {
    let lease = grant(client).await;
    let mut file = lease.file(&AreaOptions::default()).await.expect("a file is made");
    file.file.write_all(&number.to_be_bytes()).expect("it is open for writing");
    let own = client.directory(&AreaOptions::default()).await.expect("a directory is made");
    let stock = lease.anonymous_files(3).await.expect("files are made");
    client.memory().await.expect("memory is made").set_len(4096).expect("it can grow");
    assert_eq!(stock.len(), 3);
    assert_eq!(fs::read(file.path().expect("it has a path")).expect("it is there"), number.to_be_bytes());
    [file.path(), own.path(), lease.path()].map(|path| path.expect("it has a path").to_owned()).into()
}

#[test]
fn what_is_given_up_at_any_point_leaves_nothing() {
    both_ways("sdk::aio::what_is_given_up_at_any_point_leaves_nothing", |broker, create| {
        let leases = || names_in(broker.pool_root()).len();
        runtime().block_on(async {
            let client = client(broker, create).await;
            let (mut polls, before) = (1, leases());
            while !is_done_within(polls, broker, areas_of_a_lease(&client)).await {
                // Reads what was still to be answered, and says what follows.
                client.ping().await.expect("the connection is good");
                polls += 1;
            }
            assert!(polls > 1, "{create:?}: it never waited");
            eventually(DEADLINE, "every lease is gone", || leases() == before);
        });
    });
}

async fn areas_of_a_lease(client: &Client) {
    let lease = grant(client).await;
    let files = lease.files(&AreaOptions::default(), 250).await.expect("files are made");
    let directory = lease.directory(&AreaOptions::default()).await.expect("a directory is made");
    directory.close().await.expect("it can be removed");
    drop(files);
    lease.revoke().await.expect("it lives");
}

/// The broker answers only between two polls, so that every answer is waited for.
pub(super) async fn is_done_within(polls: usize, broker: &Broker, future: impl Future<Output = ()>) -> bool {
    let mut future = pin!(future);
    let mut left = polls;
    poll_fn(|context| {
        left -= 1;
        broker.freeze();
        let polled = future.as_mut().poll(context);
        broker.thaw();
        match polled {
            Poll::Ready(()) => Poll::Ready(true),
            Poll::Pending if left == 0 => Poll::Ready(false),
            Poll::Pending => Poll::Pending,
        }
    })
    .await
}

#[test]
fn a_ttl_that_is_renewed_lasts() {
    both_ways("sdk::aio::a_ttl_that_is_renewed_lasts", |broker, create| {
        runtime().block_on(async {
            let client = client(broker, create).await;
            let ttl = Holder::Ttl(Duration::from_secs(1));
            let renewed = held_by(&client, ttl.clone()).await;
            let left = held_by(&client, ttl.clone()).await;
            let (path, left_path) = (path(&renewed), path(&left));
            let renewing = tokio::spawn(async move { renewed.keep_renewing().await });
            // Each of these lasts a whole ttl.
            wait_gone(&left_path, DEADLINE);
            wait_gone(&self::path(&held_by(&client, ttl).await), DEADLINE);
            assert!(path.is_dir(), "{create:?}: it has expired all the same");
            let id = path.file_name().and_then(|name| name.to_str()).expect("it is called as the lease");
            client.revoke(id).await.expect("it lives");
            let why = renewing.await.expect("it says why it ends");
            assert!(why.is_refusal("LEASE_UNKNOWN"), "{why}");
        });
    });
}

#[test]
fn a_file_can_stay_for_good() {
    both_ways("sdk::aio::a_file_can_stay_for_good", |broker, create| {
        let place = fs::File::open(broker.place()).expect("it is there");
        runtime().block_on(async {
            let client = client(broker, create).await;
            let lease = grant(&client).await;
            fs::write(broker.place().join("taken"), "old").expect("a place is writable");
            let mut file = lease.file(&AreaOptions::default()).await.expect("a file is made");
            file.file.write_all(b"new").expect("it is open for writing");
            let refused = file.persist(&place, "taken", Replace::Never).await.expect_err("it is taken");
            assert!(refused.error.is_refusal("NAME_EXISTS"), "{create:?}: {refused}");
            let (_, copied) = refused.guard.persist(&place, "taken", Replace::Always).await.expect("it may replace it");
            assert!(!copied, "{create:?}: on one file system");
            let directory = lease.directory(&AreaOptions::default()).await.expect("a directory is made");
            directory.persist(&place, "directory", Replace::Never).await.expect("the name is free");
            assert!(names_in(&path(&lease)).is_empty());
            lease.revoke().await.expect("it lives");
            assert_eq!(fs::read(broker.place().join("taken")).expect("it stays"), b"new", "{create:?}");
            assert!(broker.place().join("directory").is_dir());
        });
    });
}

#[test]
fn a_holder_can_be_detached() {
    both_ways("sdk::aio::a_holder_can_be_detached", |broker, create| {
        runtime().block_on(async {
            let client = client(broker, create).await;
            let lease = grant(&client).await;
            let ttl = Holder::Ttl(Duration::from_secs(3600));
            let added = client.attach(lease.id(), &ttl).await.expect("it lives");
            let [first] = lease.holders() else { panic!("{:?}", lease.holders()) };
            lease.detach(*first).await.expect("it is there");
            assert!(lease.detach(*first).await.expect_err("it is gone").is_refusal("HOLDER_UNKNOWN"));
            lease.keep_alive().await.expect("the other one holds it");
            client.detach(lease.id(), added).await.expect("it is there");
            wait_gone(&path(&lease), DEADLINE);
        });
    });
}

#[test]
fn a_child_with_the_connection_ends_nothing() {
    both_ways("sdk::aio::a_child_with_the_connection_ends_nothing", |broker, create| {
        let runtime = runtime();
        let (client, child) = shared_with_child(|| runtime.block_on(client(broker, create)));
        runtime.block_on(async {
            let leases = [held_by(&client, Holder::Connection).await, grant(&client).await];
            assert!(child.end().success());
            for lease in &leases {
                assert_eq!(shown(broker, lease.id()).expect("it lives")["state"], "live", "{create:?}");
                drop(lease.file(&AreaOptions::default()).await.expect("it lives"));
            }
        });
    });
}

#[test]
fn after_a_restart_all_goes_on() {
    contained("sdk::aio::after_a_restart_all_goes_on", || {
        for create in BOTH {
            let mut broker = Broker::start(Options { grace: Some("5s"), ..Options::default() });
            runtime().block_on(after_a_restart(&mut broker, create));
        }
    });
}

async fn after_a_restart(broker: &mut Broker, create: CreateMode) {
    let (stays, goes) = (client(broker, create).await, client(broker, create).await);
    let leases = [held_by(&stays, Holder::Connection).await, grant(&stays).await];
    for lease in &leases {
        let file = lease.file(&named("file")).await.expect("a file is made");
        file.keep().write_all(b"content").expect("it is open");
    }
    let dropped = leases[1].directory(&named("dropped")).await.expect("a directory is made");
    let left = held_by(&goes, Holder::Connection).await;
    let left_path = path(&left);
    left.leave();

    broker.kill();
    drop(goes);
    // It is said to the next broker.
    drop(dropped);
    assert!(matches!(stays.ping().await, Err(ClientError::NoBroker { .. })), "{create:?}");
    broker.restart();

    // All at once: one of them connects, and the connection holds what the last one held.
    let mut tasks = JoinSet::new();
    for _ in 0..50 {
        let client = stays.clone();
        tasks.spawn(async move { client.ping().await });
    }
    while let Some(done) = tasks.join_next().await {
        done.expect("no task panics").expect("the next call works");
    }
    wait_gone(&path(&leases[1]).join("dropped"), DEADLINE);
    // The grace is over when the one that nobody came back for has gone.
    wait_gone(&left_path, DEADLINE);
    for lease in &leases {
        assert_eq!(fs::read(path(lease).join("file")).expect("the living lose nothing"), b"content", "{create:?}");
        assert_eq!(shown(broker, lease.id()).expect("it lives")["state"], "live", "{create:?}");
        lease.directory(&AreaOptions::default()).await.expect("it works").close().await.expect("it works");
    }
    for lease in leases {
        let path = path(&lease);
        lease.revoke().await.expect("it lives");
        assert!(!path.exists(), "{create:?}: still there after Revoke has answered");
    }
}
