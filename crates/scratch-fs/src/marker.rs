//! The pool's marker `.scratch/pool`: what makes a directory this very pool, and none that was copied or restored.

use std::fmt::Write as _;

use rustix::fs::{AtFlags, StatxFlags};
use rustix::io::Errno;
use std::os::fd::BorrowedFd;

/// The format that this version writes, and the only one it reads.
pub(crate) const FORMAT: u32 = 1;

/// Format version, identity, and the root that it was made for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Marker {
    /// Version of everything below `.scratch`.
    pub(crate) format: u32,
    /// Random, 32 hexadecimal digits.
    pub(crate) uuid: String,
    /// st_ino of the root.
    pub(crate) inode: u64,
    /// Birth time of the root as seconds.nanoseconds; empty where the file system keeps none.
    pub(crate) birth: String,
}

/// The marker is not one that this version can read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum MarkerError {
    /// Another version's.
    Format(u32),
    /// No marker at all.
    Unreadable,
}

impl Marker {
    /// A new marker for this root.
    ///
    /// # Errors
    /// Of statx(2) and getrandom(2).
    pub(crate) fn of(root: BorrowedFd<'_>) -> Result<Self, Errno> {
        let mut bits = [0; 16];
        getrandom::fill(&mut bits).map_err(|_| Errno::IO)?;
        let uuid = bits.iter().fold(String::new(), |mut text, byte| {
            let _ = write!(text, "{byte:02x}"); // writing to a String can't fail
            text
        });
        let (inode, birth) = identity(root)?;
        Ok(Self { format: FORMAT, uuid, inode, birth })
    }

    /// Whether it was made for this root: a copy has another inode, a restored tree another birth.
    ///
    /// # Errors
    /// Of statx(2).
    pub(crate) fn matches(&self, root: BorrowedFd<'_>) -> Result<bool, Errno> {
        let (inode, birth) = identity(root)?;
        Ok(self.inode == inode && (self.birth.is_empty() || birth.is_empty() || self.birth == birth))
    }

    /// As the file has it: one `key = value` a line.
    #[must_use]
    pub(crate) fn to_text(&self) -> String {
        format!("format = {}\nuuid = {}\ninode = {}\nbirth = {}\n", self.format, self.uuid, self.inode, self.birth)
    }

    /// Reads the file.
    ///
    /// # Errors
    /// An unknown format, before anything else is looked at; or no marker.
    pub(crate) fn parse(text: &str) -> Result<Self, MarkerError> {
        let value = |key: &str| {
            let lines = text.lines().filter_map(|line| line.split_once('='));
            lines.map(|(k, v)| (k.trim(), v.trim())).find(|(k, _)| *k == key).map(|(_, v)| v)
        };
        let format = value("format").and_then(|text| text.parse().ok()).ok_or(MarkerError::Unreadable)?;
        if format != FORMAT {
            return Err(MarkerError::Format(format));
        }
        let inode = value("inode").and_then(|text| text.parse().ok()).ok_or(MarkerError::Unreadable)?;
        let uuid = value("uuid").ok_or(MarkerError::Unreadable)?.to_owned();
        Ok(Self { format, uuid, inode, birth: value("birth").unwrap_or_default().to_owned() })
    }
}

fn identity(root: BorrowedFd<'_>) -> Result<(u64, String), Errno> {
    let wanted = StatxFlags::INO | StatxFlags::BTIME;
    let found = rustix::fs::statx(root, c"", AtFlags::EMPTY_PATH, wanted)?;
    let known = StatxFlags::from_bits_retain(found.stx_mask).contains(StatxFlags::BTIME);
    let birth =
        if known { format!("{}.{:09}", found.stx_btime.tv_sec, found.stx_btime.tv_nsec) } else { String::new() };
    Ok((found.stx_ino, birth))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;

    #[test]
    fn a_marker_knows_its_root_from_another() {
        let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let (one, two) = (std::fs::File::open(one.path()).unwrap(), std::fs::File::open(two.path()).unwrap());
        let marker = Marker::of(one.as_fd()).unwrap();
        assert_eq!(Marker::parse(&marker.to_text()), Ok(marker.clone()));
        assert_eq!(marker.matches(one.as_fd()), Ok(true));
        assert_eq!(marker.matches(two.as_fd()), Ok(false));
    }

    #[test]
    fn other_formats_and_rubbish_are_told_apart() {
        assert_eq!(Marker::parse("format = 2\nwhatever"), Err(MarkerError::Format(2)));
        for text in ["", "format", "format = x", "format = 1", "format = 1\ninode = y\nuuid = z"] {
            assert_eq!(Marker::parse(text), Err(MarkerError::Unreadable), "{text}");
        }
    }
}
