//! What a command leaves running keeps the area until it ends, however it was left and whoever was killed; and no longer.

use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{CWD, FileType, Mode, mknodat};
use rustix::process::{Pid, PidfdFlags, Signal, kill_process, pidfd_open};
use scratch_tests::{Broker, DEADLINE, Dialogue, Options, contained, eventually, installed, scratch, wait_gone};

use super::{holding, lease};

/// Is left running: says who it is in `here`, waits for a line in `end`, says how its area is by then. $1 is where the pipes
/// are, $2 the area, $3 whether to close every descriptor first.
const LEFT: &str = r#"if [ "$3" = closed ]; then for fd in /proc/$$/fd/*; do eval "exec ${fd##*/}>&-"; done; fi
echo $$ >"$1/here"
read -r line <"$1/end"
if [ -d "$2" ]; then echo there; else echo lost; fi >"$1/here""#;

/// Ends when a line comes in `go`. $1 is where the pipes are, $2 is `LEFT`; @LEAVE@ leaves something running.
const COMMAND: &str = r#"printf '%s\n' "$SCRATCHD_LEASE" "$TMPDIR" $$
@LEAVE@
read -r line <"$1/go"
exit 3"#;

const BACKGROUND: &str = r#"bash -c "$2" left "$1" "$TMPDIR" open &"#;
const SESSION: &str = r#"setsid bash -c "$2" left "$1" "$TMPDIR" open &"#;
const ORPHAN: &str = r#"( ( setsid bash -c "$2" left "$1" "$TMPDIR" open & ) & ) &"#;
const CLOSED: &str = r#"( setsid bash -c "$2" left "$1" "$TMPDIR" closed & ) &"#;
const NO_ENVIRONMENT: &str = r#"( env -i "PATH=$PATH" setsid bash -c "$2" left "$1" "$TMPDIR" open & ) &"#;
const INNER: &str = r#""$SCRATCH" run -- bash -c "$2" left "$1" "$TMPDIR" open &"#;

/// How the command and its wrapper end.
#[derive(Debug, Clone, Copy)]
enum End {
    Returns,
    Killed,
    /// While no broker runs.
    KilledUnseen,
}

/// Named pipes that never block whoever opens them, as this end has both ends open.
struct Pipes {
    place: PathBuf,
    here: BufReader<File>,
    go: File,
    end: File,
}

impl Pipes {
    fn new(place: PathBuf) -> Pipes {
        std::fs::create_dir(&place).expect("a place is writable");
        let pipe = |name| {
            let path = place.join(name);
            mknodat(CWD, &path, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).expect("a place is writable");
            OpenOptions::new().read(true).write(true).open(path).expect("a pipe just made is ours")
        };
        Pipes { here: BufReader::new(pipe("here")), go: pipe("go"), end: pipe("end"), place }
    }

    /// What the process that was left says.
    fn hear(&mut self) -> String {
        let deadline = Timespec::try_from(DEADLINE).expect("a deadline is no eternity");
        let ready = poll(&mut [PollFd::new(self.here.get_ref(), PollFlags::IN)], Some(&deadline));
        assert_eq!(ready, Ok(1), "what was left running says nothing");
        let mut line = String::new();
        self.here.read_line(&mut line).expect("a pipe can be read");
        line.trim_end().to_owned()
    }
}

fn release(mut pipe: &File) {
    pipe.write_all(b"\n").expect("a pipe takes a line");
}

fn number(pid: Pid) -> i64 {
    pid.as_raw_nonzero().get().into()
}

fn parse(pid: &str) -> Pid {
    pid.parse().ok().and_then(Pid::from_raw).expect("it is a process id")
}

/// Kills it and waits for its end, whoever's child it is.
fn kill(pid: Pid) {
    let process = pidfd_open(pid, PidfdFlags::empty()).expect("it runs");
    kill_process(pid, Signal::KILL).expect("it is our own user's");
    poll(&mut [PollFd::new(&process, PollFlags::IN)], None).expect("a pidfd can be waited on");
}

/// A command runs and leaves something behind in this way, then ends in that way. The area must stay for what was left.
fn stays(broker: &mut Broker, leave: &str, end: End) {
    let what = format!("{leave} {end:?}");
    let mut pipes = Pipes::new(broker.place().join(format!("pipes-{}", scratch_tests::names_in(broker.place()).len())));
    let mut command = broker.scratch(&["run", "--", "sh", "-c", &COMMAND.replace("@LEAVE@", leave), "command"]);
    command.arg(&pipes.place).arg(LEFT).env("SCRATCH", scratch());
    let mut run = Dialogue::start(command);
    let [id, path, command] = [(); 3].map(|()| run.line());
    let (path, command, wrapper) = (PathBuf::from(path), parse(&command), run.process());
    let left = parse(&pipes.hear());

    match end {
        End::Returns => {
            release(&pipes.go);
            assert_eq!(run.wait().code(), Some(3), "{what}");
        }
        End::Killed => [wrapper, command].into_iter().for_each(kill),
        End::KilledUnseen => {
            broker.kill();
            [wrapper, command].into_iter().for_each(kill);
            broker.restart();
        }
    }
    held_by_what_is_left(broker, &id, &what, &[wrapper, command]);
    assert!(path.is_dir(), "{what}: the area was taken from what was left running ({left})");
    release(&pipes.end);
    assert_eq!(pipes.hear(), "there", "{what}");
    gone(broker, &path);
}

/// The broker knows that wrapper and command have ended, and something else holds the lease.
fn held_by_what_is_left(broker: &Broker, id: &str, what: &str, ended: &[Pid; 2]) {
    eventually(DEADLINE, what, || {
        let shown = lease(broker, id).unwrap_or_else(|| panic!("{what}: the lease went before what was left running"));
        let processes = holding(&shown);
        shown["holders"] != serde_json::json!([]) && ended.iter().all(|pid| !processes.contains(&number(*pid)))
    });
}

fn gone(broker: &Broker, path: &Path) {
    wait_gone(path, DEADLINE);
    eventually(DEADLINE, "nothing is left", || scratch_tests::names_in(broker.pool_root()) == [".scratch"]);
}

fn all_stay(test: &str, ways: &[(&str, End)]) {
    contained(test, || {
        if !installed(test, "bash") || !installed(test, "setsid") {
            return;
        }
        let mut broker = Broker::start(Options::default());
        for (leave, end) in ways {
            stays(&mut broker, leave, *end);
        }
    });
}

#[test]
fn a_background_child() {
    all_stay("run::remains::a_background_child", &[(BACKGROUND, End::Returns), (BACKGROUND, End::Killed)]);
}

#[test]
fn a_session_of_its_own() {
    all_stay("run::remains::a_session_of_its_own", &[(SESSION, End::Returns), (SESSION, End::Killed)]);
}

#[test]
fn an_orphan() {
    all_stay("run::remains::an_orphan", &[(ORPHAN, End::Returns), (ORPHAN, End::Killed)]);
}

#[test]
fn with_every_descriptor_closed() {
    all_stay("run::remains::with_every_descriptor_closed", &[(CLOSED, End::Returns), (CLOSED, End::Killed)]);
}

#[test]
fn without_environment() {
    all_stay("run::remains::without_environment", &[(NO_ENVIRONMENT, End::Returns), (NO_ENVIRONMENT, End::Killed)]);
}

#[test]
fn an_inner_run() {
    all_stay("run::remains::an_inner_run", &[(INNER, End::Returns), (INNER, End::Killed)]);
}

#[test]
fn across_a_restart() {
    let ways = [(BACKGROUND, End::KilledUnseen), (CLOSED, End::KilledUnseen)];
    all_stay("run::remains::across_a_restart", &ways);
}
