//! Random moments and choices that can be had again: the seed is printed, SCRATCH_TEST_SEED sets it.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// xorshift64*: good enough to pick moments, and the same everywhere.
#[derive(Debug, Clone)]
pub struct Random(u64);

impl Random {
    /// Seeded from the environment or the clock.
    ///
    /// # Panics
    /// When SCRATCH_TEST_SEED is not a number.
    #[must_use]
    pub fn new(test: &str) -> Random {
        let chosen = std::env::var("SCRATCH_TEST_SEED").ok();
        let seed: u64 = match chosen {
            Some(seed) => seed.parse().expect("SCRATCH_TEST_SEED is a number"),
            None => {
                let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
                now.as_secs() ^ (u64::from(now.subsec_nanos()) << 32)
            }
        };
        println!("\n{test}: SCRATCH_TEST_SEED={seed}");
        // xorshift never leaves zero.
        Random(seed | 1)
    }

    /// From a seed of the caller's: seeds in a row have nothing in common.
    #[must_use]
    pub fn of(seed: u64) -> Random {
        let mixed = (seed ^ (seed >> 30)).wrapping_add(0x9E37_79B9_7F4A_7C15).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        Random((mixed ^ (mixed >> 31)) | 1)
    }

    /// A number below `bound`.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 16) % bound
    }

    /// A moment between now and `latest`, to the microsecond.
    pub fn moment(&mut self, latest: Duration) -> Duration {
        let bound = u64::try_from(latest.as_micros()).unwrap_or(u64::MAX);
        Duration::from_micros(self.below(bound.max(1)))
    }
}
