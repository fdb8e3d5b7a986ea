//! A trash with a canary beside it, and the trees that go in.

use std::fs::{self, File};
use std::num::NonZeroUsize;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::fs::{IFlags, Mode, OFlags};
use scratch_fs::{Blocker, Removal, Rights, Trash, TrashName};
use scratch_lease::LeaseId;

/// The tenant of trees in trash; no account has it.
pub(crate) const TENANT: u32 = 54_321;

pub(crate) const ONE: NonZeroUsize = NonZeroUsize::new(1).unwrap();
pub(crate) const TWO: NonZeroUsize = NonZeroUsize::new(2).unwrap();

/// `base` has `.scratch/trash`, `lease` to build a tree in, and `canary`.
pub(crate) struct Fixture {
    base: PathBuf,
    pub(crate) trash: Trash,
    canary: Vec<(PathBuf, u32, u32, Option<Vec<u8>>)>,
}

impl Fixture {
    pub(crate) fn new() -> Self {
        Self::below(Path::new("/tmp"))
    }

    /// On another file system than /tmp.
    pub(crate) fn below(directory: &Path) -> Self {
        // Kept: what clears it away must not be std's remover, and /tmp is gone with the process.
        let base = tempfile::tempdir_in(directory).unwrap().keep();
        for path in [".scratch", "lease", "canary", "canary/inner"] {
            fs::create_dir(base.join(path)).unwrap();
        }
        for path in ["canary/file", "canary/inner/file"] {
            fs::write(base.join(path), "alive").unwrap();
            fs::set_permissions(base.join(path), fs::Permissions::from_mode(0o640)).unwrap();
        }
        let scratch = File::open(base.join(".scratch")).unwrap();
        let trash = Trash::open(scratch.as_fd(), &base.join(".scratch/trash")).unwrap();
        let canary = look_at_canary(&base);
        Self { base, trash, canary }
    }

    /// Where a test builds its tree.
    pub(crate) fn lease(&self) -> PathBuf {
        self.base.join("lease")
    }

    pub(crate) fn canary(&self, path: &str) -> PathBuf {
        self.base.join("canary").join(path)
    }

    pub(crate) fn id() -> LeaseId {
        "abcdefghijklmnop".parse().unwrap()
    }

    /// Ends the lease: what was built is in trash.
    pub(crate) fn take(&self) -> TrashName {
        let base = File::open(&self.base).unwrap();
        self.trash.take(base.as_fd(), c"lease", TENANT, Self::id()).unwrap()
    }

    pub(crate) fn in_trash(&self, entry: TrashName) -> PathBuf {
        self.trash.shown().join(entry.to_string())
    }

    pub(crate) fn remove(&self, rights: Rights) -> Removal {
        scratch_fs::remove(&self.trash, self.take(), rights, ONE)
    }

    /// Removes what was built, of which nothing may remain.
    #[track_caller]
    pub(crate) fn remove_all(&self, rights: Rights) -> u64 {
        let removal = self.remove(rights);
        assert_eq!(removal.left, []);
        self.assert_gone();
        removal.names_removed
    }

    /// Nothing remains, and nothing but the tree was touched.
    #[track_caller]
    pub(crate) fn assert_gone(&self) {
        assert_eq!(fs::read_dir(self.trash.shown()).unwrap().count(), 0);
        self.assert_canary();
    }

    #[track_caller]
    pub(crate) fn assert_canary(&self) {
        assert_eq!(look_at_canary(&self.base), self.canary);
    }

    /// One entry remains, for this reason and at this path below it.
    #[track_caller]
    pub(crate) fn assert_left(&self, removal: &Removal, blocker: Blocker, path: &str) {
        assert_eq!(removal.left.len(), 1, "{removal:?}");
        let left = &removal.left[0];
        let below = left.error.path.strip_prefix(self.in_trash(left.entry)).unwrap();
        assert_eq!((left.blocker, below), (blocker, Path::new(path)), "{left:?}");
        self.assert_canary();
    }
}

fn look_at_canary(base: &Path) -> Vec<(PathBuf, u32, u32, Option<Vec<u8>>)> {
    ["canary", "canary/file", "canary/inner", "canary/inner/file"]
        .map(|path| {
            let path = base.join(path);
            let found = fs::symlink_metadata(&path).unwrap();
            let content = found.is_file().then(|| fs::read(&path).unwrap());
            (path, found.mode(), found.uid(), content)
        })
        .into()
}

/// Makes `depth` directories, each in the one before. By descriptors: the path is longer than any path may be.
pub(crate) fn make_chain(from: &Path, depth: usize) {
    let mut at: OwnedFd = File::open(from).unwrap().into();
    for _ in 0..depth {
        rustix::fs::mkdirat(&at, c"d", Mode::RWXU).unwrap();
        at = rustix::fs::openat(&at, c"d", OFlags::DIRECTORY | OFlags::NOFOLLOW, Mode::empty()).unwrap();
    }
}

pub(crate) fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

pub(crate) fn own(path: &Path, uid: u32) {
    std::os::unix::fs::lchown(path, Some(uid), Some(uid)).unwrap();
}

/// Sets flags of a directory or file; false, and said so, where that is not possible.
pub(crate) fn set_flags(path: &Path, flags: IFlags) -> bool {
    let held = File::open(path).unwrap();
    let result = rustix::fs::ioctl_getflags(&held).and_then(|old| rustix::fs::ioctl_setflags(&held, old | flags));
    result.inspect_err(|errno| println!("left out: flags can't be set here: {errno}")).is_ok()
}

/// Runs a program of the system; false, and said so, where that is not possible.
pub(crate) fn succeeds(program: &str, arguments: &[&str]) -> bool {
    match Command::new(program).args(arguments).output() {
        Ok(output) if output.status.success() => true,
        Ok(output) => {
            println!("left out: {program}: {}", String::from_utf8_lossy(&output.stderr).trim());
            false
        }
        Err(error) => {
            println!("left out: {program}: {error}");
            false
        }
    }
}

/// Mounts a new ext4 in a file.
pub(crate) fn mount_ext4(features: &str) -> Option<PathBuf> {
    let at = tempfile::tempdir_in("/tmp").unwrap().keep();
    let image = "/dev/shm/ext4";
    File::create(image).unwrap().set_len(64 << 20).unwrap();
    let made = succeeds("mkfs.ext4", &["-q", "-F", "-O", features, image]);
    (made && succeeds("mount", &["-n", "-o", "loop", image, at.to_str().unwrap()])).then_some(at)
}
