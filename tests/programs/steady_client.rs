//! A client that does nothing wrong: it creates and releases in a loop, on both roads at once, and ends at the first error.
//!
//! `steady-client HANDLE.SOCK GRPC.SOCK` answers each line with `well` when it has come some rounds further on each road. It
//! ends with its input.

use std::io::stdin;
use std::path::Path;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use scratch_proto::v1::areas_client::AreasClient;
use scratch_proto::v1::channel_request::Op;
use scratch_proto::v1::channel_response::Result as Reply;
use scratch_proto::v1::leases_client::LeasesClient;
use scratch_proto::v1::{CreateRequest, GrantRequest, Kind, ReleaseRequest};
use scratch_tests::{Channel, connect_grpc};

/// Rounds of one answer.
const ROUNDS: usize = 20;

/// The directory is released by a rename into trash, and freed in the background.
const KINDS: [Kind; 2] = [Kind::File, Kind::Directory];

fn create(lease: &str, kind: Kind) -> CreateRequest {
    CreateRequest { lease: lease.to_owned(), kind: kind.into(), ..CreateRequest::default() }
}

fn release(lease: &str, area: Vec<u8>) -> ReleaseRequest {
    ReleaseRequest { lease: lease.to_owned(), area, ..ReleaseRequest::default() }
}

/// Says after each round that it was made; nobody listens when the program ends.
fn on_the_channel(socket: &Path, round: &SyncSender<()>) {
    let mut channel = Channel::connect(socket);
    let granted = channel.ask(Op::Grant(GrantRequest::default()));
    let Reply::Grant(lease) = granted else { panic!("not granted on the channel: {granted:?}") };
    loop {
        for kind in KINDS {
            let created = channel.ask(Op::Create(create(&lease.id, kind)));
            let Reply::Create(created) = created else { panic!("not created on the channel: {created:?}") };
            let released = channel.ask(Op::Release(release(&lease.id, created.areas[0].name.clone())));
            let Reply::Release(released) = released else { panic!("not released on the channel: {released:?}") };
            assert!(released.existed, "somebody else has released it");
        }
        let _ = round.try_send(());
    }
}

async fn over_grpc(socket: &Path, round: &SyncSender<()>) {
    let channel = connect_grpc(socket).await.expect("the broker listens on grpc.sock");
    let granted = LeasesClient::new(channel.clone()).grant(GrantRequest::default()).await;
    let lease = granted.expect("granted over gRPC").into_inner().id;
    let mut areas = AreasClient::new(channel);
    loop {
        for kind in KINDS {
            let created = areas.create(create(&lease, kind)).await.expect("created over gRPC").into_inner();
            let released = areas.release(release(&lease, created.areas[0].name.clone())).await;
            assert!(released.expect("released over gRPC").into_inner().existed, "somebody else has released it");
        }
        let _ = round.try_send(());
    }
}

/// Those that were made before do not count.
fn wait_for_rounds(rounds: &Receiver<()>) {
    while rounds.try_recv().is_ok() {}
    (0..ROUNDS).for_each(|_| rounds.recv().expect("a thread that ends takes the program along"));
}

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let [_, handle, grpc] = arguments.as_slice() else { panic!("usage: steady-client HANDLE.SOCK GRPC.SOCK") };
    let ((round, on_channel), (round_over, over)) = (sync_channel(ROUNDS), sync_channel(ROUNDS));
    let (handle, grpc) = (handle.clone(), grpc.clone());
    std::thread::spawn(move || on_the_channel(Path::new(&handle), &round));
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("tokio runs");
        runtime.block_on(over_grpc(Path::new(&grpc), &round_over));
    });
    for _ in stdin().lines() {
        wait_for_rounds(&on_channel);
        wait_for_rounds(&over);
        println!("well");
    }
}
