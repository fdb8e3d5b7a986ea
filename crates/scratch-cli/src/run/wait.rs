//! Waits for the command: hands signals on, stops with it and reaps. Reads signals, never handles them; no polling.
//!
//! The command stays in the wrapper's process group, as under env(1), nice(1) and time(1). A group of its own would have to be
//! made the terminal's foreground group, and then the rest of a pipeline (`scratch run -- git log | less`) would be stopped
//! for touching the terminal, and Ctrl-C would pass by the script or make(1) that called us. So the terminal's signals reach
//! the command by themselves, and whoever continues or kills the whole group has both. What is left to do:
//! - signals that a process sent to the wrapper are handed on. Those of the terminal come from the kernel, and the command
//!   has them already. sudo(8) leaves out senders of its own group, too: then a script's `kill $!` does nothing;
//! - the wrapper stops when, and only when, the command was stopped by job control. If Ctrl-Z stopped the wrapper by itself,
//!   the shell would have the terminal while the command still reads from it, or goes on for good because it ignores Ctrl-Z.

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::process::{Pid, Signal, WaitOptions, WaitStatus, pidfd_send_signal};
use scratch_sys::{Caught, Signals, Spawned, forget_pending, raise_unblocked, restore_default};

use crate::exit;

/// What is handed on to the command, besides the stops of job control.
const FORWARDED: [Signal; 7] =
    [Signal::TERM, Signal::INT, Signal::HUP, Signal::QUIT, Signal::USR1, Signal::USR2, Signal::WINCH];
/// Stops of job control. SIGSTOP is none: who stops one process so, will continue that one.
const JOB_CONTROL: [Signal; 3] = [Signal::TSTP, Signal::TTIN, Signal::TTOU];

/// From here on signals are read by [`until_it_ends`], and none is lost.
pub(super) fn block_signals() -> Result<Signals, Errno> {
    // Where the caller ignores it, children would vanish without a status.
    restore_default(Signal::CHILD);
    Signals::block(&[&FORWARDED[..], &JOB_CONTROL, &[Signal::CHILD, Signal::CONT]].concat())
}

/// Waits until the command has ended, and answers what a shell would say of it. All children that have ended by then are
/// reaped.
pub(super) fn until_it_ends(command: &Spawned, signals: &Signals) -> Result<u8, Errno> {
    let has_terminal =
        rustix::fs::open("/dev/tty", OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC, Mode::empty()).is_ok();
    loop {
        let caught = signals.wait()?;
        for signal in caught.iter().filter_map(|caught| to_forward(*caught, command.pid)) {
            send(command, signal);
        }
        let mut changes = reap(command.pid)?;
        // With a SIGCONT at hand the stop is old news: everybody is being continued.
        let continued = caught.iter().any(|caught| caught.number == Signal::CONT.as_raw());
        if continued && changes.stopped.is_some() && has_terminal {
            send(command, Signal::CONT);
            changes.stopped = None;
        }
        while let Some(stop) = changes.stopped.filter(|_| has_terminal) {
            stop_with_it(stop);
            changes = reap(command.pid)?;
            // The shell continues the whole group. Where somebody has continued this process alone, the command is told; but
            // not where it was continued already, for it may have been stopped again since.
            if changes.is_none() {
                send(command, Signal::CONT);
            }
        }
        if let Some(code) = changes.ended {
            return Ok(code);
        }
    }
}

/// Stops this process until it is continued; that news is taken here, so that it is not taken for one about a later stop.
fn stop_with_it(stop: Signal) {
    raise_unblocked(stop);
    forget_pending(Signal::CONT);
}

/// What became of the command since the last time.
#[derive(Debug, Default)]
struct Changes {
    ended: Option<u8>,
    stopped: Option<Signal>,
    continued: bool,
}

impl Changes {
    fn is_none(&self) -> bool {
        self.ended.is_none() && self.stopped.is_none() && !self.continued
    }
}

/// Takes the status of every child that has one to give.
fn reap(command: Pid) -> Result<Changes, Errno> {
    let mut changes = Changes::default();
    loop {
        match rustix::process::wait(WaitOptions::NOHANG | WaitOptions::UNTRACED | WaitOptions::CONTINUED) {
            Ok(Some((pid, status))) if pid == command => changes = judge(status),
            Ok(Some(_)) | Err(Errno::INTR) => {}
            Err(Errno::CHILD) if changes.ended.is_some() => return Ok(changes),
            Ok(None) => return Ok(changes),
            Err(errno) => return Err(errno),
        }
    }
}

fn judge(status: WaitStatus) -> Changes {
    let of_exit = |code: i32| u8::try_from(code).unwrap_or(u8::MAX);
    let ended = status.exit_status().map(of_exit).or_else(|| status.terminating_signal().map(exit::of_signal));
    let is_stop = |signal: &Signal| status.stopping_signal() == Some(signal.as_raw());
    Changes { ended, stopped: JOB_CONTROL.into_iter().find(is_stop), continued: status.continued() }
}

/// The signal to hand on, if a process other than the command sent it.
fn to_forward(caught: Caught, command: Pid) -> Option<Signal> {
    let sender = caught.sender?;
    let signal = FORWARDED.into_iter().chain(JOB_CONTROL).find(|signal| signal.as_raw() == caught.number)?;
    (sender != Pid::as_raw(Some(command))).then_some(signal)
}

fn send(command: &Spawned, signal: Signal) {
    // Ignoring: it has ended, or become another user's; then nobody can hand it on.
    let _ = pidfd_send_signal(&command.pidfd, signal);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_a_process_sent_is_handed_on() {
        let command = Pid::from_raw(100).unwrap();
        let number = Signal::TERM.as_raw();
        assert_eq!(to_forward(Caught { number, sender: Some(7) }, command), Some(Signal::TERM));
        assert_eq!(
            to_forward(Caught { number, sender: Some(0) }, command),
            Some(Signal::TERM),
            "from outside the PID namespace"
        );
        assert_eq!(to_forward(Caught { number, sender: None }, command), None, "the terminal's");
        assert_eq!(to_forward(Caught { number, sender: Some(100) }, command), None, "the command's own");
        assert_eq!(to_forward(Caught { number: Signal::CHILD.as_raw(), sender: Some(7) }, command), None);
    }
}
