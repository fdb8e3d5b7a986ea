//! A client's directory, with something of others in it and beside it, and a book.

use std::fs::{self, File};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{MetadataExt, lchown};
use std::path::{Path, PathBuf};

use scratch_fs::{ForeignBook, ForeignEntry, ForeignLeft, FoundForeign, MadeForeign, NamePattern, Naming, Unmade};
use scratch_lease::LeaseId;

/// Whose directory it is; no account has it.
pub(crate) const TENANT: u32 = 54_321;

const OTHERS: [&str; 3] = ["directory/other", "canary/file", "canary/inner/file"];

pub(crate) struct Fixture {
    base: PathBuf,
    pub(crate) book: ForeignBook,
    others: Vec<(u64, u32, Vec<u8>)>,
}

impl Fixture {
    pub(crate) fn new() -> Self {
        Self::below(Path::new("/tmp"))
    }

    pub(crate) fn below(directory: &Path) -> Self {
        if rustix::process::geteuid().is_root() {
            scratch_sys::drop_groups().unwrap();
        }
        // Kept: what clears it away must not be std's remover, and /tmp is gone with the process.
        let base = tempfile::tempdir_in(directory).unwrap().keep();
        fs::set_permissions(&base, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        for path in ["directory", "canary", "canary/inner", "scratch"] {
            fs::create_dir(base.join(path)).unwrap();
        }
        for path in OTHERS {
            fs::write(base.join(path), "alive").unwrap();
        }
        for path in ["directory", "directory/other"] {
            lchown(base.join(path), Some(Self::uid()), Some(Self::uid())).unwrap();
        }
        let scratch = File::open(base.join("scratch")).unwrap();
        let book = ForeignBook::open(scratch.as_fd(), &base.join("scratch/foreign")).unwrap();
        let others = look_at(&base);
        Self { base, book, others }
    }

    /// The tenant where we may become it, else ourselves.
    pub(crate) fn uid() -> u32 {
        if crate::contain::has_all_ids() { TENANT } else { rustix::process::geteuid().as_raw() }
    }

    pub(crate) fn lease() -> LeaseId {
        "abcdefghijklmnop".parse().unwrap()
    }

    pub(crate) fn directory(&self) -> PathBuf {
        self.base.join("directory")
    }

    pub(crate) fn canary(&self, path: &str) -> PathBuf {
        self.base.join("canary").join(path)
    }

    /// As a client passes it.
    pub(crate) fn passed(&self) -> OwnedFd {
        File::open(self.directory()).unwrap().into()
    }

    /// An entry before anything was made, and the directory held.
    pub(crate) fn entry(&self, number: u32, is_directory: bool) -> (ForeignEntry, OwnedFd) {
        let mut entry = ForeignEntry {
            lease: Self::lease().to_string(),
            number,
            uid: Self::uid(),
            gid: Self::uid(),
            boot: "this".into(),
            aside: ForeignEntry::draw_aside().unwrap().into_bytes(),
            is_directory,
            ..ForeignEntry::default()
        };
        let held = entry.hold_parent(&self.passed()).unwrap();
        (entry, held)
    }

    pub(crate) fn try_make(&self, is_directory: bool, naming: &Naming<'_>) -> Result<MadeForeign, Unmade> {
        let (entry, held) = self.entry(1, is_directory);
        let mode = if is_directory { 0o700 } else { 0o600 };
        self.book.make(held.as_fd(), entry, naming, mode, true)
    }

    pub(crate) fn make(&self, is_directory: bool) -> MadeForeign {
        let pattern = NamePattern::new(b"area-", b"", 8).unwrap();
        self.try_make(is_directory, &Naming::Random(pattern)).unwrap()
    }

    pub(crate) fn end(&self, entry: &mut ForeignEntry) -> Result<(), ForeignLeft> {
        self.book.end(self.passed().as_fd(), entry, true)
    }

    pub(crate) fn path(&self, entry: &ForeignEntry) -> PathBuf {
        self.directory().join(std::str::from_utf8(&entry.name).unwrap())
    }

    pub(crate) fn names(&self) -> Vec<String> {
        let names = fs::read_dir(self.directory()).unwrap();
        let mut names: Vec<_> = names.map(|name| name.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    pub(crate) fn entries(&self) -> Vec<FoundForeign> {
        self.book.entries().unwrap()
    }

    /// What is of others is as it was.
    #[track_caller]
    pub(crate) fn assert_others(&self) {
        assert_eq!(look_at(&self.base), self.others);
    }

    /// And of the areas nothing is left.
    #[track_caller]
    pub(crate) fn assert_gone(&self) {
        assert_eq!((self.names(), self.entries()), (vec!["other".to_owned()], vec![]));
        self.assert_others();
    }
}

fn look_at(base: &Path) -> Vec<(u64, u32, Vec<u8>)> {
    let look = |path| {
        let found = fs::symlink_metadata(base.join(path)).unwrap();
        (found.ino(), found.mode(), fs::read(base.join(path)).unwrap())
    };
    OTHERS.into_iter().map(look).collect()
}
