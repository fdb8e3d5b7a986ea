//! The system tests: the built programs, used as a user would. Each runs contained; see the harness.

mod bad_start;
mod channel;
mod containment;
mod crash;
mod crowd;
mod floods;
mod grpc;
mod holders;
mod jobs;
mod misbehaviour;
mod programs;
mod regressions;
mod removal;
mod restart;
mod run;
mod sdk;
mod session;
mod trees;
