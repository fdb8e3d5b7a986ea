//! The renames of a persist, with what stands in for those that a file system does not know.

use std::ffi::CStr;
use std::os::fd::BorrowedFd;

use rustix::fs::{AtFlags, RenameFlags};
use rustix::io::Errno;

use crate::persist::Replace;

/// Renames within one mount.
pub(crate) fn rename(
    from: BorrowedFd<'_>,
    name: &CStr,
    to: BorrowedFd<'_>,
    new_name: &CStr,
    replace: Replace,
) -> Result<(), Errno> {
    match replace {
        Replace::Always => rustix::fs::renameat(from, name, to, new_name),
        Replace::Exchange => rustix::fs::renameat_with(from, name, to, new_name, RenameFlags::EXCHANGE),
        Replace::Never => match rustix::fs::renameat_with(from, name, to, new_name, RenameFlags::NOREPLACE) {
            // A file system or a seccomp filter without the flag.
            Err(errno @ (Errno::INVAL | Errno::NOSYS)) => move_by_link(from, name, to, new_name, errno),
            result => result,
        },
    }
}

/// A directory has no second name: for it the answer stays what it was.
fn move_by_link(
    from: BorrowedFd<'_>,
    name: &CStr,
    to: BorrowedFd<'_>,
    new_name: &CStr,
    answer: Errno,
) -> Result<(), Errno> {
    match rustix::fs::linkat(from, name, to, new_name, AtFlags::empty()) {
        Err(Errno::PERM | Errno::OPNOTSUPP) => return Err(answer),
        result => result?,
    }
    rustix::fs::unlinkat(from, name, AtFlags::empty()).inspect_err(|_| {
        // Best effort: the error that is told is the one that came first.
        let _ = rustix::fs::unlinkat(to, new_name, AtFlags::empty());
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::fd::AsFd;

    #[test]
    fn a_link_and_an_unlink_move_a_file_and_replace_nothing() {
        let root = tempfile::tempdir().unwrap();
        let held = fs::File::open(root.path()).unwrap();
        let at = held.as_fd();
        fs::write(root.path().join("file"), "1").unwrap();
        fs::write(root.path().join("taken"), "2").unwrap();
        fs::create_dir(root.path().join("directory")).unwrap();
        assert_eq!(move_by_link(at, c"file", at, c"taken", Errno::INVAL), Err(Errno::EXIST));
        assert_eq!(move_by_link(at, c"directory", at, c"new", Errno::INVAL), Err(Errno::INVAL));
        assert_eq!(move_by_link(at, c"file", at, c"new", Errno::INVAL), Ok(()));
        assert_eq!(fs::read(root.path().join("new")).unwrap(), b"1");
        assert_eq!(fs::read(root.path().join("taken")).unwrap(), b"2");
        assert!(!root.path().join("file").exists());
    }
}
