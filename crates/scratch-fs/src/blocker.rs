//! What keeps a name from being removed: the word that debt, metrics and `scratch debt` have for it.

use std::ffi::CStr;
use std::fmt;
use std::os::fd::BorrowedFd;

use rustix::fs::{AtFlags, Statx, StatxAttributes, StatxFlags};
use rustix::io::Errno;

/// Why something remains.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Blocker {
    /// Something is mounted there; mounts are never crossed.
    Mount,
    /// An immutable or append-only flag that could not, or must not, be cleared.
    Immutable,
    /// A directory that is neither the tenant's nor the broker's.
    ForeignOwner,
    /// In use, or filled faster than it is emptied.
    Busy,
    /// The file system is mounted read-only.
    ReadOnly,
    /// The kernel refuses it to this broker.
    Permission,
    /// Anything else; the errno says what.
    Other,
}

impl Blocker {
    /// Judges an errno that an operation on `name` got.
    pub(crate) fn of(directory: BorrowedFd<'_>, name: &CStr, errno: Errno) -> Self {
        match errno {
            Errno::XDEV => Self::Mount,
            Errno::BUSY if has(directory, name, StatxAttributes::MOUNT_ROOT) => Self::Mount,
            Errno::BUSY | Errno::NOTEMPTY | Errno::EXIST | Errno::TXTBSY => Self::Busy,
            Errno::ROFS => Self::ReadOnly,
            Errno::PERM if is_flagged(directory, name) => Self::Immutable,
            Errno::PERM | Errno::ACCESS => Self::Permission,
            _ => Self::Other,
        }
    }
}

impl fmt::Display for Blocker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Mount => "mount",
            Self::Immutable => "immutable",
            Self::ForeignOwner => "foreign owner",
            Self::Busy => "busy",
            Self::ReadOnly => "read-only",
            Self::Permission => "permission",
            Self::Other => "other",
        })
    }
}

/// The flag may be the directory's own: a name can't be unlinked from an immutable or append-only one.
fn is_flagged(directory: BorrowedFd<'_>, name: &CStr) -> bool {
    let flags = StatxAttributes::IMMUTABLE | StatxAttributes::APPEND;
    has(directory, c"", flags) || has(directory, name, flags)
}

fn has(directory: BorrowedFd<'_>, name: &CStr, attributes: StatxAttributes) -> bool {
    let at = AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT | AtFlags::EMPTY_PATH;
    let found: Result<Statx, Errno> = rustix::fs::statx(directory, name, at, StatxFlags::TYPE);
    // Unknown is "no": the errno is told as it is then.
    found.is_ok_and(|found| found.stx_attributes.intersects(attributes))
}
