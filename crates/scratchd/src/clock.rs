//! The broker's clock: CLOCK_BOOTTIME, which runs through suspend, and its relation to the two others.

use std::time::{Duration, SystemTime};

use rustix::time::{ClockId, clock_gettime};
use scratch_lease::BootTime;

/// Now, on the clock that deadlines run on.
pub(crate) fn now() -> BootTime {
    BootTime(nanoseconds(ClockId::Boottime))
}

/// How long this machine has been suspended since it was started; it grows while nothing runs.
pub(crate) fn suspended() -> Duration {
    let monotonic = nanoseconds(ClockId::Monotonic);
    Duration::from_nanos(nanoseconds(ClockId::Boottime).saturating_sub(monotonic))
}

/// A point on the boot-time clock as wall time, for people.
pub(crate) fn wall(time: BootTime) -> SystemTime {
    let now = now();
    let wall = SystemTime::now();
    if time >= now { wall + time.duration_since(now) } else { wall - now.duration_since(time) }
}

fn nanoseconds(clock: ClockId) -> u64 {
    let time = clock_gettime(clock);
    u64::try_from(time.tv_sec).unwrap_or(0) * 1_000_000_000 + u64::try_from(time.tv_nsec).unwrap_or(0)
}
