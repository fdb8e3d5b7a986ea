//! What of the table the SDK has no words for, and where it does something else. Each is named here, with why; a test fails for
//! what is not, and for what is and need not be.

use scratch_client::CreateMode::{self, Auto, Broker};

/// A case of which these steps are skipped: there is no word for them, and the others hold without. None: the case ends before
/// the first of them.
pub(super) struct Without(pub(super) &'static str, pub(super) &'static [usize], pub(super) &'static str);

/// A step that does not hold, and should not, where areas are made by these; what is answered instead, and why.
pub(super) struct Differs(
    pub(super) &'static str,
    pub(super) usize,
    pub(super) &'static [CreateMode],
    pub(super) &'static str,
    pub(super) &'static str,
);

const ALL: &[usize] = &[];

const PACKETS: &str = "the SDK sends no packets but its own";
const RESENDS: &str = "the SDK itself says that it sends again";
const TYPES: &str = "no such request can be formed";
const DESCRIPTORS: &str = "what rides along is the SDK's to say";

pub(super) const WITHOUT: &[Without] = &[
    Without("an own lease that was revoked is followed by another", &[4], "the step before failed, see below"),
    Without("a request sent again finds what it made", ALL, RESENDS),
    Without("a request sent again takes nothing else for its own", ALL, RESENDS),
    Without("what is refused in a directory that is passed", &[4, 5, 6, 7, 9], TYPES),
    Without("a batch of 200", &[4, 5], "files() asks for as many batches as it takes, and leaves a name aside"),
    Without("kinds that are none", ALL, "a kind is a method"),
    Without("a directory's descriptor", ALL, "a directory comes without one"),
    Without("what a delegated channel may not", &[6, 8], TYPES),
    Without("more descriptors than the broker may have", &[2], "a directory comes without a descriptor, one at a time"),
    Without("a packet that is no request", ALL, PACKETS),
    Without("a packet that is too large", ALL, PACKETS),
    Without("a bad request ends nothing", ALL, PACKETS),
    Without("what is no cgroup's directory can't hold a lease as one", &[4], TYPES),
    Without("a holder without kind, and a ttl holder without ttl", ALL, TYPES),
    Without("descriptors that can't hold anything", &[1, 4], TYPES),
    Without("descriptors are counted", ALL, DESCRIPTORS),
    Without("a ttl has bounds", &[3], TYPES),
    Without("a nonce has 16 bytes", ALL, TYPES),
    Without("a longest life below zero", ALL, TYPES),
    Without(
        "areas and leases without limits use up the inodes of the lease above",
        &[4],
        "directories are made one at a time",
    ),
    Without("a handle of the lease's directory", ALL, "the SDK opens it where it may"),
    Without(
        "another tenant's lease is an unknown one",
        &[10, 11, 12, 13, 14, 15],
        "who looks at it is no client of the SDK",
    ),
    Without("a grace is as long as the configuration allows", &[2], TYPES),
    Without("what can't be persisted", &[5, 10, 11], TYPES),
    Without(
        "an area without a name, and its descriptor that lives on",
        &[3, 5],
        "closing its descriptor is all there is",
    ),
    Without("something is mounted in it", &[8, 9, 12], "release() is answered when it is out of the name space"),
    Without("tickets that are none", ALL, "tickets are for clients of gRPC"),
];

const UNCOUNTED: &str = "the broker does not count what a process makes itself in the lease's directory";

/// It was done.
const DONE: &str = "{}";

pub(super) const DIFFERS: &[Differs] = &[
    Differs(
        "a lease that can't be moved away takes nothing new",
        4,
        &[Auto],
        DONE,
        "the process has the directory open, which is still there",
    ),
    Differs(
        "an own lease that was revoked is followed by another",
        3,
        &[Auto, Broker],
        r#"{"error": {"reason": "LEASE_UNKNOWN"}}"#,
        "who loses areas with the lease is told so once; the next area has another lease",
    ),
    Differs("more descriptors than the broker may have", 4, &[Auto], DONE, "a process opens its files itself"),
    Differs(
        "what is refused has changed nothing",
        4,
        &[Auto, Broker],
        r#"{"reply": {"leases": [{"areas": "0"}]}}"#,
        "the client's own lease is granted before anything is made under it",
    ),
    Differs("areas and leases without limits use up the inodes of the lease above", 6, &[Auto], DONE, UNCOUNTED),
    Differs("areas and leases without limits use up the inodes of the lease above", 7, &[Auto], DONE, UNCOUNTED),
    Differs(
        "areas of a tenant",
        2,
        &[Broker],
        r#"{"error": {"reason": "LIMIT_UNREAD", "metadata": {"limit": "4"}}}"#,
        "files come open, so that this is met first",
    ),
    Differs("areas of a tenant", 2, &[Auto], DONE, UNCOUNTED),
    Differs("areas of a tenant", 7, &[Auto], DONE, UNCOUNTED),
    Differs("descriptors that were sent and not received", 2, &[Auto], DONE, "a process opens its files itself"),
];
