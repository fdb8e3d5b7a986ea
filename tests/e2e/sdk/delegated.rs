//! Delegated channels by the SDK: a client without a path, without a second connection, and with one lease.

use std::fs;
use std::io::Write;
use std::os::fd::AsRawFd;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use scratch_client::{AreaOptions, Client, ClientError, CreateMode, GrantOptions, Lease, Limits};
use scratch_tests::{Broker, DEADLINE, Dialogue, Options, contained, eventually, names_in, wait_gone};

use super::process::{Role, process};
use super::{both_ways, client, path};

fn inodes(inodes: u64) -> Limits {
    Limits { inodes, ..Limits::default() }
}

/// A worker's lease with 20 inodes.
fn worker(client: &Client) -> Lease {
    let options = GrantOptions { limits: inodes(20), soft: true, ..GrantOptions::default() };
    client.grant(&options).expect("a lease is granted")
}

fn sandbox(lease: &Lease, limits: Limits) -> Client {
    let channel = lease.delegate(limits).expect("a channel is made");
    Client::delegated(channel).expect("a socket can be watched")
}

/// The directories of leases but this one's.
fn others(broker: &Broker, lease: &Lease) -> Vec<PathBuf> {
    let names = names_in(broker.pool_root()).into_iter().filter(|name| name != ".scratch" && name != lease.id());
    names.map(|name| broker.pool_root().join(name)).collect()
}

#[test]
fn its_client_makes_areas_of_one_lease() {
    both_ways("sdk::delegated::its_client_makes_areas_of_one_lease", |broker, create| {
        let client = client(broker, create);
        let lease = worker(&client);
        let sandbox = sandbox(&lease, inodes(5));
        let options = AreaOptions::default();
        let named = sandbox.file(&options).expect("a file is made");
        (&named.file).write_all(b"x").expect("it is open for writing");
        let directory = sandbox.directory(&options).expect("a directory is made");
        let unnamed = (sandbox.anonymous().expect("a file is made"), sandbox.memory().expect("memory is made"));
        let below = sandbox.grant(&GrantOptions::default()).expect("a lease below is granted");
        assert_eq!((named.path(), directory.path(), below.path()), (None, None, None));

        let refused = sandbox.anonymous().expect_err("five are all it has");
        assert!(refused.is_refusal("LIMIT_INODES"), "{refused}");
        let refused = sandbox.revoke(lease.id()).expect_err("that is its worker's");
        assert!(refused.is_refusal("LEASE_UNKNOWN"), "{refused}");
        below.revoke().expect("it is its own");
        named.close().expect("it is its own");
        let inner = Client::delegated(sandbox.delegate(inodes(1)).expect("it is delegated on")).expect("a socket");
        assert!(inner.memory().is_ok() && inner.memory().is_err_and(|error| error.is_refusal("LIMIT_INODES")));

        let theirs = others(broker, &lease);
        assert_eq!(theirs.len(), 2);
        drop((directory, sandbox, inner, unnamed));
        theirs.iter().for_each(|path| wait_gone(path, DEADLINE));
        lease.revoke().expect("it is there");
    });
}

#[test]
fn by_the_async_flavour_too() {
    contained("sdk::delegated::by_the_async_flavour_too", || {
        let broker = Broker::start(Options::default());
        let client = client(&broker, CreateMode::Auto);
        let lease = worker(&client);
        let channel = lease.delegate(inodes(2)).expect("a channel is made");
        tokio::runtime::Runtime::new().expect("threads can be started").block_on(async {
            let sandbox = scratch_client::tokio::Client::delegated(channel).expect("a socket can be watched");
            let named = sandbox.file(&AreaOptions::default()).await.expect("a file is made");
            assert_eq!(named.path(), None);
            let inner = sandbox.delegate(Limits::default()).await.expect("it is delegated on");
            let inner = scratch_client::tokio::Client::delegated(inner).expect("a socket can be watched");
            let refused = inner.memory().await.expect_err("file and lease are all it has");
            assert!(refused.is_refusal("LIMIT_INODES"), "{refused}");
            named.close().await.expect("it is its own");
        });
        eventually(DEADLINE, "nothing is left of it", || others(&broker, &lease).is_empty());
    });
}

#[test]
fn a_killed_broker_is_its_end() {
    contained("sdk::delegated::a_killed_broker_is_its_end", || {
        let mut broker = Broker::start(Options::default());
        let client = client(&broker, CreateMode::Auto);
        let lease = worker(&client);
        let sandbox = sandbox(&lease, inodes(5));
        let named = sandbox.file(&AreaOptions::default()).expect("a file is made");
        drop(named.keep());
        broker.kill();
        for _ in 0..2 {
            let lost = sandbox.ping().expect_err("there is no other broker for it");
            assert!(matches!(lost, ClientError::ChannelClosed), "{lost}");
        }
        broker.restart();

        let theirs = others(&broker, &lease);
        assert_eq!(theirs.len(), 1, "it has the grace, as every lease that a connection held");
        let shown = broker.json(&["lease", "show", lease.id()]);
        assert_eq!((&shown["limits"]["inodes"], &shown["limits"]["inodes_left"]), (&20.into(), &15.into()));
        broker.kill();
        broker.restart_with_grace("1s");
        wait_gone(&theirs[0], DEADLINE);
        let id = theirs[0].file_name().and_then(|name| name.to_str()).expect("a lease's id");
        assert_eq!(broker.json(&["lease", "show", id])["reason"]["code"], "RESTART_GRACE");
        assert!(path(&lease).is_dir());
    });
}

#[test]
fn a_process_finds_it_in_its_environment() {
    contained("sdk::delegated::a_process_finds_it_in_its_environment", || {
        let broker = Broker::start(Options::default());
        let client = client(&broker, CreateMode::Auto);
        let lease = worker(&client);
        let channel = lease.delegate(Limits::default()).expect("a channel is made");
        let inherited = rustix::io::dup(&channel).expect("a descriptor is free");
        let mut command = process(&broker, Role::Delegated, None);
        command.env("SCRATCHD_CHANNEL", inherited.as_raw_fd().to_string());
        let mut other = Dialogue::start(command);
        drop((channel, inherited));
        super::process::says(&mut other);
        let theirs = others(&broker, &lease);
        assert_eq!(theirs.len(), 1);
        assert_eq!(names_in(&theirs[0]).len(), 1, "its file is under the channel's lease");
        assert!(other.end().success());
        wait_gone(&theirs[0], DEADLINE);

        // Commands give paths, which a channel has not: they go to the broker as ever.
        let mut run = broker.scratch(&["run", "--", "true"]);
        assert!(run.env("SCRATCHD_CHANNEL", "1000").status().expect("the program can be run").success());
    });
}

/// What a program needs to run, below `root`: itself, and what it is linked with.
fn copy_with_libraries(program: &Path, root: &Path) {
    let listed = Command::new("ldd").arg(program).output().expect("ldd is there where programs are linked");
    let listed = String::from_utf8(listed.stdout).expect("libraries have plain names");
    let libraries = listed.split_whitespace().filter(|word| word.starts_with('/')).map(Path::new);
    for library in libraries {
        let copy = root.join(library.strip_prefix("/").expect("it is absolute"));
        fs::create_dir_all(copy.parent().expect("it is in a directory")).expect("the root is ours");
        fs::copy(library, copy).expect("there is room for it");
    }
    fs::copy(program, root.join("program")).expect("there is room for it");
}

#[test]
fn is_enough_where_there_is_nothing_else() {
    contained("sdk::delegated::is_enough_where_there_is_nothing_else", || {
        let broker = Broker::start(Options::default());
        let client = client(&broker, CreateMode::Auto);
        let lease = client.grant(&GrantOptions::default()).expect("a lease is granted");
        let root = broker.place().join("empty");
        fs::create_dir(&root).expect("a place is writable");
        copy_with_libraries(Path::new(env!("CARGO_BIN_EXE_sealed-client")), &root);
        fs::set_permissions(&root, fs::Permissions::from_mode(0o555)).expect("it is ours");
        let channel = lease.delegate(Limits::default()).expect("a channel is made");
        // Inheritable.
        let inherited = rustix::io::dup(&channel).expect("a descriptor is free");
        let mut command = Command::new("unshare");
        command.args(["--user", "--mount", "--net", "--ipc", "--uts", "--pid", "--fork", "--kill-child"]);
        command.arg(format!("--root={}", root.display())).arg("/program").env_clear();
        command.env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin").env("SEALED_FROM", broker.handle_socket());
        command.env("SCRATCHD_CHANNEL", inherited.as_raw_fd().to_string());
        let mut sealed = Dialogue::start(command);
        drop((channel, inherited));
        assert_eq!(sealed.line(), "done");
        eventually(DEADLINE, "leases that it was done with have ended", || others(&broker, &lease).len() == 1);
        let theirs = others(&broker, &lease);
        assert!(names_in(&theirs[0]).is_empty(), "what it closed, dropped or was refused has left something");
        assert!(sealed.end().success());
        wait_gone(&theirs[0], DEADLINE);
        assert!(path(&lease).is_dir());
    });
}
