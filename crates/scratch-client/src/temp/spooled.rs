//! A file in memory until it is too large for that, then one without a name.

use std::fs::File;
use std::io::{self, Cursor, Read, Seek, SeekFrom, Write};
use std::path::Path;

use super::place::Place;
use crate::Lease;

/// In memory until it would be larger than `max_size` bytes, then a file without a name under the lease, or in a directory.
///
/// It rolls *before* the write that would exceed `max_size`, as the tempfile crate's does; Python's SpooledTemporaryFile rolls
/// after it.
#[derive(Debug)]
pub struct SpooledTempFile {
    max_size: usize,
    place: Place,
    data: SpooledData,
}

/// Where the bytes are.
#[derive(Debug)]
pub enum SpooledData {
    /// In this process.
    InMemory(Cursor<Vec<u8>>),
    /// In a file without a name.
    OnDisk(File),
}

impl SpooledTempFile {
    /// Nothing is made before it rolls.
    #[must_use]
    pub fn new(max_size: usize) -> Self {
        Self::at(max_size, Place::default())
    }

    /// Rolls into a directory of this user's own.
    #[must_use]
    pub fn new_in(max_size: usize, dir: impl AsRef<Path>) -> Self {
        Self::at(max_size, Place::default().in_directory(dir.as_ref()))
    }

    /// Rolls into the directory of this lease.
    #[must_use]
    pub fn under(max_size: usize, lease: &Lease) -> Self {
        Self::at(max_size, Place { lease: Some(lease.under()), directory: None })
    }

    fn at(max_size: usize, place: Place) -> Self {
        Self { max_size, place, data: SpooledData::InMemory(Cursor::new(Vec::new())) }
    }

    /// Whether the bytes are in a file.
    #[must_use]
    pub fn is_rolled(&self) -> bool {
        matches!(self.data, SpooledData::OnDisk(_))
    }

    /// Moves the bytes into a file now; the position stays.
    ///
    /// # Errors
    /// Those of making the file and of write(2). The bytes are still in memory then.
    pub fn roll(&mut self) -> io::Result<()> {
        let SpooledData::InMemory(cursor) = &self.data else { return Ok(()) };
        let mut file = self.place.anonymous()?;
        file.write_all(cursor.get_ref())?;
        file.seek(SeekFrom::Start(cursor.position()))?;
        self.data = SpooledData::OnDisk(file);
        Ok(())
    }

    /// As [`File::set_len`]; rolls where `size` is more than `max_size`.
    ///
    /// # Errors
    /// As [`Self::roll`], and those of ftruncate(2).
    pub fn set_len(&mut self, size: u64) -> io::Result<()> {
        if size > self.max_size as u64 {
            self.roll()?;
        }
        match &mut self.data {
            SpooledData::InMemory(cursor) => {
                // No more than max_size, which is one.
                cursor.get_mut().resize(usize::try_from(size).unwrap_or(self.max_size), 0);
                Ok(())
            }
            SpooledData::OnDisk(file) => file.set_len(size),
        }
    }

    /// Where the bytes are.
    #[must_use]
    pub fn into_inner(self) -> SpooledData {
        self.data
    }

    /// A file, rolled if need be.
    ///
    /// # Errors
    /// As [`Self::roll`].
    pub fn into_file(mut self) -> io::Result<File> {
        self.roll()?;
        match self.data {
            SpooledData::OnDisk(file) => Ok(file),
            SpooledData::InMemory(_) => Err(io::ErrorKind::Other.into()),
        }
    }

    fn make_room(&mut self, bytes: usize) -> io::Result<()> {
        match &self.data {
            SpooledData::InMemory(cursor) if cursor.position().saturating_add(bytes as u64) > self.max_size as u64 => {
                self.roll()
            }
            _ => Ok(()),
        }
    }
}

impl Read for SpooledTempFile {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match &mut self.data {
            SpooledData::InMemory(cursor) => cursor.read(buffer),
            SpooledData::OnDisk(file) => file.read(buffer),
        }
    }

    fn read_vectored(&mut self, buffers: &mut [io::IoSliceMut<'_>]) -> io::Result<usize> {
        match &mut self.data {
            SpooledData::InMemory(cursor) => cursor.read_vectored(buffers),
            SpooledData::OnDisk(file) => file.read_vectored(buffers),
        }
    }

    fn read_to_end(&mut self, buffer: &mut Vec<u8>) -> io::Result<usize> {
        match &mut self.data {
            SpooledData::InMemory(cursor) => cursor.read_to_end(buffer),
            SpooledData::OnDisk(file) => file.read_to_end(buffer),
        }
    }
}

impl Write for SpooledTempFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.make_room(bytes.len())?;
        match &mut self.data {
            SpooledData::InMemory(cursor) => cursor.write(bytes),
            SpooledData::OnDisk(file) => file.write(bytes),
        }
    }

    fn write_vectored(&mut self, buffers: &[io::IoSlice<'_>]) -> io::Result<usize> {
        self.make_room(buffers.iter().fold(0, |sum: usize, buffer| sum.saturating_add(buffer.len())))?;
        match &mut self.data {
            SpooledData::InMemory(cursor) => cursor.write_vectored(buffers),
            SpooledData::OnDisk(file) => file.write_vectored(buffers),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match &mut self.data {
            SpooledData::InMemory(cursor) => cursor.flush(),
            SpooledData::OnDisk(file) => file.flush(),
        }
    }
}

impl Seek for SpooledTempFile {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        match &mut self.data {
            SpooledData::InMemory(cursor) => cursor.seek(to),
            SpooledData::OnDisk(file) => file.seek(to),
        }
    }
}
