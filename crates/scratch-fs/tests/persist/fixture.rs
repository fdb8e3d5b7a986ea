//! Two directories, on one file system or on two, a canary, and what both hold as a value that can be compared.

use std::collections::BTreeMap;
use std::ffi::CString;
use std::fs::{self, File};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::fs::{CWD, FileType, Mode, OFlags};
use rustix::io::Errno;
use scratch_fs::{FsError, Persisted, Replace, persist};

pub(crate) struct Fixture {
    pub(crate) from: PathBuf,
    pub(crate) to: PathBuf,
    canary: PathBuf,
    /// Beside `from`: where originals go that a persist leaves.
    trash: PathBuf,
}

/// All below a directory by its path: kind, mode, time of the last change, and content or target.
pub(crate) type Held = BTreeMap<PathBuf, (u32, i64, Vec<u8>)>;

impl Fixture {
    pub(crate) fn on_one() -> Self {
        Self::below(Path::new("/tmp"), Path::new("/tmp"))
    }

    /// Two file systems; without privileges too.
    pub(crate) fn on_two() -> Self {
        Self::below(Path::new("/tmp"), Path::new("/dev/shm"))
    }

    pub(crate) fn below(from: &Path, to: &Path) -> Self {
        // Kept: what clears it away must not be std's remover, and both are gone with the process.
        let [base, target] = [from, to].map(|directory| tempfile::tempdir_in(directory).unwrap().keep());
        let fixture = Self {
            from: base.join("from"),
            to: target.join("to"),
            canary: base.join("canary"),
            trash: base.join("trash"),
        };
        for directory in [&fixture.from, &fixture.to, &fixture.canary, &fixture.trash] {
            fs::create_dir(directory).unwrap();
        }
        fs::write(fixture.canary.join("file"), "alive").unwrap();
        fixture
    }

    pub(crate) fn canary(&self, path: &str) -> PathBuf {
        self.canary.join(path)
    }

    pub(crate) fn persist(&self, name: &str, new_name: &str, replace: Replace) -> Result<Persisted, FsError> {
        let [from, to] = [&self.from, &self.to].map(|path| open_path(path));
        let [name, new_name] = [name, new_name].map(|name| CString::new(name).unwrap());
        persist(from.as_fd(), &name, to.as_fd(), &new_name, replace)
    }

    /// As [`Self::persist`], and what the caller of that would move into the trash is moved.
    pub(crate) fn persist_and_trash(&self, name: &str, new_name: &str, replace: Replace) -> Result<Persisted, Errno> {
        let persisted = self.persist(name, new_name, replace).map_err(|error| error.errno)?;
        if let Some(source) = &persisted.source {
            let source = self.from.join(std::str::from_utf8(source.to_bytes()).unwrap());
            set_mode(&source, 0o700);
            fs::rename(source, self.trash.join("original")).unwrap();
        }
        Ok(persisted)
    }

    /// Asserts that it fails so, at this path, and that nothing has changed anywhere.
    #[track_caller]
    pub(crate) fn assert_refused(&self, name: &str, replace: Replace, errno: Errno, path: &str) {
        let before = (held(&self.from), held(&self.to));
        let error = self.persist(name, "new", replace).unwrap_err();
        assert_eq!((error.errno, error.path.as_path()), (errno, Path::new(path)), "{error}");
        assert_eq!((held(&self.from), held(&self.to)), before);
        self.assert_canary();
    }

    #[track_caller]
    pub(crate) fn assert_canary(&self) {
        let canary: Vec<Vec<u8>> = held(&self.canary).into_values().map(|(_, _, content)| content).collect();
        assert_eq!(canary, [b"alive"]);
    }
}

pub(crate) fn open_path(path: &Path) -> OwnedFd {
    // As a client may hand one over: for names only.
    rustix::fs::open(path, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()).unwrap()
}

/// What is below a directory.
#[track_caller]
pub(crate) fn held(root: &Path) -> Held {
    let (mut held, mut waiting) = (Held::new(), vec![root.to_owned()]);
    while let Some(directory) = waiting.pop() {
        for entry in fs::read_dir(&directory).unwrap() {
            let path = entry.unwrap().path();
            let found = fs::symlink_metadata(&path).unwrap();
            let content = if found.is_symlink() {
                fs::read_link(&path).unwrap().as_os_str().as_bytes().to_vec()
            } else if found.is_file() && found.len() < 1 << 20 {
                // Empty where it can't be read, as without privileges.
                fs::read(&path).unwrap_or_default()
            } else {
                Vec::new()
            };
            if found.is_dir() && fs::read_dir(&path).is_ok() {
                waiting.push(path.clone());
            }
            let below = path.strip_prefix(root).unwrap().to_owned();
            assert!(!below.as_os_str().as_bytes().starts_with(b".scratch-"), "left over: {below:?}");
            held.insert(below, (found.mode(), found.mtime(), content));
        }
    }
    held
}

/// Makes one thing of each kind, with a mode and time of its own.
pub(crate) fn make(kind: &str, path: &Path) {
    match kind {
        "nothing" => return,
        "file" => fs::write(path, "content").unwrap(),
        "directory" => fs::create_dir(path).unwrap(),
        "full" => {
            fs::create_dir(path).unwrap();
            fs::write(path.join("inner"), "inner content").unwrap();
            set_time(&path.join("inner"), 900_000_000);
            set_mode(path, 0o750);
        }
        "symlink" => symlink("/nowhere/at/all", path).unwrap(),
        "fifo" => make_node(path, FileType::Fifo, 0).unwrap(),
        other => panic!("{other}"),
    }
    if !path.is_symlink() && !path.is_dir() {
        set_mode(path, 0o4640);
        assert_eq!(fs::metadata(path).unwrap().file_type().is_fifo(), kind == "fifo");
    }
    set_time(path, 1_000_000_000 + i64::try_from(kind.len()).unwrap());
}

pub(crate) fn make_node(path: &Path, kind: FileType, device: u64) -> Result<(), Errno> {
    rustix::fs::mknodat(CWD, path, kind, Mode::RUSR | Mode::WUSR, device)
}

/// Makes `depth` directories, each in the one before. By descriptors: the path is longer than any path may be.
pub(crate) fn make_chain(from: &Path, depth: usize) -> OwnedFd {
    let mut at: OwnedFd = File::open(from).unwrap().into();
    for _ in 0..depth {
        rustix::fs::mkdirat(&at, c"d", Mode::RWXU).unwrap();
        at = rustix::fs::openat(&at, c"d", OFlags::DIRECTORY | OFlags::NOFOLLOW, Mode::empty()).unwrap();
    }
    at
}

pub(crate) fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

pub(crate) fn set_time(path: &Path, seconds: i64) {
    let time = rustix::fs::Timespec { tv_sec: seconds, tv_nsec: 123_456_789 };
    let times = rustix::fs::Timestamps { last_access: time, last_modification: time };
    rustix::fs::utimensat(CWD, path, &times, rustix::fs::AtFlags::SYMLINK_NOFOLLOW).unwrap();
}

/// Runs a program of the system; false, and said so, where that is not possible.
pub(crate) fn succeeds(program: &str, arguments: &[&str]) -> bool {
    match Command::new(program).args(arguments).output() {
        Ok(output) if output.status.success() => true,
        Ok(output) => {
            println!("left out: {program}: {}", String::from_utf8_lossy(&output.stderr).trim());
            false
        }
        Err(error) => {
            println!("left out: {program}: {error}");
            false
        }
    }
}

/// Mounts a tmpfs of this many bytes.
pub(crate) fn mount_small(bytes: u64) -> PathBuf {
    let at = tempfile::tempdir_in("/tmp").unwrap().keep();
    let size = format!("size={bytes}");
    assert!(succeeds("mount", &["-n", "-t", "tmpfs", "-o", &size, "tmpfs", at.to_str().unwrap()]));
    at
}

/// Mounts a new file system of this kind in a file.
pub(crate) fn mount_image(kind: &str) -> Option<PathBuf> {
    let at = tempfile::tempdir_in("/tmp").unwrap().keep();
    let image = format!("/dev/shm/{kind}");
    File::create(&image).unwrap().set_len(400 << 20).unwrap();
    let made = succeeds(&format!("mkfs.{kind}"), &["-q", &image]);
    (made && succeeds("mount", &["-n", "-o", "loop", &image, at.to_str().unwrap()])).then_some(at)
}

/// The same directory by another mount, which is another file system to rename(2).
pub(crate) fn mount_again(directory: &Path) -> PathBuf {
    let at = tempfile::tempdir_in("/tmp").unwrap().keep();
    assert!(succeeds("mount", &["-n", "--bind", directory.to_str().unwrap(), at.to_str().unwrap()]));
    at
}
