//! A tenant that exchanges directories with links, files and each other while the broker creates, releases, persists and
//! removes among them. A few hundred rounds of each, or 10 000.

use std::fs;
use std::os::unix::fs::chown;
use std::path::Path;
use std::process::{Command, Stdio};

use scratch_tests::{
    Broker, Options, as_user, contained, eventually, figures, is_root, left_out, long_or_short, names_in,
};

use super::canaries::Canaries;
use super::{TENANT, reaped, trash};

/// The requests, and the steps of a removal.
const CASES: [&str; 8] = ["create", "release", "persist", "persist-copy", "walk", "lift", "repair", "move"];

/// A directory that is the tenant's.
fn of_tenant(path: &Path) -> &Path {
    fs::create_dir(path).expect("a place is writable");
    if is_root() {
        chown(path, Some(TENANT), Some(TENANT)).expect("root may");
    }
    path
}

/// Of a system broker, or of one that is the tenant's own and has nothing to take over with.
fn raced(test: &str, user: Option<u32>) {
    contained(test, || {
        if user.is_some() && !is_root() {
            return left_out(test, "another user's broker needs root");
        }
        let broker = Broker::start(Options { user, ..Options::default() });
        let canaries = Canaries::new(broker.place());
        for case in CASES {
            if case == "move" && (user.is_some() || !is_root()) {
                // What such a broker has entered may be moved out while it is emptied: nothing keeps its own user from that.
                continue;
            }
            let outside = broker.place().join(format!("outside-{case}"));
            let far = Path::new("/dev/shm").join(format!("far-{case}"));
            let rounds = long_or_short(10_000, 200).to_string();
            let program = Path::new(env!("CARGO_BIN_EXE_racer"));
            let mut racer = if is_root() { as_user(TENANT, program) } else { Command::new(program) };
            racer.arg(broker.handle_socket()).args([case, &rounds]).arg(canaries.of("tenant"));
            racer.arg(of_tenant(&outside)).arg(of_tenant(&far)).stderr(Stdio::inherit());
            let output = racer.output().expect("the program is built");
            assert!(output.status.success(), "{case}: {}", output.status);
            figures(test, String::from_utf8_lossy(&output.stdout).trim());
            // Whoever is not shut out can keep a directory filled for a while.
            eventually(reaped(), "the trash is empty", || names_in(&trash(&broker)).is_empty());
            canaries.are_untouched();
        }
    });
}

#[test]
fn lead_a_system_broker_nowhere() {
    raced("hostile::races::lead_a_system_broker_nowhere", None);
}

#[test]
fn lead_a_session_broker_nowhere() {
    raced("hostile::races::lead_a_session_broker_nowhere", Some(TENANT));
}
