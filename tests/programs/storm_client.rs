//! A client that goes through restarts of its broker: it writes files with content that it knows, looks at all of them in
//! every round, and ends at the first error or the first byte that is not as it was written.
//!
//! `storm-client RUNTIME_DIRECTORY blocking|tokio|raw|single auto|broker` answers each line with `well` when it has come some
//! rounds further. It ends with its input, and has ended its leases then, but for `raw` and `single`, which leave that to
//! their end. `single` has one connection, which must last.

use std::collections::VecDeque;
use std::fs::{self, File};
use std::io::{ErrorKind, Write, stdin};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::Duration;

use scratch_client::{AreaOptions, Client, ConnectOptions, CreateMode, GrantOptions, Holder, tokio as aio};
use scratch_proto::v1::channel_request::Op;
use scratch_proto::v1::channel_response::Result as Reply;
use scratch_proto::v1::{ConnectionHolder, CreateRequest, GrantRequest, HolderSpec, Kind, ReleaseRequest, holder_spec};
use scratch_tests::Channel;

/// Rounds of one answer.
const ROUNDS: usize = 5;
/// Files that are kept at a time.
const FILES: usize = 6;
const RECONNECT_EVERY: Duration = Duration::from_millis(5);

static OVER: AtomicBool = AtomicBool::new(false);

/// Different in every process and every round; its bytes say where they belong.
fn content(round: u64) -> Vec<u8> {
    format!("{} {round} ", std::process::id()).bytes().cycle().take(6000).collect()
}

fn check<'a>(files: impl Iterator<Item = (&'a Path, u64)>) {
    for (path, round) in files {
        let found = fs::read(path).unwrap_or_else(|error| panic!("lost {}: {error}", path.display()));
        assert!(found == content(round), "not what was written: {}", path.display());
    }
}

/// Rounds until the input ends, each told.
fn rounds(told: &SyncSender<()>) -> impl Iterator<Item = u64> {
    (0..).take_while(move |_| {
        // Nobody listens when the program ends.
        let _ = told.try_send(());
        !OVER.load(Ordering::Relaxed)
    })
}

/// What holds the lease: this process or its connection, by turns.
fn holders(of_connection: bool) -> GrantOptions {
    let holders = if of_connection { vec![Holder::Connection] } else { Vec::new() };
    GrantOptions { holders, ..GrantOptions::default() }
}

fn with_blocking(options: &ConnectOptions, told: &SyncSender<()>) {
    let client = Client::connect(options).expect("a broker that restarts is waited for");
    let leases = [false, true].map(|kind| client.grant(&holders(kind)).expect("granted"));
    let mut files = VecDeque::new();
    for round in rounds(told) {
        for lease in &leases {
            let mut made = lease.file(&AreaOptions::default()).expect("a file is made");
            made.file.write_all(&content(round)).expect("a file can be written to");
            files.push_back((made, round));
        }
        check(files.iter().map(|(file, round)| (file.path().expect("it has one"), *round)));
        while files.len() > FILES {
            let (oldest, _) = files.pop_front().expect("there are some");
            oldest.close().expect("an area is released");
        }
        let directory = leases[0].directory(&AreaOptions::default()).expect("a directory is made");
        fs::write(directory.path().expect("it has one").join("inside"), "").expect("an area is writable");
        directory.close().expect("a directory is released");
        client.grant(&GrantOptions::default()).expect("granted").revoke().expect("revoked");
    }
    files.clear();
    leases.into_iter().for_each(|lease| lease.revoke().expect("revoked"));
}

async fn with_tokio(options: &ConnectOptions, told: &SyncSender<()>) {
    let client = aio::Client::connect(options).await.expect("a broker that restarts is waited for");
    let mut leases = Vec::new();
    for kind in [false, true] {
        leases.push(client.grant(&holders(kind)).await.expect("granted"));
    }
    let mut files = VecDeque::new();
    for round in rounds(told) {
        for lease in &leases {
            let mut made = lease.file(&AreaOptions::default()).await.expect("a file is made");
            made.file.write_all(&content(round)).expect("a file can be written to");
            files.push_back((made, round));
        }
        check(files.iter().map(|(file, round)| (file.path().expect("it has one"), *round)));
        while files.len() > FILES {
            let (oldest, _) = files.pop_front().expect("there are some");
            oldest.close().await.expect("an area is released");
        }
        client.grant(&GrantOptions::default()).await.expect("granted").revoke().await.expect("revoked");
    }
    for (file, _) in files {
        file.close().await.expect("an area is released");
    }
    for lease in leases {
        lease.revoke().await.expect("revoked");
    }
}

/// Asks until it is answered, on a new connection where the old one is gone.
fn insist(channel: &mut Option<Channel>, socket: &Path, op: &Op) -> (Reply, Vec<OwnedFd>) {
    loop {
        let connected = match channel.take() {
            None => Channel::try_connect(socket),
            Some(connected) => Ok(connected),
        };
        let asked = connected.and_then(|mut connected| {
            let answer = connected.try_ask_with(op.clone(), &[])?;
            *channel = Some(connected);
            Ok(answer)
        });
        match asked {
            Ok((Reply::Error(error), _)) if error.reason == "STOPPING" => {}
            Ok((Reply::Error(error), _)) => panic!("refused: {error:?}"),
            Ok(answer) => return answer,
            Err(error) if error.kind() == ErrorKind::WouldBlock => panic!("no answer: {error}"),
            Err(_) => std::thread::sleep(RECONNECT_EVERY),
        }
    }
}

/// Asks once, on the connection that there is.
fn once(channel: &mut Channel, op: Op) -> (Reply, Vec<OwnedFd>) {
    match channel.try_ask_with(op, &[]).expect("the connection outlives the broker") {
        (Reply::Error(error), _) => panic!("refused: {error:?}"),
        answer => answer,
    }
}

/// Its requests are carried out by `ask`, which may send one again, or not.
fn raw(told: &SyncSender<()>, again: bool, mut ask: impl FnMut(Op) -> (Reply, Vec<OwnedFd>)) {
    let nonce = u128::from(std::process::id()).to_le_bytes().to_vec();
    let connection = HolderSpec { kind: Some(holder_spec::Kind::Connection(ConnectionHolder {})) };
    let holders = if again { Vec::new() } else { vec![connection] };
    let grant = Op::Grant(GrantRequest { nonce, holders, ..GrantRequest::default() });
    let (Reply::Grant(lease), _) = ask(grant) else { panic!("not granted") };
    let path = PathBuf::from(String::from_utf8(lease.path).expect("a test's paths are plain"));
    let mut files: VecDeque<(PathBuf, u64)> = VecDeque::new();
    for round in rounds(told) {
        let (name, kind) = (format!("file-{round}").into_bytes(), Kind::File.into());
        let lease = lease.id.clone();
        // Either never or always as if it had been sent before: this client does not keep books.
        let create = CreateRequest {
            lease: lease.clone(),
            kind,
            name,
            want_handle: true,
            resend: again,
            ..CreateRequest::default()
        };
        let (_, handles) = ask(Op::Create(create));
        let handle = handles.into_iter().next().expect("a handle was asked for");
        File::from(handle).write_all(&content(round)).expect("a handle can be written to");
        files.push_back((path.join(format!("file-{round}")), round));
        check(files.iter().map(|(path, round)| (path.as_path(), *round)));
        while files.len() > FILES {
            let (oldest, round) = files.pop_front().expect("there are some");
            let area = format!("file-{round}").into_bytes();
            let release = Op::Release(ReleaseRequest { lease: lease.clone(), area, ..ReleaseRequest::default() });
            ask(release);
            assert!(!oldest.exists(), "released and still there");
        }
    }
}

/// Those that were made before do not count.
fn wait_for_rounds(rounds: &Receiver<()>) {
    while rounds.try_recv().is_ok() {}
    (0..ROUNDS).for_each(|_| rounds.recv().expect("a thread that ends takes the program along"));
}

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let [_, directory, flavour, create] = arguments.as_slice() else {
        panic!("usage: storm-client RUNTIME_DIRECTORY blocking|tokio|raw|single auto|broker")
    };
    let create = if create == "broker" { CreateMode::Broker } else { CreateMode::Auto };
    let directory = PathBuf::from(directory);
    let socket = directory.join("handle.sock");
    let runtime_directory = Some(directory);
    let options = ConnectOptions { runtime_directory, create: Some(create), ..ConnectOptions::default() };
    let (told, rounds) = sync_channel(ROUNDS);
    let flavour = flavour.clone();
    let work = std::thread::spawn(move || match flavour.as_str() {
        "blocking" => with_blocking(&options, &told),
        "tokio" => {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("tokio runs");
            runtime.block_on(with_tokio(&options, &told));
        }
        "single" => {
            let mut channel = Channel::connect(&socket);
            raw(&told, false, |op| once(&mut channel, op));
        }
        _ => {
            let mut channel = None;
            raw(&told, true, |op| insist(&mut channel, &socket, &op));
        }
    });
    for _ in stdin().lines() {
        wait_for_rounds(&rounds);
        println!("well");
    }
    OVER.store(true, Ordering::Relaxed);
    work.join().expect("a panic ends the program");
}
