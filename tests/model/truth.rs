//! What is true, told apart from what the broker believes: who lives, what was promised in replies, what has to be gone.

use std::collections::BTreeMap;
use std::time::Duration;

use scratch_lease::{BootTime, ConnectionId, HolderId, LeaseId, TenantId};

use crate::broker::STREAM_COMES_WITHIN;
use crate::disk::Inode;
use crate::world::{Being, World};

/// What holds a lease. `lives_until` is promised; by `ends_by` it has to be over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Subject {
    Being(Being),
    Connection(ConnectionId),
    /// A connection that may come, or come back.
    Waited {
        lives_until: BootTime,
        ends_by: BootTime,
    },
    /// With a renewal on its way it lives whatever the time.
    Ttl {
        granted: Duration,
        lives_until: BootTime,
        ends_by: BootTime,
        is_renewed: bool,
    },
    Descriptor(u64),
    Hold,
}

#[derive(Debug, Clone)]
pub(crate) struct Claim {
    pub(crate) number: u64,
    pub(crate) subject: Subject,
    /// It was told to the client and nobody has asked for its end.
    pub(crate) must: bool,
    /// The broker may still believe in it.
    pub(crate) may: bool,
    /// It lived when the broker went.
    lived: bool,
}

#[derive(Debug)]
pub(crate) struct Lease {
    pub(crate) id: LeaseId,
    pub(crate) tenant: TenantId,
    pub(crate) nonce: Option<[u8; 16]>,
    pub(crate) parent: Option<LeaseId>,
    pub(crate) search_environment: bool,
    pub(crate) lifetime_end: Option<BootTime>,
    pub(crate) claims: Vec<Claim>,
    /// How long it waits for another holder.
    pub(crate) grace: Duration,
    /// When it was last seen to be held by what ends by itself: from then on it has its grace.
    pub(crate) held: Option<BootTime>,
    /// By when the grace of one that nothing holds is over.
    pub(crate) waits_until: Option<BootTime>,
    /// The directory that its client was told of.
    pub(crate) inode: Option<Inode>,
    pub(crate) areas: BTreeMap<String, Inode>,
    /// No named exception was asked for: no Revoke, no other boot, no restart without grace.
    pub(crate) must: bool,
    /// None was answered.
    pub(crate) may: bool,
    /// Somebody tore, removed or replaced its record or directory, or the power did: it is kept as unknown.
    pub(crate) is_damaged: bool,
}

#[derive(Debug, Default)]
pub(crate) struct Truth {
    pub(crate) leases: BTreeMap<LeaseId, Lease>,
    /// Detach requests under way, with the claims that go with each.
    pub(crate) detaching: Vec<(LeaseId, HolderId, Vec<u64>)>,
    /// What could not be looked at in this run.
    pub(crate) unlooked: Vec<Being>,
}

/// By so much more than it had to, a start gives time.
const SPREAD_MAX: Duration = Duration::from_secs(10);

/// Whether it has to be waited for another holder.
fn waits(world: &World, lease: &Lease) -> bool {
    lease.held.is_some_and(|held| world.now < held + lease.grace)
}

impl Claim {
    pub(crate) fn new(number: u64, subject: Subject, must: bool) -> Claim {
        Claim { number, subject, must, may: true, lived: false }
    }

    fn lives(&self, world: &World, is_down: bool) -> bool {
        self.must
            && match self.subject {
                Subject::Being(being) => world.is_alive(being),
                Subject::Hold => true,
                Subject::Connection(connection) => world.connections.contains(&connection),
                Subject::Descriptor(descriptor) => world.descriptors.contains(&descriptor),
                Subject::Waited { .. } | Subject::Ttl { .. } if is_down => self.lived,
                Subject::Waited { lives_until, .. } => world.now < lives_until,
                Subject::Ttl { lives_until, is_renewed, .. } => is_renewed || world.now < lives_until,
            }
    }
}

impl Lease {
    /// Times that the broker has given anew to everything that has any.
    pub(crate) fn extend(&mut self, now: BootTime, grace: Duration) {
        for claim in &mut self.claims {
            match &mut claim.subject {
                Subject::Ttl { granted, ends_by, .. } => *ends_by = now + *granted,
                Subject::Waited { ends_by, .. } => *ends_by = (*ends_by).max(now + grace),
                _ => {}
            }
        }
        self.waits_until = self.waits_until.map(|_| now + self.grace);
    }

    /// Its grant was answered: from now on its times run.
    pub(crate) fn granted(&mut self, now: BootTime) {
        for claim in &mut self.claims {
            let (granted, lives_until, ends_by) = match &mut claim.subject {
                Subject::Ttl { granted, lives_until, ends_by, .. } => (*granted, lives_until, ends_by),
                Subject::Waited { lives_until, ends_by } => (STREAM_COMES_WITHIN, lives_until, ends_by),
                _ => continue,
            };
            // All may have got their time again since.
            (*lives_until, *ends_by) = (now + granted, (*ends_by).max(now + granted));
        }
    }

    /// A renewal was answered. One that has run out before it was sent may be gone.
    pub(crate) fn renewed(&mut self, now: BootTime, is_done: bool) {
        for claim in &mut self.claims {
            if let Subject::Ttl { granted, lives_until, ends_by, is_renewed } = &mut claim.subject {
                let was_in_time = std::mem::take(is_renewed) || now < *lives_until;
                if is_done && was_in_time {
                    *lives_until = now + *granted;
                }
                if is_done {
                    *ends_by = now + *granted;
                }
            }
        }
    }
}

impl Truth {
    /// Whether this lease has to be there, untouched.
    pub(crate) fn must_live(&self, world: &World, id: LeaseId, is_down: bool) -> bool {
        let Some(lease) = self.leases.get(&id) else { return false };
        let in_time = lease.lifetime_end.is_none_or(|end| world.now < end);
        lease.inode.is_some()
            && lease.must
            && in_time
            && (self.is_held(world, lease, is_down) || waits(world, lease))
            && lease.parent.is_none_or(|parent| self.must_live(world, parent, is_down))
    }

    fn is_held(&self, world: &World, lease: &Lease, is_down: bool) -> bool {
        lease.claims.iter().any(|claim| claim.lives(world, is_down))
            || (lease.search_environment && self.is_named(world, lease, is_down))
    }

    /// Whether a process names it, or a lease below it that lives by itself.
    fn is_named(&self, world: &World, lease: &Lease, is_down: bool) -> bool {
        let names = |id| world.processes.values().any(|process| process.names == Some(id));
        let below = |child: &Lease| child.parent == Some(lease.id) && child.inode.is_some() && child.must;
        let in_time = |child: &Lease| child.lifetime_end.is_none_or(|end| world.now < end);
        names(lease.id)
            || self
                .leases
                .values()
                .filter(|child| below(child) && in_time(child) && !child.is_damaged)
                .any(|child| self.is_held(world, child, is_down) && self.is_named(world, child, is_down))
    }

    /// Whether the broker can still have a reason to keep it, once all that happened was told to it.
    pub(crate) fn may_live(&self, world: &World, id: LeaseId) -> bool {
        let Some(lease) = self.leases.get(&id) else { return false };
        if lease.is_damaged {
            return true;
        }
        let over = lease.lifetime_end.is_some_and(|end| end <= world.now);
        let held = lease.claims.iter().any(|claim| self.may_hold(world, claim));
        lease.may
            && !over
            && (held
                || (lease.search_environment && self.may_be_named(world, id))
                || lease.waits_until.is_some_and(|end| world.now < end))
            && lease.parent.is_none_or(|parent| self.may_live(world, parent))
    }

    fn may_hold(&self, world: &World, claim: &Claim) -> bool {
        claim.may
            && match claim.subject {
                Subject::Being(being) => world.is_alive(being) || self.unlooked.contains(&being),
                Subject::Hold => true,
                Subject::Connection(connection) => world.connections.contains(&connection),
                Subject::Descriptor(descriptor) => world.descriptors.contains(&descriptor),
                Subject::Waited { ends_by, .. } | Subject::Ttl { ends_by, .. } => world.now < ends_by,
            }
    }

    fn may_be_named(&self, world: &World, id: LeaseId) -> bool {
        let is_below = |named: LeaseId| {
            let mut above = Some(named);
            for _ in 0..20 {
                if above == Some(id) {
                    return true;
                }
                above = above.and_then(|id| self.leases.get(&id)).and_then(|lease| lease.parent);
            }
            false
        };
        // Found once, it holds the lease itself: also one that could not be looked at since.
        !self.unlooked.is_empty() || world.processes.values().filter_map(|process| process.names).any(is_below)
    }

    /// The clients of a broker that is gone have what they had until it comes back.
    pub(crate) fn goes_down(&mut self, world: &World) {
        for lease in self.leases.values_mut() {
            for claim in &mut lease.claims {
                claim.lived = claim.lives(world, false);
                match &mut claim.subject {
                    Subject::Connection(_) => {
                        claim.subject = Subject::Waited { lives_until: BootTime(0), ends_by: world.now };
                    }
                    Subject::Ttl { is_renewed, .. } => *is_renewed = false,
                    Subject::Descriptor(_) => (claim.must, claim.may) = (false, false),
                    Subject::Being(_) | Subject::Hold | Subject::Waited { .. } => {}
                }
            }
        }
        self.detaching.clear();
    }

    /// Everything that has a time gets it in full from now, and up to a quarter more: it shall not all end at once.
    pub(crate) fn comes_up(&mut self, now: BootTime, grace: Duration) {
        for lease in self.leases.values_mut() {
            lease.waits_until = None;
            for claim in &mut lease.claims {
                let (time, lives_until, ends_by) = match &mut claim.subject {
                    Subject::Waited { lives_until, ends_by } => (grace.max(lease.grace), lives_until, ends_by),
                    Subject::Ttl { granted, lives_until, ends_by, .. } => (*granted, lives_until, ends_by),
                    _ => continue,
                };
                *lives_until = if claim.lived { now + time } else { BootTime(0) };
                *ends_by = now + time + (time / 4).min(SPREAD_MAX);
            }
        }
    }

    /// From `before` until now nobody was served: what ran out in that time, by more than the `late` that the broker allows
    /// itself, runs anew; where the broker gave more time than it had to, it may have seen nothing run out.
    /// After a sleep everything runs anew.
    pub(crate) fn was_stalled(&mut self, before: BootTime, now: BootTime, late: Duration, slept: bool) {
        for claim in self.leases.values_mut().flat_map(|lease| &mut lease.claims) {
            let (until, ends_by, again) = match &mut claim.subject {
                Subject::Ttl { granted, lives_until, ends_by, .. } => (lives_until, *ends_by, *granted),
                Subject::Waited { lives_until, ends_by } => (lives_until, *ends_by, STREAM_COMES_WITHIN),
                _ => continue,
            };
            let ran_out = before < *until && ends_by + late < now;
            if ran_out || (slept && before < *until) {
                *until = (*until).max(now + again);
            }
        }
    }

    /// Which leases are held now, by what ends by itself: a Detach under way may be what ends them, and a lease whose client
    /// did not come back after a restart has waited enough.
    pub(crate) fn sees(&mut self, world: &World, is_down: bool) {
        for lease in self.leases.values_mut().filter(|lease| !lease.grace.is_zero()) {
            let waited = |claim: &Claim| matches!(claim.subject, Subject::Waited { .. });
            let is_detached = self.detaching.iter().any(|(id, ..)| *id == lease.id);
            if is_detached || lease.claims.iter().any(waited) {
                lease.held = None;
            } else if lease.claims.iter().any(|claim| claim.lives(world, is_down)) {
                lease.held = Some(world.now);
            }
        }
    }

    /// The broker knows everything: whose wait has not begun, begins it now at the latest.
    pub(crate) fn all_is_told(&mut self, world: &World) {
        let is_held = |lease: &Lease| {
            lease.claims.iter().any(|claim| self.may_hold(world, claim))
                || (lease.search_environment && self.may_be_named(world, lease.id))
        };
        let held: Vec<bool> = self.leases.values().map(is_held).collect();
        for (lease, is_held) in self.leases.values_mut().zip(held) {
            let end = lease.waits_until.unwrap_or(world.now + lease.grace);
            lease.waits_until = (!is_held && !lease.grace.is_zero()).then_some(end);
        }
    }

    /// A process was started that a search may find: whoever waits may have had a holder again.
    pub(crate) fn may_be_found(&mut self) {
        self.leases.values_mut().for_each(|lease| lease.waits_until = None);
    }

    /// A Detach was asked for: what goes with this subject.
    pub(crate) fn detaches(&mut self, id: LeaseId, holder: HolderId, goes: impl Fn(&Subject) -> bool) {
        let Some(lease) = self.leases.get_mut(&id) else { return };
        let mut numbers = Vec::new();
        for claim in lease.claims.iter_mut().filter(|claim| claim.may && goes(&claim.subject)) {
            claim.must = false;
            // Those that are waited for can't be told apart: any of them may have gone.
            if !matches!(claim.subject, Subject::Waited { .. }) {
                numbers.push(claim.number);
            }
        }
        self.detaching.push((id, holder, numbers));
    }

    pub(crate) fn everything_goes(&mut self, is_done: bool) {
        for lease in self.leases.values_mut() {
            lease.must = false;
            lease.may &= !is_done;
        }
    }
}
