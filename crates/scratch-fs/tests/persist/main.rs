//! Entries moved out of a directory for good, by a rename and by a copy. Every test runs contained, beside a canary that
//! must be what it was afterwards.
#![allow(clippy::unwrap_used, reason = "tests, functions that they share included")]

#[path = "../contain/mod.rs"]
mod contain;

mod attributes;
mod exchange;
mod fixture;
mod outcomes;
mod races;
mod refused;
mod sparse;
mod trees;
