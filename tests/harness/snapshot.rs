//! What a tree looks like, to prove later that nothing in it was touched.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Every name at and below `root` with its type, mode, owner, inode, and content or target. Follows nothing.
/// Times are left out: reading is allowed.
///
/// # Panics
/// When the tree can't be read.
#[must_use]
pub fn snapshot(root: &Path) -> BTreeMap<PathBuf, String> {
    let mut seen = BTreeMap::new();
    let mut open = vec![root.to_path_buf()];
    while let Some(path) = open.pop() {
        let about = path.symlink_metadata().expect("a tree that nobody changes can be looked at");
        let content = if about.is_dir() {
            open.extend(names_in(&path).into_iter().map(|name| path.join(name)));
            String::new()
        } else if about.is_symlink() {
            format!("{:?}", path.read_link().expect("a symbolic link has a target"))
        } else if about.is_file() {
            format!("{:?}", std::fs::read(&path).expect("a regular file can be read"))
        } else {
            String::new()
        };
        seen.insert(path, format!("{:o} {}:{} {} {content}", about.mode(), about.uid(), about.gid(), about.ino()));
    }
    seen
}

/// The names in a directory, sorted; none if it is gone.
///
/// # Panics
/// When it is there and can't be read.
#[must_use]
pub fn names_in(directory: &Path) -> Vec<OsString> {
    let entries = match std::fs::read_dir(directory) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Vec::new(),
        entries => entries.expect("a directory can be listed"),
    };
    let mut names: Vec<_> = entries.map(|entry| entry.expect("a directory can be listed").file_name()).collect();
    names.sort();
    names
}
