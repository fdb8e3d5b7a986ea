//! The bytes of one regular file: shared where the file systems can, else copied by the kernel, else by hand. Holes stay.

use std::os::fd::BorrowedFd;

use rustix::fs::{SeekFrom, Stat};
use rustix::io::{Errno, retry_on_intr};

/// Bytes of one read.
const BUFFER_BYTES: usize = 128 << 10;

/// What a copier keeps from file to file.
#[derive(Default)]
pub(super) struct Content {
    /// Made when first needed.
    buffer: Vec<u8>,
}

impl Content {
    /// Copies all of `source`, as long as it was when `found` was asked for, into an empty file.
    pub(super) fn copy(&mut self, source: BorrowedFd<'_>, found: &Stat, made: BorrowedFd<'_>) -> Result<(), Errno> {
        let size = found.st_size.cast_unsigned();
        // Any refusal is answered by copying, which has the better error.
        if size == 0 || rustix::fs::ioctl_ficlone(made, source).is_ok() {
            return Ok(());
        }
        let full = found.st_blocks.cast_unsigned() * 512 >= size;
        let mut at = 0;
        while at < size {
            let (data, end) = if full { (at, size) } else { next_data(source, at, size)? };
            if self.copy_range(source, made, data, end)? < end {
                // It has become shorter meanwhile.
                return Ok(());
            }
            at = end;
        }
        // For a hole at the end.
        rustix::fs::ftruncate(made, size)
    }

    /// Returns where it ended: before `end` only if the file does.
    fn copy_range(&mut self, source: BorrowedFd<'_>, made: BorrowedFd<'_>, data: u64, end: u64) -> Result<u64, Errno> {
        let mut at = data;
        while at < end {
            let (mut in_source, mut in_made) = (at, at);
            let length = usize::try_from(end - at).unwrap_or(usize::MAX).min(1 << 30);
            let copied = retry_on_intr(|| {
                rustix::fs::copy_file_range(source, Some(&mut in_source), made, Some(&mut in_made), length)
            });
            match copied {
                // 0 is also what some file systems answer that can't.
                Ok(0)
                | Err(Errno::XDEV | Errno::INVAL | Errno::OPNOTSUPP | Errno::NOSYS | Errno::PERM | Errno::BADF) => {
                    return self.copy_by_hand(source, made, at, end);
                }
                copied => at += copied? as u64,
            }
        }
        Ok(at)
    }

    fn copy_by_hand(
        &mut self,
        source: BorrowedFd<'_>,
        made: BorrowedFd<'_>,
        data: u64,
        end: u64,
    ) -> Result<u64, Errno> {
        self.buffer.resize(BUFFER_BYTES, 0);
        let mut at = data;
        while at < end {
            let wanted = usize::try_from(end - at).unwrap_or(usize::MAX).min(BUFFER_BYTES);
            let read = retry_on_intr(|| rustix::io::pread(source, &mut self.buffer[..wanted], at))?;
            if read == 0 {
                break;
            }
            let mut unwritten = &self.buffer[..read];
            while !unwritten.is_empty() {
                let written = retry_on_intr(|| rustix::io::pwrite(made, unwritten, at))?;
                if written == 0 {
                    return Err(Errno::IO);
                }
                unwritten = &unwritten[written..];
                at += written as u64;
            }
        }
        Ok(at)
    }
}

/// The next stretch that is no hole, from `at` on.
fn next_data(source: BorrowedFd<'_>, at: u64, size: u64) -> Result<(u64, u64), Errno> {
    let data = match rustix::fs::seek(source, SeekFrom::Data(at)) {
        // A hole up to the end.
        Err(Errno::NXIO) => return Ok((size, size)),
        // A file system that knows of no holes.
        Err(Errno::INVAL | Errno::OPNOTSUPP) => return Ok((at, size)),
        data => data?.min(size),
    };
    if data == size {
        return Ok((size, size));
    }
    let end = rustix::fs::seek(source, SeekFrom::Hole(data))?.min(size);
    // It can only be the next one, unless the file system is out of its mind; then this ends all the same.
    Ok((data, if end > data { end } else { size }))
}
