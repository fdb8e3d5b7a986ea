//! Creates areas in a held directory with mkstemp(3) and mkdtemp(3) semantics: exclusive, never following, the mode exact
//! whatever the umask and never wider for an instant. What the directory around gives its new entries they have: its group and
//! that bit where it is set-group-ID, its default ACL, its label. No chmod takes that away, but
//! where such an ACL allows less than the mode that was asked for.

use std::ffi::{CStr, CString, OsStr};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::{AtFlags, FileType, MemfdFlags, Mode, OFlags};
use rustix::io::Errno;

use crate::{FsError, Naming};

pub(crate) const NEW_FILE: OFlags =
    OFlags::RDWR.union(OFlags::CREATE).union(OFlags::EXCL).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// Whether this process has cleared its umask; then no mode needs to be looked at again.
static UMASK_IS_ZERO: AtomicBool = AtomicBool::new(false);

/// Sets the process's umask to 0 for good, so that the modes asked for are the modes made. For programs of our own, as the
/// first thing they do; a library in a foreign process leaves the umask alone.
pub fn clear_umask() {
    rustix::process::umask(Mode::empty());
    UMASK_IS_ZERO.store(true, Ordering::Relaxed);
}

/// Makes a named regular file, open for reading and writing.
///
/// # Errors
/// EEXIST for an exact name that is taken; those of openat(2) and fchmod(2). On an error nothing is left behind.
pub fn create_file(directory: BorrowedFd<'_>, naming: &Naming<'_>, mode: u32) -> Result<(OwnedFd, CString), FsError> {
    let narrow = Mode::from_raw_mode(mode & 0o600);
    let (file, name) = naming
        .make(|name| rustix::fs::openat(directory, name, NEW_FILE, narrow))
        .map_err(|errno| FsError::new("create file", shown(naming), errno))?;
    set_mode(file.as_fd(), mode, narrow).map_err(|errno| {
        // Best effort: the error that is told is the one that came first.
        let _ = rustix::fs::unlinkat(directory, &name, AtFlags::empty());
        FsError::new("set mode of file", shown(naming), errno)
    })?;
    Ok((file, name))
}

/// Makes a named directory.
///
/// # Errors
/// EEXIST for an exact name that is taken; those of mkdirat(2), openat(2) and fchmod(2). On an error nothing is left
/// behind.
pub fn create_directory(directory: BorrowedFd<'_>, naming: &Naming<'_>, mode: u32) -> Result<CString, FsError> {
    // With its mode from the start: a chmod by one who is not in the group of a set-group-ID directory would take that bit.
    let ((), name) = naming
        .make(|name| rustix::fs::mkdirat(directory, name, Mode::from_raw_mode(mode)))
        .map_err(|errno| FsError::new("create directory", shown(naming), errno))?;
    set_directory_mode(directory, &name, mode).map_err(|errno| {
        // Best effort: the error that is told is the one that came first.
        let _ = rustix::fs::unlinkat(directory, &name, AtFlags::REMOVEDIR);
        FsError::new("set mode of directory", shown(naming), errno)
    })?;
    Ok(name)
}

/// Makes a file without a name; where the file system knows no O_TMPFILE, a named one whose name is gone at once.
///
/// # Errors
/// Those of openat(2) and fchmod(2).
pub fn create_anonymous(directory: BorrowedFd<'_>, mode: u32) -> Result<OwnedFd, FsError> {
    match create_nameless(directory, mode) {
        // What kernels answer whose file system has none: open(2), and EISDIR from those before 3.11.
        Err(FsError { errno: Errno::OPNOTSUPP | Errno::ISDIR | Errno::NOENT, .. }) => create_unlinked(directory, mode),
        result => result,
    }
}

/// As [`create_anonymous`], and never with a name, not even for an instant.
///
/// # Errors
/// EOPNOTSUPP where the file system knows no O_TMPFILE; those of openat(2) and fchmod(2).
pub fn create_nameless(directory: BorrowedFd<'_>, mode: u32) -> Result<OwnedFd, FsError> {
    let narrow = Mode::from_raw_mode(mode & 0o600);
    let flags = OFlags::RDWR | OFlags::TMPFILE | OFlags::CLOEXEC;
    let file = rustix::fs::openat(directory, c".", flags, narrow).map_err(FsError::on("create anonymous file", "."))?;
    set_mode(file.as_fd(), mode, narrow).map_err(FsError::on("set mode of anonymous file", "."))?;
    Ok(file)
}

/// Makes a memory file that can be sealed, close-on-exec; `name` shows in /proc/self/fd only.
///
/// # Errors
/// Those of memfd_create(2) and fchmod(2).
pub fn create_memory(name: &CStr, mode: u32) -> Result<OwnedFd, FsError> {
    let memory = rustix::fs::memfd_create(name, MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)
        .map_err(FsError::on("create memory file", "memfd"))?;
    // The kernel makes them 0777, and /proc/<pid>/fd opens them anew by their mode.
    rustix::fs::fchmod(&memory, Mode::from_raw_mode(mode)).map_err(FsError::on("set mode of memory file", "memfd"))?;
    Ok(memory)
}

/// Opens what a Create that was sent before has made: same kind, this owner, one link, never following.
///
/// # Errors
/// EEXIST when what stands there is something else; those of openat(2).
pub fn reopen_own(directory: BorrowedFd<'_>, name: &CStr, kind: FileType, owner: u32) -> Result<OwnedFd, FsError> {
    let error = |errno| FsError::new("open area again", OsStr::from_bytes(name.to_bytes()), errno);
    let access = if kind == FileType::Directory { OFlags::RDONLY | OFlags::DIRECTORY } else { OFlags::RDWR };
    let flags = access | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    match try_reopen(directory, name, flags, kind, owner) {
        Err(Errno::LOOP | Errno::NOTDIR | Errno::ISDIR | Errno::NXIO) => Err(error(Errno::EXIST)),
        result => result.map_err(error),
    }
}

/// Opens a directory by its name in a held one, never following.
///
/// # Errors
/// Those of openat(2).
pub fn open_directory(directory: BorrowedFd<'_>, name: &CStr) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    rustix::fs::openat(directory, name, flags, Mode::empty())
}

fn try_reopen(
    directory: BorrowedFd<'_>,
    name: &CStr,
    flags: OFlags,
    kind: FileType,
    owner: u32,
) -> Result<OwnedFd, Errno> {
    let looked = rustix::fs::statat(directory, name, AtFlags::SYMLINK_NOFOLLOW)?;
    if FileType::from_raw_mode(looked.st_mode) != kind {
        // Asked before opening, so that no FIFO or device is ever opened.
        return Err(Errno::EXIST);
    }
    let opened = rustix::fs::openat(directory, name, flags, Mode::empty())?;
    let found = rustix::fs::fstat(&opened)?;
    let links_are_fine = kind == FileType::Directory || found.st_nlink == 1;
    if FileType::from_raw_mode(found.st_mode) == kind && found.st_uid == owner && links_are_fine {
        Ok(opened)
    } else {
        Err(Errno::EXIST)
    }
}

fn create_unlinked(directory: BorrowedFd<'_>, mode: u32) -> Result<OwnedFd, FsError> {
    let pattern = crate::NamePattern::new(b"tmp", b"", 16).expect("the pattern is a valid one");
    let (file, name) = create_file(directory, &Naming::Random(pattern), mode)?;
    rustix::fs::unlinkat(directory, &name, AtFlags::empty()).map_err(FsError::on("unlink anonymous file", "."))?;
    Ok(file)
}

/// Makes the mode exact: wider than it was made with, or what a umask took away.
fn set_mode(file: BorrowedFd<'_>, mode: u32, made_with: Mode) -> Result<(), Errno> {
    let exact = mode == made_with.as_raw_mode()
        && (UMASK_IS_ZERO.load(Ordering::Relaxed) || rustix::fs::fstat(file)?.st_mode & 0o777 == mode);
    if exact { Ok(()) } else { rustix::fs::fchmod(file, Mode::from_raw_mode(mode)) }
}

/// Makes the mode exact: what a umask took away, or a default ACL.
fn set_directory_mode(directory: BorrowedFd<'_>, name: &CStr, mode: u32) -> Result<(), Errno> {
    if mode & 0o077 == 0 && UMASK_IS_ZERO.load(Ordering::Relaxed) {
        return Ok(());
    }
    let made = rustix::fs::statat(directory, name, AtFlags::SYMLINK_NOFOLLOW)?.st_mode;
    let found = made & 0o777;
    if found == mode {
        return Ok(());
    }
    // From a set-group-ID directory around it.
    let mode = mode | made & Mode::SGID.as_raw_mode();
    if found & 0o500 != 0o500 {
        // A umask took the right to open it; through O_PATH the mode can still be set.
        return chmod_path(directory, name, mode);
    }
    rustix::fs::fchmod(open_directory(directory, name)?, Mode::from_raw_mode(mode))
}

fn chmod_path(directory: BorrowedFd<'_>, name: &CStr, mode: u32) -> Result<(), Errno> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let made = rustix::fs::openat(directory, name, flags, Mode::empty())?;
    let through = format!("/proc/self/fd/{}", made.as_raw_fd());
    rustix::fs::chmod(through, Mode::from_raw_mode(mode))
}

fn shown(naming: &Naming<'_>) -> PathBuf {
    match naming {
        Naming::Exact(name) => PathBuf::from(OsStr::from_bytes(name.to_bytes())),
        Naming::Random(_) => PathBuf::from("(random name)"),
    }
}
