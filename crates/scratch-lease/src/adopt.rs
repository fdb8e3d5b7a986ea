//! How leases of the broker before come into the table after a restart.

use std::time::Duration;

use crate::{AdoptedHolder, BootTime, EventKind, Grant, HolderId, HolderKind, Lease, LeaseId, LeaseState, Table};

/// What lost its broker at one moment does not all end at one moment: later by up to this part of its time, never earlier.
const SPREAD_PART: u32 = 4;
/// And by no more than this.
const SPREAD_MAX: Duration = Duration::from_secs(10);

impl Table {
    /// Takes over a lease of the broker before: it is Live at once, limits are not checked, its TTLs run from `now`, and
    /// times that would all end at one moment are spread. Without holders, or without its parent in the table by the next
    /// [`due`](Self::due), it is due. Its holders are `holders`, beside those of the grant; no id below `holder_next` is
    /// given again.
    pub fn adopt(
        &mut self,
        grant: Grant,
        holders: impl IntoIterator<Item = AdoptedHolder>,
        holder_next: HolderId,
        (created, now): (BootTime, BootTime),
    ) {
        let id = grant.id;
        if self.leases.contains_key(&id) {
            debug_assert!(false, "lease {id} is adopted twice");
            return;
        }
        let accounts = self.accounts(grant.parent, grant.pool, grant.share);
        let mut lease = Lease::new(grant, accounts, created, now);
        lease.state = LeaseState::Live;
        lease.holder_next = lease.holder_next.max(holder_next);
        let mut gone = Vec::new();
        for AdoptedHolder { id, holder, gone: how } in holders {
            let holder = lease.put_back(id, holder.kind(now));
            gone.extend(how.map(|how| (holder, how)));
        }
        for holder in &mut lease.holders {
            spread(&mut holder.kind, id, now);
        }
        self.index.arm(&lease);
        if lease.holders.is_empty() || lease.parent.is_some_and(|parent| !self.lives(parent)) {
            self.index.pending.insert(id);
        }
        self.log.at(now);
        self.log.push(id, lease.tenant, EventKind::Adopted);
        self.insert(lease);
        for (holder, how) in gone {
            self.part(id, holder, how);
        }
    }
}

fn spread(kind: &mut HolderKind, id: LeaseId, now: BootTime) {
    let (end, time) = match kind {
        HolderKind::Ttl { granted, deadline } => (deadline, *granted),
        HolderKind::LostConnection { until } => {
            let left = until.duration_since(now);
            (until, left)
        }
        _ => return,
    };
    *end = *end + id.part_of((time / SPREAD_PART).min(SPREAD_MAX));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::*;
    use crate::{Due, Limits, NewHolder, Reason};

    #[test]
    fn adoption_asks_for_no_limits_and_in_no_order() {
        let mut table = Table::new(Limits { leases_per_tenant: 0, ..Limits::default() }, 2);
        let nonce = Some([1; 16]);
        adopt(&mut table, Grant { nonce, ..below(1, grant(2, &[ttl(10)])) }, at(1), at(100));
        adopt(&mut table, grant(1, &[lost(130)]), at(1), at(100));
        assert_eq!(table.due(at(100)), []);
        assert!(lease(&table, 2).expire_time().is_some_and(|time| at(110) <= time && time < at(113)));
        assert_eq!((lease(&table, 2).created(), table.totals().leases), (at(1), 2));
        assert_eq!(table.grant(Grant { nonce, ..grant(3, &[ttl(1)]) }, at(100)), Ok(crate::Granted::Existing(id(2))));
        assert_eq!(events(&table, 2), [EventKind::Adopted]);
    }

    #[test]
    fn adopted_without_holders_or_parent_it_is_due() {
        let mut table = table();
        adopt(&mut table, grant(1, &[]), at(0), at(0));
        adopt(&mut table, searched_for(grant(2, &[])), at(0), at(0));
        adopt(&mut table, below(9, grant(3, &[process(1)])), at(0), at(0));
        assert_eq!(table.next_deadline(), Some(at(0)));
        assert!(table.attach(id(3), ME, process(2), at(0)).is_ok());
        let due = table.due(at(0));
        assert_eq!(due.len(), 3);
        for wanted in [
            end(1, Reason::HoldersGone { last: None, grace: std::time::Duration::ZERO }),
            Due::Search(id(2)),
            end(3, Reason::ParentEnded(id(9))),
        ] {
            assert!(due.contains(&wanted), "{wanted:?}");
        }
    }

    #[test]
    fn leases_that_are_each_others_parents_end_once() {
        let mut table = table();
        adopt(&mut table, below(2, grant(1, &[process(1)])), at(0), at(0));
        adopt(&mut table, below(1, grant(2, &[process(1)])), at(0), at(0));
        assert_eq!(table.due(at(0)), []);
        table.end(id(1), Reason::NewBoot);
        assert_eq!(table.due(at(0)), [end(2, Reason::ParentEnded(id(1))), end(1, Reason::NewBoot)]);
    }

    #[test]
    fn what_was_adopted_at_one_moment_ends_at_many_and_none_early() {
        let mut table = Table::new(Limits::default(), 2);
        for number in 0..=255 {
            adopt(&mut table, grant(number, &[if number % 2 == 0 { lost(130) } else { ttl(30) }]), at(0), at(100));
        }
        assert_eq!(table.due(BootTime(at(130).0 - 1)), []);
        let half = table.due(at(130) + Duration::from_millis(3750)).len();
        assert!((100..156).contains(&half), "{half} of 256 in the first half of the time");
        assert_eq!(half + table.due(at(130) + Duration::from_millis(7500)).len(), 256);
    }

    #[test]
    fn holders_keep_their_ids_and_none_is_given_again() {
        let mut table = Table::new(Limits::default(), 2);
        let holders = [(7, process(3)), (2, NewHolder::Unknown), (0, process(1)), (2, process(2))];
        let holders = holders.map(|(id, holder)| AdoptedHolder { id, holder, gone: None });
        table.adopt(grant(1, &[]), holders, 9, (at(0), at(0)));
        let ids: Vec<_> = lease(&table, 1).holders().iter().map(|holder| (holder.id, holder.kind.name())).collect();
        assert_eq!(ids, [(2, "unknown"), (7, "process"), (9, "process"), (10, "process")]);
        table.holder_gone(id(1), 7);
        assert_eq!(table.attach(id(1), ME, process(4), at(0)).map(|holder| holder.id), Ok(11));
    }
}
