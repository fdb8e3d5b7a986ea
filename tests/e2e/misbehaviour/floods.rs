//! Floods: more of everything than anybody needs, sent as fast as it is taken. Others do not notice.

use scratch_proto::v1::{CreateRequest, GrantRequest, KeepAliveRequest, Kind, ListAreasRequest, ListLeasesRequest};
use scratch_tests::{Broker, Channel, DEADLINE, Options, contained, eventually, is_root, left_out};

use super::company::{Company, descriptors, threads};
use super::http2::{
    CANCEL, CONTINUATION, CREATE, END_HEADERS, END_STREAM, HEADERS, KEEP_ALIVE, LIST, LIST_AREAS, PING, RST_STREAM,
    Raw, SETTINGS, begin, call, field, frame, message, streams,
};
use crate::regressions::{granted, nothing_is_left};

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

/// Listings are under way still when nobody waits for them any more: the next ones wait for these.
#[test]
fn of_listings_given_up() {
    contained("misbehaviour::floods::of_listings_given_up", || {
        let broker = Broker::start(Options::default());
        let company = Company::start(&broker);
        let mut channel = Channel::connect(&broker.handle_socket());
        let lease = granted(&mut channel, GrantRequest::default()).id;
        let path = broker.pool_root().join(&lease);
        (0..20_000).for_each(|number| std::fs::write(path.join(number.to_string()), "").expect("an area is writable"));
        let list = ListAreasRequest { lease: lease.clone(), page_size: 1, ..ListAreasRequest::default() };
        let lists: Vec<u8> = streams().take(50).flat_map(|stream| unary(stream, LIST_AREAS, &list)).collect();
        let resets: Vec<u8> = streams().take(50).flat_map(|stream| frame(RST_STREAM, 0, stream, &CANCEL)).collect();
        let mut most = 0;
        for _ in 0..10 {
            // Each on a connection of its own, which may be cut off for this.
            let mut raw = Raw::connect(&broker);
            raw.send(&lists).expect("it is read");
            assert!(raw.answers_a_ping(0), "cut off for nothing");
            raw.send(&resets).expect("it is read");
            raw.answers_a_ping(1);
            most = most.max(threads(&broker));
        }
        println!("at most {most} threads");
        assert!(most < 40, "{most} threads");
        company.leave();
        super::calls::revoke(&broker, &lease);
        nothing_is_left(&broker);
    });
}
