//! A real broker on a pool of its own: start, look, kill, start again.

use std::io::{BufRead, BufReader, Read};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread::JoinHandle;

use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process, waitid};
use serde_json::Value;

use crate::fdstore::FdStore;
use crate::place::Place;
use crate::programs::{as_user, scratch, scratchd};
use crate::torture::long_or_short;
use crate::wait::{DEADLINE, exit_of};

const READY: &str = "scratchd ready";

/// How to start a broker. All empty: `--pool` and `--runtime-dir` in a fresh place, as the user that runs the tests.
#[derive(Debug, Default)]
pub struct Options {
    /// A configuration instead of `--pool`; `@PLACE@` stands for the broker's place.
    pub config: Option<String>,
    /// `restart.grace` in an otherwise smallest configuration.
    pub grace: Option<&'static str>,
    /// Runs it as this user; needs root.
    pub user: Option<u32>,
    /// More environment.
    pub environment: Vec<(String, String)>,
    /// Where its pool and its sockets are.
    pub place: Option<Place>,
    /// A pool root elsewhere; it is not made.
    pub pool: Option<PathBuf>,
    /// Runs it as a service of a manager that keeps descriptors.
    pub service: bool,
    /// A program and its arguments that become the broker in the same process, such as `strace -D`.
    pub under: Vec<String>,
}

/// Why a broker did not get ready.
#[derive(Debug)]
pub struct Refusal {
    /// Its exit code, if it was not killed.
    pub code: Option<i32>,
    /// What it said.
    pub stderr: String,
}

/// A running broker. Killed when dropped.
#[derive(Debug)]
pub struct Broker {
    options: Options,
    place: Place,
    pool: PathBuf,
    store: Option<FdStore>,
    child: Option<Child>,
}

impl Broker {
    /// Starts a broker and waits for its ready line.
    ///
    /// # Panics
    /// When it does not get ready.
    #[must_use]
    pub fn start(options: Options) -> Broker {
        match Broker::try_start(options) {
            Ok(broker) => broker,
            Err(refusal) => panic!("the broker did not start: {:?}\n{}", refusal.code, refusal.stderr),
        }
    }

    /// As `start`, for brokers that are expected to refuse.
    ///
    /// # Errors
    /// When it ends before its ready line.
    ///
    /// # Panics
    /// When it neither gets ready nor ends.
    pub fn try_start(mut options: Options) -> Result<Broker, Refusal> {
        let place = options.place.take().unwrap_or_default();
        let pool = options.pool.clone().unwrap_or_else(|| place.path().join("pool"));
        let store = options.service.then(|| FdStore::new(place.path()));
        let mut broker = Broker { options, place, pool, store, child: None };
        if broker.options.pool.is_none() && !broker.pool.exists() {
            std::fs::create_dir(&broker.pool).expect("a place is writable");
        }
        if !broker.runtime_dir().exists() {
            std::fs::create_dir(broker.runtime_dir()).expect("a place is writable");
        }
        if let Some(user) = broker.options.user {
            for path in [broker.pool.clone(), broker.runtime_dir()] {
                std::os::unix::fs::chown(path, Some(user), Some(user)).expect("giving away needs root");
            }
        }
        broker.spawn()?;
        Ok(broker)
    }

    /// The configuration file, where there is one.
    #[must_use]
    pub fn config_file(&self) -> PathBuf {
        self.place.path().join("scratchd.toml")
    }

    /// Starts it again on the same pool after `kill` or `terminate`.
    ///
    /// # Panics
    /// When it is still running, or does not get ready.
    pub fn restart(&mut self) {
        assert!(self.child.is_none(), "kill it first");
        if let Err(refusal) = self.spawn() {
            panic!("the broker did not start again: {:?}\n{}", refusal.code, refusal.stderr);
        }
    }

    /// As `restart`, with another `restart.grace`.
    ///
    /// # Panics
    /// As `restart`.
    pub fn restart_with_grace(&mut self, grace: &'static str) {
        self.options.grace = Some(grace);
        self.restart();
    }

    /// As `restart`, with another configuration.
    ///
    /// # Panics
    /// As `restart`.
    pub fn restart_with_config(&mut self, config: String) {
        self.options.config = Some(config);
        self.restart();
    }

    /// As `restart`, under another program; it may fail to get ready.
    ///
    /// # Errors
    /// When it ends before its ready line.
    ///
    /// # Panics
    /// When it is still running.
    pub fn try_restart_under(&mut self, under: Vec<String>) -> Result<(), Refusal> {
        assert!(self.child.is_none(), "kill it first");
        self.options.under = under;
        let started = self.spawn();
        self.options.under = Vec::new();
        started
    }

    fn configuration(&self) -> Option<String> {
        let place = self.place.path().display().to_string();
        let smallest = |grace: &str| {
            let pool = self.pool.display();
            format!("[[pool]]\nname = \"default\"\nroot = \"{pool}\"\n\n[restart]\ngrace = \"{grace}\"\n")
        };
        let given = self.options.config.as_ref().map(|config| config.replace("@PLACE@", &place));
        given.or_else(|| self.options.grace.map(smallest))
    }

    fn spawn(&mut self) -> Result<(), Refusal> {
        let mut command = match (self.options.user, &self.store, self.options.under.split_first()) {
            (Some(user), _, _) => as_user(user, &scratchd()),
            (None, Some(store), _) => store.service(&scratchd()),
            (None, None, Some((program, arguments))) => {
                let mut command = Command::new(program);
                command.args(arguments).arg(scratchd());
                command
            }
            (None, None, None) => Command::new(scratchd()),
        };
        if let Some(config) = self.configuration() {
            let path = self.config_file();
            std::fs::write(&path, config).expect("a place is writable");
            command.arg("--config").arg(path);
        } else {
            command.arg("--pool").arg(&self.pool);
        }
        command.arg("--runtime-dir").arg(self.runtime_dir());
        command.envs(self.options.environment.iter().map(|(name, value)| (name, value)));
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0);
        let mut child = command.spawn().expect("the broker's program can be run");
        if let Some(store) = &self.store {
            store.started();
        }
        let stderr = repeat(child.stderr.take().expect("stderr is piped"));
        let ready = ready_line(child.stdout.take().expect("stdout is piped"));
        // A start goes through all leases of the pool, and long forms have very many.
        let deadline = long_or_short(DEADLINE * 6, DEADLINE);
        match ready.recv_timeout(deadline) {
            Ok(()) => {
                self.child = Some(child);
                Ok(())
            }
            // Its stdout was closed without the line: it is on its way out.
            Err(std::sync::mpsc::RecvTimeoutError::Disconnected) => {
                let status = exit_of(&mut child, DEADLINE).expect("a broker that is not ready ends");
                let stderr = stderr.join().expect("the reader does not panic");
                Err(Refusal { code: status.code(), stderr })
            }
            Err(std::sync::mpsc::RecvTimeoutError::Timeout) => {
                // So that it does not outlive this test where nothing else ends it.
                let _ = child.kill();
                panic!("the broker is neither ready nor gone after {deadline:?}")
            }
        }
    }

    /// What its service manager keeps.
    ///
    /// # Panics
    /// When it is no service.
    #[must_use]
    pub fn store(&self) -> &FdStore {
        self.store.as_ref().expect("it was started as a service")
    }

    /// Its runtime directory.
    #[must_use]
    pub fn runtime_dir(&self) -> PathBuf {
        self.place.path().join("run")
    }

    /// Its pool's root.
    #[must_use]
    pub fn pool_root(&self) -> &Path {
        &self.pool
    }

    /// A directory for the test's own files, on the pool's file system.
    #[must_use]
    pub fn place(&self) -> &Path {
        self.place.path()
    }

    /// The handle channel's socket.
    #[must_use]
    pub fn handle_socket(&self) -> PathBuf {
        self.runtime_dir().join("handle.sock")
    }

    /// The gRPC socket.
    #[must_use]
    pub fn grpc_socket(&self) -> PathBuf {
        self.runtime_dir().join("grpc.sock")
    }

    /// Its process.
    ///
    /// # Panics
    /// When it was ended.
    #[must_use]
    pub fn pid(&self) -> Pid {
        Pid::from_child(self.child.as_ref().expect("the broker is running"))
    }

    /// Kills it with SIGKILL and waits for its end.
    ///
    /// # Panics
    /// When it was ended before.
    pub fn kill(&mut self) {
        let mut child = self.child.take().expect("the broker is running");
        child.kill().and_then(|()| child.wait()).expect("our own child can be killed");
    }

    /// Stops all its threads with SIGSTOP; it does nothing more until `thaw`.
    ///
    /// # Panics
    /// When it was ended before.
    pub fn freeze(&self) {
        kill_process(self.pid(), Signal::STOP).expect("our own child can be stopped");
        waitid(WaitId::Pid(self.pid()), WaitIdOptions::STOPPED).expect("our own child can be waited for");
    }

    /// Lets it go on after `freeze`.
    ///
    /// # Panics
    /// When it was ended before.
    pub fn thaw(&self) {
        kill_process(self.pid(), Signal::CONT).expect("our own child can go on");
    }

    /// Asks it to end with SIGTERM and waits for that.
    ///
    /// # Panics
    /// When it was ended before, or does not end.
    pub fn terminate(&mut self) -> ExitStatus {
        let mut child = self.child.take().expect("the broker is running");
        kill_process(Pid::from_child(&child), Signal::TERM).expect("our own child can be asked to end");
        exit_of(&mut child, DEADLINE).expect("the broker ends on SIGTERM")
    }

    /// Waits for its end, which it comes to by itself.
    ///
    /// # Panics
    /// When it was ended before, or does not end.
    pub fn wait(&mut self) -> ExitStatus {
        let status = exit_of(self.child.as_mut().expect("the broker is running"), DEADLINE);
        let status = status.expect("the broker ends");
        self.child = None;
        status
    }

    /// The command line, talking to this broker, under no lease.
    #[must_use]
    pub fn scratch(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(scratch());
        self.talk(&mut command, arguments);
        command
    }

    /// As `scratch`, by another user; needs root.
    #[must_use]
    pub fn scratch_as(&self, user: u32, arguments: &[&str]) -> Command {
        let mut command = as_user(user, &scratch());
        self.talk(&mut command, arguments);
        command
    }

    fn talk(&self, command: &mut Command, arguments: &[&str]) {
        command.args(arguments).env("SCRATCHD_RUNTIME_DIR", self.runtime_dir());
        command.env_remove("SCRATCHD_LEASE").env_remove("TMPDIR").env_remove("TMP").env_remove("TEMP");
    }

    /// What `scratch … --output json` prints.
    ///
    /// # Panics
    /// When it fails or prints something else.
    #[must_use]
    pub fn json(&self, arguments: &[&str]) -> Value {
        let output = self.scratch(arguments).args(["--output", "json"]).stderr(Stdio::inherit()).output();
        let output = output.expect("the command line's program can be run");
        assert!(output.status.success(), "scratch {arguments:?}: {}", output.status);
        serde_json::from_slice(&output.stdout).expect("--output json prints JSON")
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        if self.child.is_some() {
            self.kill();
        }
    }
}

/// Hands on a broker's words as they come, and keeps them.
fn repeat(stderr: ChildStderr) -> JoinHandle<String> {
    std::thread::spawn(move || {
        let mut said = String::new();
        for line in BufReader::new(stderr).lines().map_while(Result::ok) {
            println!("scratchd: {line}");
            said.push_str(&line);
            said.push('\n');
        }
        said
    })
}

/// Sends once when the ready line comes; disconnects at the end of the output. Reads on, so that the broker never blocks.
fn ready_line(stdout: ChildStdout) -> Receiver<()> {
    let (send, receive) = channel();
    std::thread::spawn(move || {
        let mut lines = BufReader::new(stdout);
        let mut line = String::new();
        while lines.read_line(&mut line).is_ok_and(|length| length > 0) {
            if line.starts_with(READY) {
                // Nobody listens any more when the test is over.
                let _ = send.send(());
                let _ = lines.read_to_end(&mut Vec::new());
                return;
            }
            line.clear();
        }
    });
    receive
}
