//! A command under `scratch run` that waits: a lease that lives until the test ends it.

use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};

use rustix::process::Pid;

use crate::broker::Broker;
use crate::dialogue::Dialogue;

/// Says where it is, then answers each line with itself after appending it to `log` in its area; ends with its input.
const COMMAND: &str = r#"printf '%s\n%s\n' "$SCRATCHD_LEASE" "$TMPDIR"
while read -r line; do printf '%s\n' "$line" >>"$TMPDIR/log"; printf '%s\n' "$line"; done"#;

/// A running command and its lease. Killed with its process group when dropped.
#[derive(Debug)]
pub struct Held {
    lease: String,
    path: PathBuf,
    dialogue: Dialogue,
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
    #[must_use]
    pub fn under(command: Command) -> Held {
        Held::with(command, &[])
    }

    /// As `under`, with options of `scratch run`.
    ///
    /// # Panics
    /// When it gives no area.
    #[must_use]
    pub fn with(mut command: Command, options: &[&str]) -> Held {
        command.arg("run").args(options).args(["--", "sh", "-c", COMMAND]);
        let mut dialogue = Dialogue::start(command);
        let (lease, path) = (dialogue.line(), PathBuf::from(dialogue.line()));
        assert!(path.is_dir(), "scratch run gave no area: {path:?}");
        Held { lease, path, dialogue }
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
    #[must_use]
    pub fn wrapper(&self) -> Pid {
        self.dialogue.process()
    }

    /// Appends a line to `log` in the area, and waits until that is done.
    ///
    /// # Panics
    /// When the command can't, because its area was taken away.
    pub fn write_line(&mut self, line: &str) {
        self.dialogue.say(line);
        assert_eq!(self.dialogue.line(), line, "the command could not write to its area");
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
    pub fn end(self) -> ExitStatus {
        self.dialogue.end()
    }

    /// Waits for the wrapper's end, however that comes; the command's input stays open.
    pub fn wait(self) -> ExitStatus {
        self.dialogue.wait()
    }

    /// Kills wrapper and command with SIGKILL.
    pub fn kill(self) {
        drop(self);
    }
}
