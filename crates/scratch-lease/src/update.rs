//! How a lease's labels change.

use std::collections::BTreeMap;

use crate::table::live_mut;
use crate::{Caller, LeaseId, Refusal, Table};

impl Table {
    /// Takes labels away, then sets others, or sets them anew; the rest stays.
    ///
    /// # Errors
    /// As [`live`](Self::live), and what [`grant`](Self::grant) says of labels. Nothing has changed then.
    pub fn update_labels(
        &mut self,
        id: LeaseId,
        caller: Caller,
        set: BTreeMap<String, String>,
        remove: &[String],
    ) -> Result<(), Refusal> {
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
        lease.labels = labels;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::*;

    fn labels(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn labels_are_set_and_taken_away_or_nothing_changes() {
        let mut table = table_with([grant(1, &[process(1)])]);
        assert_eq!(table.update_labels(id(1), ME, labels(&[("a", "1"), ("b", "2")]), &[]), Ok(()));
        assert_eq!(table.update_labels(id(1), ME, labels(&[("a", "3")]), &["b".into(), "x".into()]), Ok(()));
        assert_eq!(lease(&table, 1).labels(), &labels(&[("a", "3")]));
        let long = labels(&[("k", &"v".repeat(table.limits.label_bytes))]);
        let limit = table.limits.label_bytes;
        assert_eq!(table.update_labels(id(1), ME, long, &["a".into()]), Err(Refusal::LabelTooLong { limit }));
        assert_eq!(table.update_labels(id(1), OTHER, labels(&[]), &["a".into()]), Err(Refusal::LeaseUnknown));
        assert_eq!(lease(&table, 1).labels(), &labels(&[("a", "3")]));
    }
}
