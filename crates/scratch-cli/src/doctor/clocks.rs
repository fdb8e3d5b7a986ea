//! The clocks that deadlines run on, and the boot id that tells whether a lease is of this boot.

use std::fs;
use std::time::{Duration, SystemTime};

use rustix::time::{ClockId, clock_gettime};

use super::finding::Finding;
use super::of_io;

/// 2024-01-01, before this program was written.
const PLAUSIBLE: Duration = Duration::from_secs(1_704_067_200);

/// Boot time, wall time, boot id.
pub(super) fn check() -> [Finding; 3] {
    [suspended(), wall(), boot_id()]
}

fn suspended() -> Finding {
    const CHECK: &str = "boot-time clock";
    let seconds = |clock| u64::try_from(clock_gettime(clock).tv_sec).unwrap_or(0);
    // They were not read in the same instant.
    match seconds(ClockId::Boottime).saturating_sub(seconds(ClockId::Monotonic)) {
        0 | 1 => Finding::ok(CHECK, "never suspended since boot"),
        time => {
            let time = humantime::format_duration(Duration::from_secs(time));
            Finding::note(
                CHECK,
                format!("suspended for {time} since boot; after each time every ttl holder got its full time again"),
            )
        }
    }
}

fn wall() -> Finding {
    const CHECK: &str = "wall clock";
    let now = SystemTime::now();
    let shown = humantime::format_rfc3339_seconds(now);
    if now.duration_since(SystemTime::UNIX_EPOCH).is_ok_and(|time| time >= PLAUSIBLE) {
        return Finding::ok(CHECK, shown.to_string());
    }
    Finding::warn(CHECK, format!("{shown} can't be now; no lease depends on it, but times that are shown are wrong"))
        .remedy("set the clock")
}

fn boot_id() -> Finding {
    const CHECK: &str = "boot id";
    const PATH: &str = "/proc/sys/kernel/random/boot_id";
    match fs::read_to_string(PATH) {
        Ok(id) => Finding::ok(CHECK, id.trim_end()),
        Err(error) => Finding::fails(CHECK, format!("{PATH}: {}; a broker does not start without", of_io(&error)))
            .remedy("mount /proc"),
    }
}
