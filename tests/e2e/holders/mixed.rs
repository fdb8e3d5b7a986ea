//! Holds, a lease's grace, and leases that everything holds at once.

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use scratch_client::{Client, ConnectOptions, GrantOptions, Holder, Pidfd};
use scratch_tests::{
    Broker, Cgroup, DEADLINE, Dialogue, Options, contained, enter, eventually, is_root, left_out, wait_gone,
};
use serde_json::Value;

use crate::cgroup::why_alone;

const TENANT: u32 = 1234;
const NOT_PERMITTED: i32 = 77;

/// What `scratch lease grant` says with these options: the id and the directory.
fn grant(broker: &Broker, options: &[&str]) -> (String, PathBuf) {
    let granted = broker.json(&[&["lease", "grant"], options].concat());
    let text = |key: &str| granted[key].as_str().expect("grant says where it is").to_owned();
    (text("id"), PathBuf::from(text("path")))
}

fn show(broker: &Broker, lease: &str) -> Value {
    broker.json(&["lease", "show", lease])
}

fn reason(broker: &Broker, lease: &str) -> (String, String) {
    let reason = show(broker, lease)["reason"].clone();
    let text = |key: &str| reason[key].as_str().expect("a reason has a code and a text").to_owned();
    let ended = ["HOLDERS_GONE", "REVOKED", "LIFETIME_MAX"].contains(&&*text("code"));
    (text("code"), if ended { why_alone(&text("text")) } else { text("text") })
}

fn kinds(broker: &Broker, lease: &str) -> Vec<String> {
    let holders = show(broker, lease)["holders"].clone();
    let holders = holders.as_array().expect("holders is an array").iter();
    holders.map(|holder| holder["kind"].as_str().expect("a holder has a kind").to_owned()).collect()
}

fn number(process: &Dialogue) -> String {
    process.process().as_raw_nonzero().to_string()
}

fn succeeds(mut command: Command) {
    let status = command.status().expect("the command line's program can be run");
    assert!(status.success(), "{command:?}: {status}");
}

#[test]
fn a_hold_lasts_until_it_is_detached() {
    let test = "holders::mixed::a_hold_lasts_until_it_is_detached";
    contained(test, || {
        if !is_root() {
            return left_out(test, "needs root: a hold is for admins");
        }
        let mut broker = Broker::start(Options::default());
        let (held, area) = grant(&broker, &["--hold"]);
        assert_eq!(kinds(&broker, &held), ["hold"]);
        let process = Dialogue::start(Command::new("cat"));
        let (tenants, beside) = grant(&broker, &["--holder-pid", &number(&process)]);
        assert_eq!(broker.json(&["lease", "attach", &tenants, "--hold"])["holder"], 2);
        assert!(process.end().success());
        eventually(DEADLINE, "the process holds it no more", || kinds(&broker, &tenants) == ["hold"]);
        broker.kill();
        broker.restart();
        assert_eq!(
            (kinds(&broker, &held), kinds(&broker, &tenants)),
            (vec!["hold".to_owned()], vec!["hold".to_owned()])
        );

        let id = show(&broker, &held)["holders"][0]["id"].to_string();
        succeeds(broker.scratch(&["lease", "detach", &held, &id]));
        wait_gone(&area, DEADLINE);
        let (code, text) = reason(&broker, &held);
        assert_eq!((&*code, &*text), ("HOLDERS_GONE", "its last holder, a hold, was detached"));
        succeeds(broker.scratch(&["lease", "revoke", &tenants]));
        wait_gone(&beside, DEADLINE);
        assert_eq!(reason(&broker, &tenants).0, "REVOKED");

        let refused = broker.scratch_as(TENANT, &["lease", "grant", "--hold"]).output().expect("it can be run");
        let said = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert_eq!(refused.status.code(), Some(NOT_PERMITTED), "{said}");
        assert!(said.contains("root and the admin group"), "{said}");
    });
}

#[test]
fn a_grace_waits_for_another_holder() {
    contained("holders::mixed::a_grace_waits_for_another_holder", || {
        let mut broker = Broker::start(Options::default());
        let process = Dialogue::start(Command::new("cat"));
        let pid = number(&process);
        let (lease, area) = grant(&broker, &["--holder-pid", &pid, "--grace", "1h"]);
        let (brief, brief_area) = grant(&broker, &["--holder-pid", &pid, "--grace", "10ms"]);
        assert!(process.end().success());
        wait_gone(&brief_area, DEADLINE);
        let (code, text) = reason(&broker, &brief);
        let expected = format!("its last holder, process {pid}, ended; nobody came back within its grace of 10ms");
        assert_eq!((&*code, text), ("HOLDERS_GONE", expected));

        let in_grace = |broker: &Broker, last: &str| {
            let shown = show(broker, &lease);
            assert_eq!(
                (&shown["state"], shown["holders"].as_array().map(Vec::len)),
                (&"live".into(), Some(0)),
                "{shown}"
            );
            let (code, text) = reason(broker, &lease);
            assert_eq!(code, "GRACE");
            assert!(text.starts_with(&format!("its last holder, process {pid}, {last}; it waits")), "{text}");
        };
        in_grace(&broker, "ended");
        broker.kill();
        broker.restart();
        in_grace(&broker, "was gone after a restart of the broker");
        assert!(area.is_dir());

        let next = Dialogue::start(Command::new("cat"));
        let attached = broker.json(&["lease", "attach", &lease, "--pid", &number(&next)]);
        assert_eq!(reason(&broker, &lease).0, "HELD");
        succeeds(broker.scratch(&["lease", "detach", &lease, &attached["holder"].to_string()]));
        wait_gone(&area, DEADLINE);
        let (_, text) = reason(&broker, &lease);
        assert_eq!(text, format!("its last holder, process {}, was detached", number(&next)), "an explicit end waits");
        assert!(next.end().success());
    });
}

#[test]
fn a_lost_connection_is_waited_for_as_long_as_the_leases_own_grace() {
    contained("holders::mixed::a_lost_connection_is_waited_for_as_long_as_the_leases_own_grace", || {
        let mut broker = Broker::start(Options { grace: Some("10ms"), ..Options::default() });
        let options = ConnectOptions { runtime_directory: Some(broker.runtime_dir()), ..ConnectOptions::default() };
        let client = Client::connect(&options).expect("the broker listens");
        let [patient, other] = [Some(Duration::from_secs(3600)), None].map(|grace| {
            let options = GrantOptions { holders: vec![Holder::Connection], grace, ..GrantOptions::default() };
            client.grant(&options).expect("a connection may hold it").into_id()
        });
        let area = |lease: &str| broker.pool_root().join(lease);
        let (patient_area, other_area) = (area(&patient), area(&other));
        broker.kill();
        broker.restart();
        wait_gone(&other_area, DEADLINE);
        assert_eq!(reason(&broker, &other).0, "RESTART_GRACE");
        assert!(patient_area.is_dir(), "ended before its own grace");
        assert_eq!(kinds(&broker, &patient), ["connection"]);
        // Only a grace of nothing knows none.
        broker.kill();
        broker.restart_with_grace("0s");
        wait_gone(&patient_area, DEADLINE);
        drop(client);
    });
}

/// Everything that may hold a lease holds one, and goes, one after the other.
#[test]
fn a_lease_that_everything_holds_ends_with_the_last() {
    let test = "holders::mixed::a_lease_that_everything_holds_ends_with_the_last";
    contained(test, || {
        let Some(cgroups) = Cgroup::new(test) else { return };
        let broker = Broker::start(Options::default());
        let process = Dialogue::start(Command::new("cat"));
        let other = Dialogue::start(Command::new("cat"));
        let cgroup = cgroups.child("a");
        enter(&cgroup, other.process());
        let options = ConnectOptions { runtime_directory: Some(broker.runtime_dir()), ..ConnectOptions::default() };
        let client = Client::connect(&options).expect("the broker listens");
        let pidfd = Pidfd::open(process.process().as_raw_nonzero().get().unsigned_abs()).expect("it is running");
        let ttl = Holder::Ttl(Duration::from_secs(3600));
        let holders = vec![Holder::Connection, Holder::Process, Holder::Other(pidfd), ttl, Holder::Hold];
        let lease = client.grant(&GrantOptions { holders, ..GrantOptions::default() }).expect("all may hold it");
        let (near, far) = std::os::unix::net::UnixStream::pair().expect("the kernel has sockets");
        lease.attach_descriptor(far.into()).expect("a socket may hold it");
        lease
            .attach_cgroup(std::os::fd::AsFd::as_fd(&std::fs::File::open(&cgroup).expect("it is there")))
            .expect("a cgroup may hold it");
        let area = lease.path().expect("a directory pool's leases have paths").to_path_buf();
        let id = lease.into_id();
        let all = ["connection", "process", "process", "ttl", "hold", "descriptor", "cgroup"];
        assert_eq!(kinds(&broker, &id), all);

        let left = |kinds_left: &[&str]| {
            eventually(DEADLINE, "the next one has gone", || kinds(&broker, &id) == kinds_left);
            assert!(area.is_dir(), "ended with holders left");
        };
        assert!(process.end().success());
        left(&["connection", "process", "ttl", "hold", "descriptor", "cgroup"]);
        drop(near);
        left(&["connection", "process", "ttl", "hold", "cgroup"]);
        for holder in ["2", "4", "5"] {
            succeeds(broker.scratch(&["lease", "detach", &id, holder]));
        }
        left(&["connection", "cgroup"]);
        drop(client);
        left(&["cgroup"]);
        assert!(other.end().success());
        wait_gone(&area, DEADLINE);
        assert_eq!(reason(&broker, &id).1, "its last holder, a cgroup, has no process left");
    });
}
