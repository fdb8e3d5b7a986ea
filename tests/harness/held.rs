//! A command under `scratch run` that waits: a lease that lives until the test ends it.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, ExitStatus, Stdio};

use rustix::process::{Pid, Signal, kill_process_group};

use crate::broker::Broker;
use crate::wait::{DEADLINE, exit_of};

/// Says where it is, then answers each line with itself after appending it to `log` in its area; ends with its input.
const COMMAND: &str = r#"printf '%s\n%s\n' "$SCRATCHD_LEASE" "$TMPDIR"
while read -r line; do printf '%s\n' "$line" >>"$TMPDIR/log"; printf '%s\n' "$line"; done"#;

/// A running command and its lease. Killed with its process group when dropped.
#[derive(Debug)]
pub struct Held {
    lease: String,
    path: PathBuf,
    child: Option<Child>,
    stdin: Option<ChildStdin>,
    stdout: BufReader<ChildStdout>,
}

impl Held {
    /// Under a lease of the test's own user.
    #[must_use]
    pub fn start(broker: &Broker) -> Held {
        Held::under(broker.scratch(&[]))
    }

    /// Under a lease of another user, or of the test's own.
    #[must_use]
    pub fn start_as(broker: &Broker, user: Option<u32>) -> Held {
        match user {
            Some(user) => Held::under(broker.scratch_as(user, &[])),
            None => Held::start(broker),
        }
    }

    /// With a command line's program that has its environment, but no arguments yet.
    ///
    /// # Panics
    /// When it gives no area.
    #[must_use]
    pub fn under(mut command: Command) -> Held {
        command.args(["run", "--", "sh", "-c", COMMAND]);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).process_group(0);
        let mut child = command.spawn().expect("the command line's program can be run");
        let stdin = child.stdin.take();
        let stdout = BufReader::new(child.stdout.take().expect("stdout is piped"));
        let mut held = Held { lease: String::new(), path: PathBuf::new(), child: Some(child), stdin, stdout };
        held.lease = held.line();
        held.path = PathBuf::from(held.line());
        assert!(held.path.is_dir(), "scratch run gave no area: {:?}", held.path);
        held
    }

    /// Its lease's id.
    #[must_use]
    pub fn lease(&self) -> &str {
        &self.lease
    }

    /// Its lease's directory.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The wrapper's process, which leads the command's process group.
    ///
    /// # Panics
    /// When it was ended.
    #[must_use]
    pub fn wrapper(&self) -> Pid {
        Pid::from_child(self.child.as_ref().expect("the command is running"))
    }

    /// Appends a line to `log` in the area, and waits until that is done.
    ///
    /// # Panics
    /// When the command can't, because its area was taken away.
    pub fn write_line(&mut self, line: &str) {
        let stdin = self.stdin.as_mut().expect("the command is running");
        stdin.write_all(format!("{line}\n").as_bytes()).expect("the command reads");
        assert_eq!(self.line(), line, "the command could not write to its area");
    }

    /// What is in `log`.
    ///
    /// # Panics
    /// When it is gone.
    #[must_use]
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.path.join("log")).expect("what lives is never taken away")
    }

    /// Ends the command in good order.
    ///
    /// # Panics
    /// When it was ended before, or does not end.
    pub fn end(mut self) -> ExitStatus {
        self.stdin = None;
        let mut child = self.child.take().expect("the command is running");
        exit_of(&mut child, DEADLINE).expect("scratch run ends with its command")
    }

    /// Kills wrapper and command with SIGKILL.
    pub fn kill(self) {
        drop(self);
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.stdout.read_line(&mut line).expect("a pipe can be read");
        line.trim_end_matches('\n').to_owned()
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            // Both may have ended by themselves; the wrapper is waited for either way.
            let _ = kill_process_group(Pid::from_child(&child), Signal::KILL);
            let _ = child.wait();
        }
    }
}
