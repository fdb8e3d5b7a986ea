//! The book of debts, `.scratch/debts`: what a broker knows of what it could not remove, for the next one. Nothing depends
//! on it: what is owed lies in the pool, and without the book it is tried anew.

use std::fs::File;
use std::io::Read;

use prost::Message;
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use crate::files::replace;
use crate::record::{checked, with_checksum};
use crate::{FsError, Pool};

/// A larger file is not one.
const BOOK_BYTES_MAX: u64 = 16 << 20;

/// All debts that were written down.
#[derive(Clone, PartialEq, Message)]
pub struct DebtBook {
    /// The boot whose clock the times are of.
    #[prost(string, tag = "1")]
    pub boot: String,
    /// One for each.
    #[prost(message, repeated, tag = "2")]
    pub debts: Vec<DebtEntry>,
}

/// One debt.
#[derive(Clone, PartialEq, Message)]
pub struct DebtEntry {
    /// As clients name it.
    #[prost(string, tag = "1")]
    pub id: String,
    /// The first path that could not be removed.
    #[prost(bytes = "vec", tag = "2")]
    pub path: Vec<u8>,
    /// What the kernel said there; 0: nothing.
    #[prost(int32, tag = "3")]
    pub errno: i32,
    /// The word for what stands in the way.
    #[prost(string, tag = "4")]
    pub blocker: String,
    /// How often it was tried.
    #[prost(uint32, tag = "5")]
    pub tries: u32,
    /// Nanoseconds on CLOCK_BOOTTIME; 0: never by itself.
    #[prost(uint64, tag = "6")]
    pub next_try: u64,
    /// Bytes on disk of what remains.
    #[prost(uint64, tag = "7")]
    pub bytes: u64,
    /// When it was first written down: seconds since 1970.
    #[prost(uint64, tag = "8")]
    pub since: u64,
    /// Whom it is charged to.
    #[prost(uint32, tag = "9")]
    pub tenant: u32,
}

impl Pool {
    /// The book as it was written last; an empty one where there is none, or a torn one.
    ///
    /// # Errors
    /// Of openat(2) and read(2).
    pub fn debts(&self) -> Result<DebtBook, FsError> {
        let shown = self.path.join(".scratch/debts");
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = match rustix::fs::openat(&self.scratch, c"debts", flags, Mode::empty()) {
            Ok(file) => File::from(file),
            Err(Errno::NOENT) => return Ok(DebtBook::default()),
            Err(errno) => return Err(FsError::new("open", shown, errno)),
        };
        let mut bytes = Vec::new();
        file.take(BOOK_BYTES_MAX)
            .read_to_end(&mut bytes)
            .map_err(|error| FsError::new("read", shown, Errno::from_io_error(&error).unwrap_or(Errno::IO)))?;
        let book = checked(&bytes).ok().and_then(|body| DebtBook::decode(body).ok());
        Ok(book.unwrap_or_default())
    }

    /// Writes the book whole.
    ///
    /// # Errors
    /// Of the write or the rename; then the old one is still there.
    pub fn write_debts(&self, book: &DebtBook) -> Result<(), FsError> {
        replace(&self.scratch, c"debts", &with_checksum(&book.encode_to_vec()))
            .map_err(|errno| FsError::new("write", self.path.join(".scratch/debts"), errno))
    }
}
