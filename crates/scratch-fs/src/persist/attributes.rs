//! What a copy has of its original besides the content.

use std::ffi::CStr;
use std::os::fd::BorrowedFd;

use rustix::fs::{Mode, Stat, Timespec, Timestamps, XattrFlags};
use rustix::io::Errno;

/// Most bytes of a value, and of all names, that the kernel hands out (XATTR_SIZE_MAX, XATTR_LIST_MAX).
const XATTR_BYTES_MAX: usize = 64 << 10;

const ACLS: [&CStr; 2] = [c"system.posix_acl_access", c"system.posix_acl_default"];

/// Makes what was just created its owner's alone, whatever the directory around it hands down.
///
/// # Errors
/// EPERM when it is not ours: somebody has swapped it.
pub(super) fn make_private(made: BorrowedFd<'_>, mode: Mode) -> Result<(), Errno> {
    for acl in ACLS {
        // Ignoring: there is none, as nearly always.
        let _ = rustix::fs::fremovexattr(made, acl);
    }
    rustix::fs::fchmod(made, mode)
}

/// Gives a finished copy the attributes of its original. The mode is exact; the rest is what the file system takes.
///
/// # Errors
/// Of fchmod(2).
pub(super) fn keep_attributes(source: BorrowedFd<'_>, found: &Stat, made: BorrowedFd<'_>) -> Result<(), Errno> {
    keep_xattrs(source, made);
    // After the ACL, whose mask shows as the mode of the group.
    rustix::fs::fchmod(made, kept_mode(found, &rustix::fs::fstat(made)?))?;
    // Ignoring: a file system without times.
    let _ = rustix::fs::futimens(made, &times(found));
    Ok(())
}

/// The original's mode; to run as somebody else than it did is no mode of a copy.
pub(super) fn kept_mode(found: &Stat, made: &Stat) -> Mode {
    let mut mode = Mode::from_raw_mode(found.st_mode & 0o7777);
    if found.st_uid != made.st_uid {
        mode -= Mode::SUID;
    }
    if found.st_uid != made.st_uid || found.st_gid != made.st_gid {
        mode -= Mode::SGID;
    }
    mode
}

pub(super) fn times(found: &Stat) -> Timestamps {
    let time = |seconds, nanoseconds: u64| Timespec { tv_sec: seconds, tv_nsec: nanoseconds.cast_signed() };
    Timestamps {
        last_access: time(found.st_atime, found.st_atime_nsec),
        last_modification: time(found.st_mtime, found.st_mtime_nsec),
    }
}

/// Best effort: other file systems have other limits, or none of them at all.
fn keep_xattrs(source: BorrowedFd<'_>, made: BorrowedFd<'_>) {
    // Asked for their size first, which is 0 nearly always.
    if !matches!(rustix::fs::flistxattr_query(source), Ok(1..)) {
        return;
    }
    let mut names = vec![0; XATTR_BYTES_MAX];
    let Ok(length) = rustix::fs::flistxattr(source, &mut names[..]) else { return };
    let mut value = vec![0; XATTR_BYTES_MAX];
    for name in names[..length].split_inclusive(|byte| *byte == 0) {
        let Ok(name) = CStr::from_bytes_with_nul(name) else { continue };
        if !name.to_bytes().starts_with(b"user.") && !ACLS.contains(&name) {
            continue;
        }
        if let Ok(length) = rustix::fs::fgetxattr(source, name, &mut value[..]) {
            let _ = rustix::fs::fsetxattr(made, name, &value[..length], XattrFlags::empty());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_owner_takes_away_the_right_to_run_as_the_first() {
        let mut source = rustix::fs::fstat(tempfile::tempfile().unwrap()).unwrap();
        (source.st_mode, source.st_uid, source.st_gid) = (0o106755, 7, 8);
        for (uid, gid, mode) in [(7, 8, 0o6755), (7, 9, 0o4755), (0, 8, 0o755), (0, 0, 0o755)] {
            let mut made = source;
            (made.st_uid, made.st_gid) = (uid, gid);
            assert_eq!(kept_mode(&source, &made).as_raw_mode(), mode, "{uid} {gid}");
        }
    }
}
