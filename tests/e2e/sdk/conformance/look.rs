//! The file system, seen and changed from outside.

use std::ffi::OsString;
use std::fs::{self, File, Metadata};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::fs::{Mode, OFlags};
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};
use scratch_tests::{DEADLINE, names_in};
use serde_json::{Map, Value, json};

use super::table::Step;
use super::values::Stop;

/// A tmpfs, mounted for as long as it is kept.
pub(super) struct Mount(OwnedFd);

impl Mount {
    pub(super) fn new(path: &Path) -> Self {
        mount("tmpfs", path, "tmpfs", MountFlags::empty(), None).expect("root can mount");
        let flags = OFlags::PATH | OFlags::CLOEXEC;
        Self(rustix::fs::open(path, flags, Mode::empty()).expect("it is there"))
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        // It may have been moved meanwhile, with what it is mounted on.
        let path = fs::read_link(format!("/proc/self/fd/{}", self.0.as_raw_fd())).expect("/proc names it");
        unmount(path, UnmountFlags::DETACH).expect("root can unmount");
    }
}

/// What a step says about looks.
pub(super) fn wanted(step: &Step) -> Value {
    let keys = ["kind", "mode", "links", "content", "entries", "uid"];
    let said = keys.into_iter().filter_map(|key| Some((key.to_owned(), step.keys.get(key)?.clone())));
    Value::Object(said.collect::<Map<_, _>>())
}

/// How it looks by its name; what is in it only where that is asked for: it may not be ours to open.
pub(super) fn look_at(path: &Path, step: &Step) -> Value {
    let Ok(about) = path.symlink_metadata() else { return json!({"kind": "gone"}) };
    let mut found = about_json(&about);
    if step.keys.get("content").is_some() {
        found["content"] = String::from_utf8_lossy(&fs::read(path).unwrap_or_default()).into();
    }
    if step.keys.get("entries").is_some() {
        let text = |name: OsString| Value::from(name.to_string_lossy().into_owned());
        found["entries"] = names_in(path).into_iter().map(text).collect();
    }
    found
}

/// How an open file looks, after this was written at its start.
pub(super) fn look(file: &File, write: &str, step: &Step) -> Value {
    if !write.is_empty() {
        file.write_all_at(write.as_bytes(), 0).expect("it is open for writing");
    }
    let mut found = about_json(&file.metadata().expect("an open file can be looked at"));
    if step.keys.get("content").is_some() {
        let mut content = vec![0; 65536];
        let length = file.read_at(&mut content, 0).expect("it is open for reading");
        found["content"] = String::from_utf8_lossy(&content[..length]).into_owned().into();
    }
    found
}

pub(super) fn same_file(file: &File, path: &Path) -> bool {
    let number = |about: Metadata| (about.dev(), about.ino());
    let named = path.symlink_metadata().map(number);
    named.is_ok_and(|named| file.metadata().map(number).is_ok_and(|opened| opened == named))
}

fn about_json(about: &Metadata) -> Value {
    let kind = match about.file_type() {
        kind if kind.is_file() => "file",
        kind if kind.is_dir() => "directory",
        kind if kind.is_symlink() => "symlink",
        _ => "other",
    };
    json!({"kind": kind, "mode": format!("{:04o}", about.mode() & 0o7777), "links": about.nlink(), "uid": about.uid()})
}

/// Once, or again until it is as expected.
pub(super) fn until(step: &Step, mut act: impl FnMut() -> Result<(), Stop>) -> Result<(), Stop> {
    let end = Instant::now() + DEADLINE;
    loop {
        match act() {
            Err(Stop::Wrong(_)) if step.keys["eventually"] == true && Instant::now() < end => pause(),
            result => return result,
        }
    }
}

/// Between two looks at what can only be looked at.
pub(super) fn pause() {
    std::thread::sleep(Duration::from_millis(5));
}
