//! What a client may do without harm to others: leave replies unread, pass descriptors that linger, send and send.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use rustix::thread::{CpuSet, sched_getaffinity, sched_getcpu, sched_setaffinity};
use scratch_proto::v1::GrantRequest;
use scratch_tests::{Broker, Channel, DEADLINE, Dialogue, Filesystem, Options, Place, contained, eventually, names_in};

use crate::holders;
use crate::regressions::{granted, nothing_is_left, python_case, said_done, trash};

/// A case of regressions.py that says by itself whether all is well.
fn all_is_well(test: &str, case: &str) {
    let broker = Broker::start(Options::default());
    let Some(mut case) = python_case(test, &broker, case) else { return };
    assert!(case.status().expect("python was there a moment ago").success());
    nothing_is_left(&broker);
}

/// Takes 10 s: so long may replies be left unread.
#[test]
fn what_an_unread_reply_promised_is_taken_back() {
    let test = "floods::what_an_unread_reply_promised_is_taken_back";
    contained(test, || {
        let broker = Broker::start(Options::default());
        let Some(command) = python_case(test, &broker, "an_unread_reply") else { return };
        let mut case = Dialogue::start(command);
        said_done(&mut case);
        eventually(DEADLINE, "what was taken back is freed", || names_in(&trash(&broker)).is_empty());
        eventually(DEADLINE, "and known to be", || broker.json(&["status"])["trash"] == 0);
        assert!(case.end().success());
        nothing_is_left(&broker);
    });
}

#[test]
fn descriptors_that_linger_stall_nobody() {
    let test = "floods::descriptors_that_linger_stall_nobody";
    contained(test, || all_is_well(test, "descriptors_that_linger"));
}

#[test]
fn idle_connections_use_up_no_budget() {
    let test = "floods::idle_connections_use_up_no_budget";
    contained(test, || all_is_well(test, "idle_connections"));
}

/// A file system on which every change waits. Goes on when dropped: a process that waits for it can't even be killed.
pub(crate) struct Frozen {
    path: PathBuf,
}

impl Frozen {
    pub(crate) fn new(path: &Path) -> Frozen {
        let frozen = Frozen { path: path.to_path_buf() };
        assert!(frozen.say("--freeze"), "a file system of our own can be frozen");
        frozen
    }

    fn say(&self, what: &str) -> bool {
        let path = "/usr/sbin:/sbin:/usr/bin:/bin";
        Command::new("fsfreeze").arg(what).arg(&self.path).env("PATH", path).status().is_ok_and(|s| s.success())
    }
}

impl Drop for Frozen {
    fn drop(&mut self) {
        // It was never frozen, or it goes on: there is nothing else to be done about it here.
        self.say("--unfreeze");
    }
}

#[test]
fn what_waits_is_not_read_into_memory() {
    let test = "floods::what_waits_is_not_read_into_memory";
    contained(test, || {
        let Some(place) = Place::on(test, Filesystem::Ext4) else { return };
        let broker = Broker::start(Options { place: Some(place), ..Options::default() });
        let Some(command) = python_case(test, &broker, "attaches_in_flight") else { return };
        let mut case = Dialogue::start(command);
        let lease = case.line();
        assert!(broker.pool_root().join(&lease).is_dir());
        // The first attach writes the lease's record, and waits; what follows waits for it.
        let frozen = Frozen::new(broker.place());
        case.say("the file system is frozen");
        assert_eq!(case.line(), "sent");
        drop(frozen);
        case.say("the file system goes on");
        assert!(case.wait().success());
        nothing_is_left(&broker);
    });
}

#[test]
fn persists_at_once_are_few() {
    let test = "floods::persists_at_once_are_few";
    contained(test, || {
        let Some(place) = Place::on(test, Filesystem::Ext4) else { return };
        let broker = Broker::start(Options { place: Some(place), ..Options::default() });
        let Some(command) = python_case(test, &broker, "persists_in_flight") else { return };
        let mut case = Dialogue::start(command);
        assert_eq!(case.line(), "made");
        let frozen = Frozen::new(broker.place());
        case.say("the file system is frozen");
        assert_eq!(case.line(), "ok one too many is refused");
        assert_eq!(case.line(), "refused");
        drop(frozen);
        case.say("the file system goes on");
        assert!(case.wait().success());
        nothing_is_left(&broker);
    });
}

/// What this thread starts from now on has a single CPU, and so a broker has one thread for all channels.
fn on_one_cpu() {
    let mut one = CpuSet::new();
    one.set(sched_getcpu());
    sched_setaffinity(None, &one).expect("it runs there already");
    assert_eq!(sched_getaffinity(None).expect("a thread has CPUs").count(), 1);
}

/// Takes 5 s: so long does a stop wait for who does not read. Nobody can renew in that time.
#[test]
fn a_stop_that_takes_long_ends_no_ttl() {
    let test = "floods::a_stop_that_takes_long_ends_no_ttl";
    contained(test, || {
        on_one_cpu();
        let mut broker = Broker::start(Options::default());
        let Some(command) = python_case(test, &broker, "unread_pings") else { return };
        let mut case = Dialogue::start(command);
        said_done(&mut case);
        let mut channel = Channel::connect(&broker.handle_socket());
        let holders = vec![holders::ttl(Duration::from_secs(2))];
        let path =
            broker.pool_root().join(granted(&mut channel, GrantRequest { holders, ..GrantRequest::default() }).id);
        assert!(broker.terminate().success());
        assert!(path.is_dir(), "ended while nobody could renew");
        assert!(case.end().success());
    });
}
