//! Who is not to notice anything: a well-behaved client of another tenant, and the broker itself.

use std::fs;
use std::path::Path;
use std::process::Command;

use scratch_tests::{Broker, Dialogue, as_user, is_root};

/// A running steady-client. It ends with the first error that it sees.
pub(crate) struct Company(Dialogue);

impl Company {
    /// Another tenant where tests may have several, so that it shares no limit with who misbehaves.
    pub(crate) fn start(broker: &Broker) -> Company {
        let program = Path::new(env!("CARGO_BIN_EXE_steady-client"));
        let mut command = if is_root() { as_user(super::TENANT, program) } else { Command::new(program) };
        command.arg(broker.handle_socket()).arg(broker.grpc_socket());
        let mut company = Company(Dialogue::start(command));
        company.is_well();
        company
    }

    /// It comes on, on both roads, and never saw an error.
    pub(crate) fn is_well(&mut self) {
        self.0.say("are you well?");
        assert_eq!(self.0.line(), "well");
    }

    /// Still without an error.
    pub(crate) fn leave(mut self) {
        self.is_well();
        assert!(self.0.end().success());
    }
}

/// What the broker has of the machine's memory, in KiB.
pub(crate) fn resident(broker: &Broker) -> u64 {
    let status = fs::read_to_string(about(broker, "status")).expect("the broker lives");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("a process has memory");
    line.trim().trim_end_matches(" kB").parse().expect("it is a number of KiB")
}

/// How many descriptors the broker has open.
pub(crate) fn descriptors(broker: &Broker) -> usize {
    fs::read_dir(about(broker, "fd")).expect("the broker lives").count()
}

/// How many threads the broker has.
pub(crate) fn threads(broker: &Broker) -> usize {
    fs::read_dir(about(broker, "task")).expect("the broker lives").count()
}

fn about(broker: &Broker, what: &str) -> String {
    format!("/proc/{}/{what}", broker.pid().as_raw_nonzero())
}
