//! A program that has a delegated channel, and nothing else: `sealed-client` finds the channel by SCRATCHD_CHANNEL and uses all
//! of the SDK that can be used there, in both flavours. Says `done` when all was as it should be, and does nothing until its input
//! ends.

use std::fs::File;
use std::io::{ErrorKind, Read, Seek, SeekFrom, Write, stdin};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;

use scratch_client::temp::{self, SpooledData};
use scratch_client::{AreaOptions, Client, ClientError, GrantOptions, Limits, ScopeOptions};

fn main() {
    there_is_nothing_else();
    // It takes the channel, as the program has no other client.
    let client = temp::client().expect("the channel is open");
    nameless(&client);
    named_but_without_a_path(&client);
    leases_below(&client);
    what_needs_a_path_is_refused(&client);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("it needs no files");
    runtime.block_on(by_the_async_flavour(&client));
    // What dropped guards have to say is said by a task of its own, which has the connection as long as it is there.
    drop(runtime);
    println!("done");
    let ended = stdin().read_to_end(&mut Vec::new());
    ended.expect("its input is a pipe");
}

fn there_is_nothing_else() {
    for path in ["/proc/self", "/tmp", "/run", "/dev/null", "/home"] {
        assert!(std::fs::symlink_metadata(path).is_err(), "{path} is there");
    }
    assert!(File::create("/file").is_err(), "the root can be written to");
    let broker = std::env::var("SEALED_FROM").expect("it is told where the broker is");
    UnixStream::connect(broker).expect_err("the broker can be reached");
    TcpStream::connect("127.0.0.1:1").map_err(|error| error.kind()).expect_err("there is a network");
}

/// It is one's own, open for both, and nobody else's.
fn is_fresh(mut file: &File) {
    let length = file.seek(SeekFrom::End(0)).expect("it has a position");
    assert_eq!(length, 0);
    let mut content = String::new();
    file.write_all(b"content").and_then(|()| file.rewind()).expect("it is open for writing");
    file.read_to_string(&mut content).expect("it is open for reading");
    assert_eq!(content, "content");
}

fn nameless(client: &Client) {
    is_fresh(&client.anonymous().expect("the broker makes it"));
    is_fresh(&client.memory().expect("the broker makes it"));
    is_fresh(&temp::tempfile().expect("the broker makes it"));
    let mut stock = client.stock(10).expect("the channel has a lease");
    let files: Vec<File> = (0..12).map(|_| stock.take().expect("the broker makes them")).collect();
    files.iter().for_each(is_fresh);
    assert_eq!(stock.len(), 8, "two round trips for twelve");

    let mut spooled = temp::spooled_tempfile(4);
    spooled.write_all(b"0123").expect("it is in memory");
    assert!(!spooled.is_rolled());
    spooled.write_all(b"4").expect("the broker makes a file for it");
    let SpooledData::OnDisk(mut file) = spooled.into_inner() else { panic!("it is too large for memory") };
    let mut content = String::new();
    file.rewind().and_then(|()| file.read_to_string(&mut content)).expect("it is open for both");
    assert_eq!(content, "01234");
}

fn named_but_without_a_path(client: &Client) {
    let file = client.file(&AreaOptions::default()).expect("the broker makes it");
    is_fresh(&file.file);
    assert!(file.path().is_none() && !file.name().is_empty());
    let error = file.reopen().expect_err("it has no path");
    assert_eq!(std::io::Error::from(error).kind(), ErrorKind::Unsupported);
    file.close().expect("it is removed");
    client.directory(&AreaOptions::default()).expect("the broker makes it").close().expect("it is removed");
}

fn leases_below(client: &Client) {
    let lease = client.grant(&GrantOptions::default()).expect("it is below the channel's");
    assert_eq!(lease.path(), None);
    is_fresh(&lease.anonymous().expect("the broker makes it"));
    let file = lease.file(&AreaOptions::default()).expect("the broker makes it");
    let scope = lease.scope(&ScopeOptions::default());
    let secret = scope.secure_temp_write("secret", ".key").expect("it is written");
    let refused = scope.create_temp_file("").expect_err("it has no path to give");
    assert_eq!(std::io::Error::from(refused).kind(), ErrorKind::Unsupported);
    let failed = scope.run(|_| Err::<(), _>("no")).expect_err("it says so");
    assert_eq!(failed.left, None);
    secret.close().expect("it went with its scope");
    lease.revoke().expect("it is one's own");
    drop(file);
}

fn what_needs_a_path_is_refused(client: &Client) {
    let file = temp::NamedTempFile::new().map(drop).expect_err("it would have no path");
    let directory = temp::TempDir::new().map(drop).expect_err("it would have no path");
    for refused in [&file, &directory] {
        assert_eq!(refused.kind(), ErrorKind::Unsupported, "{refused}");
        assert!(refused.to_string().contains("a lease without a path"), "{refused}");
    }
    let elsewhere = client.file_in("/", &AreaOptions::default()).map(drop).expect_err("the broker has other rights");
    assert!(elsewhere.is_refusal("DELEGATED"), "{elsewhere}");
    let second = Client::connect(&scratch_client::ConnectOptions::default()).map(drop).expect_err("it was taken");
    assert!(matches!(second, ClientError::NoChannel { .. }), "{second}");
}

async fn by_the_async_flavour(client: &Client) {
    let inner = client.delegate(Limits::default()).expect("it is delegated on");
    let client = scratch_client::tokio::Client::delegated(inner).expect("it can be watched");
    is_fresh(&client.anonymous().await.expect("the broker makes it"));
    let mut stock = client.stock(3).await.expect("the channel has a lease");
    for _ in 0..4 {
        is_fresh(&stock.take().await.expect("the broker makes them"));
    }
    let mut spooled = client.spooled(4);
    spooled.write_all(b"01234").await.expect("the broker makes a file for it");
    assert!(spooled.is_rolled());
    let lease = client.grant(&GrantOptions::default()).await.expect("it is below the channel's");
    is_fresh(&lease.file(&AreaOptions::default()).await.expect("the broker makes it").file);
    let scope = lease.scope(&ScopeOptions::default());
    let refused = scope.create_temp_dir("").await.expect_err("it has no path to give");
    assert_eq!(std::io::Error::from(refused).kind(), ErrorKind::Unsupported);
    scope.secure_temp_write("secret", ".key").await.expect("it is written").close().await.expect("it is removed");
    scope.cleanup_all().await.expect("it is one's own");
    lease.revoke().await.expect("it is one's own");
}
