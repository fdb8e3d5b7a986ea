//! `cargo xtask lint`: what the compiler's own tools check.

use crate::step::{Outcome, cargo, step};

pub(crate) fn run() -> Outcome {
    step(&mut cargo(&["fmt", "--all", "--check"]))?;
    step(&mut cargo(&["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"]))?;
    step(cargo(&["doc", "--workspace", "--no-deps"]).env("RUSTDOCFLAGS", "-D warnings"))
}
