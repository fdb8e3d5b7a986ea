//! One tenant takes all that it can get, of everything at once. What the broker takes for it is bounded, and another tenant
//! notices nothing.

use std::path::Path;

use scratch_tests::{Broker, DEADLINE, Dialogue, Options, as_user, contained, eventually, is_root, left_out};

use crate::misbehaviour::company::{Company, descriptors, resident, threads};
use crate::regressions::nothing_is_left;

const FLOODER: u32 = 4321;
const ROUNDS: usize = 10;

/// Small, so that all of them are reached in a round.
const LIMITS: &str = "[[pool]]\nname = \"default\"\nroot = \"@PLACE@/pool\"\n
[limits]\nleases = 64\nareas = 20000\nconnections = 128\nunread_descriptors = 1024\nwatches = 8\ncalls = 64\n";

/// By these limits: connections, what is unread or behind tickets, and what waits to be closed; and a few of its own.
const DESCRIPTORS_MAX: usize = 128 + 1024 + 4096 + 256;

/// In KiB: 128 connections with 256 KiB of replies each would be half of it.
const RESIDENT_MAX: u64 = 64 << 10;

#[test]
fn of_everything_at_once_is_bounded_and_hurts_nobody() {
    let test = "exhaustion::of_everything_at_once_is_bounded_and_hurts_nobody";
    contained(test, || {
        if !is_root() {
            return left_out(test, "needs root, to be several users");
        }
        let broker = Broker::start(Options { config: Some(LIMITS.to_owned()), ..Options::default() });
        let mut company = Company::start(&broker);
        let (memory, open, running) = (resident(&broker), descriptors(&broker), threads(&broker));
        let mut command = as_user(FLOODER, Path::new(env!("CARGO_BIN_EXE_flooding-client")));
        command.arg(broker.handle_socket()).arg(broker.grpc_socket());
        let mut flood = Dialogue::start(command);
        let (mut most_memory, mut most_open, mut most_running) = (0, 0, 0);
        for _ in 0..ROUNDS {
            assert_eq!(flood.line(), "flooding");
            company.is_well();
            most_memory = most_memory.max(resident(&broker));
            most_open = most_open.max(descriptors(&broker));
            most_running = most_running.max(threads(&broker));
        }
        println!(
            "resident {memory} to {most_memory} KiB, descriptors {open} to {most_open}, threads {running} to {most_running}"
        );
        assert!(most_memory < memory + RESIDENT_MAX, "{memory} KiB before, {most_memory} KiB at most");
        assert!(most_open < open + DESCRIPTORS_MAX, "{open} descriptors before, {most_open} at most");
        assert!(most_running < running + 16, "{running} threads before, {most_running} at most");
        drop(flood);
        eventually(DEADLINE, "all that it had is closed", || descriptors(&broker) <= open);
        company.leave();
        nothing_is_left(&broker);
    });
}
