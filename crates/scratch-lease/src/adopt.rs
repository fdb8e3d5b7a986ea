//! How leases of the broker before come into the table after a restart.

use crate::{BootTime, EventKind, Grant, Lease, LeaseState, Table};

impl Table {
    /// Takes over a lease of the broker before: it is Live at once, limits are not checked, its TTLs run from `now`.
    /// Without holders, or without its parent in the table by the next [`due`](Self::due), it is due.
    pub fn adopt(&mut self, grant: Grant, created: BootTime, now: BootTime) {
        let id = grant.id;
        if self.leases.contains_key(&id) {
            debug_assert!(false, "lease {id} is adopted twice");
            return;
        }
        let mut lease = Lease::new(grant, created, now);
        lease.state = LeaseState::Live;
        self.index.arm(&lease);
        if lease.holders.is_empty() || lease.parent.is_some_and(|parent| !self.lives(parent)) {
            self.index.pending.insert(id);
        }
        self.log.at(now);
        self.log.push(id, lease.tenant, EventKind::Adopted);
        self.insert(lease);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::*;
    use crate::{Due, Limits, Reason};

    #[test]
    fn adoption_asks_for_no_limits_and_in_no_order() {
        let mut table = Table::new(Limits { leases_per_tenant: 0, ..Limits::default() }, 2);
        let nonce = Some([1; 16]);
        table.adopt(Grant { nonce, ..below(1, grant(2, &[ttl(10)])) }, at(1), at(100));
        table.adopt(grant(1, &[lost(130)]), at(1), at(100));
        assert_eq!(table.due(at(100)), []);
        assert_eq!(lease(&table, 2).expire_time(), Some(at(110)));
        assert_eq!((lease(&table, 2).created(), table.totals().leases), (at(1), 2));
        assert_eq!(table.grant(Grant { nonce, ..grant(3, &[ttl(1)]) }, at(100)), Ok(crate::Granted::Existing(id(2))));
        assert_eq!(events(&table, 2), [EventKind::Adopted]);
    }

    #[test]
    fn adopted_without_holders_or_parent_it_is_due() {
        let mut table = table();
        table.adopt(grant(1, &[]), at(0), at(0));
        table.adopt(searched_for(grant(2, &[])), at(0), at(0));
        table.adopt(below(9, grant(3, &[process(1)])), at(0), at(0));
        assert_eq!(table.next_deadline(), Some(at(0)));
        assert!(table.attach(id(3), ME, process(2), at(0)).is_ok());
        let due = table.due(at(0));
        assert_eq!(due.len(), 3);
        for wanted in [end(1, gone("none")), Due::Search(id(2)), end(3, Reason::ParentEnded(id(9)))] {
            assert!(due.contains(&wanted), "{wanted:?}");
        }
    }

    #[test]
    fn leases_that_are_each_others_parents_end_once() {
        let mut table = table();
        table.adopt(below(2, grant(1, &[process(1)])), at(0), at(0));
        table.adopt(below(1, grant(2, &[process(1)])), at(0), at(0));
        assert_eq!(table.due(at(0)), []);
        table.end(id(1), Reason::NewBoot);
        assert_eq!(table.due(at(0)), [end(2, Reason::ParentEnded(id(1))), end(1, Reason::NewBoot)]);
    }
}
