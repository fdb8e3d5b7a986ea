//! Random plans: what is asked of the table, by whom, in which order.

use proptest::prelude::*;
use proptest::sample::Index;
use scratch_lease::{Caller, HolderId, TenantId};

#[derive(Clone, Debug)]
pub(crate) struct Wish {
    pub(crate) tenant: u32,
    pub(crate) parent: Option<Index>,
    pub(crate) holders: Vec<Hold>,
    pub(crate) bytes: Option<u64>,
    pub(crate) inodes: Option<u64>,
    pub(crate) nonce: Option<u8>,
    pub(crate) lifetime_max: Option<u64>,
    pub(crate) search_environment: bool,
}

#[derive(Clone, Copy, Debug)]
pub(crate) enum Hold {
    Connection(u64),
    Lost(u64),
    Awaited(u64),
    Process(i32),
    Ttl(u64),
    Descriptor,
}

#[derive(Clone, Debug)]
pub(crate) enum Step {
    Grant { wish: Wish, commit: bool },
    Adopt(Wish),
    Commit(Index),
    Forget(Index),
    Attach(Index, Caller, Hold),
    Detach(Index, Caller, HolderId),
    Gone(Index, HolderId),
    Close(u64),
    Renew(Index, Caller),
    Rearm,
    Revoke(Index, Caller),
    Advance(u64),
    Due,
    Searched(Index),
    Reserve(Index, Caller, usize),
    Unreserve(Index),
    Add(Index, u8),
    Remove(Index, u8),
}

fn hold() -> impl Strategy<Value = Hold> {
    prop_oneof![
        (0..2u64).prop_map(Hold::Connection),
        (1..20u64).prop_map(Hold::Lost),
        (1..20u64).prop_map(Hold::Awaited),
        (1..4i32).prop_map(Hold::Process),
        prop_oneof![8 => 2..16u64, 1 => 1..17u64].prop_map(Hold::Ttl),
        Just(Hold::Descriptor),
    ]
}

fn wish() -> impl Strategy<Value = Wish> {
    let parent = prop::option::weighted(0.4, any::<Index>());
    let holders = prop_oneof![8 => prop::collection::vec(hold(), 1..=2), 1 => prop::collection::vec(hold(), 0..=4)];
    let (nonce, lifetime_max) = (prop::option::weighted(0.6, 0..2u8), prop::option::weighted(0.2, 1..40u64));
    let limits = prop_oneof![2 => Just((None, None)), 1 => (prop::option::of(0..6u64), prop::option::of(0..6u64))];
    (1..3u32, parent, holders, limits, nonce, lifetime_max, any::<bool>()).prop_map(
        |(tenant, parent, holders, (bytes, inodes), nonce, lifetime_max, search_environment)| Wish {
            tenant,
            parent,
            holders,
            bytes,
            inodes,
            nonce,
            lifetime_max,
            search_environment,
        },
    )
}

fn caller() -> impl Strategy<Value = Caller> {
    (1..3u32, prop::bool::weighted(0.8)).prop_map(|(tenant, admin)| Caller { admin, ..Caller::of(TenantId(tenant)) })
}

pub(crate) fn step() -> impl Strategy<Value = Step> {
    let lease = any::<Index>;
    prop_oneof![
        8 => (wish(), prop::bool::weighted(0.75)).prop_map(|(wish, commit)| Step::Grant { wish, commit }),
        1 => wish().prop_map(Step::Adopt),
        4 => lease().prop_map(Step::Commit),
        4 => lease().prop_map(Step::Forget),
        6 => (lease(), caller(), hold()).prop_map(|(lease, caller, hold)| Step::Attach(lease, caller, hold)),
        3 => (lease(), caller(), 1..5u32).prop_map(|(lease, caller, holder)| Step::Detach(lease, caller, holder)),
        7 => (lease(), 1..4u32).prop_map(|(lease, holder)| Step::Gone(lease, holder)),
        3 => (0..2u64).prop_map(Step::Close),
        4 => (lease(), caller()).prop_map(|(lease, caller)| Step::Renew(lease, caller)),
        1 => Just(Step::Rearm),
        2 => (lease(), caller()).prop_map(|(lease, caller)| Step::Revoke(lease, caller)),
        5 => (1..8u64).prop_map(Step::Advance),
        8 => Just(Step::Due),
        5 => lease().prop_map(Step::Searched),
        3 => (lease(), caller(), 0..4usize).prop_map(|(lease, caller, count)| Step::Reserve(lease, caller, count)),
        1 => lease().prop_map(Step::Unreserve),
        5 => (lease(), 0..2u8).prop_map(|(lease, key)| Step::Add(lease, key)),
        1 => (lease(), 0..2u8).prop_map(|(lease, key)| Step::Remove(lease, key)),
    ]
}
