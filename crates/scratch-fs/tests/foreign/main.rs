//! Areas in directories that clients name: made, ended, found again, and never taken for anything else. Every test runs
//! contained, beside files of others that must be what they were afterwards.
#![allow(clippy::unwrap_used, reason = "tests, functions that they share included")]

#[path = "../contain/mod.rs"]
#[allow(dead_code, reason = "not all of it is used here")]
mod contain;

mod crashes;
mod ends;
mod finds;
mod fixture;
mod makes;
mod races;
