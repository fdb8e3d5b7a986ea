//! A broker replaced by the next in the middle of work, under a service manager that keeps descriptors: a non-event.
//! And what a start finds that another version has left.

use std::fs;
use std::process::Command;
use std::time::Duration;

use rustix::process::{Signal, kill_process};
use scratch_client::{AreaOptions, Client, ConnectOptions, CreateMode, GrantOptions, Holder, Lease, Limits};
use scratch_proto::v1::channel_request::Op;
use scratch_proto::v1::channel_response::Result as Reply;
use scratch_proto::v1::holder_spec::Kind;
use scratch_proto::v1::{ConnectionHolder, CreateRequest, GrantRequest, HolderSpec, RevokeRequest};
use scratch_tests::{
    Broker, Channel, DEADLINE, Held, Options, contained, eventually, left_out, names_in, snapshot, source_tree,
    wait_gone,
};
use serde_json::Value;

use crate::holders::ttl;
use crate::regressions::{granted, nothing_is_left};

fn service() -> Options {
    Options { service: true, ..Options::default() }
}

fn held_by_connection() -> GrantRequest {
    let connection = HolderSpec { kind: Some(Kind::Connection(ConnectionHolder {})) };
    GrantRequest { holders: vec![connection], ..GrantRequest::default() }
}

fn create(lease: &str) -> Op {
    Op::Create(CreateRequest { lease: lease.to_owned(), kind: 1, ..CreateRequest::default() })
}

fn made(channel: &mut Channel, lease: &str) {
    let reply = channel.ask(create(lease));
    assert!(matches!(reply, Reply::Create(_)), "{reply:?}");
}

fn holders(broker: &Broker, lease: &str) -> Value {
    let mut shown = broker.json(&["lease", "show", lease])["holders"].take();
    // A ttl starts anew.
    for holder in shown.as_array_mut().expect("a lease has holders") {
        holder.as_object_mut().expect("a holder is an object").remove("expire_time");
    }
    shown
}

fn descriptors(broker: &Broker) -> usize {
    names_in(format!("/proc/{}/fd", broker.pid().as_raw_nonzero()).as_ref()).len()
}

#[test]
fn ten_in_a_row_disturb_nobody() {
    contained("upgrade::ten_in_a_row_disturb_nobody", || {
        let mut broker = Broker::start(service());
        let mut channel = Channel::connect(&broker.handle_socket());
        let by_connection = granted(&mut channel, held_by_connection()).id;
        let by_process = granted(&mut channel, GrantRequest::default()).id;
        let holders_wanted = vec![ttl(Duration::from_secs(600))];
        let by_ttl = granted(&mut channel, GrantRequest { holders: holders_wanted, ..GrantRequest::default() }).id;
        let mut run = Held::start(&broker);
        let leases = [by_connection.as_str(), &by_process, &by_ttl, run.lease()].map(str::to_owned);
        let before = leases.each_ref().map(|lease| holders(&broker, lease));
        let mut open = None;
        for round in 0..10 {
            assert!(broker.terminate().success());
            assert_eq!(broker.store().count(), 3, "the listeners, and the pair with all else");
            run.write_line("without a broker");
            let new = broker.handle_socket();
            std::thread::scope(|scope| {
                // They wait in the sockets for whoever comes.
                let asked = scope.spawn(|| made(&mut channel, &by_connection));
                let came = scope.spawn(|| Channel::connect(&new).ping());
                broker.restart();
                asked.join().expect("what was asked meanwhile is answered");
                came.join().expect("who came meanwhile is served");
            });
            eventually(DEADLINE, "nothing is stored any more", || broker.store().count() == 0);
            assert_eq!(leases.each_ref().map(|lease| holders(&broker, lease)), before, "round {round}");
            made(&mut channel, "");
            // Those of command lines that have just ended may still be closing.
            let first = *open.get_or_insert_with(|| descriptors(&broker));
            eventually(DEADLINE, "no more descriptors than at first", || descriptors(&broker) <= first);
        }
        assert_eq!(names_in(&broker.pool_root().join(&by_connection)).len(), 10, "one lost, or made twice");
        let path = run.path().to_path_buf();
        assert!(run.end().success());
        wait_gone(&path, DEADLINE);
        let reply = channel.ask(Op::Revoke(RevokeRequest { lease: by_ttl, ..RevokeRequest::default() }));
        assert!(matches!(reply, Reply::Revoke(_)), "{reply:?}");
        drop(channel);
        wait_gone(&broker.pool_root().join(by_connection), DEADLINE);
    });
}

#[test]
fn delegated_channels_go_on_and_stay_confined() {
    contained("upgrade::delegated_channels_go_on_and_stay_confined", || {
        let mut broker = Broker::start(service());
        let (worker, lease) = client(&broker);
        let sandbox = Client::delegated(lease.delegate(Limits { bytes: 0, inodes: 3 }).expect("it lives"));
        let sandbox = sandbox.expect("it is a channel");
        let options = AreaOptions::default();
        let first = sandbox.file(&options).expect("there is room for it");
        assert_eq!(leases(&broker), 2);
        broker.terminate();
        broker.restart();
        let second = sandbox.file(&options).expect("the channel is the same");
        assert!(sandbox.revoke(lease.id()).expect_err("above its own").is_refusal("LEASE_UNKNOWN"));
        let ttl = Holder::Ttl(Duration::from_secs(60));
        assert!(sandbox.attach(lease.id(), &ttl).expect_err("not its to ask").is_refusal("DELEGATED"));
        drop((first, second, sandbox));
        eventually(DEADLINE, "its lease has ended with it", || leases(&broker) == 1);
        worker.ping().expect("the worker's goes on, too");
    });
}

fn leases(broker: &Broker) -> usize {
    broker.json(&["ls"]).as_array().expect("scratch ls prints an array").len()
}

#[test]
fn a_thousand_connections() {
    contained("upgrade::a_thousand_connections", || {
        let mut broker = Broker::start(service());
        let mut clients: Vec<_> = (0..1000)
            .map(|_| {
                let mut channel = Channel::connect(&broker.handle_socket());
                let lease = granted(&mut channel, held_by_connection()).id;
                (channel, lease)
            })
            .collect();
        assert!(broker.terminate().success());
        let gone = clients.split_off(500);
        let gone: Vec<_> = gone.into_iter().map(|(_, lease)| broker.pool_root().join(lease)).collect();
        broker.restart();
        for (channel, lease) in &mut clients {
            made(channel, lease);
        }
        gone.iter().for_each(|path| wait_gone(path, DEADLINE));
        drop(clients);
        nothing_is_left(&broker);
    });
}

/// A client of the SDK and a lease that its connection holds.
fn client(broker: &Broker) -> (Client, Lease) {
    let options = ConnectOptions {
        runtime_directory: Some(broker.runtime_dir()),
        create: Some(CreateMode::Broker),
        ..ConnectOptions::default()
    };
    let client = Client::connect(&options).expect("the broker listens");
    let holders = vec![Holder::Connection];
    let lease = client.grant(&GrantOptions { holders, ..GrantOptions::default() }).expect("a lease is granted");
    (client, lease)
}

#[test]
fn killed_while_it_stops_or_later() {
    contained("upgrade::killed_while_it_stops_or_later", || {
        let mut broker = Broker::start(service());
        let clients: Vec<_> = (0..20).map(|_| client(&broker)).collect();
        for round in 0..10_u64 {
            // The moment is what the test is about.
            kill_process(broker.pid(), Signal::TERM).expect("our own child can be asked to end");
            std::thread::sleep(Duration::from_millis(round * 3));
            broker.kill();
            broker.restart();
            if round % 2 == 0 {
                broker.kill();
                broker.restart();
            }
            for (client, lease) in &clients {
                client.ping().expect("the next call works");
                lease.file(&AreaOptions::default()).expect("the lease lives").close().expect("it can be removed");
            }
        }
    });
}

#[test]
fn a_format_of_another_version_is_left_alone() {
    contained("upgrade::a_format_of_another_version_is_left_alone", || {
        let mut broker = Broker::start(Options::default());
        let mut channel = Channel::connect(&broker.handle_socket());
        granted(&mut channel, GrantRequest::default());
        broker.kill();
        let marker = broker.pool_root().join(".scratch/pool");
        let text = fs::read_to_string(&marker).expect("a pool has a marker");
        fs::write(&marker, text.replace("format = 1", "format = 7")).expect("a place is writable");
        let before = snapshot(broker.pool_root());
        let options = Options { pool: Some(broker.pool_root().to_owned()), ..Options::default() };
        let refusal = Broker::try_start(options).expect_err("a later format is not to be served");
        assert_eq!(refusal.code, Some(78));
        assert!(refusal.stderr.contains('7'), "{}", refusal.stderr);
        assert_eq!(snapshot(broker.pool_root()), before);
    });
}

#[test]
fn torn_records_of_this_boot_become_debt() {
    contained("upgrade::torn_records_of_this_boot_become_debt", || {
        let mut broker = Broker::start(Options { grace: Some("1s"), ..Options::default() });
        let mut channel = Channel::connect(&broker.handle_socket());
        let leases: Vec<_> = (0..24).map(|_| granted(&mut channel, GrantRequest::default()).id).collect();
        broker.kill();
        for (number, lease) in leases.iter().enumerate() {
            let record = broker.pool_root().join(".scratch/leases").join(lease);
            let mut bytes = fs::read(&record).expect("a lease has a record");
            match number % 2 {
                0 => bytes.truncate(number * bytes.len() / 24),
                _ => {
                    let place = number * bytes.len() / 24;
                    bytes[place] ^= 1 << (number % 8);
                }
            }
            fs::write(&record, bytes).expect("a place is writable");
        }
        broker.restart();
        let debts = broker.json(&["debt"]);
        let debts = debts.as_array().expect("scratch debt prints an array");
        for lease in &leases {
            assert!(debts.iter().any(|debt| debt["lease"] == *lease), "{lease} is on no list");
            assert!(broker.pool_root().join(lease).is_dir(), "unknown is not dead");
        }
    });
}

/// CRC32C, bit by bit.
fn crc32c(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc: u32, _| (crc >> 1) ^ (0x82f6_3b78 & 0_u32.wrapping_sub(crc & 1)))
    })
}

#[test]
fn what_a_later_version_holds_with_holds() {
    contained("upgrade::what_a_later_version_holds_with_holds", || {
        let mut broker = Broker::start(Options { grace: Some("1s"), ..Options::default() });
        let mut channel = Channel::connect(&broker.handle_socket());
        let leases = [(); 2].map(|()| granted(&mut channel, held_by_connection()).id);
        broker.kill();
        let record = broker.pool_root().join(".scratch/leases").join(&leases[0]);
        let mut body = fs::read(&record).expect("a lease has a record").split_off(8);
        // One more holder (field 9): a field that nobody has yet, and its id.
        body.extend([9 << 3 | 2, 5, 0xf0, 1, 1, 15 << 3, 9]);
        let length = u32::try_from(body.len()).expect("a record is short");
        let file = [&length.to_le_bytes()[..], &crc32c(&body).to_le_bytes(), &body].concat();
        fs::write(&record, file).expect("a place is writable");
        broker.restart();
        let [unknown, known] = leases.each_ref().map(|lease| broker.pool_root().join(lease));
        wait_gone(&known, DEADLINE);
        eventually(DEADLINE, "the connection is waited for no more", || {
            holders(&broker, &leases[0]).as_array().is_some_and(|holders| holders.len() == 1)
        });
        assert!(unknown.is_dir(), "unknown is not dead");
        assert_eq!(holders(&broker, &leases[0])[0]["id"], 9);
        let mut channel = Channel::connect(&broker.handle_socket());
        let reply = channel.ask(Op::Revoke(RevokeRequest { lease: leases[0].clone(), ..RevokeRequest::default() }));
        assert!(matches!(reply, Reply::Revoke(_)), "{reply:?}");
        assert!(!unknown.exists());
    });
}

/// Not contained here, for it is in a machine of its own.
#[test]
fn under_a_real_service_manager() {
    let Some(machine) = std::env::var_os("SCRATCH_TEST_VM") else {
        return left_out(
            "upgrade::under_a_real_service_manager",
            "SCRATCH_TEST_VM names no program that runs a machine",
        );
    };
    let tree = source_tree();
    let mut command = Command::new(machine);
    command.args(["run", "--timeout", "500"]);
    let copies = [
        (scratch_tests::scratchd(), "/usr/bin/scratchd"),
        (scratch_tests::scratch(), "/usr/bin/scratch"),
        (env!("CARGO_BIN_EXE_storm-client").into(), "/usr/bin/storm-client"),
        (tree.join("deploy/systemd/scratchd.service"), "/etc/systemd/system/scratchd.service"),
        (tree.join("deploy/systemd/scratchd.socket"), "/etc/systemd/system/scratchd.socket"),
        (tree.join("tests/vm"), "/opt/scratchd"),
    ];
    for (from, to) in copies {
        command.arg("--copy").arg(format!("{}:{to}", from.display()));
    }
    let status = command.args(["--", "sh", "/opt/scratchd/upgrade.sh"]).status().expect("the program can be run");
    assert!(status.success(), "{status}");
}
