//! Where a pool lies: file system, room, mount options, and whether its broker holds the lock that keeps cleaners out.

use std::env;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, FlockOperation, Mode, OFlags, StatxFlags};
use rustix::io::Errno;
use rustix::process::geteuid;

use super::finding::Finding;
use super::of_io;

const CHECK: &str = "pool";
/// Below this there is soon no room.
const FREE_PERCENT_MIN: u64 = 5;

/// The session broker's, in the first temporary directory that is there.
pub(super) fn session_root() -> Option<PathBuf> {
    let candidates = scratch_fs::temporary_directory_candidates(|name| env::var_os(name));
    let directory = candidates.into_iter().find(|candidate| candidate.is_dir())?;
    Some(directory.join(format!("scratchd-pool-{}", geteuid().as_raw())))
}

/// All there is to say of one root.
pub(super) fn check(root: &Path) -> Vec<Finding> {
    let shown = root.display();
    let found = match fs::symlink_metadata(root) {
        Ok(found) => found,
        Err(error) if of_io(&error) == Errno::NOENT => {
            return vec![Finding::note(CHECK, format!("{shown} is not there; the first lease makes it"))];
        }
        Err(error) => return vec![Finding::note(CHECK, format!("{shown} can't be looked at: {}", of_io(&error)))],
    };
    if found.uid() != 0 && found.uid() != geteuid().as_raw() && !geteuid().is_root() {
        let text = format!("{shown} is uid {}'s: no broker of yours can have its pool there", found.uid());
        return vec![Finding::foreign(CHECK, text).remedy("set TMPDIR to another directory, or ask root to remove it")];
    }
    let mut findings = vec![place(root)];
    findings.extend(room(root));
    findings.extend(lock(root));
    findings.extend(anonymous(root));
    findings
}

fn place(root: &Path) -> Finding {
    let shown = root.display();
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let mount = rustix::fs::statx(CWD, root, AtFlags::SYMLINK_NOFOLLOW, StatxFlags::MNT_ID);
    let Some((kind, options)) = mount.ok().and_then(|found| mount_of(&mounts, found.stx_mnt_id)) else {
        return Finding::note(CHECK, format!("{shown}: its mount is not known"));
    };
    let has = |option: &str| options.split(',').any(|other| other == option);
    let limits: Vec<&str> = ["nosuid", "nodev", "noexec"].into_iter().filter(|option| has(option)).collect();
    let mounted = if limits.is_empty() { String::new() } else { format!(", mounted {}", limits.join(",")) };
    let about = format!("{shown}: {kind}{mounted}");
    if has("ro") {
        return Finding::fails(CHECK, format!("{about}, read-only"))
            .remedy("see the kernel's log; mount it read-write, or choose another root");
    }
    if has("noexec") {
        return Finding::note(CHECK, format!("{about}: builds that run what they have made there fail"));
    }
    if root.starts_with("/tmp") {
        return Finding::note(CHECK, format!("{about}; in /tmp, where its lock keeps systemd-tmpfiles away"))
            .remedy("other cleaners (tmpreaper, find in a cron job) must be told to leave it out");
    }
    Finding::ok(CHECK, about)
}

/// Type and options of a mount, those of its file system included.
fn mount_of(mounts: &str, id: u64) -> Option<(String, String)> {
    let line = mounts.lines().find(|line| line.split(' ').next() == Some(&id.to_string()))?;
    let options = line.split(' ').nth(5)?;
    let mut about = line.split(" - ").nth(1)?.split(' ');
    let kind = about.next()?.to_owned();
    Some((kind, format!("{options},{}", about.nth(1).unwrap_or_default())))
}

fn room(root: &Path) -> Option<Finding> {
    const CHECK: &str = "room";
    let space = rustix::fs::statvfs(root).ok()?;
    let bytes = percent(space.f_bavail, space.f_blocks);
    let inodes = percent(space.f_favail, space.f_files);
    // btrfs counts no inodes.
    let inodes_shown =
        inodes.map_or_else(|| "inodes without limit".to_owned(), |free| format!("{free} % of inodes free"));
    let text = format!("{} % of space and {inodes_shown}", bytes.unwrap_or(100));
    let is_short = |free: Option<u64>| free.is_some_and(|free| free < FREE_PERCENT_MIN);
    if is_short(bytes) || is_short(inodes) {
        return Some(
            Finding::warn(CHECK, text).remedy("scratch ls, scratch debt; then see what else lies on that file system"),
        );
    }
    Some(Finding::ok(CHECK, text))
}

fn percent(free: u64, total: u64) -> Option<u64> {
    (total > 0).then(|| free.saturating_mul(100) / total)
}

/// Known to who may open the root: its owner and root.
fn lock(root: &Path) -> Option<Finding> {
    const CHECK: &str = "pool's lock";
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let held = rustix::fs::open(root, flags, Mode::empty()).ok()?;
    match rustix::fs::flock(&held, FlockOperation::NonBlockingLockExclusive) {
        Err(Errno::WOULDBLOCK) => Some(Finding::ok(CHECK, "held: systemd-tmpfiles leaves the pool alone")),
        Err(errno) => Some(Finding::note(CHECK, format!("can't be tried: {errno}"))),
        // It is given back with the descriptor.
        Ok(()) => Some(
            Finding::note(CHECK, "nobody holds it: no broker has this pool, and cleaners may go through it")
                .remedy("start the broker"),
        ),
    }
}

/// Known to who may write to the root. The file has no name at any time.
fn anonymous(root: &Path) -> Option<Finding> {
    const CHECK: &str = "O_TMPFILE";
    let flags = OFlags::RDWR | OFlags::TMPFILE | OFlags::CLOEXEC;
    match rustix::fs::open(root, flags, Mode::RUSR | Mode::WUSR) {
        Ok(_) => Some(Finding::ok(CHECK, "the pool's file system has it")),
        Err(Errno::OPNOTSUPP | Errno::ISDIR | Errno::INVAL) => {
            Some(Finding::note(CHECK, "the pool's file system does not have it: create, then unlink"))
        }
        Err(_) => None,
    }
}

/// For messages and rules, which are text.
pub(super) fn text(path: &Path) -> String {
    String::from_utf8_lossy(path.as_os_str().as_bytes()).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mount_is_found_by_its_id() {
        let mounts = "21 1 8:1 / / rw,relatime - ext4 /dev/sda1 rw,discard\n\
                      210 21 0:30 / /tmp rw,nosuid,nodev shared:5 - tmpfs tmpfs ro,size=2g\n";
        assert_eq!(mount_of(mounts, 21), Some(("ext4".into(), "rw,relatime,rw,discard".into())));
        assert_eq!(mount_of(mounts, 210), Some(("tmpfs".into(), "rw,nosuid,nodev,ro,size=2g".into())));
        assert_eq!(mount_of(mounts, 2), None);
    }

    #[test]
    fn shares_of_nothing_are_not_known() {
        assert_eq!((percent(5, 100), percent(1, 1000), percent(0, 0)), (Some(5), Some(0), None));
    }
}
