//! A cgroup of a test's own (version 2), for tests that run contained as root: whatever is in it is killed and removed at the
//! end of the test. Its name is its own in the whole machine, for a containment does not set cgroups apart.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::process::Pid;

use crate::contain::{is_inside, is_root};
use crate::left_out::left_out;
use crate::wait::{DEADLINE, eventually};

/// Where the hierarchy is mounted once more, writable: a containment's own is not. Not below a test's place, which is removed
/// with all that is in it.
const MOUNT: &str = "/run/cgroup2";

/// A cgroup.
#[derive(Debug)]
pub struct Cgroup {
    path: PathBuf,
}

impl Cgroup {
    /// Makes one, empty, or leaves the test out.
    ///
    /// # Panics
    /// When the calling test is not contained.
    #[must_use]
    pub fn new(test: &str) -> Option<Cgroup> {
        assert!(is_inside(), "a test that mounts something runs contained");
        if !is_root() {
            left_out(test, "needs root, to make a cgroup");
            return None;
        }
        fs::create_dir_all(MOUNT).expect("a containment's /run is writable");
        let mounted = Command::new("mount").args(["-n", "-t", "cgroup2", "none", MOUNT]).output();
        let mounted = mounted.expect("mount(8) made this containment");
        let name = format!("scratch-test-{}", test.replace("::", "-"));
        let number = fs::read_to_string("/proc/sys/kernel/random/uuid").expect("the kernel has random numbers");
        let path = Path::new(MOUNT).join(format!("{name}-{}", number.trim()));
        if let Err(error) = fs::create_dir(&path) {
            let said = String::from_utf8_lossy(&mounted.stderr).trim().to_owned();
            left_out(test, &format!("needs a writable cgroup hierarchy of version 2: {said} {error}"));
            return None;
        }
        Some(Cgroup { path })
    }

    /// Its directory.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The root of the hierarchy.
    #[must_use]
    pub fn root(&self) -> &'static Path {
        Path::new(MOUNT)
    }

    /// Makes a cgroup below it.
    ///
    /// # Panics
    /// When there is one of this name.
    #[must_use]
    pub fn child(&self, name: &str) -> PathBuf {
        let path = self.path.join(name);
        fs::create_dir(&path).expect("root may make cgroups");
        path
    }
}

/// Moves a process into a cgroup.
///
/// # Panics
/// When one of them is gone.
pub fn enter(cgroup: &Path, process: Pid) {
    let moved = fs::write(cgroup.join("cgroup.procs"), process.as_raw_nonzero().to_string());
    moved.expect("root may move processes");
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        // Before Linux 5.14 a test must end its processes itself.
        let _ = fs::write(self.path.join("cgroup.kill"), "1");
        eventually(DEADLINE, "a test's cgroups can be removed", || {
            let below = fs::read_dir(&self.path).into_iter().flatten().flatten();
            // Directories alone: what else is in there goes with them.
            below.filter(|entry| entry.path().is_dir()).for_each(|entry| _ = fs::remove_dir(entry.path()));
            fs::remove_dir(&self.path).is_ok()
        });
    }
}
