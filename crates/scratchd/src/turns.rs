//! Whose turn it is: what waits of several tenants is taken one of each in turn, and within each in order of arrival.

use std::collections::{HashMap, VecDeque};

/// What waits. Costs the same however much there is.
#[derive(Debug)]
pub(crate) struct Turns<T> {
    waiting: HashMap<u32, VecDeque<T>>,
    /// The tenants of which something waits, each once; the first one is next.
    order: VecDeque<u32>,
    count: usize,
}

impl<T> Default for Turns<T> {
    fn default() -> Self {
        Self { waiting: HashMap::new(), order: VecDeque::new(), count: 0 }
    }
}

impl<T> Turns<T> {
    /// Adds something of this tenant.
    pub(crate) fn push(&mut self, tenant: u32, one: T) {
        let waiting = self.waiting.entry(tenant).or_default();
        if waiting.is_empty() {
            self.order.push_back(tenant);
        }
        waiting.push_back(one);
        self.count += 1;
    }

    /// Takes the first of the tenant whose turn it is.
    pub(crate) fn pop(&mut self) -> Option<T> {
        let tenant = self.order.pop_front()?;
        let waiting = self.waiting.get_mut(&tenant)?;
        let one = waiting.pop_front();
        if waiting.is_empty() {
            self.waiting.remove(&tenant);
        } else {
            self.order.push_back(tenant);
        }
        self.count -= 1;
        one
    }

    /// How much waits.
    pub(crate) fn len(&self) -> usize {
        self.count
    }

    /// Whether nothing waits.
    pub(crate) fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Whether anything waits of another tenant than this one.
    pub(crate) fn others_wait(&self, tenant: u32) -> bool {
        self.order.iter().any(|other| *other != tenant)
    }

    /// All that waits, in no order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &T> {
        self.waiting.values().flatten()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(mut turns: Turns<u32>) -> Vec<u32> {
        std::iter::from_fn(|| turns.pop()).collect()
    }

    #[test]
    fn tenants_take_turns_and_each_has_its_own_order() {
        let mut turns = Turns::default();
        (10..14).for_each(|one| turns.push(1, one));
        (20..22).for_each(|one| turns.push(2, one));
        assert_eq!(turns.pop(), Some(10));
        turns.push(3, 30);
        assert_eq!((turns.len(), turns.is_empty(), turns.iter().count()), (6, false, 6));
        assert_eq!(all(turns), [20, 11, 30, 21, 12, 13]);
    }

    #[test]
    fn who_comes_waits_for_one_of_each_however_much_they_have() {
        let mut turns = Turns::default();
        (0..1000).for_each(|one| turns.push(1, one));
        turns.push(2, 2000);
        assert!(turns.others_wait(1) && turns.others_wait(2) && turns.others_wait(3));
        assert_eq!((turns.pop(), turns.pop()), (Some(0), Some(2000)));
        assert!(!turns.others_wait(1) && turns.others_wait(2));
        assert_eq!(all(turns).len(), 999);
    }
}
