//! Which process holds what `scratch mktemp` makes: the shell that runs the script, in whatever construct it is called, and
//! however the shell was started. It is there as long as the shell lives, and gone when the shell is killed.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::process::{Signal, kill_process};
use scratch_tests::{Broker, DEADLINE, Dialogue, Options, contained, installed, scratch, wait_gone};
use serde_json::json;

use super::lease_of;

/// Each makes one file or directory and prints its path.
const CONSTRUCTS: [(&str, &str); 11] = [
    ("plain", r#""$SCRATCH" mktemp"#),
    ("substitution", r#"file=$("$SCRATCH" mktemp); echo "$file""#),
    ("substitution of a list", r#"file=$(true; "$SCRATCH" mktemp; true); echo "$file""#),
    ("pipe", r#""$SCRATCH" mktemp | cat"#),
    ("loop in a pipe", r#"for i in 1; do "$SCRATCH" mktemp; done | cat"#),
    ("list", r#"true && file=$("$SCRATCH" mktemp -d) && echo "$file""#),
    ("function", r#"make() { "$SCRATCH" mktemp -t fun.XXX; }; file=$(make); echo "$file""#),
    ("subshell", r#"( "$SCRATCH" mktemp; true )"#),
    ("subshell in a substitution", r#"file=$( ( "$SCRATCH" mktemp; true ); true ); echo "$file""#),
    ("substitution in a substitution", r#"file=$(echo "$("$SCRATCH" mktemp)"); echo "$file""#),
    ("background", r#""$SCRATCH" mktemp & wait"#),
];

/// How a shell comes to run a script.
#[derive(Debug, Clone, Copy)]
enum Start {
    File,
    Option,
    FirstLine,
}

fn start(start: Start, shell: &[&str], text: &str, place: &Path) -> Command {
    let file = place.join("script");
    let first_line = format!("#!/usr/bin/env -S {}\n{text}\n", shell.join(" "));
    fs::write(&file, first_line).expect("a place is writable");
    fs::set_permissions(&file, PermissionsExt::from_mode(0o755)).expect("the file is ours");
    let mut command = Command::new(shell[0]);
    command.args(&shell[1..]);
    match start {
        Start::File => drop(command.arg(&file)),
        Start::Option => drop(command.arg("-c").arg(text)),
        Start::FirstLine => command = Command::new(&file),
    }
    command
}

fn in_shell(test: &str, shell: &[&str]) {
    if !installed(test, shell[0]) {
        return;
    }
    let broker = Broker::start(Options::default());
    for (construct, text) in CONSTRUCTS {
        // The last command is not this one: a shell may become its last command.
        let text = format!("{text}\nread -r line; true");
        for how in [Start::File, Start::Option, Start::FirstLine] {
            let mut command = start(how, shell, &text, broker.place());
            command.env("SCRATCH", scratch()).env("SCRATCHD_RUNTIME_DIR", broker.runtime_dir());
            let mut run = Dialogue::start(command);
            let path = PathBuf::from(run.line());
            assert!(path.exists(), "{construct}, {how:?}: {path:?} is gone while its shell waits");
            // Not only now: nothing but the shell holds it, so nothing else's end can take it away.
            let shown = broker.json(&["lease", "show", lease_of(&path)]);
            let holders = json!([{ "id": 1, "kind": "process", "pid": run.process().as_raw_nonzero().get() }]);
            assert_eq!(shown["holders"], holders, "{construct}, {how:?}");
            kill_process(run.process(), Signal::KILL).expect("our own child can be killed");
            wait_gone(path.parent().expect("it is in a directory"), DEADLINE);
        }
    }
}

#[test]
fn bash() {
    contained("mktemp::shells::bash", || in_shell("mktemp::shells::bash", &["bash"]));
}

#[test]
fn dash() {
    contained("mktemp::shells::dash", || in_shell("mktemp::shells::dash", &["dash"]));
}

#[test]
fn busybox() {
    contained("mktemp::shells::busybox", || in_shell("mktemp::shells::busybox", &["busybox", "sh"]));
}

/// A shell in a shell is one of its own: its files go with it, those of the outer one stay.
#[test]
fn a_script_in_a_script() {
    contained("mktemp::shells::a_script_in_a_script", || {
        let broker = Broker::start(Options::default());
        let text = r#""$SCRATCH" mktemp; sh -c '"$SCRATCH" mktemp; read -r line; true'; echo ended; read -r line"#;
        let mut command = Command::new("sh");
        command.args(["-c", text]).env("SCRATCH", scratch()).env("SCRATCHD_RUNTIME_DIR", broker.runtime_dir());
        let mut run = Dialogue::start(command);
        let (outer, inner) = (PathBuf::from(run.line()), PathBuf::from(run.line()));
        assert_ne!(lease_of(&outer), lease_of(&inner));
        run.say("end the inner one");
        assert_eq!(run.line(), "ended");
        wait_gone(inner.parent().expect("it is in a directory"), DEADLINE);
        assert!(outer.exists());
        assert!(run.end().code().is_some());
        wait_gone(outer.parent().expect("it is in a directory"), DEADLINE);
    });
}
