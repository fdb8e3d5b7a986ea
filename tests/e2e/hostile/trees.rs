//! The table of hostile trees: each by itself, built by the tenant or, where named, by root, with the blocker that it is to end
//! as, if any.

use std::ffi::OsStr;
use std::fs::{self, Permissions};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{PermissionsExt, chown, lchown, symlink};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::Command;

use rustix::fs::{CWD, FileType, IFlags, Mode, OFlags, mkdirat, mknodat, openat};
use scratch_tests::{Filesystem, is_root, long_or_short, shell};

use super::canaries::{Canaries, LINKED};
use super::{OTHER, TENANT};

/// Whose rights a tree is built with.
#[derive(PartialEq, Eq)]
pub(crate) enum By {
    Tenant,
    Root,
}

/// What there is to build with.
pub(crate) struct Site<'a> {
    /// Where the tree is built: the lease's directory.
    pub(crate) tree: &'a Path,
    pub(crate) canaries: &'a Canaries,
    /// A directory of everybody, where another user has something that the tenant may move.
    pub(crate) shared: &'a Path,
    pub(crate) filesystem: Filesystem,
}

pub(crate) struct Tree {
    pub(crate) name: &'static str,
    pub(crate) by: By,
    /// False: not here, for want of what the reason on standard output says.
    pub(crate) build: fn(&Site<'_>) -> bool,
    pub(crate) blocker: Option<&'static str>,
}

const fn gone(name: &'static str, by: By, build: fn(&Site<'_>) -> bool) -> Tree {
    Tree { name, by, build, blocker: None }
}

const fn blocked(name: &'static str, by: By, build: fn(&Site<'_>) -> bool, blocker: &'static str) -> Tree {
    Tree { name, by, build, blocker: Some(blocker) }
}

pub(crate) const TREES: &[Tree] = &[
    gone("deep", By::Tenant, deep),
    gone("wide", By::Tenant, wide),
    gone("links", By::Tenant, links),
    gone("hard links", By::Tenant, hard_links),
    gone("hard links to what others have", By::Root, hard_links),
    gone("FIFOs and sockets", By::Tenant, fifos_and_sockets),
    gone("devices", By::Root, devices),
    gone("names of any bytes", By::Tenant, names),
    gone("modes", By::Tenant, modes),
    gone("immutable and append-only", By::Root, flags),
    gone("files of another owner", By::Root, files_of_another),
    gone("subvolumes", By::Tenant, subvolumes),
    gone("a read-only subvolume", By::Tenant, read_only_subvolume),
    blocked("a directory of another owner", By::Root, directory_of_another, "foreign owner"),
    blocked("another user's directory, renamed into it", By::Tenant, renamed_in, "foreign owner"),
    blocked("a file system mounted inside", By::Root, mounted, "mount"),
    blocked("a bind mount of the same file system", By::Root, bind_mounted, "mount"),
];

/// Where something is mounted, is another owner's, or else stays: no name to split a line at.
pub(crate) const IN_THE_WAY: &str = "in\nthe\u{9b}way";

const MADE: &str = "a lease's directory is its tenant's to fill";

fn make(path: &Path) {
    fs::create_dir(path).expect(MADE);
}

fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, Permissions::from_mode(mode)).expect("what was just made is ours");
}

fn deep(site: &Site<'_>) -> bool {
    // A directory is a block elsewhere.
    let depth = if site.filesystem == Filesystem::Tmpfs { 100_000 } else { long_or_short(20_000, 2_000) };
    let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mut here: OwnedFd = openat(CWD, site.tree, flags, Mode::empty()).expect(MADE);
    for _ in 0..depth {
        mkdirat(&here, "d", Mode::RWXU).expect(MADE);
        here = openat(&here, "d", flags, Mode::empty()).expect(MADE);
    }
    openat(&here, "bottom", OFlags::CREATE | OFlags::WRONLY, Mode::RUSR).expect(MADE);
    true
}

fn wide(site: &Site<'_>) -> bool {
    let on_tmpfs = site.filesystem == Filesystem::Tmpfs;
    let width = if on_tmpfs { long_or_short(1_000_000, 20_000) } else { long_or_short(100_000, 2_000) };
    let wide = site.tree.join("wide");
    make(&wide);
    let held = fs::File::open(&wide).expect(MADE);
    for number in 0..width {
        mknodat(&held, format!("{number}"), FileType::RegularFile, Mode::RUSR, 0).expect(MADE);
    }
    true
}

/// To each canary and what is in it, by whole and by relative paths, from two levels; in circles, and nowhere.
fn links(site: &Site<'_>) -> bool {
    let below = site.tree.join("below");
    make(&below);
    for directory in [site.tree, &below] {
        for (number, canary) in site.canaries.each().iter().enumerate() {
            for (what, target) in [("all", canary.clone()), ("file", canary.join("file")), ("in", canary.join("inner"))]
            {
                symlink(target, directory.join(format!("{what}-{number}"))).expect(MADE);
            }
        }
        let up = if directory == below { "../../../canaries/tenant" } else { "../../canaries/tenant" };
        for (name, target) in [("up", up), ("self", "self"), ("one", "two"), ("two", "one"), ("none", "no/where")] {
            symlink(target, directory.join(name)).expect(MADE);
        }
    }
    true
}

/// The kernel may protect what others have from this; a tenant's own it does not.
fn hard_links(site: &Site<'_>) -> bool {
    let closed = site.tree.join("closed");
    make(&closed);
    for (number, canary) in site.canaries.each().iter().enumerate() {
        for directory in [site.tree, &closed] {
            let linked = fs::hard_link(canary.join(LINKED), directory.join(format!("link-{number}")));
            assert!(linked.is_ok() || !canary.ends_with("tenant"), "{linked:?}");
        }
    }
    set_mode(&closed, 0);
    true
}

fn fifos_and_sockets(site: &Site<'_>) -> bool {
    // A whole path may be longer than an address.
    let held = fs::File::open(site.tree).expect(MADE);
    for number in 0..10 {
        mknodat(&held, format!("fifo-{number}"), FileType::Fifo, Mode::empty(), 0).expect(MADE);
        drop(UnixListener::bind(format!("/proc/self/fd/{}/socket-{number}", held.as_raw_fd())).expect(MADE));
    }
    true
}

fn devices(site: &Site<'_>) -> bool {
    let numbers =
        [(FileType::CharacterDevice, 1, 3), (FileType::CharacterDevice, 5, 0), (FileType::BlockDevice, 7, 99)];
    for (kind, major, minor) in numbers {
        let path = site.tree.join(format!("device-{major}-{minor}"));
        mknodat(CWD, path, kind, Mode::RUSR | Mode::WUSR, rustix::fs::makedev(major, minor)).expect(MADE);
    }
    true
}

fn names(site: &Site<'_>) -> bool {
    let longest = [0xfe; 255];
    // btrfs, ext4, tmpfs and XFS take all of these.
    let names = [&b"\xff\xfe"[..], b"new\nline", b" ", b"-rf", b"...", b"*", b"\x1b[2J", b"\\", b".scratch", &longest];
    for name in names {
        let directory = site.tree.join(OsStr::from_bytes(name));
        make(&directory);
        fs::write(directory.join(OsStr::from_bytes(name)), "").expect(MADE);
    }
    make(&site.tree.join("abcdefghijklmnop"));
    true
}

/// Each mode that could be in the way, on one directory in the other, deeper than is gone in one piece.
fn modes(site: &Site<'_>) -> bool {
    for mode in [0o000, 0o100, 0o200, 0o400, 0o500, 0o1777, 0o2777, 0o4777, 0o7000] {
        let mut made = vec![site.tree.join(format!("{mode:o}"))];
        make(&made[0]);
        for level in 0..40 {
            let file = made[level].join("file");
            fs::write(&file, "").expect(MADE);
            set_mode(&file, mode);
            made.push(made[level].join("d"));
            make(&made[level + 1]);
        }
        made.iter().rev().for_each(|path| set_mode(path, mode));
    }
    true
}

fn flags(site: &Site<'_>) -> bool {
    for (name, flags) in
        [("immutable", IFlags::IMMUTABLE), ("append", IFlags::APPEND), ("both", IFlags::IMMUTABLE | IFlags::APPEND)]
    {
        let directory = site.tree.join(name);
        make(&directory);
        make(&directory.join("empty"));
        fs::write(directory.join("file"), "").expect(MADE);
        for path in ["file", "empty", ""] {
            let path = directory.join(path);
            chown(&path, Some(TENANT), Some(TENANT)).expect("root may");
            let held = fs::File::open(&path).expect("it was just made");
            let set = rustix::fs::ioctl_getflags(&held).and_then(|old| rustix::fs::ioctl_setflags(&held, old | flags));
            if let Err(errno) = set {
                println!("no flags here: {errno}");
                return false;
            }
        }
    }
    true
}

fn files_of_another(site: &Site<'_>) -> bool {
    let directory = site.tree.join("directory");
    make(&directory);
    fs::write(directory.join("file"), "theirs").expect(MADE);
    symlink(site.canaries.of("root"), directory.join("link")).expect(MADE);
    mknodat(CWD, directory.join("fifo"), FileType::Fifo, Mode::RWXU, 0).expect(MADE);
    for name in ["file", "link", "fifo"] {
        lchown(directory.join(name), Some(OTHER), Some(OTHER)).expect("root may");
    }
    chown(&directory, Some(TENANT), Some(TENANT)).expect("root may");
    true
}

fn directory_of_another(site: &Site<'_>) -> bool {
    let directory = site.tree.join(IN_THE_WAY);
    make(&directory);
    fs::write(directory.join("file"), "theirs").expect(MADE);
    symlink(site.canaries.of("root"), directory.join("link")).expect(MADE);
    chown(&directory, Some(OTHER), Some(OTHER)).expect("root may");
    true
}

/// To move a directory takes a right to write in it, which its owner may have given to everybody.
fn renamed_in(site: &Site<'_>) -> bool {
    fs::rename(site.shared.join("theirs"), site.tree.join(IN_THE_WAY)).expect("a tenant may");
    true
}

fn succeeds(command: &mut Command) -> bool {
    match command.output() {
        Ok(output) if output.status.success() => true,
        Ok(output) => {
            println!("not here: {command:?}: {}", String::from_utf8_lossy(&output.stderr));
            false
        }
        Err(error) => {
            println!("not here: {command:?}: {error}");
            false
        }
    }
}

fn mounted(site: &Site<'_>) -> bool {
    let at = site.tree.join(IN_THE_WAY);
    make(&at);
    let mounted = succeeds(Command::new("mount").args(["-n", "-t", "tmpfs", "hostile"]).arg(&at));
    mounted && fs::write(at.join("file"), "of the mount").is_ok()
}

fn bind_mounted(site: &Site<'_>) -> bool {
    let at = site.tree.join(IN_THE_WAY);
    make(&at);
    succeeds(Command::new("mount").args(["-n", "--bind"]).arg(site.canaries.of("tenant")).arg(&at))
}

/// By a process of the tenant.
fn btrfs(site: &Site<'_>, script: &str, path: &Path) -> bool {
    let tenant = is_root().then_some(TENANT);
    site.filesystem == Filesystem::Btrfs && succeeds(shell(tenant, script).arg(path))
}

fn subvolume(site: &Site<'_>, path: &Path) -> bool {
    btrfs(site, r#"btrfs subvolume create "$0""#, path)
}

fn subvolumes(site: &Site<'_>) -> bool {
    let mut at = site.tree.to_owned();
    for _ in 0..4 {
        at.push("subvolume");
        if !subvolume(site, &at) {
            return false;
        }
        fs::write(at.join("file"), "").expect(MADE);
        for level in 0..40 {
            at.push(format!("{level}"));
            make(&at);
        }
    }
    true
}

fn read_only_subvolume(site: &Site<'_>) -> bool {
    let at = site.tree.join(IN_THE_WAY);
    let made = subvolume(site, &at) && fs::write(at.join("file"), "").is_ok();
    made && btrfs(site, r#"btrfs property set -ts "$0" ro true"#, &at)
}

/// Makes what another user leaves for everybody to move.
pub(crate) fn leave_theirs(shared: &Path) {
    let theirs = shared.join("theirs");
    make(&theirs);
    make(&theirs.join("closed"));
    fs::write(theirs.join("closed/file"), "theirs").expect("root may");
    for path in ["closed/file", "closed", ""] {
        chown(theirs.join(path), Some(OTHER), Some(OTHER)).expect("root may");
    }
    set_mode(&theirs.join("closed"), 0o700);
    set_mode(&theirs, 0o777);
}
