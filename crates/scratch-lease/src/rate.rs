//! How often a tenant may have something made: a bucket that fills at a steady pace and is emptied by what is made.

use std::time::Duration;

use crate::{BootTime, Caller, Refusal, Table};

/// A pace, and how much may be had at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// So many a second.
    pub per_second: u32,
    /// So many at once, after a while without any.
    pub burst: u32,
}

impl Rate {
    fn time_of(self, count: u64) -> Duration {
        let nanoseconds = u128::from(count) * 1_000_000_000 / u128::from(self.per_second.max(1));
        Duration::from_nanos(u64::try_from(nanoseconds).unwrap_or(u64::MAX))
    }
}

impl Table {
    /// Takes `count` from what this caller may have made now: leases and areas alike. What is asked for at once is never more
    /// than the bucket holds: a full one gives it all.
    ///
    /// # Errors
    /// [`Refusal::LimitRate`].
    pub fn take_creates(&mut self, caller: Caller, count: usize, now: BootTime) -> Result<(), Refusal> {
        let Some(rate) = self.limits_of(caller).creates else { return Ok(()) };
        // When the bucket would be full again.
        let full_at = self.full_at.get(&caller.tenant).copied().unwrap_or_default().max(now);
        let wait = full_at.duration_since(now);
        let after = wait.saturating_add(rate.time_of(count as u64));
        let most = rate.time_of(u64::from(rate.burst));
        if after > most && !wait.is_zero() {
            return Err(Refusal::LimitRate { limit: rate.per_second, retry_after: (after - most).min(wait) });
        }
        self.full_at.insert(caller.tenant, now + after);
        Ok(())
    }

    /// Forgets the buckets that are full.
    pub(crate) fn forget_full_buckets(&mut self, now: BootTime) {
        self.full_at.retain(|_, full_at| *full_at > now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Limits;
    use crate::fixture::*;

    fn after(milliseconds: u64) -> BootTime {
        at(10) + Duration::from_millis(milliseconds)
    }

    fn rated(per_second: u32, burst: u32) -> Table {
        Table::new(Limits { creates: Some(Rate { per_second, burst }), ..Limits::default() }, 1)
    }

    fn take(table: &mut Table, count: usize, now: BootTime) -> Option<Duration> {
        match table.take_creates(ME, count, now) {
            Ok(()) => None,
            Err(Refusal::LimitRate { limit, retry_after }) => {
                assert_eq!(limit, table.limits.creates.map_or(0, |rate| rate.per_second));
                Some(retry_after)
            }
            Err(other) => panic!("{other}"),
        }
    }

    #[test]
    fn a_burst_is_had_at_once_and_then_the_pace() {
        let mut table = rated(10, 3);
        assert_eq!(take(&mut table, 3, after(0)), None);
        assert_eq!(take(&mut table, 1, after(0)), Some(Duration::from_millis(100)));
        assert_eq!(take(&mut table, 2, after(50)), Some(Duration::from_millis(150)));
        assert_eq!(take(&mut table, 1, after(99)), Some(Duration::from_millis(1)));
        assert_eq!(take(&mut table, 1, after(100)), None, "what was refused took nothing");
        assert_eq!(take(&mut table, 1, after(100)), Some(Duration::from_millis(100)));
        assert_eq!(take(&mut table, 3, after(100_000)), None);
    }

    #[test]
    fn what_is_more_than_a_burst_is_had_from_a_full_bucket_and_paid_for() {
        let mut table = rated(100, 10);
        assert_eq!(take(&mut table, 200, after(0)), None);
        assert_eq!(take(&mut table, 1, after(0)), Some(Duration::from_millis(1910)));
        assert_eq!(take(&mut table, 200, after(1_000)), Some(Duration::from_millis(1_000)), "once it is full again");
        assert_eq!(take(&mut table, 200, after(2_000)), None);
    }

    #[test]
    fn tenants_have_buckets_of_their_own_and_none_is_kept_that_is_full() {
        let mut table = rated(1, 1);
        assert_eq!(take(&mut table, 1, after(0)), None);
        assert_eq!(table.take_creates(OTHER, 1, after(0)), Ok(()));
        table.forget_full_buckets(after(999));
        assert_eq!(table.full_at.len(), 2);
        table.forget_full_buckets(after(1_000));
        assert_eq!(table.full_at.len(), 0);
    }

    #[test]
    fn without_a_rate_nothing_is_counted() {
        let mut table = Table::new(Limits::default(), 1);
        assert_eq!(take(&mut table, usize::MAX, after(0)), None);
        assert!(table.full_at.is_empty());
    }
}
