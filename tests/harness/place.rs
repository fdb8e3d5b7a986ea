//! A place of a test's own: a directory in the containment's /tmp, or a fresh file system on a loop image.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use crate::contain::is_root;
use crate::left_out::left_out;
use crate::programs::installed;

/// What a place is on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Filesystem {
    /// The containment's /tmp.
    Tmpfs,
    /// A loop image with ext4.
    Ext4,
    /// A loop image with XFS.
    Xfs,
    /// A loop image with btrfs.
    Btrfs,
}

/// A directory of the test's own, 0755. Only in a contained test.
#[derive(Debug)]
pub struct Place {
    path: PathBuf,
    mounted: bool,
}

impl Place {
    /// A directory in the containment's /tmp.
    ///
    /// # Panics
    /// When it can't be made.
    #[must_use]
    pub fn new() -> Place {
        static MADE: AtomicU32 = AtomicU32::new(0);
        let number = MADE.fetch_add(1, Ordering::Relaxed);
        let path = PathBuf::from(format!("/tmp/place-{number}"));
        std::fs::create_dir(&path).expect("the containment's /tmp is our own");
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o755)).expect("a directory just made is ours");
        Place { path, mounted: false }
    }

    /// A place on that file system; left out where its tools, loop devices or rights are missing.
    #[must_use]
    pub fn on(test: &str, filesystem: Filesystem) -> Option<Place> {
        let (program, options): (_, &[&str]) = match filesystem {
            Filesystem::Tmpfs => return Some(Place::new()),
            // Inodes for a benchmark's 100 000 files.
            Filesystem::Ext4 => ("mkfs.ext4", &["-q", "-F", "-i", "2048"]),
            Filesystem::Xfs => ("mkfs.xfs", &["-q", "-f"]),
            Filesystem::Btrfs => ("mkfs.btrfs", &["-q", "-f"]),
        };
        if !is_root() {
            left_out(test, "mounting a loop image needs root");
            return None;
        }
        if !installed(test, program) {
            return None;
        }
        let mut place = Place::new();
        match place.mount(program, options) {
            Ok(()) => Some(place),
            Err(why) => {
                left_out(test, &why);
                None
            }
        }
    }

    /// The place itself.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    fn mount(&mut self, program: &str, options: &[&str]) -> Result<(), String> {
        let name = self.path.file_name().expect("a place has a name");
        let image = Path::new("/dev/shm").join(name);
        let file = std::fs::File::create(&image).map_err(|error| format!("no room for a loop image: {error}"))?;
        // Sparse. XFS wants 300 MiB at least.
        file.set_len(512 << 20).map_err(|error| format!("no room for a loop image: {error}"))?;
        succeed(Command::new(program).args(options).arg(&image).env("PATH", PATH))?;
        // mount(8) frees the loop device with the last use, so nothing is left when the namespace goes.
        succeed(Command::new("mount").args(["-n", "-o", "loop"]).arg(&image).arg(&self.path).env("PATH", PATH))?;
        self.mounted = true;
        Ok(())
    }
}

impl Default for Place {
    fn default() -> Self {
        Place::new()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if self.mounted {
            let mut unmount = Command::new("umount");
            // Lazily, and ignoring a failure: the mount namespace takes what is left.
            let _ = unmount.args(["-n", "-l"]).arg(&self.path).stderr(Stdio::null()).status();
        }
    }
}

const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

fn succeed(command: &mut Command) -> Result<(), String> {
    let program = command.get_program().to_string_lossy().into_owned();
    let output = command.output().map_err(|error| format!("{program}: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(format!("{program}: {}", said.lines().next().unwrap_or("failed without a word")))
}
