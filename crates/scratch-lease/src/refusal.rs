//! What the table answers when it doesn't do what was asked.

use std::time::Duration;

use crate::Resource;

/// Why a request was refused. Nothing has changed then.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// No such lease, or one of another tenant: the same answer.
    #[error("no such lease, or not one of yours; what has ended is gone, so grant another")]
    LeaseUnknown,
    /// The lease ends; it takes nothing new.
    #[error("the lease is ending and takes nothing new; grant another")]
    LeaseEnding,
    /// The lease has ended and is kept for a while; it takes nothing new but a holder.
    #[error("the lease has ended and is only kept; attach a holder to bring it back to life, or grant another")]
    LeaseKept,
    /// The tenant has as many kept leases as it may.
    #[error("a tenant has at most {limit} kept leases; revoke some, or raise keep.leases_max")]
    LimitKept {
        /// The limit.
        limit: usize,
    },
    /// It was to be kept for longer than allowed.
    #[error("a lease is kept for at most {limit:?}; ask for less, or raise keep.time_max")]
    KeepTooLong {
        /// The limit.
        limit: Duration,
    },
    /// More bytes were to be kept than allowed.
    #[error("at most {limit} bytes of a lease are kept; ask for less, or raise keep.bytes_max")]
    KeepTooMuch {
        /// The limit.
        limit: u64,
    },
    /// Its directory was removed, renamed or replaced by somebody else.
    #[error("the lease's directory was taken away by somebody else; it ends with its holders, so grant another")]
    LeaseLost,
    /// The lease has no holder of this id.
    #[error("the lease has no such holder; it may have ended, so look at those it has")]
    HolderUnknown,
    /// This can't hold a lease, such as a process without a number here.
    #[error("a {0} that the broker can't see can't hold a lease; let the connection hold it")]
    HolderKind(&'static str),
    /// The tenant has as many leases as it may.
    #[error("a tenant has at most {limit} leases; let some end, or raise limits.leases")]
    LimitLeases {
        /// The limit.
        limit: usize,
    },
    /// The tenant has as many areas as it may.
    #[error("a tenant has at most {limit} areas; release some, or raise limits.areas")]
    LimitAreas {
        /// The limit.
        limit: usize,
    },
    /// The leases of the tenant may not be granted so much more together.
    #[error("a tenant's leases have at most {limit} {} together, and {left} are left; ask for fewer, let some end, or raise limits.{}", .resource.name(), .resource.name())]
    LimitGranted {
        /// Bytes or inodes.
        resource: Resource,
        /// The limit.
        limit: u64,
        /// What is left of it.
        left: u64,
    },
    /// The tenant has leases and areas made faster than it may.
    #[error(
        "a tenant has at most {limit} leases and areas made a second; wait for {retry_after:?}, or raise limits.creates_per_second"
    )]
    LimitRate {
        /// The limit.
        limit: u32,
        /// When it can be had.
        retry_after: Duration,
    },
    /// The lease has as many holders as it may.
    #[error("a lease has at most {limit} holders; detach some, or raise limits.holders")]
    LimitHolders {
        /// The limit.
        limit: usize,
    },
    /// Too many labels.
    #[error("a lease has at most {limit} labels; set fewer, or raise limits.labels")]
    LimitLabels {
        /// The limit.
        limit: usize,
    },
    /// A label's key and value together are too long.
    #[error("a label's key and value have at most {limit} bytes together; shorten it")]
    LabelTooLong {
        /// The limit.
        limit: usize,
    },
    /// A limit of bytes or inodes has not so much left, that of the lease or of one above it.
    #[error("of {limit} {} only {left} are left; ask for fewer, release areas, or let leases below end", .resource.name())]
    LimitShare {
        /// Bytes or inodes.
        resource: Resource,
        /// The limit.
        limit: u64,
        /// What is left of it.
        left: u64,
    },
    /// The TTL is longer than allowed.
    #[error("a TTL is at most {limit:?}; ask for less and renew it")]
    TtlTooLong {
        /// The limit.
        limit: Duration,
    },
    /// The TTL is shorter than allowed.
    #[error("a TTL is at least {limit:?}; ask for more")]
    TtlTooShort {
        /// The limit.
        limit: Duration,
    },
    /// The grace is longer than allowed.
    #[error("a grace is at most {limit:?}; ask for less, or raise limits.grace_max")]
    GraceTooLong {
        /// The limit.
        limit: Duration,
    },
    /// Nothing to renew: the lease has no ttl holder.
    #[error("the lease has no ttl holder, so there is nothing to renew")]
    NoTtl,
    /// Too many parents above it.
    #[error("a lease has at most {limit} parents above it; grant it further up")]
    Depth {
        /// The limit.
        limit: usize,
    },
    /// The first grant with this nonce is not finished yet.
    #[error("a grant with this nonce is under way; send it again in a moment")]
    NonceBusy,
    /// A lease that nothing would hold.
    #[error("a lease needs a holder; leave holders out for the default")]
    NoHolder,
}
