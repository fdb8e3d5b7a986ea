//! Removal of hostile trees. Every test runs contained, beside a canary that must be what it was afterwards.
#![allow(clippy::unwrap_used, reason = "tests, functions that they share included")]

#[path = "../contain/mod.rs"]
mod contain;

mod depth;
mod fixture;
mod foreign;
mod in_place;
mod kinds;
mod mounts;
mod permissions;
mod races;
mod turns;
