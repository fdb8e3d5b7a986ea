//! A command that is talked with, line by line: what it waits for, and that it came somewhere, needs no clock.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::CommandExt;
use std::process::{Child, ChildStdin, ChildStdout, Command, ExitStatus, Stdio};

use rustix::process::{Pid, Signal, kill_process_group};

use crate::wait::{DEADLINE, exit_of};

/// A running command, in a process group of its own. Killed with it when dropped.
#[derive(Debug)]
pub struct Dialogue {
    child: Option<Child>,
    stdin: Option<ChildStdin>,
    stdout: BufReader<ChildStdout>,
}

impl Dialogue {
    /// Starts it with pipes for input and output.
    ///
    /// # Panics
    /// When its program can't be run.
    #[must_use]
    pub fn start(mut command: Command) -> Dialogue {
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).process_group(0);
        let mut child = command.spawn().expect("the program can be run");
        let stdin = child.stdin.take();
        let stdout = BufReader::new(child.stdout.take().expect("stdout is piped"));
        Dialogue { child: Some(child), stdin, stdout }
    }

    /// The process that was started, which leads the group.
    ///
    /// # Panics
    /// When it was waited for.
    #[must_use]
    pub fn process(&self) -> Pid {
        Pid::from_child(self.child.as_ref().expect("the command is running"))
    }

    /// The next line that it prints.
    ///
    /// # Panics
    /// When there is none.
    pub fn line(&mut self) -> String {
        let mut line = String::new();
        self.stdout.read_line(&mut line).expect("a pipe can be read");
        assert!(line.ends_with('\n'), "the command has nothing more to say than {line:?}");
        line.trim_end_matches('\n').to_owned()
    }

    /// Gives it a line to read.
    ///
    /// # Panics
    /// When it does not read any more.
    pub fn say(&mut self, line: &str) {
        let stdin = self.stdin.as_mut().expect("the command is running");
        stdin.write_all(format!("{line}\n").as_bytes()).expect("the command reads");
    }

    /// Closes its input and waits for its end.
    ///
    /// # Panics
    /// When it does not end.
    pub fn end(mut self) -> ExitStatus {
        self.stdin = None;
        self.wait()
    }

    /// Waits for its end, its input still open.
    ///
    /// # Panics
    /// When it does not end.
    pub fn wait(mut self) -> ExitStatus {
        let child = self.child.as_mut().expect("the command is running");
        let status = exit_of(child, DEADLINE).expect("the command ends");
        self.child = None;
        status
    }
}

impl Drop for Dialogue {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            // It may have ended by itself; it is waited for either way.
            let _ = kill_process_group(Pid::from_child(&child), Signal::KILL);
            let _ = child.wait();
        }
    }
}
