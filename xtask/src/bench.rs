//! `cargo xtask bench`: the benchmarks, in a release build.

use crate::step::{Outcome, cargo, step};

pub(crate) fn run(arguments: &[String]) -> Outcome {
    step(&mut cargo(&["build", "--release", "--workspace", "--bins"]))?;
    step(cargo(&["run", "--release", "--package", "scratch-tests", "--bin", "bench", "--"]).args(arguments))
}
