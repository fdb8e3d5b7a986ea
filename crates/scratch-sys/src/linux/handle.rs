//! What tells a file from all others for as long as its file system lives: file handles and the file system's own id.

use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use rustix::fs::OFlags;
use rustix::io::Errno;
use rustix::ioctl::opcode;

use super::identity::last_errno;

/// MAX_HANDLE_SZ.
const HANDLE_BYTES_MAX: usize = 128;

/// `struct file_handle` with room for every handle there is.
#[repr(C)]
struct RawHandle {
    length: libc::c_uint,
    kind: libc::c_int,
    bytes: [u8; HANDLE_BYTES_MAX],
}

/// `struct fsuuid2` of FS_IOC_GETFSUUID.
#[repr(C)]
struct RawUuid {
    length: u8,
    bytes: [u8; 16],
}

/// A file as its file system names it: not given to another file when this one is gone, the same in every boot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileHandle {
    /// What the file system calls this kind of handle.
    pub kind: i32,
    /// The handle, of no meaning to anybody else.
    pub bytes: Vec<u8>,
}

/// The handle of what is held, O_PATH or not.
///
/// # Errors
/// EOPNOTSUPP where the file system has none.
pub fn file_handle(held: BorrowedFd<'_>) -> Result<FileHandle, Errno> {
    let mut raw = RawHandle { length: HANDLE_BYTES_MAX as libc::c_uint, kind: 0, bytes: [0; HANDLE_BYTES_MAX] };
    let mut mount: libc::c_int = 0;
    // SAFETY: the path is a NUL-terminated constant; the handle has the room that its length says, and both results live
    // through the call.
    let result = unsafe {
        libc::syscall(
            libc::SYS_name_to_handle_at,
            held.as_raw_fd(),
            c"".as_ptr(),
            &raw mut raw,
            &raw mut mount,
            libc::AT_EMPTY_PATH,
        )
    };
    if result != 0 {
        return Err(last_errno());
    }
    let length = (raw.length as usize).min(HANDLE_BYTES_MAX);
    Ok(FileHandle { kind: raw.kind, bytes: raw.bytes[..length].to_vec() })
}

/// Opens what a handle stands for; `mounted` is anything on the same file system, and not O_PATH.
///
/// # Errors
/// ESTALE when it is gone; EPERM without CAP_DAC_READ_SEARCH.
pub fn open_by_handle(mounted: BorrowedFd<'_>, handle: &FileHandle, flags: OFlags) -> Result<OwnedFd, Errno> {
    if handle.bytes.len() > HANDLE_BYTES_MAX {
        return Err(Errno::INVAL);
    }
    let mut raw =
        RawHandle { length: handle.bytes.len() as libc::c_uint, kind: handle.kind, bytes: [0; HANDLE_BYTES_MAX] };
    raw.bytes[..handle.bytes.len()].copy_from_slice(&handle.bytes);
    // SAFETY: the handle has the bytes that its length says and lives through the call; the kernel writes nothing.
    let result = unsafe {
        libc::syscall(
            libc::SYS_open_by_handle_at,
            mounted.as_raw_fd(),
            &raw mut raw,
            (flags | OFlags::CLOEXEC).bits().cast_signed(),
        )
    };
    match i32::try_from(result) {
        // SAFETY: the call succeeded, so that this is a descriptor made for us that nobody else owns.
        Ok(number) if number >= 0 => Ok(unsafe { OwnedFd::from_raw_fd(number) }),
        _ => Err(last_errno()),
    }
}

/// What the file system of an open file calls itself, the same in every boot; not of an O_PATH descriptor.
///
/// # Errors
/// ENOTTY where it does not say, and before Linux 6.9.
pub fn file_system_uuid(open: BorrowedFd<'_>) -> Result<Vec<u8>, Errno> {
    let mut raw = RawUuid { length: 0, bytes: [0; 16] };
    // SAFETY: the kernel writes one `struct fsuuid2`, which is what it is given.
    let result = unsafe { libc::ioctl(open.as_raw_fd(), opcode::read::<RawUuid>(0x15, 0) as _, &raw mut raw) };
    if result != 0 {
        return Err(last_errno());
    }
    Ok(raw.bytes[..usize::from(raw.length).min(16)].to_vec())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;
    use std::os::fd::AsFd;

    #[test]
    fn a_handle_leads_back_to_its_file_and_to_no_other() {
        let directory = tempfile::tempdir().unwrap();
        let held = File::open(directory.path()).unwrap();
        let path = directory.path().join("file");
        let file = File::create(&path).unwrap();
        let handle = match file_handle(file.as_fd()) {
            Ok(handle) => handle,
            Err(errno) => return println!("left out: no handles in the temporary directory: {errno}"),
        };
        assert_eq!(file_handle(file.as_fd()), Ok(handle.clone()));
        let flags = OFlags::PATH | OFlags::NOFOLLOW;
        match open_by_handle(held.as_fd(), &handle, flags) {
            Ok(opened) => assert_eq!(file_handle(opened.as_fd()), Ok(handle.clone())),
            Err(errno) => return println!("left out: handles can't be opened: {errno}"),
        }
        drop(file);
        std::fs::remove_file(&path).unwrap();
        assert_eq!(open_by_handle(held.as_fd(), &handle, flags).unwrap_err(), Errno::STALE);
        let other = File::create(&path).unwrap();
        assert_ne!(file_handle(other.as_fd()), Ok(handle));
    }

    #[test]
    fn a_file_system_has_one_uuid_or_none() {
        let directory = tempfile::tempdir().unwrap();
        let (held, file) = (File::open(directory.path()).unwrap(), tempfile::tempfile_in(&directory).unwrap());
        assert_eq!(file_system_uuid(held.as_fd()), file_system_uuid(file.as_fd()));
    }
}
