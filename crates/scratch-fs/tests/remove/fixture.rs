//! A trash with a canary beside it, and the trees that go in.

use std::ffi::CString;
use std::fs::{self, File};
use std::num::NonZeroUsize;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};
use scratch_fs::{Blocker, Removal, Rights, Trash, TrashName};
use scratch_lease::LeaseId;

/// The tenant of trees in trash; no account has it.
pub const TENANT: u32 = 54_321;

pub const ONE: NonZeroUsize = NonZeroUsize::new(1).unwrap();
pub const TWO: NonZeroUsize = NonZeroUsize::new(2).unwrap();

/// `base` has `.scratch/trash`, `lease` to build a tree in, and `canary`.
pub struct Fixture {
    base: PathBuf,
    pub trash: Trash,
    canary: Vec<(PathBuf, u32, u32, Option<Vec<u8>>)>,
}

impl Fixture {
    pub fn new() -> Self {
        Self::below(Path::new("/tmp"))
    }

    /// On another file system than /tmp.
    pub fn below(directory: &Path) -> Self {
        let base = directory.join(format!("fixture-{}", rustix::process::getpid().as_raw_nonzero()));
        for path in ["", ".scratch", "lease", "canary", "canary/inner"] {
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
    pub fn lease(&self) -> PathBuf {
        self.base.join("lease")
    }

    pub fn canary(&self, path: &str) -> PathBuf {
        self.base.join("canary").join(path)
    }

    pub fn id() -> LeaseId {
        "abcdefghijklmnop".parse().unwrap()
    }

    /// Ends the lease: what was built is in trash.
    pub fn take(&self) -> TrashName {
        let base = File::open(&self.base).unwrap();
        self.trash.take(base.as_fd(), c"lease", TENANT, Self::id()).unwrap()
    }

    pub fn in_trash(&self, entry: TrashName) -> PathBuf {
        self.trash.shown().join(entry.to_string())
    }

    pub fn remove(&self, rights: Rights) -> Removal {
        scratch_fs::remove(&self.trash, self.take(), rights, ONE)
    }

    /// Removes what was built, of which nothing may remain.
    #[track_caller]
    pub fn remove_all(&self, rights: Rights) -> u64 {
        let removal = self.remove(rights);
        assert_eq!(removal.left, []);
        self.assert_gone();
        removal.names_removed
    }

    /// Nothing remains, and nothing but the tree was touched.
    #[track_caller]
    pub fn assert_gone(&self) {
        assert_eq!(fs::read_dir(self.trash.shown()).unwrap().count(), 0);
        self.assert_canary();
    }

    #[track_caller]
    pub fn assert_canary(&self) {
        assert_eq!(look_at_canary(&self.base), self.canary);
    }

    /// One entry remains, for this reason and at this path below it.
    #[track_caller]
    pub fn assert_left(&self, removal: &Removal, blocker: Blocker, path: &str) {
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
pub fn make_chain(from: &Path, depth: usize) {
    let mut at: OwnedFd = File::open(from).unwrap().into();
    for _ in 0..depth {
        rustix::fs::mkdirat(&at, c"d", Mode::RWXU).unwrap();
        at = rustix::fs::openat(&at, c"d", OFlags::DIRECTORY | OFlags::NOFOLLOW, Mode::empty()).unwrap();
    }
}

pub fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

pub fn own(path: &Path, uid: u32) {
    std::os::unix::fs::lchown(path, Some(uid), Some(uid)).unwrap();
}

pub fn c_path(path: &Path) -> CString {
    CString::new(path.as_os_str().as_bytes()).unwrap()
}
