//! Floods: more of everything than anybody needs, sent as fast as it is taken. Others do not notice.

use scratch_proto::v1::{CreateRequest, KeepAliveRequest, Kind, ListLeasesRequest};
use scratch_tests::{Broker, DEADLINE, Options, contained, eventually, is_root, left_out};

use super::company::{Company, descriptors};
use super::http2::{
    CANCEL, CONTINUATION, CREATE, END_HEADERS, END_STREAM, HEADERS, KEEP_ALIVE, LIST, PING, RST_STREAM, Raw, SETTINGS,
    begin, call, field, frame, message, streams,
};
use crate::regressions::nothing_is_left;

/// Connections that send all this, read as fast as they can, and stay until all is sent. The broker lives, and nothing is
/// left of them.
fn flood(test: &str, connections: usize, bytes: &[u8], reads: bool) {
    contained(test, || {
        let broker = Broker::start(Options::default());
        let mut company = Company::start(&broker);
        let open = descriptors(&broker);
        let mut raws: Vec<Raw> = (0..connections).map(|_| Raw::connect(&broker)).collect();
        let readers: Vec<_> = raws.iter().filter(|_| reads).map(Raw::read_all).collect();
        let taken = std::thread::scope(|scope| {
            let senders: Vec<_> = raws.iter_mut().map(|raw| scope.spawn(|| raw.send_what_is_taken(bytes))).collect();
            company.is_well();
            senders.into_iter().map(|sender| sender.join().expect("sending does not panic")).collect::<Vec<_>>()
        });
        println!("all was taken by {} of {connections}", taken.iter().filter(|taken| **taken).count());
        company.is_well();
        for raw in raws {
            // Its reader ends with it. An error: it was cut off before.
            let _ = raw.socket.shutdown(std::net::Shutdown::Both);
        }
        for reader in readers {
            reader.join().expect("reading does not panic");
        }
        // Two of the company's, and two of who asks.
        eventually(DEADLINE, "what was hung up does not count", || connections_of(&broker) == Some(4));
        let leases = revoke_own(&broker);
        eventually(DEADLINE, "what was hung up is closed", || descriptors(&broker) <= open);
        company.leave();
        assert!(leases <= connections, "{leases} leases of {connections} connections");
        nothing_is_left(&broker);
    });
}

/// Nothing while the calls of who floods, the same tenant, are not over.
fn connections_of(broker: &Broker) -> Option<u64> {
    let status =
        broker.scratch(&["status", "--output", "json"]).output().expect("the command line's program can be run");
    let status: serde_json::Value = serde_json::from_slice(&status.stdout).ok()?;
    status["connections"].as_u64()
}

/// The leases of who floods are held by the test's process. Returns how many they were.
fn revoke_own(broker: &Broker) -> usize {
    let leases = broker.json(&["ls"]);
    let leases = leases.as_array().expect("scratch ls prints an array");
    let own: Vec<_> = leases.iter().filter(|lease| lease["tenant"]["uid"] != super::TENANT).collect();
    own.iter().for_each(|lease| super::calls::revoke(broker, lease["id"].as_str().expect("a lease has an id")));
    own.len()
}

fn unary(stream: u32, path: &str, request: &impl prost::Message) -> Vec<u8> {
    [begin(stream, path), message(stream, END_STREAM, request)].concat()
}

/// All at once 16 384 calls: without another tenant the company would share the limit on calls.
fn flood_of_calls(test: &str, path: &str, request: &impl prost::Message, reads: bool) {
    if !is_root() {
        return left_out(test, "needs root, for a tenant beside the one that floods");
    }
    let bytes: Vec<u8> = streams().take(256).flat_map(|stream| unary(stream, path, request)).collect();
    flood(test, 64, &bytes, reads);
}

#[test]
fn of_creates() {
    let request = CreateRequest { kind: Kind::File.into(), ..CreateRequest::default() };
    flood_of_calls("misbehaviour::floods::of_creates", CREATE, &request, true);
}

#[test]
fn of_lists() {
    flood_of_calls("misbehaviour::floods::of_lists", LIST, &ListLeasesRequest::default(), true);
}

#[test]
fn of_lists_that_nobody_reads() {
    let test = "misbehaviour::floods::of_lists_that_nobody_reads";
    flood_of_calls(test, LIST, &ListLeasesRequest::default(), false);
}

#[test]
fn of_renewals() {
    let request = message(1, 0, &KeepAliveRequest { lease: "a".repeat(16) });
    let bytes = [begin(1, KEEP_ALIVE), request.repeat(5000)].concat();
    flood("misbehaviour::floods::of_renewals", 16, &bytes, true);
}

#[test]
fn of_resets() {
    let reset = |stream| [unary(stream, LIST, &ListLeasesRequest::default()), frame(RST_STREAM, 0, stream, &CANCEL)];
    let bytes: Vec<u8> = streams().take(10_000).flat_map(reset).flatten().collect();
    flood("misbehaviour::floods::of_resets", 4, &bytes, true);
}

#[test]
fn of_settings_and_pings() {
    // The size of the table of header fields, again and again another one.
    let settings = |number: u16| frame(SETTINGS, 0, 0, &[&[0, 1, 0, 0][..], &number.to_be_bytes()].concat());
    let ping = |number: u16| frame(PING, 0, 0, &u64::from(number).to_be_bytes());
    let bytes: Vec<u8> = (0..10_000).flat_map(|number| [settings(number), ping(number)].concat()).collect();
    flood("misbehaviour::floods::of_settings_and_pings", 4, &bytes, true);
}

#[test]
fn of_settings_and_pings_that_nobody_reads() {
    let ping = frame(PING, 0, 0, &[0; 8]);
    let bytes = [frame(SETTINGS, 0, 0, &[]), ping].concat().repeat(50_000);
    flood("misbehaviour::floods::of_settings_and_pings_that_nobody_reads", 4, &bytes, false);
}

#[test]
fn of_header_fields() {
    let many = field("x-more", &"a".repeat(100)).repeat(150);
    let fits = [call(LIST), field("x-more", "a")].concat();
    let endless = (0..1000).flat_map(|_| frame(CONTINUATION, 0, 1, &many));
    let too_many = [frame(HEADERS, 0, 1, &fits), endless.collect(), frame(CONTINUATION, END_HEADERS, 1, &[])].concat();
    flood("misbehaviour::floods::of_header_fields", 4, &too_many, true);
}
