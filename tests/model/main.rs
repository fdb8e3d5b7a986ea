//! A model of the broker: the real decisions (scratch-lease) under a simulated clock, simulated holders and a simulated disk,
//! driven by seeds. The oracle (`truth`, `check`) shares nothing with what it judges.
//!
//! The suite plays the same seeds each time. `SCRATCH_TEST_STEPS` sets how many steps are made, with seeds that are new each
//! time; `SCRATCH_TEST_SEED` runs one seed again.

mod actions;
mod broker;
mod check;
mod disk;
mod record;
mod requests;
mod run;
mod start;
mod truth;
mod world;

use std::time::{Instant, SystemTime, UNIX_EPOCH};

use run::{Run, Tried};
use world::Wrong;

/// Steps of one seed.
const STEPS: u64 = 1_500;

fn number_of(variable: &str) -> Option<u64> {
    let value = std::env::var(variable).ok()?;
    Some(value.parse().unwrap_or_else(|_| panic!("{variable} is a number")))
}

fn play(seed: u64, wrong: Option<Wrong>) -> Result<Tried, String> {
    let mut run = Run::new(seed, wrong);
    match run.go(STEPS) {
        Ok(()) => Ok(run.tried),
        Err(text) => Err(format!("{}\nrun it again with SCRATCH_TEST_SEED={seed}", run.story(&text))),
    }
}

#[test]
fn nothing_live_is_removed_and_nothing_dead_is_kept() {
    let one = number_of("SCRATCH_TEST_SEED");
    let asked = number_of("SCRATCH_TEST_STEPS");
    let seeds = if one.is_some() { 1 } else { asked.unwrap_or(50_000).div_ceil(STEPS) };
    let now = || SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let first = one.unwrap_or_else(|| asked.map_or(0, |_| now() * 1_000_000));
    let began = Instant::now();
    let mut all = Tried::default();
    for seed in first..first + seeds {
        match play(seed, None) {
            Ok(tried) => all.add(tried),
            Err(text) => panic!("{text}"),
        }
    }
    println!("seeds {first} to {} in {:?}: {all:?}", first + seeds - 1, began.elapsed());
}

/// Each way to be wrong is found.
#[test]
fn a_broker_that_is_wrong_is_found_out() {
    for wrong in Wrong::ALL {
        let found = (0..400).find_map(|seed| play(seed, Some(wrong)).err().map(|text| (seed, text)));
        let Some((seed, text)) = found else { panic!("{wrong:?} is never found") };
        assert!(play(seed, None).is_ok(), "seed {seed} finds something without {wrong:?}");
        println!("{wrong:?} is found by seed {seed}:\n{text}\n");
    }
}
