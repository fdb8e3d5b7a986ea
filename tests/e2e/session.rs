//! Without any broker: `scratch run` starts one for its user, one only, and that one goes when it is idle.

use std::fs;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use rustix::process::{Pid, Signal, kill_process, pidfd_open};
use scratch_tests::{DEADLINE, Held, Place, contained, eventually, exit_of, names_in, scratch, wait_gone};

/// A user's own surroundings: a home and a runtime directory in which nothing runs yet.
struct User {
    place: Place,
}

impl User {
    fn new() -> User {
        let place = Place::new();
        for name in ["home", "runtime"] {
            fs::DirBuilder::new().mode(0o700).create(place.path().join(name)).expect("a place is writable");
        }
        User { place }
    }

    fn runtime(&self) -> PathBuf {
        self.place.path().join("runtime/scratchd")
    }

    fn scratch(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(scratch());
        command.args(arguments).env("HOME", self.place.path().join("home"));
        command.env("XDG_RUNTIME_DIR", self.place.path().join("runtime"));
        for name in ["SCRATCHD_RUNTIME_DIR", "SCRATCHD_LEASE", "SCRATCHD_BIN", "TMPDIR", "TMP", "TEMP"] {
            command.env_remove(name);
        }
        command
    }

    /// Runs a command that says where its area is, and checks that it was one.
    fn area(&self) -> PathBuf {
        let output = self.scratch(&["run", "--", "sh", "-c", "test -d \"$TMPDIR\" && printf %s \"$TMPDIR\""]);
        area_of(output)
    }
}

fn area_of(mut run: Command) -> PathBuf {
    let output = run.stderr(Stdio::inherit()).output().expect("the command line's program can be run");
    assert!(output.status.success(), "scratch run: {}", output.status);
    PathBuf::from(String::from_utf8(output.stdout).expect("a session's paths are plain"))
}

/// The session brokers that run, found from outside: the whole process table is this test's own.
fn brokers() -> Vec<Pid> {
    let session = |pid: &Path| {
        let words = fs::read(pid.join("cmdline")).unwrap_or_default();
        words.split(|byte| *byte == 0).any(|word| word == b"--session")
    };
    let processes = names_in(Path::new("/proc")).into_iter().filter_map(|name| name.to_str()?.parse().ok());
    processes.filter(|pid: &i32| session(&PathBuf::from(format!("/proc/{pid}")))).filter_map(Pid::from_raw).collect()
}

#[test]
fn eight_at_once_start_one_broker() {
    contained("session::eight_at_once_start_one_broker", || {
        let user = User::new();
        let areas: Vec<PathBuf> = std::thread::scope(|scope| {
            let runs: Vec<_> = (0..8).map(|_| scope.spawn(|| user.area())).collect();
            runs.into_iter().map(|run| run.join().expect("scratch run found no broker")).collect()
        });
        let pool = areas[0].parent().expect("an area is in a pool");
        assert!(areas.iter().all(|area| area.parent() == Some(pool)), "more than one pool: {areas:?}");
        let about = pool.symlink_metadata().expect("the pool is there");
        assert_eq!((about.mode() & 0o7777, about.uid()), (0o700, rustix::process::getuid().as_raw()));
        eventually(DEADLINE, "one broker runs", || brokers().len() == 1);
        eventually(DEADLINE, "nothing is left of the eight", || names_in(pool) == [".scratch"]);
        assert!(user.scratch(&["status"]).stdout(Stdio::null()).status().is_ok_and(|status| status.success()));
    });
}

#[test]
fn a_socket_without_a_broker_is_recognised() {
    contained("session::a_socket_without_a_broker_is_recognised", || {
        let user = User::new();
        fs::DirBuilder::new().mode(0o700).create(user.runtime()).expect("a place is writable");
        for name in ["handle.sock", "grpc.sock"] {
            // Closing it leaves the name behind, as a killed broker does.
            drop(UnixListener::bind(user.runtime().join(name)).expect("a place is writable"));
        }
        user.area();
        assert_eq!(brokers().len(), 1);
    });
}

#[test]
fn after_a_killed_broker_comes_another() {
    contained("session::after_a_killed_broker_comes_another", || {
        let user = User::new();
        let mut held = Held::under(user.scratch(&[]));
        let [first] = brokers()[..] else { panic!("not one broker: {:?}", brokers()) };
        let process = pidfd_open(first, rustix::process::PidfdFlags::empty()).expect("the broker runs");
        kill_process(first, Signal::KILL).expect("it is our own user's");
        let mut ends = [rustix::event::PollFd::new(&process, rustix::event::PollFlags::IN)];
        rustix::event::poll(&mut ends, None).expect("a pidfd can be waited on");

        held.write_line("without a broker");
        let area = user.area();
        assert_eq!(area.parent(), held.path().parent(), "another pool");
        eventually(DEADLINE, "one broker runs", || matches!(brokers()[..], [second] if second != first));
        assert_eq!(held.log(), "without a broker\n");
        let path = held.path().to_path_buf();
        assert!(held.end().success());
        wait_gone(&path, DEADLINE);
    });
}

#[test]
fn an_idle_broker_goes() {
    contained("session::an_idle_broker_goes", || {
        let user = User::new();
        fs::DirBuilder::new().mode(0o700).create(user.runtime()).expect("a place is writable");
        let mut daemon = user.scratch(&["daemon", "--session", "--idle-exit", "1s"]);
        let mut daemon = daemon.stdin(Stdio::null()).spawn().expect("the command line's program can be run");
        eventually(DEADLINE, "it listens", || user.runtime().join("handle.sock").exists());
        let mut held = Held::under(user.scratch(&[]));
        held.write_line("not idle");
        assert!(daemon.try_wait().expect("our own child can be waited for").is_none());
        assert!(held.end().success());
        let status = exit_of(&mut daemon, DEADLINE).expect("an idle broker ends");
        assert!(status.success(), "{status}");
    });
}
