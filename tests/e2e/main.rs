//! The system tests: the built programs, used as a user would. Each runs contained; see the harness.

mod bad_start;
mod channel;
mod conformance;
mod containment;
mod crash;
mod crowd;
mod doctor;
mod drain;
mod floods;
mod grpc;
mod health;
mod holders;
mod identity;

mod jobs;
mod lease;
mod misbehaviour;
mod mktemp;
mod programs;
mod protocol;
mod readme;
mod regressions;
mod removal;
mod restart;
mod rights;
mod run;
mod scale;
mod sdk;
mod session;
mod storm;
mod sweep;
mod time;

mod trees;
