//! What the kernel has of what a broker uses, and what is done without. Each feature is tried, not looked up.

use std::fs;
use std::os::fd::AsFd;

use rustix::fs::{AtFlags, CWD, MemfdFlags, Mode, OFlags, RenameFlags, ResolveFlags, StatxFlags};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType};
use rustix::process::{PidfdFlags, getpid, pidfd_open};

use super::finding::Finding;

const CHECK: &str = "kernel";
const NEEDED: (u32, u32) = (5, 10);
/// From here on only what is named below is missing.
const COMPLETE: (u32, u32) = (6, 6);

/// A feature, how it is tried, and what its absence means. `None` is needed.
type Feature = (&'static str, fn() -> Result<(), Errno>, Option<&'static str>);

const FEATURES: [Feature; 8] = [
    ("pidfd_open", pidfd, None),
    ("openat2", openat2, Some("one openat a component, mount ids compared")),
    ("statx mount ids", mount_ids, Some("without openat2 as well, no directory below a lease's is entered")),
    ("renameat2 flags", rename_flags, Some("persisting never replaces by link and unlink")),
    ("open_tree, mount_setattr", detached_mounts, Some("no directory handles; everything else works")),
    ("SO_PEERPIDFD", peer_pidfd, Some("pidfd_open of the peer's number, then user and start time compared")),
    ("fchmodat2", fchmodat2, Some("chmod of /proc/self/fd/<n>")),
    ("SO_PASSRIGHTS", passrights, Some("what is sent to grpc.sock is closed when it is read")),
];

/// The version, each feature that is missing, and what users may do.
pub(super) fn check() -> Vec<Finding> {
    let mut findings = vec![version(fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default().trim_end())];
    let missing: Vec<&Feature> = FEATURES.iter().filter(|(_, try_it, _)| is_missing(try_it())).collect();
    let is_there = |name: &&str| missing.iter().all(|(other, _, _)| name != other);
    let there: Vec<&str> = FEATURES.iter().map(|(name, _, _)| *name).filter(is_there).collect();
    findings.push(Finding::ok("kernel features", there.join(", ")));
    findings.extend(missing.into_iter().map(|(name, _, fallback)| match fallback {
        Some(fallback) => Finding::note("kernel features", format!("no {name}: {fallback}")),
        None => {
            Finding::fails("kernel features", format!("no {name}")).remedy("a newer kernel, or another seccomp filter")
        }
    }));
    findings.push(user_namespaces());
    findings
}

/// Not permitted, or not there to be tried on, is no proof.
fn is_missing(tried: Result<(), Errno>) -> bool {
    matches!(tried, Err(Errno::NOSYS | Errno::NOPROTOOPT | Errno::OPNOTSUPP))
}

fn version(release: &str) -> Finding {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(|number| number.parse().ok());
    let version = numbers.next().flatten().zip(numbers.next().flatten());
    match version {
        None => Finding::note(CHECK, format!("Linux {release}, whatever that is")),
        Some(version) if version < NEEDED => {
            Finding::fails(CHECK, format!("Linux {release}; 5.10 is needed")).remedy("a newer kernel")
        }
        Some(version) if version < COMPLETE => {
            Finding::note(CHECK, format!("Linux {release}; it works, from 6.6 on without fallbacks of weight"))
        }
        Some(_) => Finding::ok(CHECK, format!("Linux {release}")),
    }
}

fn pidfd() -> Result<(), Errno> {
    pidfd_open(getpid(), PidfdFlags::empty()).map(drop)
}

fn openat2() -> Result<(), Errno> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::openat2(CWD, c"/", flags, Mode::empty(), ResolveFlags::NO_MAGICLINKS).map(drop)
}

fn mount_ids() -> Result<(), Errno> {
    let found = rustix::fs::statx(CWD, c"/", AtFlags::empty(), StatxFlags::MNT_ID)?;
    if found.stx_mask & StatxFlags::MNT_ID.bits() == 0 { Err(Errno::NOSYS) } else { Ok(()) }
}

/// On empty names, which can't be renamed.
fn rename_flags() -> Result<(), Errno> {
    rustix::fs::renameat_with(CWD, c"", CWD, c"", RenameFlags::NOREPLACE)
}

/// Without CAP_SYS_ADMIN nothing is learned.
fn detached_mounts() -> Result<(), Errno> {
    let root = rustix::fs::open("/", OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    scratch_sys::contained_directory(root.as_fd(), false).map(drop)
}

fn peer_pidfd() -> Result<(), Errno> {
    let (near, _far) = rustix::net::socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    scratch_sys::peer_pidfd(near.as_fd()).map(drop)
}

fn fchmodat2() -> Result<(), Errno> {
    let own = rustix::fs::memfd_create(c"scratch-doctor", MemfdFlags::CLOEXEC)?;
    scratch_sys::fchmodat2(own.as_fd(), Mode::RUSR)
}

fn passrights() -> Result<(), Errno> {
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    scratch_sys::refuse_descriptors(&socket)
}

/// What users may make, by what the kernel's settings say.
fn user_namespaces() -> Finding {
    const CHECK: &str = "user namespaces";
    let setting = |path: &str| fs::read_to_string(path).ok().and_then(|text| text.trim().parse::<u64>().ok());
    let closed = [
        ("/proc/sys/user/max_user_namespaces", 0),
        ("/proc/sys/kernel/unprivileged_userns_clone", 0),
        ("/proc/sys/kernel/apparmor_restrict_unprivileged_userns", 1),
    ]
    .into_iter()
    .find(|(path, closing)| setting(path) == Some(*closing));
    match closed {
        None => Finding::ok(CHECK, "users may make them"),
        Some((path, value)) => {
            Finding::note(CHECK, format!("{path} is {value}: users can't make them, and go without what needs one"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::finding::Verdict;

    #[test]
    fn versions_are_judged_by_their_numbers() {
        let cases = [
            ("5.9.16", Verdict::Fail(70)),
            ("5.10.0-30-amd64", Verdict::Note),
            ("6.1.90", Verdict::Note),
            ("6.6", Verdict::Ok),
            ("6.18.44-fc", Verdict::Ok),
            ("10.0-rc1", Verdict::Ok),
            ("unknown", Verdict::Note),
        ];
        for (release, expected) in cases {
            assert_eq!(version(release).verdict, expected, "{release}");
        }
    }

    #[test]
    fn what_is_not_permitted_is_not_missing() {
        assert!(is_missing(Err(Errno::NOSYS)) && is_missing(Err(Errno::NOPROTOOPT)));
        assert!(!is_missing(Ok(())) && !is_missing(Err(Errno::PERM)) && !is_missing(Err(Errno::NOENT)));
    }
}
