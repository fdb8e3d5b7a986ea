//! What may be a pool's root: judged before anything in it is touched. A broker removes trees below it with all its rights,
//! so that a wrong root is refused, never made right.

use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags, StatVfsMountFlags};
use rustix::io::Errno;

use crate::FsError;

/// Why a directory is not taken as a pool's root; each says what to do instead.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RootRefusal {
    /// Not an absolute path.
    #[error("{0}: a pool's root must be an absolute path")]
    Relative(PathBuf),
    /// It is not there.
    #[error("{0}: does not exist; create it for the broker alone: install -d -m 0711 {0}")]
    Missing(PathBuf),
    /// It is no directory.
    #[error("{0}: is not a directory; name one that the broker has for itself")]
    NotDirectory(PathBuf),
    /// The path ends in a symbolic link.
    #[error("{0}: is a symbolic link; name the directory itself, so that nobody can point it elsewhere")]
    Symlink(PathBuf),
    /// `/`.
    #[error("/: the root of the file system can't be a pool; name a directory that the broker has for itself")]
    Slash,
    /// Somebody's home.
    #[error("{0}: is a home directory; name a directory that the broker has for itself")]
    Home(PathBuf),
    /// Not a local file system.
    #[error("{path}: is on {kind}, whose files others may change or hold; choose a local file system")]
    FileSystem {
        /// The root.
        path: PathBuf,
        /// The file system's name.
        kind: &'static str,
    },
    /// Mounted read-only.
    #[error("{0}: is on a file system mounted read-only; choose one that can be written")]
    ReadOnly(PathBuf),
    /// Not the broker's own.
    #[error(
        "{path}: is owned by uid {owner}, the broker runs as uid {broker}; chown it, or run the broker as its owner"
    )]
    Owner {
        /// The root.
        path: PathBuf,
        /// Who owns it.
        owner: u32,
        /// Who we are.
        broker: u32,
    },
    /// Others may write in it.
    #[error("{path}: is writable by group or others (mode {mode:04o}); chmod 0711 it after a look at what is there")]
    Writable {
        /// The root.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// Below a directory whose entries others may rename.
    #[error("{path}: lies below {above}, in which others may rename it; chmod go-w {above}, or choose another place")]
    Ancestor {
        /// The root.
        path: PathBuf,
        /// The directory above it.
        above: PathBuf,
    },
    /// A pool of subvolumes, and no btrfs.
    #[error("{0}: is not on btrfs; choose backend \"dir\", or a place on btrfs")]
    NotBtrfs(PathBuf),
    /// Holds something, and no marker.
    #[error("{0}: is not empty and is no pool; name an empty directory (lost+found may be there)")]
    NotEmpty(PathBuf),
    /// A pool's copy.
    #[error(
        "{0}: was copied, restored or moved from another pool: its marker names another directory. Nothing was touched; \
         empty it by hand, or start the broker on the original"
    )]
    Copied(PathBuf),
    /// A newer or unknown format.
    #[error(
        "{path}: has format {format}, this version knows {known}; nothing was touched, start the version that made it"
    )]
    Format {
        /// The root.
        path: PathBuf,
        /// What the marker says.
        format: u32,
        /// What we know.
        known: u32,
    },
    /// The marker makes no sense.
    #[error(
        "{0}: its marker .scratch/pool can't be read as one; nothing was touched, restore it or empty the pool by hand"
    )]
    Marker(PathBuf),
    /// Another broker has it.
    #[error("{path}: is in use by another broker with runtime directory {runtime}; stop that one first")]
    Locked {
        /// The root.
        path: PathBuf,
        /// Where its sockets are.
        runtime: PathBuf,
    },
    /// The system refused.
    #[error("{0}; see to it and start again")]
    Io(#[from] FsError),
}

/// Opens a root after judging the path, its file system, owner, mode and everything above it. Returns its canonical path.
///
/// # Errors
/// [`RootRefusal`]; nothing was changed.
pub(crate) fn open_root(path: &Path, homes: &[PathBuf]) -> Result<(OwnedFd, PathBuf), RootRefusal> {
    let path = canonical(path)?;
    if path == Path::new("/") {
        return Err(RootRefusal::Slash);
    }
    if homes.contains(&path) {
        return Err(RootRefusal::Home(path));
    }
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let root = rustix::fs::open(&path, flags, Mode::empty()).map_err(|errno| match errno {
        Errno::NOENT => RootRefusal::Missing(path.clone()),
        Errno::NOTDIR => RootRefusal::NotDirectory(path.clone()),
        Errno::LOOP => RootRefusal::Symlink(path.clone()),
        errno => FsError::new("open pool", &path, errno).into(),
    })?;
    judge_file_system(&root, &path)?;
    judge_owner_and_mode(&root, &path)?;
    judge_above(&path)?;
    Ok((root, path))
}

/// The parent's links are resolved, the last component's is refused.
fn canonical(path: &Path) -> Result<PathBuf, RootRefusal> {
    if !path.is_absolute() {
        return Err(RootRefusal::Relative(path.to_owned()));
    }
    let Some(name) = path.file_name() else {
        return if path.parent().is_none() {
            Err(RootRefusal::Slash)
        } else {
            Err(RootRefusal::NotDirectory(path.to_owned()))
        };
    };
    let parent = path.parent().unwrap_or_else(|| Path::new("/"));
    let parent = parent.canonicalize().map_err(|error| match Errno::from_io_error(&error) {
        Some(Errno::NOENT) => RootRefusal::Missing(path.to_owned()),
        errno => FsError::new("resolve", parent, errno.unwrap_or(Errno::IO)).into(),
    })?;
    let whole = parent.join(name);
    match rustix::fs::lstat(&whole) {
        Ok(found) if rustix::fs::FileType::from_raw_mode(found.st_mode).is_symlink() => {
            Err(RootRefusal::Symlink(path.to_owned()))
        }
        _ => Ok(whole),
    }
}

fn judge_file_system(root: &OwnedFd, path: &Path) -> Result<(), RootRefusal> {
    let error = FsError::on("look at file system of", path);
    let kind = match rustix::fs::fstatfs(root).map_err(error)?.f_type {
        0x6969 => "NFS",
        0x6573_5546 => "FUSE",
        0x0102_1997 => "9p",
        0xff53_4d42 | 0xfe53_4d42 => "SMB",
        0x0173_6572 | 0x5346_414f => "AFS",
        0x00c3_6400 => "Ceph",
        _ => {
            let flags = rustix::fs::fstatvfs(root).map_err(FsError::on("look at file system of", path))?.f_flag;
            return if flags.contains(StatVfsMountFlags::RDONLY) {
                Err(RootRefusal::ReadOnly(path.to_owned()))
            } else {
                Ok(())
            };
        }
    };
    Err(RootRefusal::FileSystem { path: path.to_owned(), kind })
}

fn judge_owner_and_mode(root: &OwnedFd, path: &Path) -> Result<(), RootRefusal> {
    let found = rustix::fs::fstat(root.as_fd()).map_err(FsError::on("look at", path))?;
    let broker = rustix::process::geteuid().as_raw();
    if found.st_uid != broker {
        return Err(RootRefusal::Owner { path: path.to_owned(), owner: found.st_uid, broker });
    }
    if found.st_mode & 0o022 != 0 {
        return Err(RootRefusal::Writable { path: path.to_owned(), mode: found.st_mode & 0o7777 });
    }
    Ok(())
}

/// In a user namespace without root, what is root's outside shows as the overflow user's, as every other user's does that
/// has no number there. None of them is in the namespace with us.
fn is_unmapped_root(owner: u32) -> bool {
    let number = |path: &str| std::fs::read_to_string(path).ok()?.trim().parse::<u32>().ok();
    let is_overflow = number("/proc/sys/kernel/overflowuid") == Some(owner);
    // Unreadable: then it is taken for the first namespace's, which has root.
    let map = std::fs::read_to_string("/proc/self/uid_map").unwrap_or_else(|_| "0 0 1".to_owned());
    is_overflow && !map.lines().any(|line| line.split_ascii_whitespace().next() == Some("0"))
}

/// Each directory above must be root's or ours, and writable by nobody else unless it is sticky, as /tmp is.
fn judge_above(path: &Path) -> Result<(), RootRefusal> {
    let broker = rustix::process::geteuid().as_raw();
    for above in path.ancestors().skip(1) {
        let found = rustix::fs::lstat(above).map_err(FsError::on("look at", above))?;
        let trusted = found.st_uid == 0 || found.st_uid == broker || is_unmapped_root(found.st_uid);
        let sticky = found.st_mode & 0o1000 != 0;
        if !trusted || (found.st_mode & 0o022 != 0 && !sticky) {
            return Err(RootRefusal::Ancestor { path: path.to_owned(), above: above.to_owned() });
        }
    }
    Ok(())
}
