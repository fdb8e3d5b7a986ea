//! Decides what a start does with each lease that it finds: take it over, put it away, or keep it as unknown.

use std::collections::HashSet;
use std::time::Duration;

use crate::{BootTime, ConnectionId, HolderId, LeaseId, NewHolder, ProcessId};

/// The record that a start finds for a lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FoundRecord {
    /// It says all that was known of the lease.
    Whole,
    /// It is there and can't be read.
    Torn,
    /// There is a directory without one.
    Missing,
}

/// What becomes of a lease that a start finds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    /// It is taken over: [`Table::adopt`](crate::Table::adopt) says whether it lives.
    Adopted,
    /// It is dead, and goes out of sight before anything is served.
    PutAway,
    /// Whether it is dead is unknown, for this reason.
    Kept(&'static str),
}

/// A holder as a record names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RecordedHolder {
    /// A process.
    Process(ProcessId),
    /// What a renewal grants.
    Ttl(Duration),
    /// A connection of the broker before, and what it is now if it has come through the restart.
    Connection(Option<ConnectionId>),
    /// A descriptor that was passed to the broker before.
    Descriptor {
        /// Whether it has come through the restart.
        survived: bool,
    },
    /// Of a kind that a later version wrote down.
    Unknown,
}

/// What is known of a process of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Known {
    /// It runs.
    Alive,
    /// It has ended.
    Gone,
    /// It could not be looked at: its leases live on, unwatched, until they are revoked or the next start knows more.
    Unknown,
}

/// The decisions of one start. Leases come one by one, each before its children.
#[derive(Debug)]
pub struct Recovery {
    everything_goes: bool,
    grace: Duration,
    /// Leases that are kept because nothing is known of them.
    kept: HashSet<LeaseId>,
}

impl Recovery {
    /// A start in the boot of the pool's leases or in another one; `grace` is how long connections may take to come back.
    #[must_use]
    pub fn new(same_boot: bool, grace: Duration) -> Self {
        Self { everything_goes: !same_boot || grace.is_zero(), grace, kept: HashSet::new() }
    }

    /// What becomes of a lease. `is_there`: its directory; `is_its_own`: whether that is the one of the record, asked only
    /// where it matters.
    pub fn found(
        &mut self,
        id: LeaseId,
        record: FoundRecord,
        is_there: bool,
        is_its_own: impl FnOnce() -> bool,
    ) -> Found {
        let why = match record {
            FoundRecord::Whole if !is_there => return Found::PutAway,
            // After a power cut the record may be lost: then everything is dead. In the same boot it can't be.
            _ if self.everything_goes => return Found::PutAway,
            FoundRecord::Whole if is_its_own() => return Found::Adopted,
            FoundRecord::Whole => "not the directory of its record",
            FoundRecord::Torn => "torn record",
            FoundRecord::Missing => "no record",
        };
        self.kept.insert(id);
        Found::Kept(why)
    }

    /// The parent that an adopted lease has from now on: one that is kept because it is unknown must not end its children.
    #[must_use]
    pub fn parent(&self, recorded: Option<LeaseId>) -> Option<LeaseId> {
        recorded.filter(|parent| !self.kept.contains(parent))
    }

    /// What holds an adopted lease from now on.
    pub fn holders(
        &self,
        recorded: impl IntoIterator<Item = (HolderId, RecordedHolder)>,
        now: BootTime,
        mut look_at: impl FnMut(ProcessId) -> Known,
    ) -> Vec<(HolderId, NewHolder)> {
        let holder = |(id, recorded)| {
            let holder = match recorded {
                RecordedHolder::Process(process) if look_at(process) == Known::Gone => return None,
                RecordedHolder::Process(process) => NewHolder::Process(process),
                RecordedHolder::Ttl(granted) => NewHolder::Ttl(granted),
                RecordedHolder::Connection(Some(connection)) => NewHolder::Connection(connection),
                RecordedHolder::Connection(None) => NewHolder::LostConnection { until: now + self.grace },
                RecordedHolder::Descriptor { survived: true } => NewHolder::Descriptor,
                // Gone with the broker that held it; the search of environments stands in for it.
                RecordedHolder::Descriptor { survived: false } => return None,
                RecordedHolder::Unknown => NewHolder::Unknown,
            };
            Some((id, holder))
        };
        recorded.into_iter().filter_map(holder).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::*;

    const GRACE: Duration = Duration::from_secs(30);
    const RECORDS: [FoundRecord; 3] = [FoundRecord::Whole, FoundRecord::Torn, FoundRecord::Missing];

    fn found(recovery: &mut Recovery, record: FoundRecord, is_there: bool, is_its_own: bool) -> Found {
        recovery.found(id(1), record, is_there, || is_its_own)
    }

    #[test]
    fn in_the_same_boot_only_a_record_without_directory_is_known_to_be_dead() {
        let mut start = Recovery::new(true, GRACE);
        assert_eq!(found(&mut start, FoundRecord::Whole, true, true), Found::Adopted);
        assert_eq!(found(&mut start, FoundRecord::Whole, false, true), Found::PutAway);
        let other = Found::Kept("not the directory of its record");
        assert_eq!(found(&mut start, FoundRecord::Whole, true, false), other);
        assert_eq!(found(&mut start, FoundRecord::Torn, true, true), Found::Kept("torn record"));
        assert_eq!(found(&mut start, FoundRecord::Torn, false, true), Found::Kept("torn record"));
        assert_eq!(found(&mut start, FoundRecord::Missing, true, true), Found::Kept("no record"));
    }

    #[test]
    fn in_another_boot_or_without_grace_everything_goes() {
        for mut start in [Recovery::new(false, GRACE), Recovery::new(true, Duration::ZERO)] {
            for (record, is_there) in RECORDS.into_iter().flat_map(|record| [(record, true), (record, false)]) {
                let never = || unreachable!("nobody needs to know");
                assert_eq!(start.found(id(1), record, is_there, never), Found::PutAway, "{record:?} {is_there}");
            }
        }
    }

    #[test]
    fn only_a_process_that_is_provably_gone_holds_no_more() {
        let start = Recovery::new(true, GRACE);
        let pid = |pid| ProcessId { pid, start_time: 7, pidfd_inode: 0 };
        let recorded = [1, 2, 3].map(|number| (number, RecordedHolder::Process(pid(number.cast_signed()))));
        let look_at = |process: ProcessId| match process.pid {
            1 => Known::Alive,
            2 => Known::Gone,
            _ => Known::Unknown,
        };
        assert_eq!(start.holders(recorded, at(0), look_at), [(1, process(1)), (3, process(3))]);
    }

    #[test]
    fn ttls_and_connections_get_their_time_again_and_descriptors_are_gone() {
        let start = Recovery::new(true, GRACE);
        let ttl_holder = RecordedHolder::Ttl(Duration::from_secs(5));
        let recorded = [
            (1, RecordedHolder::Descriptor { survived: false }),
            (3, RecordedHolder::Connection(None)),
            (4, ttl_holder),
        ];
        assert_eq!(start.holders(recorded, at(10), |_| Known::Gone), [(3, lost(40)), (4, ttl(5))]);
    }

    #[test]
    fn what_came_through_holds_on_and_so_does_what_is_of_an_unknown_kind() {
        let start = Recovery::new(true, GRACE);
        let recorded = [
            (1, RecordedHolder::Descriptor { survived: true }),
            (2, RecordedHolder::Connection(Some(crate::ConnectionId(7)))),
            (5, RecordedHolder::Unknown),
        ];
        let wanted = [(1, NewHolder::Descriptor), (2, connection(7)), (5, NewHolder::Unknown)];
        assert_eq!(start.holders(recorded, at(10), |_| Known::Gone), wanted);
    }

    #[test]
    fn a_parent_that_is_unknown_is_none() {
        let mut start = Recovery::new(true, GRACE);
        assert_eq!(found(&mut start, FoundRecord::Torn, true, true), Found::Kept("torn record"));
        assert_eq!(
            (start.parent(Some(id(1))), start.parent(Some(id(2))), start.parent(None)),
            (None, Some(id(2)), None)
        );
    }
}
