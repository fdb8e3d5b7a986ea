//! Who runs this program, and what it may do.

use std::fs;

use rustix::process::{Gid, getegid, geteuid, getgroups};

use super::finding::Finding;

/// The group of the shipped configuration.
const ADMIN_GROUP: &str = "scratch-admin";
/// What a broker for many users works with.
const NEEDED: [(&str, u32); 8] = [
    ("CAP_CHOWN", 0),
    ("CAP_DAC_OVERRIDE", 1),
    ("CAP_DAC_READ_SEARCH", 2),
    ("CAP_FOWNER", 3),
    ("CAP_SETGID", 6),
    ("CAP_SETUID", 7),
    ("CAP_LINUX_IMMUTABLE", 9),
    ("CAP_SYS_ADMIN", 21),
];

/// Whose leases can be seen.
pub(super) fn user() -> Finding {
    const CHECK: &str = "own rights";
    let user = geteuid();
    if user.is_root() {
        return Finding::ok(CHECK, "root: sees every lease");
    }
    let groups = fs::read_to_string("/etc/group").unwrap_or_default();
    let mut own = getgroups().unwrap_or_default();
    own.push(getegid());
    let sees = if is_in(ADMIN_GROUP, &groups, &own) { "sees every lease" } else { "sees its own leases" };
    let is_in = if sees == "sees every lease" { "in" } else { "not in" };
    Finding::ok(CHECK, format!("uid {}, {is_in} group {ADMIN_GROUP}: {sees}", user.as_raw()))
}

/// For root alone: a container may have taken some away.
pub(super) fn capabilities() -> Option<Finding> {
    const CHECK: &str = "capabilities";
    if !geteuid().is_root() {
        return None;
    }
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let Some(effective) = effective(&status) else {
        return Some(Finding::note(CHECK, "/proc does not tell"));
    };
    let missing: Vec<&str> =
        NEEDED.iter().filter(|(_, bit)| effective & (1 << bit) == 0).map(|(name, _)| *name).collect();
    Some(if missing.is_empty() {
        Finding::ok(CHECK, "all that a broker for many users needs")
    } else {
        let text = format!("missing here: {}", missing.join(", "));
        Finding::note(CHECK, text).remedy("a broker started like this serves one user, or without what they are for")
    })
}

fn effective(status: &str) -> Option<u64> {
    let set = status.lines().find_map(|line| line.strip_prefix("CapEff:"))?;
    u64::from_str_radix(set.trim(), 16).ok()
}

fn is_in(name: &str, groups: &str, own: &[Gid]) -> bool {
    let id = groups.lines().map(|line| line.split(':')).find_map(|mut fields| {
        (fields.next() == Some(name)).then(|| fields.nth(1))?.and_then(|id| id.parse::<u32>().ok())
    });
    id.is_some_and(|id| own.iter().any(|group| group.as_raw() == id))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn capabilities_and_groups_are_read() {
        assert_eq!(effective("Name:\tx\nCapEff:\t000001ffffffffff\n"), Some(0x1ff_ffff_ffff));
        assert_eq!(effective("Name:\tx\n"), None);
        let groups = "root:x:0:\nscratch-admin:x:998:alice\n";
        assert!(is_in("scratch-admin", groups, &[Gid::from_raw(5), Gid::from_raw(998)]));
        assert!(!is_in("scratch-admin", groups, &[Gid::from_raw(0)]) && !is_in("none", groups, &[Gid::from_raw(998)]));
    }
}
