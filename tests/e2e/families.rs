//! Leases below leases: an end takes all below along, across a restart too, and what can't go holds up nobody else.

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use scratch_proto::v1::channel_request::Op;
use scratch_proto::v1::channel_response::Result as Reply;
use scratch_proto::v1::holder_spec::Kind;
use scratch_proto::v1::{GrantRequest, HolderSpec, Limits, TtlHolder};
use scratch_tests::{
    Broker, Channel, DEADLINE, Held, Options, contained, eventually, is_root, left_out, names_in, wait_gone,
};

const DEEP: usize = 8;

/// A lease below another that nothing of its own would end for a day.
fn below(channel: &mut Channel, parent: &str, limits: Option<Limits>) -> String {
    let ttl = Duration::from_secs(24 * 60 * 60).try_into().ok();
    let holder = HolderSpec { kind: Some(Kind::Ttl(TtlHolder { ttl })) };
    let request = GrantRequest { parent: parent.to_owned(), holders: vec![holder], ..GrantRequest::default() };
    match channel.ask(Op::Grant(GrantRequest { soft: limits.is_some(), limits, ..request })) {
        Reply::Grant(granted) => granted.id,
        refused => panic!("not granted: {refused:?}"),
    }
}

/// A family below a lease: one line of it, each below the last.
fn line_below(channel: &mut Channel, top: &str) -> Vec<String> {
    let mut line = vec![top.to_owned()];
    for _ in 0..DEEP {
        line.push(below(channel, &line[line.len() - 1], None));
    }
    line.split_off(1)
}

fn path(broker: &Broker, lease: &str) -> PathBuf {
    broker.pool_root().join(lease)
}

fn code(broker: &Broker, lease: &str) -> String {
    broker.json(&["lease", "show", lease])["reason"]["code"].as_str().unwrap_or_default().to_owned()
}

fn ended_with_their_parents(broker: &Broker, line: &[String]) {
    line.iter().for_each(|lease| wait_gone(&path(broker, lease), DEADLINE));
    for lease in line {
        assert_eq!(code(broker, lease), "PARENT_ENDED", "{lease}");
    }
    eventually(DEADLINE, "nothing is left", || names_in(broker.pool_root()) == [".scratch"]);
}

#[test]
fn eight_deep_go_with_the_first() {
    contained("families::eight_deep_go_with_the_first", || {
        let broker = Broker::start(Options::default());
        let held = Held::start(&broker);
        let line = line_below(&mut Channel::connect(&broker.handle_socket()), held.lease());
        assert!(line.iter().all(|lease| path(&broker, lease).is_dir()));
        held.kill();
        ended_with_their_parents(&broker, &line);
    });
}

#[test]
fn an_adopted_family_goes_with_the_first() {
    contained("families::an_adopted_family_goes_with_the_first", || {
        let mut broker = Broker::start(Options::default());
        let held = Held::start(&broker);
        let line = line_below(&mut Channel::connect(&broker.handle_socket()), held.lease());
        broker.kill();
        broker.restart();
        Channel::connect(&broker.handle_socket()).ping();
        assert!(line.iter().all(|lease| path(&broker, lease).is_dir()), "all of them are held");
        held.kill();
        ended_with_their_parents(&broker, &line);
    });
}

#[test]
fn a_family_whose_first_dies_without_a_broker_goes_with_the_next() {
    contained("families::a_family_whose_first_dies_without_a_broker_goes_with_the_next", || {
        let mut broker = Broker::start(Options::default());
        let held = Held::start(&broker);
        let line = line_below(&mut Channel::connect(&broker.handle_socket()), held.lease());
        broker.kill();
        held.kill();
        broker.restart();
        ended_with_their_parents(&broker, &line);
    });
}

#[test]
fn one_that_can_not_be_moved_holds_up_nobody() {
    let test = "families::one_that_can_not_be_moved_holds_up_nobody";
    contained(test, || {
        if !is_root() {
            return left_out(test, "needs root, to mount");
        }
        let broker = Broker::start(Options::default());
        let held = Held::start(&broker);
        let mut channel = Channel::connect(&broker.handle_socket());
        let top = below(&mut channel, held.lease(), Some(Limits { bytes: 100, inodes: 0 }));
        let middle = below(&mut channel, &top, None);
        let stuck = below(&mut channel, &middle, Some(Limits { bytes: 60, inodes: 0 }));
        let deeper = below(&mut channel, &stuck, None);
        let mounted = path(&broker, &stuck);
        let mount = |command: &mut Command| command.status().expect("mount(8) is there").success();
        assert!(mount(Command::new("mount").args(["-n", "-t", "tmpfs", "tmpfs"]).arg(&mounted)));

        let left = |lease: &str| broker.json(&["lease", "show", lease])["limits"]["bytes_left"].clone();
        assert_eq!((left(&top), left(&middle), left(&deeper)), (40.into(), 40.into(), 60.into()));
        assert!(broker.scratch(&["lease", "revoke", &middle]).status().expect("the program can be run").success());
        [&middle, &deeper].into_iter().for_each(|lease| wait_gone(&path(&broker, lease), DEADLINE));
        let debt = broker.json(&["debt"]);
        assert_eq!((&debt[0]["lease"], &debt[0]["errno"]), (&stuck.clone().into(), &"EBUSY".into()));
        assert_eq!(left(&top), 40, "what is not gone is not given back");

        assert!(mount(Command::new("umount").arg("-n").arg(&mounted)));
        wait_gone(&mounted, DEADLINE);
        eventually(DEADLINE, "its bytes are given back", || left(&top) == 100);
        held.kill();
        eventually(DEADLINE, "nothing is left", || names_in(broker.pool_root()) == [".scratch"]);
    });
}
