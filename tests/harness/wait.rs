//! Bounded waiting. Deadlines here only turn a hang into a failure: no test asserts that something is fast.

use std::mem::MaybeUninit;
use std::path::Path;
use std::process::{Child, ExitStatus};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::inotify;
use rustix::process::{Pid, PidfdFlags, pidfd_open};

/// For whatever should happen at once, on a machine that is busy with other things.
pub const DEADLINE: Duration = Duration::from_secs(30);

/// Waits for a state that can only be looked at: a count in a reply, a table in /proc. The only place that polls; where
/// something can be waited on (a process, a reply, a name that goes), wait on that.
///
/// # Panics
/// When `holds` is not true within `deadline`.
pub fn eventually(deadline: Duration, what: &str, mut holds: impl FnMut() -> bool) {
    let end = Instant::now() + deadline;
    let mut pause = Duration::from_millis(1);
    while !holds() {
        assert!(Instant::now() < end, "not within {deadline:?}: {what}");
        std::thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(100));
    }
}

/// Waits until the name `path` is gone, by inotify on its directory.
///
/// # Panics
/// When it is still there after `deadline`, or its directory can't be watched.
pub fn wait_gone(path: &Path, deadline: Duration) {
    let end = Instant::now() + deadline;
    let directory = path.parent().expect("a path that may go has a directory");
    let watch = inotify::init(inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK).expect("inotify");
    let goes = inotify::WatchFlags::MOVED_FROM | inotify::WatchFlags::DELETE;
    inotify::add_watch(&watch, directory, goes).expect("the directory can be watched");
    // The watch stands before the first look, so nothing falls in between.
    while path.symlink_metadata().is_ok() {
        let rest = end.saturating_duration_since(Instant::now());
        let ready = poll(&mut [PollFd::new(&watch, PollFlags::IN)], Some(&timespec(rest)));
        assert!(ready != Ok(0), "still there after {deadline:?}: {}", path.display());
        let mut space = [MaybeUninit::uninit(); 4096];
        let mut events = inotify::Reader::new(&watch, &mut space);
        while events.next().is_ok() {}
    }
}

/// The child's exit, or nothing if it has not come within `deadline`. The child is not touched.
///
/// # Panics
/// When the kernel gives no descriptor for the process.
pub fn exit_of(child: &mut Child, deadline: Duration) -> Option<ExitStatus> {
    let end = Instant::now() + deadline;
    let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw).expect("a child has a process id");
    loop {
        if let Some(status) = child.try_wait().expect("our own child can be waited for") {
            return Some(status);
        }
        let process = pidfd_open(pid, PidfdFlags::empty()).expect("a child that was not waited for has a pidfd");
        let rest = end.saturating_duration_since(Instant::now());
        if poll(&mut [PollFd::new(&process, PollFlags::IN)], Some(&timespec(rest))) == Ok(0) {
            return None;
        }
    }
}

fn timespec(duration: Duration) -> Timespec {
    Timespec::try_from(duration).expect("a test's deadline is no eternity")
}
