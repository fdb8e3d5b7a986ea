//! The command's cgroup, where this process's own one is delegated to it: a child of it that holds the lease as long as
//! anything runs there, whatever that did to its environment and to what it inherited.

use std::fs;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{Access, AtFlags, CWD, Mode, OFlags};
use rustix::io::Errno;
use rustix::process::Pid;
use scratch_client::{ClientError, Lease};

/// The cgroup of one command. Dropped, it is removed, unless something runs in it: then it is left to that, empty in the end.
#[derive(Debug)]
pub(super) struct CommandCgroup {
    path: PathBuf,
    directory: OwnedFd,
}

impl CommandCgroup {
    /// Makes it below our own cgroup. `None` where that is not ours to divide; then everything is as if there were none.
    pub(super) fn make(lease: &str) -> Option<Self> {
        let own = own_cgroup()?.into_iter().find(|own| is_delegated(own))?;
        let path = own.join(format!("scratch-{lease}"));
        rustix::fs::mkdir(&path, Mode::from_raw_mode(0o755)).ok()?;
        match rustix::fs::open(&path, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()) {
            Ok(directory) => Some(Self { path, directory }),
            Err(_) => {
                let _ = rustix::fs::rmdir(&path); // it is empty, and harmless
                None
            }
        }
    }

    /// Lets the cgroup hold the lease, and moves the process that is to become the command here. `None` where the broker or the
    /// kernel does not take it: it is removed then, and holds nothing.
    ///
    /// # Errors
    /// Those of the connection.
    pub(super) fn hold(self, process: Pid, lease: &Lease) -> Result<Option<Self>, ClientError> {
        match lease.attach_cgroup(self.directory.as_fd()) {
            Ok(()) => {}
            // A broker that sees no such file system, or one of an earlier version.
            Err(ClientError::Refused { reason, .. }) if reason != "LEASE_UNKNOWN" => return Ok(None),
            Err(error) => return Err(error),
        }
        let moved = fs::write(self.path.join("cgroup.procs"), process.as_raw_nonzero().to_string());
        Ok(moved.is_ok().then_some(self))
    }

    /// Whether it may have a process.
    pub(super) fn is_populated(&self) -> bool {
        let events = fs::read_to_string(self.path.join("cgroup.events"));
        !events.is_ok_and(|events| events.lines().any(|line| line == "populated 0"))
    }
}

impl Drop for CommandCgroup {
    fn drop(&mut self) {
        // EBUSY: something runs there; it may stay.
        let _ = rustix::fs::rmdir(&self.path);
    }
}

/// Our own cgroup's directory, version 2, in every place where we see it; not the root.
fn own_cgroup() -> Option<Vec<PathBuf>> {
    let cgroups = fs::read_to_string("/proc/self/cgroup").ok()?;
    let mounts = fs::read_to_string("/proc/self/mountinfo").ok()?;
    find(&cgroups, &mounts)
}

/// From the texts of cgroups(7) and proc_pid_mountinfo(5). A mount point with a blank in its name is none to be found.
fn find(cgroups: &str, mounts: &str) -> Option<Vec<PathBuf>> {
    let own = cgroups.lines().find_map(|line| line.strip_prefix("0::"))?;
    let mounts = mounts.lines().filter(|line| line.contains(" - cgroup2 "));
    let own = mounts.filter_map(|line| {
        let mut fields = line.split(' ').skip(3);
        let (root, mount) = (fields.next()?, fields.next()?);
        let below = Path::new(own).strip_prefix(root).ok()?;
        let is_below = !below.as_os_str().is_empty() && !below.starts_with("..");
        is_below.then(|| Path::new(mount).join(below))
    });
    Some(own.collect())
}

/// Whether we may divide it. To root everything is writable: there only the mark counts that systemd sets on what it
/// delegates.
fn is_delegated(own: &Path) -> bool {
    let may_write = |path: &Path| rustix::fs::accessat(CWD, path, Access::WRITE_OK, AtFlags::EACCESS).is_ok();
    let is_ours = may_write(own) && may_write(&own.join("cgroup.procs"));
    is_ours
        && (!rustix::process::geteuid().is_root()
            || ["user.delegate", "trusted.delegate"].iter().any(|mark| is_set(own, mark)))
}

fn is_set(own: &Path, mark: &str) -> bool {
    let mut value = [0; 8];
    let read: Result<usize, Errno> = rustix::fs::getxattr(own, mark, &mut value);
    read.is_ok_and(|length| value.get(..length) == Some(b"1".as_slice()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_own_cgroup_is_found_below_its_mount() {
        let hybrid = "31 25 0:38 / /sys/fs/cgroup/unified rw,relatime shared:9 - cgroup2 cgroup2 rw\n";
        let bound = "31 25 0:38 /a /mnt rw - cgroup2 cgroup2 rw\n";
        let none = "30 25 0:26 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n";
        let both = format!("{hybrid}{bound}");
        let at = |paths: &[&str]| Some(paths.iter().map(PathBuf::from).collect::<Vec<_>>());
        for (cgroups, mounts, expected) in [
            ("2:cpu:/x\n0::/a/b\n", hybrid, at(&["/sys/fs/cgroup/unified/a/b"])),
            ("0::/a/b\n", bound, at(&["/mnt/b"])),
            ("0::/a/b\n", &*both, at(&["/sys/fs/cgroup/unified/a/b", "/mnt/b"])),
            ("0::/a\n", bound, at(&[])),
            ("0::/\n", hybrid, at(&[])),
            ("0::/../a\n", hybrid, at(&[])),
            ("0::/c\n", bound, at(&[])),
            ("0::/a/b\n", none, at(&[])),
            ("2:cpu:/x\n", hybrid, None),
        ] {
            assert_eq!(find(cgroups, mounts), expected, "{cgroups} {mounts}");
        }
    }
}
