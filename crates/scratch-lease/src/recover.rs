//! Decides what a start does with each lease that it finds: take it over, put it away, or keep it as unknown.

use std::collections::HashSet;
use std::time::Duration;

use crate::{BootTime, CgroupId, ConnectionId, HolderId, LeaseId, NewHolder, Parting, ProcessId};

/// The record that a start finds for a lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FoundRecord {
    /// It says all that was known of the lease.
    Whole,
    /// The same, and its directory lies in trash: it was ended, and what is left is to forget it.
    Ended,
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
    /// A cgroup.
    Cgroup(CgroupId),
    /// What a renewal grants.
    Ttl(Duration),
    /// A connection of the broker before, and what it is now if it has come through the restart.
    Connection(Option<ConnectionId>),
    /// A descriptor that was passed to the broker before.
    Descriptor,
    /// Until it is detached.
    Hold,
    /// Of a kind that a later version wrote down.
    Unknown,
}

/// What is known of a recorded holder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Known {
    /// It is there.
    There,
    /// It has gone.
    Gone(Parting),
    /// It could not be looked at: its leases live on, unwatched, until they are revoked or the next start knows more.
    Unknown,
}

/// A holder that an adopted lease comes with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AdoptedHolder {
    /// The id that it had; 0: it gets one.
    pub id: HolderId,
    /// What it is from now on.
    pub holder: NewHolder,
    /// It is gone already, and that is how: so that it is known which was the last.
    pub gone: Option<Parting>,
}

/// The decisions of one start. Leases come one by one, each before its children.
#[derive(Debug)]
pub struct Recovery {
    grace: Duration,
    /// Leases that are kept because nothing is known of them, or whose directory was taken away: their children stand alone.
    kept: HashSet<LeaseId>,
}

impl Recovery {
    /// `grace` is how long connections may take to come back.
    #[must_use]
    pub fn new(grace: Duration) -> Self {
        Self { grace, kept: HashSet::new() }
    }

    /// What becomes of a lease. `same_boot`: its pool's leases are of this boot; `is_there`: its directory; `is_its_own`:
    /// whether that is the one of the record, asked only where it matters.
    pub fn found(
        &mut self,
        id: LeaseId,
        same_boot: bool,
        record: FoundRecord,
        is_there: bool,
        is_its_own: impl FnOnce() -> bool,
    ) -> Found {
        let why = match record {
            FoundRecord::Ended => return Found::PutAway,
            FoundRecord::Whole if !is_there => {
                // Taken away by somebody else: that must not end its children.
                self.kept.insert(id);
                return Found::PutAway;
            }
            // After a power cut the record may be lost: then everything is dead. In the same boot it can't be.
            _ if !same_boot || self.grace.is_zero() => return Found::PutAway,
            FoundRecord::Whole if is_its_own() => return Found::Adopted,
            FoundRecord::Whole => "not the directory of its record",
            FoundRecord::Torn => "torn record",
            FoundRecord::Missing => "no record",
        };
        self.kept.insert(id);
        Found::Kept(why)
    }

    /// A lease of which nothing can be known, as one of a pool that is not there.
    pub fn unknown(&mut self, id: LeaseId) {
        self.kept.insert(id);
    }

    /// The parent that an adopted lease has from now on: one that is kept because it is unknown must not end its children.
    #[must_use]
    pub fn parent(&self, recorded: Option<LeaseId>) -> Option<LeaseId> {
        recorded.filter(|parent| !self.kept.contains(parent))
    }

    /// What an adopted lease comes with. Its lost connections come back within the restart's grace, or within `grace`, the
    /// lease's own.
    pub fn holders(
        &self,
        recorded: impl IntoIterator<Item = (HolderId, (RecordedHolder, Known))>,
        grace: Duration,
        now: BootTime,
    ) -> Vec<AdoptedHolder> {
        let holder = |recorded| match recorded {
            RecordedHolder::Process(process) => NewHolder::Process(process),
            RecordedHolder::Cgroup(cgroup) => NewHolder::Cgroup(cgroup),
            RecordedHolder::Ttl(granted) => NewHolder::Ttl(granted),
            RecordedHolder::Connection(Some(connection)) => NewHolder::Connection(connection),
            RecordedHolder::Connection(None) => NewHolder::LostConnection { until: now + self.grace.max(grace) },
            RecordedHolder::Descriptor => NewHolder::Descriptor,
            RecordedHolder::Hold => NewHolder::Hold,
            RecordedHolder::Unknown => NewHolder::Unknown,
        };
        let gone = |known| match known {
            Known::Gone(how) => Some(how),
            Known::There | Known::Unknown => None,
        };
        let adopted = |(id, (recorded, known))| AdoptedHolder { id, holder: holder(recorded), gone: gone(known) };
        recorded.into_iter().map(adopted).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::*;

    const GRACE: Duration = Duration::from_secs(30);
    const RECORDS: [FoundRecord; 3] = [FoundRecord::Whole, FoundRecord::Torn, FoundRecord::Missing];

    fn found(recovery: &mut Recovery, record: FoundRecord, is_there: bool, is_its_own: bool) -> Found {
        recovery.found(id(1), true, record, is_there, || is_its_own)
    }

    #[test]
    fn in_the_same_boot_only_a_record_without_directory_is_known_to_be_dead() {
        let mut start = Recovery::new(GRACE);
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
        for (same_boot, grace) in [(false, GRACE), (true, Duration::ZERO)] {
            let mut start = Recovery::new(grace);
            for (record, is_there) in RECORDS.into_iter().flat_map(|record| [(record, true), (record, false)]) {
                let never = || unreachable!("nobody needs to know");
                assert_eq!(
                    start.found(id(1), same_boot, record, is_there, never),
                    Found::PutAway,
                    "{record:?} {is_there}"
                );
            }
        }
    }

    #[test]
    fn only_what_is_provably_gone_holds_no_more() {
        let start = Recovery::new(GRACE);
        let pid = ProcessId { pid: 1, start_time: 7, pidfd_inode: 0 };
        let known = [Known::There, Known::Gone(Parting::Lost), Known::Unknown];
        let recorded = (1..).zip(known.map(|known| (RecordedHolder::Process(pid), known)));
        let adopted = |id, gone| AdoptedHolder { id, holder: process(1), gone };
        let wanted = [adopted(1, None), adopted(2, Some(Parting::Lost)), adopted(3, None)];
        assert_eq!(start.holders(recorded, Duration::ZERO, at(0)), wanted);
    }

    #[test]
    fn lost_connections_get_the_longer_grace_and_those_that_came_through_hold_on() {
        let start = Recovery::new(GRACE);
        let recorded =
            [None, Some(crate::ConnectionId(7))].map(|now| (RecordedHolder::Connection(now), Known::Unknown));
        let holders = |grace| -> Vec<_> {
            let recorded = (1..).zip(recorded);
            start.holders(recorded, seconds_long(grace), at(10)).iter().map(|adopted| adopted.holder).collect()
        };
        assert_eq!(holders(0), [lost(40), connection(7)]);
        assert_eq!(holders(60), [lost(70), connection(7)]);
    }

    #[test]
    fn a_parent_whose_directory_was_taken_away_is_none() {
        let mut start = Recovery::new(GRACE);
        assert_eq!(found(&mut start, FoundRecord::Whole, false, true), Found::PutAway);
        assert_eq!(start.parent(Some(id(1))), None);
    }

    #[test]
    fn a_parent_that_was_ended_takes_its_children_along() {
        let mut start = Recovery::new(GRACE);
        assert_eq!(found(&mut start, FoundRecord::Ended, false, true), Found::PutAway);
        assert_eq!(start.parent(Some(id(1))), Some(id(1)));
    }

    #[test]
    fn a_parent_that_is_unknown_is_none() {
        let mut start = Recovery::new(GRACE);
        assert_eq!(found(&mut start, FoundRecord::Torn, true, true), Found::Kept("torn record"));
        start.unknown(id(3));
        assert_eq!(start.parent(Some(id(3))), None);
        assert_eq!(
            (start.parent(Some(id(1))), start.parent(Some(id(2))), start.parent(None)),
            (None, Some(id(2)), None)
        );
    }
}
