//! strace at a running broker: counting its calls by thread role, or letting one of them go wrong.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};

/// A running strace. Detached when dropped.
#[derive(Debug)]
pub struct Strace {
    child: Child,
}

/// How often each thread role makes each call; where several threads have one role, the busiest counts.
pub type Counts = BTreeMap<(String, String), u32>;

/// The threads of a process: number and role, which is the name without its number.
///
/// # Panics
/// When the process is gone.
#[must_use]
pub fn threads(process: Pid) -> Vec<(u32, String)> {
    let tasks = std::fs::read_dir(format!("/proc/{process}/task")).expect("the process is there");
    let named = tasks.filter_map(|task| {
        let task = task.ok()?;
        let name = std::fs::read_to_string(task.path().join("comm")).ok()?;
        Some((task.file_name().to_str()?.parse().ok()?, role(name.trim_end()).to_owned()))
    });
    named.collect()
}

fn role(name: &str) -> &str {
    name.trim_end_matches(|last: char| last.is_ascii_digit()).trim_end_matches('-')
}

impl Strace {
    /// Traces threads; nothing is lost of what they do after this. With `follow`, also those that they start.
    ///
    /// # Panics
    /// When strace can't be run, or can't trace.
    #[must_use]
    pub fn attach(threads: &[u32], follow: bool, arguments: &[String], log: &Path) -> Strace {
        let mut command = Command::new("strace");
        command.args(["--decode-pids=comm", "-o"]).arg(log).args(arguments);
        if follow {
            command.arg("-f");
        }
        command.args(threads.iter().map(|thread| format!("--attach={thread}")));
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("strace was there a moment ago");
        let mut lines = BufReader::new(child.stderr.take().expect("stderr is piped")).lines();
        for _ in threads {
            let line = lines.next().and_then(Result::ok).unwrap_or_default();
            assert!(line.contains("attached"), "strace can't attach: {line:?}");
        }
        // Read on, so that it never blocks.
        std::thread::spawn(move || lines.for_each(drop));
        Strace { child }
    }

    /// Waits until it has nothing more to trace.
    ///
    /// # Panics
    /// When it can't be waited for.
    pub fn wait(mut self) {
        self.child.wait().expect("our own child can be waited for");
    }
}

impl Drop for Strace {
    fn drop(&mut self) {
        if self.child.try_wait().is_ok_and(|status| status.is_none()) {
            // It detaches, and what it traced goes on.
            let _ = kill_process(Pid::from_child(&self.child), Signal::TERM);
            let _ = self.child.wait();
        }
    }
}

/// What a log of strace counts.
///
/// # Panics
/// When there is no such log.
#[must_use]
pub fn counted(log: &Path) -> Counts {
    let text = String::from_utf8_lossy(&std::fs::read(log).expect("strace has written its log")).into_owned();
    let mut threads: BTreeMap<(String, String, String), u32> = BTreeMap::new();
    for line in text.lines() {
        let Some((thread, call)) = made_call(line) else { continue };
        let (number, name) = thread;
        *threads.entry((role(name).to_owned(), call.to_owned(), number.to_owned())).or_default() += 1;
    }
    let mut counts = Counts::new();
    for ((role, call, _), count) in threads {
        let most = counts.entry((role, call)).or_default();
        *most = count.max(*most);
    }
    counts
}

/// Thread and call of a line like `74<channel-0> accept4(15, …`.
fn made_call(line: &str) -> Option<((&str, &str), &str)> {
    let (number, rest) = line.split_once('<')?;
    let (name, rest) = rest.split_once('>')?;
    let (call, _) = rest.trim_start().split_once('(')?;
    call.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_').then_some(((number, name), call))
}
