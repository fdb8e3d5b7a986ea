//! What a broker has denied itself, by the kernel's own word: of every thread that it has.

use std::fs;

use scratch_tests::{Broker, Held, Options, contained, is_root, left_out};

const TENANT: u32 = 1234;
const POOL: &str = "[[pool]]\nname = \"default\"\nroot = \"@PLACE@/pool\"\n";

/// The values of a field of proc_pid_status(5), of all threads.
fn of_threads(broker: &Broker, field: &str) -> Vec<String> {
    let tasks = fs::read_dir(format!("/proc/{}/task", broker.pid())).expect("the broker is there");
    let value = |status: String| {
        let mut lines = status.lines().filter_map(|line| line.strip_prefix(field)?.strip_prefix(":\t"));
        lines.next().expect("the kernel has the field").to_owned()
    };
    // A thread may have ended since.
    let statuses = tasks.filter_map(|task| fs::read_to_string(task.ok()?.path().join("status")).ok());
    let mut values: Vec<_> = statuses.map(value).collect();
    values.sort();
    values.dedup();
    values
}

fn confined(user: Option<u32>) {
    let broker = Broker::start(Options { user, ..Options::default() });
    assert!(Held::start_as(&broker, user).end().success());
    assert_eq!(
        (of_threads(&broker, "NoNewPrivs"), of_threads(&broker, "Seccomp")),
        (vec!["1".into()], vec!["2".into()])
    );
}

#[test]
fn every_thread_is_confined() {
    contained("confine::every_thread_is_confined", || confined(None));
}

#[test]
fn so_is_a_session_broker() {
    let test = "confine::so_is_a_session_broker";
    contained(test, || if is_root() { confined(Some(TENANT)) } else { left_out(test, "a second user needs root") });
}

#[test]
fn the_filter_can_be_left_out() {
    contained("confine::the_filter_can_be_left_out", || {
        let config = Some(format!("{POOL}\n[confine]\nsystem_calls = false\n"));
        let broker = Broker::start(Options { config, ..Options::default() });
        assert!(Held::start(&broker).end().success());
        assert_eq!(
            (of_threads(&broker, "NoNewPrivs"), of_threads(&broker, "Seccomp")),
            (vec!["1".into()], vec!["0".into()])
        );
    });
}

#[test]
fn a_system_broker_has_ten_capabilities() {
    let test = "confine::a_system_broker_has_ten_capabilities";
    contained(test, || {
        if !is_root() {
            return left_out(test, "needs root");
        }
        let broker = Broker::start(Options::default());
        for set in ["CapEff", "CapPrm"] {
            let [set] = of_threads(&broker, set).try_into().expect("all threads have the same");
            let bits = u64::from_str_radix(&set, 16).expect("the kernel writes hexadecimal numbers");
            assert_eq!(bits, 0x28_02df, "{set}");
        }
        assert_eq!(of_threads(&broker, "CapInh"), ["0000000000000000"]);
    });
}
