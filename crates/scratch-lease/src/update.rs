//! How a lease's labels and limits change.

use std::collections::BTreeMap;

use crate::table::live_mut;
use crate::{Caller, LeaseId, Refusal, Share, Table};

impl Table {
    /// Takes labels away, then sets others, or sets them anew; the rest stays.
    ///
    /// # Errors
    /// As [`live`](Self::live), and what [`grant`](Self::grant) says of labels. Nothing has changed then. Else what they were.
    pub fn update_labels(
        &mut self,
        id: LeaseId,
        caller: Caller,
        set: BTreeMap<String, String>,
        remove: &[String],
    ) -> Result<BTreeMap<String, String>, Refusal> {
        let limits = *self.limits_of(caller);
        let lease = live_mut(&mut self.leases, id, caller)?;
        limits.check_labels(&set)?;
        if remove.len() > limits.labels_per_lease {
            return Err(Refusal::LimitLabels { limit: limits.labels_per_lease });
        }
        let mut labels = lease.labels.clone();
        labels.retain(|key, _| !remove.contains(key));
        labels.extend(set);
        limits.check_labels(&labels)?;
        Ok(std::mem::replace(&mut lease.labels, labels))
    }

    /// Sets labels back to what they were, unasked.
    pub fn restore_labels(&mut self, id: LeaseId, before: BTreeMap<String, String>) {
        if let Some(lease) = self.leases.get_mut(&id) {
            lease.labels = before;
        }
    }

    /// Changes the limits of its own that are given; the other one stays. They can't become less than what is spent of
    /// them, nor more than what is left above, or of the room that its pool has.
    ///
    /// # Errors
    /// As [`live`](Self::live); [`Refusal::NoLimit`], [`Refusal::LimitSpent`], [`Refusal::LimitShare`] and
    /// [`Refusal::PoolPromised`]. Nothing has changed then. Else what the limits were.
    pub fn update_limits(&mut self, id: LeaseId, caller: Caller, wanted: Share, room: Share) -> Result<Share, Refusal> {
        let lease = self.live(id, caller)?;
        let (before, pool) = (lease.share(), lease.pool);
        for (resource, wanted) in wanted.each() {
            let account = lease.accounts.of(resource);
            let limit = account.limit.ok_or(Refusal::NoLimit(resource))?;
            if wanted < account.spent {
                return Err(Refusal::LimitSpent { resource, spent: account.spent });
            }
            let more = wanted.saturating_sub(limit);
            self.check_left(account.above, resource, more)?;
            if account.above.is_none() && more > 0 {
                self.check_granted(lease.tenant, resource, more, caller)?;
                self.check_promise(pool, resource, more, room)?;
            }
        }
        self.set_lease_limits(id, wanted);
        Ok(before)
    }

    /// Sets limits back to what they were, unasked.
    pub fn restore_limits(&mut self, id: LeaseId, before: Share) {
        self.set_lease_limits(id, before);
    }

    fn set_lease_limits(&mut self, id: LeaseId, wanted: Share) {
        // Out of the table while those above it change with it.
        let Some(mut lease) = self.leases.remove(&id) else { return };
        self.put_on(&lease);
        for (resource, wanted) in wanted.each() {
            let (pool, account) = (lease.pool, lease.accounts.of_mut(resource));
            let Some(limit) = account.limit.replace(wanted) else { continue };
            let above = account.above;
            self.give_back(above, resource, limit);
            self.spend(above, resource, wanted);
            if above.is_none() {
                self.take_back(pool, resource, limit);
                self.promise(pool, resource, wanted);
                self.count(lease.tenant, |usage| {
                    let granted = resource.granted(usage);
                    *granted = granted.saturating_sub(limit).saturating_add(wanted);
                });
            }
        }
        self.take_off(&lease);
        self.leases.insert(id, lease);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Resource;
    use crate::fixture::*;

    fn labels(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn labels_are_set_and_taken_away_or_nothing_changes() {
        let mut table = table_with([grant(1, &[process(1)])]);
        assert_eq!(table.update_labels(id(1), ME, labels(&[("a", "1"), ("b", "2")]), &[]), Ok(labels(&[])));
        let before = table.update_labels(id(1), ME, labels(&[("a", "3")]), &["b".into(), "x".into()]);
        assert_eq!(before, Ok(labels(&[("a", "1"), ("b", "2")])));
        assert_eq!(lease(&table, 1).labels(), &labels(&[("a", "3")]));
        let long = labels(&[("k", &"v".repeat(table.limits.label_bytes))]);
        let limit = table.limits.label_bytes;
        assert_eq!(table.update_labels(id(1), ME, long, &["a".into()]), Err(Refusal::LabelTooLong { limit }));
        assert_eq!(table.update_labels(id(1), OTHER, labels(&[]), &["a".into()]), Err(Refusal::LeaseUnknown));
        assert_eq!(lease(&table, 1).labels(), &labels(&[("a", "3")]));
    }

    #[test]
    fn limits_change_between_what_is_spent_and_what_is_left() {
        let share = |bytes, inodes| Share { bytes, inodes };
        let limited = |number, bytes| crate::Grant { share: share(Some(bytes), None), ..grant(number, &[process(1)]) };
        let mut table = table_with([limited(1, 100), below(1, limited(2, 60))]);
        let room = share(Some(150), None);
        let mut update = |number, bytes| table.update_limits(id(number), ME, share(Some(bytes), None), room);
        assert_eq!(update(1, 59), Err(Refusal::LimitSpent { resource: Resource::Bytes, spent: 60 }));
        assert_eq!(update(2, 101), Err(Refusal::LimitShare { resource: Resource::Bytes, limit: 100, left: 40 }));
        assert_eq!(update(2, 100), Ok(share(Some(60), None)));
        assert_eq!(update(2, 10), Ok(share(Some(100), None)));
        let promised = Refusal::PoolPromised { resource: Resource::Bytes, limit: 150, left: 50 };
        assert_eq!(update(1, 151), Err(promised));
        assert_eq!(update(1, 150), Ok(share(Some(100), None)));
        assert_eq!((table.promised(crate::PoolId(0)), table.left(lease(&table, 1)).bytes), ((150, 0), Some(140)));
        let none = table.update_limits(id(1), ME, share(Some(150), Some(1)), room);
        assert_eq!(none, Err(Refusal::NoLimit(Resource::Inodes)));
        table.restore_limits(id(1), share(Some(20), None));
        assert_eq!((table.promised(crate::PoolId(0)), table.left(lease(&table, 1)).bytes), ((20, 0), Some(10)));
    }
}
