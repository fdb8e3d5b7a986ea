//! How ttl holders live longer.

use std::time::Duration;

use crate::table::live_mut;
use crate::{BootTime, Caller, LeaseId, Refusal, Table};

impl Table {
    /// Every ttl holder gets its full TTL from now; the smallest of them.
    ///
    /// # Errors
    /// As [`live`](Self::live), and [`Refusal::NoTtl`].
    pub fn renew(&mut self, id: LeaseId, caller: Caller, now: BootTime) -> Result<Duration, Refusal> {
        let lease = live_mut(&mut self.leases, id, caller)?;
        if lease.granted_ttl().is_none() {
            return Err(Refusal::NoTtl);
        }
        self.index.disarm(lease);
        let smallest = lease.restart_ttls(now);
        self.index.arm(lease);
        smallest.ok_or(Refusal::NoTtl)
    }

    /// The broker did not run for a while, so nobody could renew or come back: every ttl holder of every lease gets its
    /// full TTL from now, and every connection that is waited for at least `grace`. Ends of lifetimes stay. Looks at every
    /// lease.
    pub fn rearm(&mut self, now: BootTime, grace: Duration) {
        for lease in self.leases.values_mut().filter(|lease| lease.is_there()) {
            self.index.disarm(lease);
            lease.restart_ttls(now);
            lease.wait_until(now + grace);
            lease.grace_end = lease.grace_end.map(|_| now + lease.grace);
            self.index.arm(lease);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Grant;
    use crate::fixture::*;

    #[test]
    fn a_renewal_moves_every_deadline_and_tells_the_smallest() {
        let mut table = table_with([grant(1, &[ttl(20), process(1), ttl(10)])]);
        assert_eq!(table.next_deadline(), Some(at(10)));
        assert_eq!(table.renew(id(1), ME, at(5)), Ok(seconds_long(10)));
        assert_eq!((table.next_deadline(), lease(&table, 1).expire_time()), (Some(at(15)), Some(at(25))));
        assert_eq!((table.due(at(14)), lease(&table, 1).holders().len()), (vec![], 3));
        assert_eq!((table.due(at(15)), lease(&table, 1).holders().len()), (vec![], 2));
        assert_eq!(table.renew(id(1), ADMIN, at(15)), Ok(seconds_long(20)));
    }

    #[test]
    fn renew_refuses() {
        let mut table = table_with([grant(1, &[process(1)]), grant(2, &[ttl(10)])]);
        assert_eq!(table.renew(id(1), ME, at(0)), Err(Refusal::NoTtl));
        assert_eq!(table.renew(id(2), OTHER, at(0)), Err(Refusal::LeaseUnknown));
        assert_eq!(table.revoke(id(2), ME), Ok(()));
        assert_eq!(table.renew(id(2), ME, at(0)), Err(Refusal::LeaseEnding));
    }

    #[test]
    fn rearming_gives_back_the_ttls_and_time_to_come_back() {
        let long = Grant { lifetime_max: Some(seconds_long(60)), ..grant(1, &[ttl(10)]) };
        let mut table = table_with([long, grant(2, &[ttl(5), lost(40)])]);
        table.rearm(at(30), seconds_long(20));
        assert_eq!(table.next_deadline(), Some(at(35)));
        assert_eq!((lease(&table, 1).expire_time(), lease(&table, 1).lifetime_end()), (Some(at(40)), Some(at(60))));
        assert_eq!((table.due(at(39)), table.next_deadline()), (vec![], Some(at(40))));
        assert_eq!((table.due(at(49)).len(), table.next_deadline()), (1, Some(at(50))));
        table.rearm(at(49), seconds_long(0));
        assert_eq!(table.due(at(50)).len(), 1, "what has longer keeps it");
    }
}
