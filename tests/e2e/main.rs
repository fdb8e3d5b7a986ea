//! The system tests: the built programs, used as a user would. Each runs contained; see the harness.

mod bad_start;
mod channel;
mod containment;
mod crash;
mod programs;
mod removal;
mod restart;
mod session;
mod trees;
