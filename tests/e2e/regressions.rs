//! What went wrong once, and must not again: starting, stopping, odd requests, other tenants' directories.
//! See holders.rs for what ends and what lives, floods.rs for what a client may not do to others.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use scratch_proto::v1::channel_request::Op;
use scratch_proto::v1::channel_response::Result as Reply;
use scratch_proto::v1::{GrantRequest, GrantResponse, PingRequest, ReleaseRequest, RevokeRequest, Wait};
use scratch_tests::{
    Broker, Channel, DEADLINE, Dialogue, Held, Options, as_user, contained, descriptors_file, eventually, exit_of,
    is_root, left_out, names_in, python, scratch, scratchd, shell, source_tree, wait_gone,
};
use serde_json::Value;

use crate::holders;

const UNAVAILABLE: i32 = 69;
const TENANT: u32 = 1234;

/// A case of regressions.py against this broker; nothing where there is no Python for it, and the test is left out.
pub(crate) fn python_case(test: &str, broker: &Broker, case: &str) -> Option<Command> {
    python_case_at(test, &broker.runtime_dir(), broker.place(), case)
}

/// As `python_case`, against the broker of that runtime directory.
pub(crate) fn python_case_at(test: &str, runtime_dir: &Path, place: &Path, case: &str) -> Option<Command> {
    let mut command = Command::new(python(test)?);
    command.arg(source_tree().join("tests/python/regressions.py")).arg(case);
    command.env("SCRATCHD_RUNTIME_DIR", runtime_dir).env("SCRATCH_DESCRIPTORS", descriptors_file(place));
    Some(command)
}

/// Reads on, showing what a case has checked, until it has nothing more to check and waits to be ended.
pub(crate) fn said_done(case: &mut Dialogue) {
    loop {
        match case.line().as_str() {
            "done" => return,
            line => println!("{line}"),
        }
    }
}

/// A lease that is granted for sure.
pub(crate) fn granted(channel: &mut Channel, request: GrantRequest) -> GrantResponse {
    match channel.ask(Op::Grant(request)) {
        Reply::Grant(granted) => granted,
        other => panic!("not granted: {other:?}"),
    }
}

pub(crate) fn trash(broker: &Broker) -> PathBuf {
    broker.pool_root().join(".scratch/trash")
}

pub(crate) fn nothing_is_left(broker: &Broker) {
    eventually(DEADLINE, "the pool is empty", || names_in(broker.pool_root()) == [".scratch"]);
    eventually(DEADLINE, "the trash is empty", || names_in(&trash(broker)).is_empty());
    assert_eq!(broker.json(&["debt"]), Value::Array(Vec::new()));
}

pub(crate) fn reason(reply: Reply) -> String {
    match reply {
        Reply::Error(error) => error.reason,
        other => panic!("not refused: {other:?}"),
    }
}

#[test]
fn a_second_broker_does_not_take_the_sockets_of_the_first() {
    contained("regressions::a_second_broker_does_not_take_the_sockets_of_the_first", || {
        let first = Broker::start(Options::default());
        let mut channel = Channel::connect(&first.handle_socket());
        let pool = first.place().join("another-pool");
        fs::create_dir(&pool).expect("a place is writable");
        let mut second = Command::new(scratchd());
        second.arg("--pool").arg(&pool).arg("--runtime-dir").arg(first.runtime_dir());
        let mut second = second.stdin(Stdio::null()).stdout(Stdio::null()).spawn().expect("the broker's program runs");
        let status = exit_of(&mut second, DEADLINE).expect("a second broker in one runtime directory ends");
        assert_eq!(status.code(), Some(UNAVAILABLE), "{status}");

        channel.ping();
        Channel::connect(&first.handle_socket()).ping();
        assert_eq!(first.json(&["status"])["leases"], 0);
    });
}

#[test]
fn a_stop_answers_what_was_read_and_refuses_nothing() {
    contained("regressions::a_stop_answers_what_was_read_and_refuses_nothing", || {
        let mut broker = Broker::start(Options::default());
        let mut channel = Channel::connect(&broker.handle_socket());
        let lease = granted(&mut channel, GrantRequest::default());
        let path = broker.pool_root().join(&lease.id);
        (0..5000).for_each(|number| fs::write(path.join(number.to_string()), "").expect("an area is writable"));
        let clients: Vec<_> = (0..24).map(|_| Channel::connect(&broker.handle_socket())).collect();
        std::thread::scope(|scope| {
            for mut client in clients {
                scope.spawn(move || {
                    while let Ok(reply) = client.try_ask(Op::Ping(PingRequest {})) {
                        assert!(matches!(reply, Reply::Ping(_)), "{reply:?}");
                    }
                });
            }
            let revoke = RevokeRequest { lease: lease.id, wait: Wait::Freed.into() };
            let freed = scope.spawn(move || channel.ask(Op::Revoke(revoke)));
            // Its name goes before its reply: the request has been read now.
            wait_gone(&path, DEADLINE);
            assert!(broker.terminate().success());
            let freed = freed.join().expect("what was read is answered");
            assert!(matches!(freed, Reply::Revoke(_)), "{freed:?}");
        });
    });
}

#[test]
fn durations_below_zero_are_refused() {
    contained("regressions::durations_below_zero_are_refused", || {
        let broker = Broker::start(Options::default());
        let mut channel = Channel::connect(&broker.handle_socket());
        for (seconds, nanos) in [(-1, 0), (0, -1), (i64::MIN, 0), (i64::MIN, i32::MIN), (1, -1)] {
            let mut request = GrantRequest::default();
            let lifetime_max = request.lifetime_max.get_or_insert_default();
            (lifetime_max.seconds, lifetime_max.nanos) = (seconds, nanos);
            assert_eq!(reason(channel.ask(Op::Grant(request))), "REQUEST_INVALID", "{seconds} s {nanos} ns");
            let mut ttl = holders::ttl(Duration::ZERO);
            holders::set_ttl(&mut ttl, seconds, nanos);
            let request = GrantRequest { holders: vec![ttl], ..GrantRequest::default() };
            reason(channel.ask(Op::Grant(request)));
        }
        channel.ping();
        assert_eq!(names_in(broker.pool_root()), [".scratch"]);
    });
}

#[test]
fn a_refusal_of_the_longest_names_fits_into_a_packet() {
    contained("regressions::a_refusal_of_the_longest_names_fits_into_a_packet", || {
        let broker = Broker::start(Options::default());
        let mut channel = Channel::connect(&broker.handle_socket());
        // Escaped in a message, each of these is several bytes long.
        for one in ["\u{1}", "x", "\u{fffd}"] {
            let pool = one.repeat(60_000 / one.len());
            let request = GrantRequest { pool: pool.clone(), ..GrantRequest::default() };
            assert_eq!(reason(channel.ask(Op::Grant(request))), "POOL_UNKNOWN");
            let request = RevokeRequest { lease: pool, ..RevokeRequest::default() };
            assert_eq!(reason(channel.ask(Op::Revoke(request))), "LEASE_UNKNOWN");
        }
        channel.ping();
    });
}

#[test]
fn a_tenants_directory_without_record_goes_after_a_boot() {
    contained("regressions::a_tenants_directory_without_record_goes_after_a_boot", || {
        if !is_root() {
            return left_out("regressions::a_tenants_directory_without_record_goes_after_a_boot", "needs root");
        }
        let mut broker = Broker::start(Options::default());
        let held = Held::start_as(&broker, Some(TENANT));
        assert!(shell(Some(TENANT), "echo >f").current_dir(held.path()).status().is_ok_and(|status| status.success()));
        let lease = held.lease().to_owned();
        broker.kill();
        held.kill();

        let own = broker.pool_root().join(".scratch");
        fs::remove_file(own.join("leases").join(&lease)).expect("a lease has a record");
        let boot = fs::read_to_string(own.join("boot")).expect("the pool knows the boot");
        let (_, rest) = boot.split_once('\n').expect("the boot's id is a line");
        let other = format!("00000000-0000-0000-0000-000000000000\n{rest}");
        fs::write(own.join("boot"), other).expect("a place is writable");
        broker.restart();
        nothing_is_left(&broker);
    });
}

#[test]
fn root_releases_a_tenants_directory() {
    contained("regressions::root_releases_a_tenants_directory", || {
        if !is_root() {
            return left_out("regressions::root_releases_a_tenants_directory", "needs root");
        }
        let broker = Broker::start(Options::default());
        let held = Held::start_as(&broker, Some(TENANT));
        let make = "mkdir -p d/e && chmod 0 d/e";
        assert!(shell(Some(TENANT), make).current_dir(held.path()).status().is_ok_and(|status| status.success()));
        let mut channel = Channel::connect(&broker.handle_socket());
        let request = ReleaseRequest { lease: held.lease().to_owned(), area: b"d".to_vec(), wait: Wait::Freed.into() };
        let Reply::Release(released) = channel.ask(Op::Release(request)) else { panic!("root may release it") };
        assert!(released.existed && released.freed, "{released:?}");
        assert!(held.end().success());
        nothing_is_left(&broker);
    });
}

/// A group of this system that is neither root's nor the tenant's.
pub(crate) fn some_group() -> Option<(String, u32)> {
    let groups = fs::read_to_string("/etc/group").ok()?;
    groups.lines().find_map(|line| {
        let mut fields = line.split(':');
        let (name, number) = (fields.next()?, fields.nth(1)?.parse().ok()?);
        (number != 0 && number != TENANT).then(|| (name.to_owned(), number))
    })
}

#[test]
fn a_supplementary_group_makes_an_admin() {
    let test = "regressions::a_supplementary_group_makes_an_admin";
    contained(test, || {
        let group = some_group().filter(|_| is_root());
        let Some((name, number)) = group else { return left_out(test, "needs root, and a group besides root's") };
        let pool = "[[pool]]\nname = \"default\"\nroot = \"@PLACE@/pool\"\n";
        let config = format!("{pool}\n[admin]\ngroup = \"{name}\"\n");
        let broker = Broker::start(Options { config: Some(config), ..Options::default() });
        let held = Held::start(&broker);
        // The copy of the program that every user may run.
        let program = as_user(TENANT, &scratch());
        let program = Path::new(program.get_args().last().expect("as_user runs a program"));
        let sees_it = |groups: &str| {
            let mut command = Command::new("setpriv");
            command.args([&format!("--reuid={TENANT}"), &format!("--regid={TENANT}"), groups, "--"]).arg(program);
            command.args(["ls", "--output", "json"]).env("SCRATCHD_RUNTIME_DIR", broker.runtime_dir());
            let output = command.stderr(Stdio::inherit()).output().expect("setpriv is there");
            assert!(output.status.success(), "scratch ls: {}", output.status);
            let leases: Value = serde_json::from_slice(&output.stdout).expect("--output json prints JSON");
            leases.as_array().expect("scratch ls prints an array").iter().any(|lease| lease["id"] == held.lease())
        };
        assert!(!sees_it("--clear-groups"), "another tenant's lease is shown to anybody");
        assert!(sees_it(&format!("--groups={number}")), "a member of the admin group sees its own leases only");
    });
}
