//! Sequences of operations against what acts on files: areas made, moved about, persisted, released and reaped in a pool of its
//! own, by the rules that the broker has for names and places, between what a tenant does by itself. Links lead to a canary.
//!
//! It removes trees: it refuses to run but where `cargo xtask fuzz` has contained it.
#![no_main]

use std::cell::RefCell;
use std::ffi::{CStr, CString};
use std::fs::{self, File};
use std::num::NonZeroUsize;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use libfuzzer_sys::arbitrary::{self, Arbitrary};
use libfuzzer_sys::fuzz_target;
use rustix::fs::{AtFlags, FileType, Mode, RenameFlags, mknodat, renameat_with, unlinkat};
use scratch_fs::{Naming, Replace, Rights, Trash, open_directory_beneath, split_area_path};
use scratch_lease::LeaseId;

/// A few names, so that operations meet.
#[derive(Arbitrary, Debug, Clone, Copy)]
struct Place(u8, u8, u8);

#[derive(Arbitrary, Debug)]
enum Act {
    Directory(Place, u16),
    File(Place, u16),
    Anonymous(Place),
    /// By the tenant itself.
    Link(Place, u8),
    Fifo(Place),
    HardLink(Place),
    Mode(Place, u16),
    Exchange(Place, Place),
    Out(Place),
    In(Place),
    Usage(Place),
    List(Place),
    Persist(Place, u8, u8),
    Release(Place),
    Reap(bool),
}

const NAMES: [&str; 5] = ["a", "b", "c", "d", "a\nb"];

struct World {
    base: PathBuf,
    lease: OwnedFd,
    out: OwnedFd,
    trash: Trash,
    canary: Vec<(u64, u32, i64, i64, Vec<u8>)>,
}

impl Place {
    fn path(self) -> Vec<u8> {
        let depth = usize::from(self.0 % 3) + 1;
        let parts = [self.0 / 3, self.1, self.2].map(|part| NAMES[usize::from(part) % NAMES.len()].as_bytes());
        parts[..depth].join(&b'/')
    }

    /// As the broker finds it: never through a link.
    fn find(self, lease: BorrowedFd<'_>) -> Option<(OwnedFd, CString)> {
        let (parent, name) = split_area_path(&self.path()).expect("these are names");
        let parent = parent.unwrap_or_else(|| c".".to_owned());
        let directory = open_directory_beneath(lease, &parent).or_else(|_| {
            if &*parent == c"." {
                lease.try_clone_to_owned().map_err(|_| rustix::io::Errno::BADF)
            } else {
                Err(rustix::io::Errno::NOENT)
            }
        });
        Some((directory.ok()?, name))
    }
}

fn look(base: &Path) -> Vec<(u64, u32, i64, i64, Vec<u8>)> {
    let seen = |path: &str| {
        let about = fs::symlink_metadata(base.join(path)).expect("the canary is there");
        let content = if about.is_file() { fs::read(base.join(path)).expect("it can be read") } else { Vec::new() };
        // A hard link of the file changes its ctime, and nothing else may.
        let changed = if about.is_dir() { about.ctime_nsec() } else { 0 };
        (about.ino(), about.mode(), about.mtime_nsec(), changed, content)
    };
    ["canary", "canary/a", "canary/a/b", "canary/b"].map(seen).into()
}

impl World {
    fn new() -> Self {
        assert!(std::env::var_os("SCRATCH_CONTAINED").is_some(), "this removes trees: run it with cargo xtask fuzz");
        scratch_fs::clear_umask();
        let base = PathBuf::from(format!("/tmp/fuzz-{}", std::process::id()));
        for path in ["", "lease", "out", "scratch", "canary", "canary/a", "canary/a/b"] {
            fs::create_dir(base.join(path)).expect("the containment's /tmp is our own");
        }
        fs::write(base.join("canary/b"), "precious").expect("it was just made");
        let open = |path: &str| OwnedFd::from(File::open(base.join(path)).expect("it was just made"));
        let trash = Trash::open(open("scratch").as_fd(), &base.join("scratch/trash")).expect("it was just made");
        let canary = look(&base);
        Self { lease: open("lease"), out: open("out"), trash, canary, base }
    }

    fn reap(&self, take_over: bool) {
        let rights = if take_over { Rights::TakeOver } else { Rights::Own };
        for entry in self.trash.entries().expect("the trash can be listed") {
            let removal = scratch_fs::remove(&self.trash, entry, rights, NonZeroUsize::MIN);
            assert!(removal.left.is_empty(), "{removal:?}");
        }
    }

    fn lease_id() -> LeaseId {
        LeaseId::from_bits([7; 10])
    }

    fn take(&self, directory: BorrowedFd<'_>, name: &CStr) {
        // ENOENT and no more: there is nothing else in the way.
        let _ = self.trash.take(directory, name, 0, Self::lease_id());
    }

    fn act(&self, act: &Act) {
        let lease = self.lease.as_fd();
        // What fails was not to be: the canary tells what should have.
        let _ = match *act {
            Act::Directory(place, mode) => place.find(lease).map(|(directory, name)| {
                let made =
                    scratch_fs::create_directory(directory.as_fd(), &Naming::Exact(&name), u32::from(mode) & 0o777);
                drop(made);
            }),
            Act::File(place, mode) => place.find(lease).map(|(directory, name)| {
                drop(scratch_fs::create_file(directory.as_fd(), &Naming::Exact(&name), u32::from(mode) & 0o777));
            }),
            Act::Anonymous(place) => place.find(lease).map(|(directory, _)| {
                drop(scratch_fs::create_anonymous(directory.as_fd(), 0o600));
            }),
            Act::Link(place, target) => place.find(lease).map(|(directory, name)| {
                let targets =
                    [self.base.join("canary"), self.base.join("canary/a"), self.base.join("canary/b"), "a".into()];
                let _ = rustix::fs::symlinkat(&targets[usize::from(target) % 4], directory, &*name);
            }),
            Act::Fifo(place) => place.find(lease).map(|(directory, name)| {
                let _ = mknodat(directory, &*name, FileType::Fifo, Mode::RUSR, 0);
            }),
            Act::HardLink(place) => place.find(lease).map(|(directory, name)| {
                let canary = self.base.join("canary/b");
                let _ = rustix::fs::linkat(rustix::fs::CWD, &canary, directory, &*name, AtFlags::empty());
            }),
            Act::Mode(place, mode) => place.find(lease).map(|(directory, name)| {
                // Not what is the canary's too, and nothing through a link.
                let about = rustix::fs::statat(&directory, &*name, AtFlags::SYMLINK_NOFOLLOW);
                if about.is_ok_and(|about| FileType::from_raw_mode(about.st_mode) == FileType::Directory) {
                    let _ = rustix::fs::chmodat(
                        &directory,
                        &*name,
                        Mode::from_raw_mode(u32::from(mode) & 0o7777),
                        AtFlags::empty(),
                    );
                }
            }),
            Act::Exchange(one, other) => one.find(lease).zip(other.find(lease)).map(|((a, name), (b, new))| {
                let _ = renameat_with(a, &*name, b, &*new, RenameFlags::EXCHANGE);
            }),
            Act::Out(place) => place.find(lease).map(|(directory, name)| {
                let _ = renameat_with(directory, &*name, &self.out, c"a", RenameFlags::NOREPLACE);
            }),
            Act::In(place) => place.find(lease).map(|(directory, name)| {
                let _ = renameat_with(&self.out, c"a", directory, &*name, RenameFlags::NOREPLACE);
            }),
            Act::Usage(place) => {
                place.find(lease).map(|(directory, _)| drop(scratch_fs::usage(directory.as_fd()).bytes))
            }
            Act::List(place) => {
                place.find(lease).map(|(directory, _)| drop(scratch_fs::list(directory.as_fd(), Some(b"a"), 2)))
            }
            Act::Persist(place, to, how) => place.find(lease).map(|(directory, name)| {
                let replace = [Replace::Never, Replace::Always, Replace::Exchange][usize::from(how) % 3];
                let new = CString::new(NAMES[usize::from(to) % NAMES.len()]).expect("no NUL");
                drop(scratch_fs::persist(directory.as_fd(), &name, self.out.as_fd(), &new, replace));
            }),
            Act::Release(place) => place.find(lease).map(|(directory, name)| {
                if unlinkat(&directory, &*name, AtFlags::empty()).is_err() {
                    self.take(directory.as_fd(), &name);
                }
            }),
            Act::Reap(take_over) => {
                self.reap(take_over);
                None
            }
        };
    }

    /// All goes, and nothing else has.
    fn clear(&self) {
        for held in [self.lease.as_fd(), self.out.as_fd()] {
            for name in NAMES {
                self.take(held, &CString::new(name).expect("no NUL"));
            }
            assert_eq!(scratch_fs::list(held, None, 10).expect("it can be listed").len(), 0, "names that nobody made");
        }
        self.reap(true);
        assert!(self.trash.is_empty().expect("the trash can be listed"));
        assert_eq!(look(&self.base), self.canary, "the canary was touched");
    }
}

thread_local! {
    static WORLD: RefCell<Option<World>> = const { RefCell::new(None) };
}

fuzz_target!(|acts: Vec<Act>| {
    WORLD.with_borrow_mut(|world| {
        let world = world.get_or_insert_with(World::new);
        acts.iter().take(64).for_each(|act| world.act(act));
        world.clear();
    });
});
