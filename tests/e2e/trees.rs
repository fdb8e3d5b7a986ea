//! Trees made to be hard to remove, or to lure whoever removes them somewhere else.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::Command;

use rustix::fs::{CWD, FileType, Mode, OFlags, mkdirat, mknodat, openat};

const DEPTH: usize = 20_000;
const WIDTH: usize = 5_000;

/// Directories and files that must be as they are when everything is over; their modes would tempt a repair.
pub(crate) fn canary(path: &Path) {
    fs::create_dir_all(path.join("inner")).expect("a place is writable");
    fs::write(path.join("file"), "precious").expect("a place is writable");
    fs::write(path.join("inner/file"), "precious too").expect("a place is writable");
    for (name, mode) in [("file", 0o440), ("inner/file", 0o604), ("inner", 0o750), ("", 0o755)] {
        mode_of(&path.join(name), mode);
    }
}

/// Fills `root` with everything at once, as `owner`'s; links lead to `canary`.
pub(crate) fn hostile(root: &Path, canary: &Path, owner: Option<u32>) {
    deep(&root.join("deep"));
    wide(&root.join("wide"));
    luring(&root.join("luring"), canary);
    odd(&root.join("odd"));
    closed(&root.join("closed"));
    if let Some(owner) = owner {
        let chown = Command::new("chown").arg("-hR").arg(format!("{owner}:{owner}")).arg(root).status();
        assert!(chown.is_ok_and(|status| status.success()), "chown failed");
    }
    // Only now: a change of owner would have gone through the hard links to the canary.
    for name in ["file", "inner/file"] {
        fs::hard_link(canary.join(name), root.join("luring").join(name.replace('/', "-")))
            .expect("the canary is on the pool's file system");
    }
    close(&root.join("closed"));
}

/// Far deeper than a path can be long.
fn deep(root: &Path) {
    fs::create_dir(root).expect("an area is writable");
    let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mut here = openat(CWD, root, flags, Mode::empty()).expect("a directory just made can be opened");
    for _ in 0..DEPTH {
        mkdirat(&here, "d", Mode::RWXU).expect("an area is writable");
        here = openat(&here, "d", flags, Mode::empty()).expect("a directory just made can be opened");
    }
    openat(&here, "bottom", OFlags::CREATE | OFlags::WRONLY, Mode::RUSR).expect("an area is writable");
}

fn wide(root: &Path) {
    fs::create_dir(root).expect("an area is writable");
    for number in 0..WIDTH {
        fs::write(root.join(number.to_string()), "").expect("an area is writable");
    }
}

/// Whoever follows one of these, or changes what they point to, is out.
fn luring(root: &Path, canary: &Path) {
    fs::create_dir(root).expect("an area is writable");
    let inner = canary.join("inner");
    let targets = [canary, &inner, &canary.join("file"), Path::new("/"), Path::new(".."), Path::new("self")];
    for (number, target) in targets.into_iter().enumerate() {
        symlink(target, root.join(format!("to-{number}"))).expect("an area is writable");
    }
    symlink("self", root.join("self")).expect("an area is writable");
    symlink("/nowhere/at/all", root.join("dangling")).expect("an area is writable");
}

/// Names and types that a careless walk stumbles over; opening a FIFO without care blocks for ever.
fn odd(root: &Path) {
    fs::create_dir(root).expect("an area is writable");
    let long = [b'n'; 255];
    for name in [b"-rf".as_slice(), b"a\nb", b"\xff\xfe", b"* ?", b".hidden", b"...", &long] {
        fs::create_dir(root.join(OsStr::from_bytes(name))).expect("an area is writable");
    }
    mknodat(CWD, root.join("fifo"), FileType::Fifo, Mode::RWXU, 0).expect("an area is writable");
    drop(UnixListener::bind(root.join("socket")).expect("an area is writable"));
    fs::create_dir(root.join(".scratch")).expect("an area is writable");
    fs::create_dir(root.join("abcdefghijklmnop")).expect("an area is writable");
}

const CLOSED: [(&str, u32); 5] =
    [("none/inner", 0), ("none", 0), ("read-only", 0o500), ("no-search", 0o600), ("write-only", 0o200)];

fn closed(root: &Path) {
    fs::create_dir(root).expect("an area is writable");
    for (name, _) in CLOSED {
        fs::create_dir_all(root.join(name)).expect("an area is writable");
        fs::write(root.join(name).join("file"), "x").expect("an area is writable");
        mode_of(&root.join(name).join("file"), 0);
    }
}

/// Inside out, and the root of it all last.
fn close(root: &Path) {
    for (name, mode) in CLOSED {
        mode_of(&root.join(name), mode);
    }
    mode_of(root, 0);
}

fn mode_of(path: &Path, mode: u32) {
    fs::set_permissions(path, PermissionsExt::from_mode(mode)).expect("what was just made is ours");
}
