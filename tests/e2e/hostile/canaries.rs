//! Canaries: trees outside of the pool, of root, of the tenant and of another user. Whatever was done to trees beside them, their
//! content, modes, owners and times are what they were; nobody can set back a ctime, so one look at the end sees all.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{MetadataExt, chown};
use std::path::{Path, PathBuf};

use scratch_tests::{is_root, snapshot};

use super::{OTHER, TENANT};
use crate::trees::canary;

/// A file of each canary that may get and lose names in trees, which changes its ctime and nothing else.
pub(crate) const LINKED: &str = "linked";

type Seen = BTreeMap<PathBuf, (String, (i64, i64), Option<(i64, i64)>)>;

pub(crate) struct Canaries {
    root: PathBuf,
    before: Seen,
}

impl Canaries {
    /// Makes them below `place`. Without root's rights all are of one user.
    pub(crate) fn new(place: &Path) -> Canaries {
        let root = place.join("canaries");
        for (name, owner) in [("root", 0), ("tenant", TENANT), ("other", OTHER)] {
            let at = root.join(name);
            canary(&at);
            fs::write(at.join(LINKED), "precious").expect("a place is writable");
            for path in ["", "inner", "inner/file", "file", LINKED] {
                if is_root() {
                    chown(at.join(path), Some(owner), Some(owner)).expect("root may");
                }
            }
        }
        let before = look(&root);
        Canaries { root, before }
    }

    /// One of them.
    pub(crate) fn of(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }

    /// Each of them.
    pub(crate) fn each(&self) -> [PathBuf; 3] {
        ["root", "tenant", "other"].map(|name| self.of(name))
    }

    #[track_caller]
    pub(crate) fn are_untouched(&self) {
        assert_eq!(look(&self.root), self.before, "a canary was touched");
    }
}

fn look(root: &Path) -> Seen {
    let with_times = |(path, seen): (PathBuf, String)| {
        let about = path.symlink_metadata().expect("a canary stays where it is");
        let is_linked = path.file_name().is_some_and(|name| name == LINKED);
        let changed = (!is_linked).then(|| (about.ctime(), about.ctime_nsec()));
        (path, (seen, (about.mtime(), about.mtime_nsec()), changed))
    };
    snapshot(root).into_iter().map(with_times).collect()
}
