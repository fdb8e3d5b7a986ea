//! A broker killed under load and started again: what lives is adopted, what died goes, "0s" ends everything.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::Write;
use std::process::Command;
use std::sync::mpsc::channel;
use std::thread::JoinHandle;

use scratch_proto::v1::channel_request::Op;
use scratch_proto::v1::channel_response::Result as Reply;
use scratch_proto::v1::holder_spec::Kind as Holder;
use scratch_proto::v1::{AttachRequest, ConnectionHolder, CreateRequest, GrantRequest, HolderSpec, Kind};
use scratch_tests::{
    Broker, Channel, DEADLINE, Held, Options, Place, contained, eventually, is_root, left_out, names_in, wait_gone,
};

/// Clients that create and grant without a pause, until their broker is gone. Returns once each has been served.
fn load(broker: &Broker) -> Vec<JoinHandle<()>> {
    let (served, wait) = channel();
    let client = |number: u8| {
        let (served, mut channel) = (served.clone(), Channel::connect(&broker.handle_socket()));
        std::thread::spawn(move || {
            for count in 0_u64.. {
                let nonce = [[number; 8], count.to_le_bytes()].concat();
                let op = match count % 64 {
                    0 => Op::Grant(GrantRequest { nonce, ..GrantRequest::default() }),
                    1..16 => Op::Create(create(Kind::Directory)),
                    _ => Op::Create(create(Kind::File)),
                };
                match channel.try_ask(op) {
                    Err(_) => return,
                    Ok(Reply::Error(error)) => panic!("refused under load: {error:?}"),
                    Ok(_) if count == 20 => served.send(()).expect("the test waits for this"),
                    Ok(_) => {}
                }
            }
        })
    };
    let clients = (0..4).map(client).collect();
    (0..4).for_each(|_| wait.recv_timeout(DEADLINE).expect("the broker serves every client"));
    clients
}

fn create(kind: Kind) -> CreateRequest {
    CreateRequest { kind: kind.into(), ..CreateRequest::default() }
}

fn killed_under_load(broker: &mut Broker) {
    let clients = load(broker);
    broker.kill();
    clients.into_iter().for_each(|client| client.join().expect("the load was served until the end"));
}

/// What stands in the pool beside the broker's own.
fn areas(broker: &Broker) -> Vec<OsString> {
    names_in(broker.pool_root()).into_iter().filter(|name| name != ".scratch").collect()
}

#[test]
fn grace_of_zero_ends_everything() {
    contained("restart::grace_of_zero_ends_everything", || {
        let mut broker = Broker::start(Options { grace: Some("0s"), ..Options::default() });
        let held: Vec<Held> = (0..5).map(|_| Held::start(&broker)).collect();
        killed_under_load(&mut broker);
        assert!(held.iter().all(|held| held.path().is_dir()), "a killed broker takes nothing along");
        broker.restart();

        let mut channel = Channel::connect(&broker.handle_socket());
        channel.ping();
        channel.ping();
        assert_eq!(areas(&broker), [""; 0], "still visible after the second answer");
        let trash = broker.pool_root().join(".scratch/trash");
        eventually(DEADLINE, "what was ended is freed", || names_in(&trash).is_empty());
        Held::start(&broker).write_line("a new lease works");
    });
}

#[test]
fn the_living_are_adopted() {
    contained("restart::the_living_are_adopted", || {
        let mut broker = Broker::start(Options::default());
        let mut held: Vec<Held> = (0..10).map(|_| Held::start(&broker)).collect();
        held.iter_mut().for_each(|held| held.write_line("before"));
        killed_under_load(&mut broker);
        held.iter_mut().for_each(|held| held.write_line("without a broker"));
        broker.restart();

        let mut channel = Channel::connect(&broker.handle_socket());
        channel.ping();
        channel.ping();
        held.iter_mut().for_each(|held| held.write_line("after"));
        let leases = broker.json(&["ls"]);
        let leases = leases.as_array().expect("scratch ls prints an array");
        for held in &held {
            assert_eq!(held.log(), "before\nwithout a broker\nafter\n");
            let lease = leases.iter().find(|lease| lease["id"] == held.lease()).expect("an adopted lease is listed");
            assert_eq!(lease["state"], "live");
        }

        // Adopted means held by the same processes as before: they end, and it ends.
        let killed = held.split_off(5);
        let paths = |held: &[Held]| held.iter().map(|held| held.path().to_path_buf()).collect::<Vec<_>>();
        let gone = [paths(&held), paths(&killed)].concat();
        killed.into_iter().for_each(Held::kill);
        for held in held {
            assert!(held.end().success());
        }
        gone.iter().for_each(|path| wait_gone(path, DEADLINE));
    });
}

#[test]
fn who_dies_without_a_broker_is_gone_with_the_next() {
    contained("restart::who_dies_without_a_broker_is_gone_with_the_next", || {
        let mut broker = Broker::start(Options { grace: Some("1s"), ..Options::default() });
        let mut survivor = Held::start(&broker);
        let dead: Vec<Held> = (0..5).map(|_| Held::start(&broker)).collect();
        let paths: Vec<_> = dead.iter().map(|held| held.path().to_path_buf()).collect();
        broker.kill();
        dead.into_iter().for_each(Held::kill);
        broker.restart();
        paths.iter().for_each(|path| wait_gone(path, DEADLINE));
        survivor.write_line("still here");
        assert_eq!(survivor.log(), "still here\n");
    });
}

#[test]
fn what_a_crash_left_half_made_is_freed() {
    contained("restart::what_a_crash_left_half_made_is_freed", || {
        let mut broker = Broker::start(Options::default());
        broker.kill();
        // As in the middle of a grant: a directory that has no name yet, and a record that has none.
        let [new, trash] = [".scratch/new", ".scratch/trash"].map(|place| broker.pool_root().join(place));
        fs::create_dir_all(new.join("abcdefghijklmnop/inside")).expect("a place is writable");
        fs::write(new.join("abcdefghijklmnop.record"), "half").expect("a place is writable");
        broker.restart();
        assert_eq!(names_in(&new), [""; 0]);
        eventually(DEADLINE, "it is freed, not only put away", || names_in(&trash).is_empty());
    });
}

#[test]
fn an_orderly_stop_takes_nothing() {
    contained("restart::an_orderly_stop_takes_nothing", || {
        let mut broker = Broker::start(Options::default());
        let mut held = Held::start(&broker);
        assert!(broker.terminate().success());
        held.write_line("without a broker");
        broker.restart_with_grace("5s");
        let path = held.path().to_path_buf();
        assert_eq!(held.log(), "without a broker\n");
        assert!(held.end().success());
        wait_gone(&path, DEADLINE);
    });
}

/// A broker on a file system that a test can fill.
fn on_a_small_disk() -> Broker {
    let place = Place::new();
    let pool = place.path().join("small");
    fs::create_dir(&pool).expect("a place is writable");
    let mut mount = Command::new("mount");
    mount.args(["-n", "-t", "tmpfs", "-o", "size=1m,mode=711", "small"]).arg(&pool);
    assert!(mount.status().is_ok_and(|status| status.success()), "a containment has mounts of its own");
    Broker::start(Options { place: Some(place), pool: Some(pool), ..Options::default() })
}

#[test]
fn a_holder_comes_back_to_a_full_disk() {
    let test = "restart::a_holder_comes_back_to_a_full_disk";
    contained(test, || {
        if !is_root() {
            return left_out(test, "mounting needs root");
        }
        let mut broker = on_a_small_disk();
        let holder = HolderSpec { kind: Some(Holder::Connection(ConnectionHolder {})) };
        let request = GrantRequest { holders: vec![holder], ..GrantRequest::default() };
        let mut channel = Channel::connect(&broker.handle_socket());
        let Reply::Grant(lease) = channel.ask(Op::Grant(request)) else { panic!("not granted") };
        let path = broker.pool_root().join(&lease.id);
        fs::write(path.join("precious"), "content").expect("an area is writable");
        assert!(broker.terminate().success());
        broker.restart();
        let mut fill = File::create(path.join("fill")).expect("an area is writable");
        while fill.write(&[0; 4096]).is_ok() {}

        let mut channel = Channel::connect(&broker.handle_socket());
        let attach = AttachRequest { lease: lease.id, holder: Some(holder) };
        let reply = channel.ask(Op::Attach(attach));
        assert!(matches!(reply, Reply::Attach(_)), "{reply:?}");
        channel.ping();
        channel.ping();
        assert_eq!(fs::read_to_string(path.join("precious")).expect("what lives is never taken away"), "content");
        // It is this connection that holds it.
        drop(channel);
        wait_gone(&path, DEADLINE);
    });
}
