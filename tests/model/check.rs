//! The invariants, looked at from outside: the live are untouched, the dead are gone, nothing of others was named.

use std::collections::BTreeSet;

use scratch_lease::{LeaseId, LeaseState, Reason};

use crate::broker::{Broker, Subject};
use crate::disk::{NEW, Owner, RECORDS, ROOT, TRASH};
use crate::truth::Truth;
use crate::world::World;

/// The leases whose directory is at its path.
pub(crate) fn in_sight(world: &World, truth: &Truth) -> BTreeSet<LeaseId> {
    let is_there = |id: &&LeaseId| {
        truth.leases[*id].inode.is_some() && world.disk.look(ROOT, id.as_str()) == truth.leases[*id].inode
    };
    truth.leases.keys().filter(is_there).copied().collect()
}

/// After every step. What went while it might go is dead for good, whatever comes.
pub(crate) fn the_living(world: &World, truth: &mut Truth, is_down: bool) -> Result<(), String> {
    if let Some(violation) = &world.disk.violation {
        return Err(violation.clone());
    }
    let mut dead = Vec::new();
    for lease in truth.leases.values() {
        let Some(inode) = lease.inode else { continue };
        let found = world.disk.look(ROOT, lease.id.as_str());
        let area = lease.areas.iter().find(|(name, area)| world.disk.look(inode, name) != Some(**area));
        if found == Some(inode) && area.is_none() {
            continue;
        }
        if truth.must_live(world, lease.id, is_down) {
            return Err(format!("{} lives, and is {found:?} instead of {inode}; areas: {area:?}\n{lease:?}", lease.id));
        }
        dead.push(lease.id);
    }
    for id in dead {
        truth.leases.entry(id).and_modify(|lease| lease.must = false);
    }
    Ok(())
}

/// Whoever went out of sight in this step had no child left that was to end with it.
pub(crate) fn children_first(
    world: &World,
    truth: &Truth,
    broker: &Broker,
    before: &BTreeSet<LeaseId>,
) -> Result<(), String> {
    let now = in_sight(world, truth);
    let left = |child: &LeaseId, parent: LeaseId| {
        let in_table = broker.table.lease(*child);
        in_table.is_some_and(|lease| {
            lease.reason() == Some(Reason::ParentEnded(parent)) && lease.state() == LeaseState::Ending
        }) && !broker.debts.contains_key(&Subject::Lease(*child))
    };
    for gone in before.difference(&now) {
        if let Some(child) = now.iter().find(|child| left(child, *gone)) {
            return Err(format!("{gone} went before its child {child}"));
        }
    }
    Ok(())
}

/// When all that happened was told to the broker, and all that it had to do is done.
pub(crate) fn the_dead(world: &World, truth: &Truth, broker: &Broker) -> Result<(), String> {
    let listed = world.disk.entries(ROOT).iter().chain(world.disk.entries(RECORDS));
    for (name, inode) in listed {
        let Ok(id) = name.parse::<LeaseId>() else { continue };
        let is_strangers = world.disk.node(*inode).is_some_and(|node| node.owner == Owner::Stranger);
        let is_owed = broker.debts.get(&Subject::Lease(id)).is_some_and(|debt| debt.next_try.is_some());
        let is_unknown = broker.debts.contains_key(&Subject::Record(id));
        // What is nobody's is a copy that a stranger made.
        let is_damaged = truth.leases.get(&id).is_none_or(|lease| lease.is_damaged);
        let (lease, known) = (truth.leases.get(&id), broker.table.lease(id));
        if is_strangers || is_owed || (is_unknown && is_damaged) || truth.may_live(world, id) {
            continue;
        }
        return Err(format!(
            "{name} is dead and still there\n{lease:?}\n{known:?}\nowed: {is_owed}, unknown: {is_unknown}"
        ));
    }
    for tree in world.disk.entries(TRASH).keys().filter(|name| !name.starts_with("stray")) {
        if !broker.debts.contains_key(&Subject::Trash(tree.clone())) {
            return Err(format!("{tree} stays in the trash and is not owed"));
        }
    }
    match world.disk.entries(NEW).keys().next() {
        Some(name) => Err(format!("{name} stays in new/")),
        None => Ok(()),
    }
}
