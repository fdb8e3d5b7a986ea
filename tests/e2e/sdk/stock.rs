//! A stock of files without names: one round trip for many, no more than limits allow.

use std::collections::HashSet;
use std::fs::File;
use std::io::{Read, Seek, Write};
use std::os::unix::fs::MetadataExt;

use scratch_client::{Client, ClientError, CreateMode, Limits};
use scratch_tests::{Broker, Options, contained};

use super::{aio, both_ways, client, grant};

/// A file of its own, open for both. Gives its number.
fn is_fresh(mut file: &File) -> u64 {
    let about = file.metadata().expect("an open file can be looked at");
    assert_eq!((about.nlink(), about.len(), about.mode() & 0o7777), (0, 0, 0o600));
    let mut content = Vec::new();
    file.write_all(b"content").and_then(|()| file.rewind()).expect("it is open for both");
    file.read_to_end(&mut content).expect("it is open for both");
    assert_eq!(content, b"content");
    about.ino()
}

#[test]
fn one_round_trip_is_for_many() {
    both_ways("sdk::stock::one_round_trip_is_for_many", |broker, create| {
        let client = client(broker, create);
        let lease = grant(&client);
        for (mut stock, count) in [(lease.stock(50), 50), (client.stock(1000).expect("a lease is granted"), 200)] {
            assert!(stock.is_empty(), "nothing is made before it is wanted");
            let mut files = vec![stock.take().expect("a file is made")];
            broker.freeze();
            files.extend((1..count).map(|_| stock.take().expect("it is there, or made without the broker")));
            broker.thaw();
            let numbers: HashSet<u64> = files.iter().map(is_fresh).collect();
            assert_eq!(numbers.len(), count, "{create:?}: one was handed out twice");
            assert_eq!(stock.len(), 0);
            is_fresh(&stock.take().expect("it is filled up again"));
            assert_eq!(stock.len(), if create == CreateMode::Broker { count - 1 } else { 0 });
        }
    });
}

#[test]
fn by_the_async_flavour_too() {
    both_ways("sdk::stock::by_the_async_flavour_too", |broker, create| {
        aio::runtime().block_on(async {
            let client = aio::client(broker, create).await;
            let lease = aio::grant(&client).await;
            for mut stock in [lease.stock(30), client.stock(30).await.expect("a lease is granted")] {
                let mut files = vec![stock.take().await.expect("a file is made")];
                broker.freeze();
                for _ in 1..30 {
                    files.push(stock.take().await.expect("it is there, or made without the broker"));
                }
                broker.thaw();
                assert_eq!(files.iter().map(is_fresh).collect::<HashSet<_>>().len(), 30, "{create:?}");
                assert!(stock.is_empty());
                is_fresh(&stock.take().await.expect("it is filled up again"));
            }
        });
    });
}

#[test]
fn a_limit_leaves_what_there_is_room_for() {
    contained("sdk::stock::a_limit_leaves_what_there_is_room_for", || {
        let broker = Broker::start(Options::default());
        let lease = grant(&client(&broker, CreateMode::Auto));
        let channel = lease.delegate(Limits { inodes: 25, ..Limits::default() }).expect("a channel is made");
        let sandbox = Client::delegated(channel).expect("a socket can be watched");
        let mut stock = sandbox.stock(20).expect("the channel has a lease");
        let files: Vec<File> = (0..25).map(|_| stock.take().expect("there is room for it")).collect();
        assert_eq!(files.iter().map(is_fresh).collect::<HashSet<_>>().len(), 25);
        let refused: ClientError = stock.take().expect_err("25 are all it has");
        assert!(refused.is_refusal("LIMIT_INODES"), "{refused}");
    });
}
