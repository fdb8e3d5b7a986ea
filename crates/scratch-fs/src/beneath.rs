//! Opens what lies below a held directory without ever leaving it: no `..` past it, no symbolic link, no mount.

use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::{AtFlags, Mode, OFlags, ResolveFlags, StatxFlags};
use rustix::io::Errno;

use crate::name::check_name;

/// RESOLVE_NO_SYMLINKS tells a link as ELOOP; O_NOFOLLOW beside O_DIRECTORY would tell it as ENOTDIR.
const DIRECTORY: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NONBLOCK).union(OFlags::CLOEXEC);

/// Most bytes of a path below a lease's directory (PATH_MAX without its NUL).
pub(crate) const PATH_BYTES_MAX: usize = 4095;

/// openat2(2) is not there (before Linux 5.6, or under a seccomp filter that knows it as ENOSYS).
static NO_OPENAT2: AtomicBool = AtomicBool::new(false);

/// Opens the directory `path` (one or more components) below `directory`.
///
/// # Errors
/// ELOOP for a symbolic link on the way, EXDEV for a mount or a way out, those of openat2(2) else.
pub fn open_directory_beneath(directory: BorrowedFd<'_>, path: &CStr) -> Result<OwnedFd, Errno> {
    if !NO_OPENAT2.load(Ordering::Relaxed) {
        let resolve =
            ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS | ResolveFlags::NO_XDEV;
        // EAGAIN: a rename or mount elsewhere raced with the walk; the kernel asks for another try.
        for _ in 0..4 {
            match rustix::fs::openat2(directory, path, DIRECTORY, Mode::empty(), resolve) {
                Err(Errno::AGAIN) => {}
                Err(Errno::NOSYS) => {
                    NO_OPENAT2.store(true, Ordering::Relaxed);
                    break;
                }
                // A seccomp filter may also say EPERM, which openat2 itself says of nothing that we ask for.
                Err(Errno::PERM) => break,
                result => return result,
            }
        }
    }
    open_stepwise(directory, path)
}

/// The fallback: one openat(2) a component, each checked to lie on the first one's mount.
fn open_stepwise(directory: BorrowedFd<'_>, path: &CStr) -> Result<OwnedFd, Errno> {
    let mount = mount_id(directory)?;
    let mut at: Option<OwnedFd> = None;
    for component in path.to_bytes().split(|byte| *byte == b'/') {
        let name = check_name(component).map_err(|_| Errno::XDEV)?;
        let from = at.as_ref().map_or(directory, AsFd::as_fd);
        let next = rustix::fs::openat(from, &name, DIRECTORY | OFlags::NOFOLLOW, Mode::empty())?;
        if mount_id(next.as_fd())? != mount {
            return Err(Errno::XDEV);
        }
        at = Some(next);
    }
    at.ok_or(Errno::NOENT)
}

fn mount_id(directory: BorrowedFd<'_>) -> Result<u64, Errno> {
    Ok(rustix::fs::statx(directory, c"", AtFlags::EMPTY_PATH, StatxFlags::MNT_ID)?.stx_mnt_id)
}

/// Splits a path below a lease's directory into its parent (None: the lease's directory itself) and last name.
///
/// # Errors
/// A name error for any component that is no ordinary name, or a path over 4095 bytes (PATH_MAX without its NUL).
pub fn split_area_path(path: &[u8]) -> Result<(Option<CString>, CString), crate::NameError> {
    if path.len() > PATH_BYTES_MAX {
        return Err(crate::NameError::TooLong);
    }
    for component in path.split(|byte| *byte == b'/') {
        check_name(component)?;
    }
    match path.iter().rposition(|byte| *byte == b'/') {
        None => Ok((None, check_name(path)?)),
        Some(slash) => {
            let parent = CString::new(&path[..slash]).map_err(|_| crate::NameError::Nul)?;
            Ok((Some(parent), check_name(&path[slash + 1..])?))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn root() -> (tempfile::TempDir, OwnedFd) {
        let root = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(root.path().join("a/b")).unwrap();
        std::fs::write(root.path().join("a/file"), b"").unwrap();
        std::os::unix::fs::symlink("b", root.path().join("a/link")).unwrap();
        let held = rustix::fs::open(root.path(), DIRECTORY, Mode::empty()).unwrap();
        (root, held)
    }

    #[test]
    fn both_ways_agree() {
        let (_root, held) = root();
        for (path, expected) in [
            (c"a", None),
            (c"a/b", None),
            (c"a/link", Some(Errno::LOOP)),
            (c"a/link/x", Some(Errno::LOOP)),
            (c"a/file", Some(Errno::NOTDIR)),
            (c"missing", Some(Errno::NOENT)),
            (c"../x", Some(Errno::XDEV)),
            (c"/etc", Some(Errno::XDEV)),
        ] {
            let fast = open_directory_beneath(held.as_fd(), path).err();
            let slow = open_stepwise(held.as_fd(), path).err();
            assert_eq!(fast, expected, "{path:?}");
            // openat(2) with O_NOFOLLOW|O_DIRECTORY tells a link as ENOTDIR.
            let slow = if expected == Some(Errno::LOOP) && slow == Some(Errno::NOTDIR) { expected } else { slow };
            assert_eq!(slow, expected, "{path:?} stepwise");
        }
    }

    #[test]
    fn area_paths_split_into_parent_and_name() {
        assert_eq!(split_area_path(b"x").unwrap(), (None, c"x".into()));
        assert_eq!(split_area_path(b"a/b/c").unwrap(), (Some(c"a/b".into()), c"c".into()));
        for path in [&b""[..], b"/x", b"a//b", b"a/", b"../x", b"a/./b", b"a\0b"] {
            assert!(split_area_path(path).is_err(), "{path:?}");
        }
    }
}
