//! What tells a file or directory of a client's from every other one, in this boot and in the next.

use std::os::fd::{AsFd, BorrowedFd};

use prost::Message;
use rustix::fs::{AtFlags, Mode, OFlags, StatxFlags};
use rustix::io::Errno;

/// TMPFS_MAGIC and RAMFS_MAGIC: what lies on these is gone with its boot.
const GONE_WITH_BOOT: [u64; 2] = [0x0102_1994, 0x8584_58f6];

/// A file or directory by all that its file system tells of it.
#[derive(Clone, PartialEq, Message)]
pub struct Node {
    /// st_dev, of this boot.
    #[prost(uint64, tag = "1")]
    pub device: u64,
    /// st_ino.
    #[prost(uint64, tag = "2")]
    pub inode: u64,
    /// When it was made, nanoseconds since 1970; 0: not known.
    #[prost(uint64, tag = "3")]
    pub born: u64,
    /// The kind of its file handle.
    #[prost(int32, tag = "4")]
    pub handle_kind: i32,
    /// Its file handle; empty: its file system has none.
    #[prost(bytes = "vec", tag = "5")]
    pub handle: Vec<u8>,
    /// Its file system's uuid; empty: not known.
    #[prost(bytes = "vec", tag = "6")]
    pub uuid: Vec<u8>,
    /// Its file system's f_fsid; 0: it has none.
    #[prost(uint64, tag = "7")]
    pub file_system: u64,
    /// Its file system is memory, and gone with its boot.
    #[prost(bool, tag = "8")]
    pub is_memory: bool,
}

impl Node {
    /// Looks at what is held, O_PATH or not. The file system is asked only for directories, which are parents.
    ///
    /// # Errors
    /// Of statx(2).
    pub fn of(held: BorrowedFd<'_>) -> Result<Self, Errno> {
        let flags = AtFlags::EMPTY_PATH | AtFlags::NO_AUTOMOUNT;
        let found = rustix::fs::statx(held, c"", flags, StatxFlags::INO | StatxFlags::BTIME)?;
        let knows_birth = StatxFlags::from_bits_retain(found.stx_mask).contains(StatxFlags::BTIME);
        let born = (knows_birth && found.stx_btime.tv_sec > 0)
            .then(|| found.stx_btime.tv_sec.cast_unsigned() * 1_000_000_000 + u64::from(found.stx_btime.tv_nsec));
        // None is a file system that has none: then there is less to tell it by.
        let handle = scratch_sys::file_handle(held).ok();
        Ok(Self {
            device: rustix::fs::makedev(found.stx_dev_major, found.stx_dev_minor),
            inode: found.stx_ino,
            born: born.unwrap_or(0),
            handle_kind: handle.as_ref().map_or(0, |handle| handle.kind),
            handle: handle.map(|handle| handle.bytes).unwrap_or_default(),
            ..Self::default()
        })
    }

    /// As [`Self::of`], and what its file system is called; for a directory.
    ///
    /// # Errors
    /// Of statx(2).
    pub fn of_parent(held: BorrowedFd<'_>) -> Result<Self, Errno> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        // Who may not read the directory is told less: f_fsid is there all the same.
        let uuid = rustix::fs::openat(held, c".", flags, Mode::empty())
            .and_then(|opened| scratch_sys::file_system_uuid(opened.as_fd()));
        Ok(Self {
            uuid: uuid.unwrap_or_default(),
            file_system: rustix::fs::fstatvfs(held).map_or(0, |space| space.f_fsid),
            is_memory: rustix::fs::fstatfs(held)
                .is_ok_and(|found| u64::try_from(found.f_type).is_ok_and(|kind| GONE_WITH_BOOT.contains(&kind))),
            ..Self::of(held)?
        })
    }

    /// Whether both are one and the same, on one file system. None: that can't be told.
    #[must_use]
    pub fn is(&self, found: &Self, same_boot: bool) -> Option<bool> {
        if self.inode != found.inode {
            return Some(false);
        }
        if !self.handle.is_empty() && !found.handle.is_empty() {
            return Some((self.handle_kind, &self.handle) == (found.handle_kind, &found.handle));
        }
        if self.born != 0 && found.born != 0 {
            return Some(self.born == found.born);
        }
        same_boot.then_some(true)
    }

    /// Whether both are one and the same, wherever they were found. None: that can't be told.
    #[must_use]
    pub fn is_anywhere(&self, found: &Self, same_boot: bool) -> Option<bool> {
        let same_file_system = if same_boot {
            self.device == found.device
        } else if !self.uuid.is_empty() && !found.uuid.is_empty() {
            self.uuid == found.uuid
        } else if self.file_system != 0 && self.file_system == found.file_system {
            true
        } else {
            // Device numbers say nothing in another boot, and on some file systems f_fsid is made of them.
            return if self.is(found, false) == Some(false) { Some(false) } else { None };
        };
        if same_file_system { self.is(found, same_boot) } else { Some(false) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node() -> Node {
        Node { device: 1, inode: 2, born: 3, handle_kind: 4, handle: vec![5], uuid: vec![6], ..Node::default() }
    }

    #[test]
    fn an_inode_that_was_given_to_another_file_is_not_it() {
        assert_eq!(node().is(&node(), true), Some(true));
        let next = Node { handle: vec![7], ..node() };
        assert_eq!(node().is(&next, true), Some(false));
        let without = |born| Node { handle: Vec::new(), born, ..node() };
        assert_eq!(without(3).is(&without(3), true), Some(true));
        assert_eq!(without(3).is(&without(4), true), Some(false));
        assert_eq!(without(0).is(&without(0), true), Some(true), "the inode alone is enough in one boot");
        assert_eq!(without(0).is(&without(0), false), None, "and not in the next");
        assert_eq!(without(0).is(&Node { inode: 9, ..without(0) }, false), Some(false));
    }

    #[test]
    fn device_numbers_are_of_one_boot() {
        let moved = Node { device: 9, ..node() };
        assert_eq!(node().is_anywhere(&moved, true), Some(false));
        assert_eq!(node().is_anywhere(&moved, false), Some(true));
        assert_eq!(node().is_anywhere(&Node { uuid: vec![9], ..node() }, false), Some(false));
        let unnamed = |file_system| Node { uuid: Vec::new(), file_system, ..node() };
        assert_eq!(unnamed(8).is_anywhere(&unnamed(8), false), Some(true));
        assert_eq!(unnamed(8).is_anywhere(&unnamed(9), false), None);
        assert_eq!(unnamed(0).is_anywhere(&unnamed(0), false), None);
        assert_eq!(unnamed(0).is_anywhere(&Node { inode: 9, ..unnamed(0) }, false), Some(false));
    }

    #[test]
    fn two_files_are_two_nodes_and_a_rename_changes_none() {
        let directory = tempfile::tempdir().unwrap();
        let make = |name: &str| std::fs::File::create(directory.path().join(name)).unwrap();
        let (one, two) = (make("one"), make("two"));
        let (one_was, two) = (Node::of(one.as_fd()).unwrap(), Node::of(two.as_fd()).unwrap());
        assert_eq!(one_was.is(&two, true), Some(false));
        std::fs::rename(directory.path().join("one"), directory.path().join("three")).unwrap();
        assert_eq!(one_was.is(&Node::of(one.as_fd()).unwrap(), false), Some(true));
        let held = std::fs::File::open(directory.path()).unwrap();
        let parent = Node::of_parent(held.as_fd()).unwrap();
        assert_eq!(parent.is_anywhere(&Node::of_parent(held.as_fd()).unwrap(), true), Some(true));
        assert_eq!(parent.device, std::os::unix::fs::MetadataExt::dev(&held.metadata().unwrap()));
    }
}
