//! A point in time as the table sees it. Nobody here asks a clock: callers pass `now`.

use std::ops::Add;
use std::time::Duration;

/// A point on CLOCK_BOOTTIME, in nanoseconds since boot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct BootTime(pub u64);

impl BootTime {
    /// How long ago `earlier` was; zero when it is not earlier.
    #[must_use]
    pub fn duration_since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

impl Add<Duration> for BootTime {
    type Output = Self;

    /// Saturates: what lies beyond 584 years of uptime never comes.
    fn add(self, duration: Duration) -> Self {
        let nanos = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        Self(self.0.saturating_add(nanos))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_and_differences_saturate() {
        let minute = Duration::from_secs(60);
        assert_eq!(BootTime(5) + Duration::from_nanos(7), BootTime(12));
        assert_eq!(BootTime(5) + Duration::MAX, BootTime(u64::MAX));
        assert_eq!((BootTime(5) + minute).duration_since(BootTime(5)), minute);
        assert_eq!(BootTime(5).duration_since(BootTime(6)), Duration::ZERO);
    }
}
