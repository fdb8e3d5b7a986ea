//! One call failed by the kernel: somebody is told or nobody is hurt, the broker goes on, and nothing of it stays.

use std::fs;
use std::time::Duration;

use scratch_proto::v1::channel_request::Op;
use scratch_proto::v1::channel_response::Result as Reply;
use scratch_proto::v1::{GrantRequest, Kind, ReleaseRequest, RevokeRequest};
use scratch_tests::{Broker, Channel, DEADLINE, eventually, names_in, threads};

use super::check::{Records, everything_ends, without_a_broker};
use super::clients::{Clients, Gone};
use super::points::{self, Point};
use super::workload::{self, exact};
use crate::regressions::granted;

/// What a kernel may say, by call; each point gets one of them, in turn.
const ERRORS: &[(&[&str], &[&str])] = &[
    (&["mkdirat", "linkat", "renameat", "renameat2", "symlinkat"], &["ENOSPC", "EDQUOT", "EIO", "EROFS", "ENOMEM"]),
    (&["open", "openat", "openat2"], &["EMFILE", "ENFILE", "ENOSPC", "EIO", "EROFS", "ENOMEM", "EINTR"]),
    (&["unlinkat", "fchmod", "fchmodat", "fchmodat2", "fchown", "fchownat"], &["EIO", "EROFS", "ENOMEM"]),
    (&["ftruncate", "fallocate", "fsync", "copy_file_range"], &["ENOSPC", "EDQUOT", "EIO", "EINTR"]),
    (&["statx", "fstat", "newfstatat", "fstatfs", "getdents64"], &["EIO", "ENOMEM"]),
    (&["accept4"], &["EMFILE", "ENFILE", "ENOMEM", "EINTR"]),
    (&["recvmsg", "sendmsg", "recvfrom", "sendto", "writev"], &["EINTR", "EAGAIN", "ENOMEM"]),
    (&["epoll_ctl", "pidfd_open", "memfd_create"], &["ENOMEM", "ENOSPC", "EMFILE"]),
];

/// What a fault at a point came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Outcome {
    /// Somebody was told.
    Told,
    /// Nobody needed to know.
    Unnoticed,
    /// The broker ended itself.
    Ended,
}

/// The error for a point; none where no kernel would fail so. What strace fails is not done: a close would leave a
/// descriptor that the kernel closes whatever it says, a write to an eventfd would ring no bell, and never fails. Nor after
/// the copy of a Persist has its name: when that can't be made durable copy and original both stand, as `persist` says.
pub(crate) fn error_of(point: &Point, turn: usize) -> Option<&'static str> {
    if point.role == "persist" && matches!(point.call.as_str(), "fsync" | "syncfs") && point.number > 1 {
        return None;
    }
    let (_, errors) = ERRORS.iter().find(|(calls, _)| calls.contains(&point.call.as_str()))?;
    Some(errors[turn % errors.len()])
}

fn descriptors(broker: &Broker) -> usize {
    names_in(format!("/proc/{}/fd", broker.pid()).as_ref()).len()
}

/// Runs the workload with one fault in it.
///
/// # Panics
/// When the broker does not go on, or anything is lost or left.
pub(crate) fn fail_at(point: &Point, error: &str) -> Outcome {
    let mut broker = points::broker();
    // It begins to follow its configuration after it is ready.
    let follows = || threads(broker.pid()).iter().any(|(_, role)| role.starts_with("notify"));
    eventually(DEADLINE, "the broker is at rest", follows);
    let before = descriptors(&broker);
    let far = points::far_of(&broker);
    let mut clients = Clients::new(&broker, &far);
    clients.faults = Some(Vec::new());
    clients.strace = Some(point.strike(&broker, &format!("error={error}"), &far.join("strace")));
    let went = workload::run(&mut clients);
    clients.strace = None;
    let told = clients.faults.take().unwrap_or_default();
    println!("{error} at {point:?}: {told:?}");
    if let Err(Gone) = went {
        let status = broker.wait();
        println!("ended: {status} by {error} at {point:?}");
        without_a_broker(&mut clients);
        broker.restart();
        everything_ends(&mut clients, &broker, Channel::connect(&broker.handle_socket()), Records::UntilTheNextStart);
        return Outcome::Ended;
    }
    clients.ledger.check(&clients.pool);
    serves(&broker);
    everything_ends(&mut clients, &broker, Channel::connect(&broker.handle_socket()), Records::UntilTheNextStart);
    drop(clients);
    let end = std::time::Instant::now() + DEADLINE;
    while descriptors(&broker) > before {
        if std::time::Instant::now() > end {
            for entry in fs::read_dir(format!("/proc/{}/fd", broker.pid())).expect("it runs").flatten() {
                println!("{:?} {:?}", entry.file_name(), fs::read_link(entry.path()));
            }
            panic!("{error} at {point:?}: {} descriptors, {before} before", descriptors(&broker));
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    broker.kill();
    broker.restart();
    eventually(DEADLINE, "nothing is left after a restart", || {
        let scratch = broker.pool_root().join(".scratch");
        let empty = |name: &str| names_in(&scratch.join(name)).is_empty();
        names_in(broker.pool_root()) == [".scratch"] && ["trash", "new", "leases", "foreign"].into_iter().all(empty)
    });
    if told.is_empty() { Outcome::Unnoticed } else { Outcome::Told }
}

/// Whoever comes now is served.
fn serves(broker: &Broker) {
    let mut channel = Channel::connect(&broker.handle_socket());
    channel.ping();
    let lease = granted(&mut channel, GrantRequest::default()).id;
    let reply = channel.ask(Op::Create(exact(&lease, Kind::File, "file")));
    assert!(matches!(reply, Reply::Create(_)), "{reply:?}");
    let release = ReleaseRequest { lease: lease.clone(), area: b"file".to_vec(), ..ReleaseRequest::default() };
    let reply = channel.ask(Op::Release(release));
    assert!(matches!(reply, Reply::Release(_)), "{reply:?}");
    let reply = channel.ask(Op::Revoke(RevokeRequest { lease, ..RevokeRequest::default() }));
    assert!(matches!(reply, Reply::Revoke(_)), "{reply:?}");
}
