//! The clients of a sweep: how they ask, how they find out that their broker is gone, and what they send again then.

use std::collections::BTreeSet;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{PidfdFlags, pidfd_open};
use scratch_proto::v1::channel_request::Op;
use scratch_proto::v1::channel_response::Result as Reply;
use scratch_proto::v1::{CreateRequest, GrantRequest};
use scratch_tests::{Broker, Channel, DEADLINE, Strace, connect_grpc};
use tonic::Status;

use super::ledger::{Fate, Ledger};

/// The broker is gone in the middle of it.
#[derive(Debug)]
pub(crate) struct Gone;

/// An answer, and the descriptors that came with it.
pub(crate) type Answer = (Reply, Vec<OwnedFd>);

/// How long a broker takes to be seen dead by those whose connections it has lost.
const DYING: Duration = Duration::from_millis(300);
/// One call fails; what it makes fail may make one more fail.
const TRIES: usize = 4;

/// In the clients' own directory, what nobody may touch.
const OTHERS: &str = "others";

/// A request that was not answered.
#[derive(Debug)]
pub(crate) struct Unanswered {
    pub(crate) op: Op,
    pub(crate) descriptors: Vec<OwnedFd>,
}

/// Everybody who uses the broker in one run of the workload.
#[derive(Debug)]
pub(crate) struct Clients {
    pub(crate) ledger: Ledger,
    pub(crate) unanswered: Option<Unanswered>,
    pub(crate) pool: PathBuf,
    /// On the pool's file system, and on another one.
    pub(crate) near: PathBuf,
    pub(crate) far: PathBuf,
    /// A directory of their own that areas are made in, next to what is none of the broker's.
    pub(crate) own: PathBuf,
    /// Refusals and lost connections are noted, and what they met is sent again. Else they fail the test.
    pub(crate) faults: Option<Vec<String>>,
    /// What strikes; until somebody was told of it.
    pub(crate) strace: Option<Strace>,
    /// Processes that hold leases by name of what they are for. Killed when dropped.
    pub(crate) processes: Vec<(&'static str, Process)>,
    pub(crate) process_leases: Vec<(&'static str, String)>,
    /// Ends of sockets whose other ends the broker has.
    pub(crate) held: Vec<OwnedFd>,
    pub(crate) second: Option<Channel>,
    first: Channel,
    handle_socket: PathBuf,
    grpc_socket: PathBuf,
    broker: OwnedFd,
    nonces: u8,
}

/// A process that does nothing but live. Killed when dropped.
#[derive(Debug)]
pub(crate) struct Process(Child);

impl Process {
    pub(crate) fn start(lease: Option<&str>) -> Process {
        let mut command = Command::new("sleep");
        command.arg("100000").stdin(Stdio::null()).stdout(Stdio::null()).env_remove("SCRATCHD_LEASE");
        lease.map(|lease| command.env("SCRATCHD_LEASE", lease));
        Process(command.spawn().expect("sleep can be run"))
    }

    pub(crate) fn pidfd(&self) -> OwnedFd {
        let process = rustix::process::Pid::from_child(&self.0);
        pidfd_open(process, PidfdFlags::empty()).expect("a child that was not waited for has a pidfd")
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.0.kill().and_then(|()| self.0.wait()).expect("our own child can be killed");
    }
}

impl Clients {
    pub(crate) fn new(broker: &Broker, far: &Path) -> Clients {
        let near = broker.place().join("near");
        std::fs::create_dir_all(&near).expect("a place is writable");
        let own = broker.place().join("own");
        std::fs::create_dir_all(own.join(OTHERS)).expect("a place is writable");
        std::fs::write(own.join(OTHERS).join(OTHERS), OTHERS).expect("a place is writable");
        Clients {
            ledger: Ledger::default(),
            unanswered: None,
            pool: broker.pool_root().to_owned(),
            near,
            far: far.to_owned(),
            own,
            faults: None,
            strace: None,
            processes: Vec::new(),
            process_leases: Vec::new(),
            held: Vec::new(),
            second: None,
            first: Channel::connect(&broker.handle_socket()),
            handle_socket: broker.handle_socket(),
            grpc_socket: broker.grpc_socket(),
            broker: pidfd_open(broker.pid(), PidfdFlags::empty()).expect("our own child has a pidfd"),
            nonces: 0,
        }
    }

    /// A new connection, if the broker is there.
    pub(crate) fn connect(&mut self) -> Result<Channel, Gone> {
        for _ in 0..TRIES {
            match Channel::try_connect(&self.handle_socket) {
                Ok(channel) => return Ok(channel),
                Err(error) => self.lost(&error.to_string())?,
            }
        }
        panic!("the broker does not take connections any more");
    }

    /// Asks on the first connection.
    pub(crate) fn ask(&mut self, op: Op, descriptors: &[BorrowedFd<'_>]) -> Result<Answer, Gone> {
        let mut op = op;
        for _ in 0..TRIES {
            match self.first.try_ask_with(op.clone(), descriptors) {
                Ok((Reply::Error(error), _)) => {
                    if done_before(&op, &error.reason) && self.faults.is_some() {
                        return Ok((Reply::Error(error), Vec::new()));
                    }
                    self.refused(&format!("{} ({})", error.reason, error.message));
                }
                Ok(answer) => return Ok(answer),
                Err(error) => {
                    assert!(error.kind() != io::ErrorKind::WouldBlock, "no answer: {op:?}");
                    if let Err(gone) = self.lost(&error.to_string()) {
                        self.unanswered(op, descriptors);
                        return Err(gone);
                    }
                    self.first = self.connect()?;
                    op = again(op);
                }
            }
        }
        panic!("refused again and again: {op:?}");
    }

    /// Asks on the second connection, which holds a lease; it is not made anew.
    pub(crate) fn ask_second(&mut self, op: Op) -> Result<Answer, Gone> {
        let mut second = self.second.take().expect("it was made");
        let asked = second.try_ask_with(op.clone(), &[]);
        self.second = Some(second);
        match asked {
            Ok((Reply::Error(error), _)) => {
                self.refused(&format!("{} ({})", error.reason, error.message));
                self.ask_second(op)
            }
            Ok(answer) => Ok(answer),
            Err(error) => {
                if let Err(gone) = self.lost(&error.to_string()) {
                    self.unanswered(op, &[]);
                    return Err(gone);
                }
                // What it held may be gone with it, or not yet.
                let lost = self.ledger.leases.values_mut().filter(|lease| lease.comes_back);
                lost.for_each(|lease| (lease.fate, lease.comes_back) = (Fate::Open, false));
                self.second = Some(self.connect()?);
                self.ask_second(again(op))
            }
        }
    }

    fn unanswered(&mut self, op: Op, descriptors: &[BorrowedFd<'_>]) {
        let copies = descriptors.iter().map(|descriptor| descriptor.try_clone_to_owned());
        let descriptors = copies.collect::<io::Result<_>>().expect("a test has descriptors to spare");
        self.unanswered = Some(Unanswered { op: again(op), descriptors });
    }

    /// One call over gRPC, on a connection of its own.
    pub(crate) fn grpc<T>(
        &mut self,
        call: impl AsyncFn(tonic::transport::Channel) -> Result<T, Status>,
    ) -> Result<T, Gone> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("tokio runs");
        for _ in 0..TRIES {
            let called = runtime.block_on(async {
                let asked = async {
                    let channel = connect_grpc(&self.grpc_socket).await.map_err(|error| format!("{error:?}"))?;
                    call(channel).await.map_err(|status| format!("{:?} {}", status.code(), status.message()))
                };
                let answered = tokio::time::timeout(DEADLINE, asked).await;
                answered.expect("gRPC is answered")
            });
            match called {
                Ok(answer) => return Ok(answer),
                Err(why) => self.lost(&why)?,
            }
        }
        panic!("refused again and again over gRPC");
    }

    fn refused(&mut self, why: &str) {
        match &mut self.faults {
            Some(faults) => {
                faults.push(why.to_owned());
                // One fault a run: threads that are begun for each request would come there again and again.
                self.strace = None;
            }
            None => panic!("refused: {why}"),
        }
    }

    /// Without an answer: is the broker gone? Else that is a fault.
    fn lost(&mut self, why: &str) -> Result<(), Gone> {
        let patience = if self.faults.is_some() { DYING } else { DEADLINE };
        if self.is_gone(patience) {
            return Err(Gone);
        }
        self.refused(&format!("not answered: {why}"));
        Ok(())
    }

    fn is_gone(&self, patience: Duration) -> bool {
        let patience = Timespec::try_from(patience).expect("a short time");
        poll(&mut [PollFd::new(&self.broker, PollFlags::IN)], Some(&patience)).expect("a pidfd can be waited for") > 0
    }

    /// Waits for what the broker does by itself.
    pub(crate) fn until(&self, what: &str, holds: impl Fn() -> bool) -> Result<(), Gone> {
        let end = Instant::now() + DEADLINE;
        while !holds() {
            if self.is_gone(Duration::from_millis(2)) {
                return Err(Gone);
            }
            assert!(Instant::now() < end, "not within {DEADLINE:?}: {what}");
        }
        Ok(())
    }

    /// What is in the directory of their own besides what was there before, which is as it was.
    pub(crate) fn made_in_own(&self) -> BTreeSet<PathBuf> {
        let others = std::fs::read_to_string(self.own.join(OTHERS).join(OTHERS));
        assert_eq!(others.expect("it was there"), OTHERS);
        let names = scratch_tests::names_in(&self.own).into_iter().filter(|name| name != OTHERS);
        names.map(|name| self.own.join(name)).collect()
    }

    /// A nonce of its own for each grant.
    pub(crate) fn nonce(&mut self) -> Vec<u8> {
        self.nonces += 1;
        vec![self.nonces; 16]
    }

    /// Grants, and writes down what it must come to.
    pub(crate) fn grant(&mut self, request: GrantRequest, descriptors: &[BorrowedFd<'_>]) -> Result<String, Gone> {
        let request = GrantRequest { nonce: self.nonce(), ..request };
        let (reply, _) = self.ask(Op::Grant(request), descriptors)?;
        let Reply::Grant(granted) = reply else { panic!("not granted: {reply:?}") };
        self.ledger.lease(&granted.id, Fate::Live);
        Ok(granted.id)
    }

    /// Its directory.
    pub(crate) fn path(&self, lease: &str) -> PathBuf {
        self.pool.join(lease)
    }

    /// Ends a process; what it holds is dead then.
    pub(crate) fn end_process(&mut self, what: &str) {
        self.processes.retain(|(name, _)| *name != what);
        for (_, lease) in self.process_leases.iter().filter(|(name, _)| *name == what) {
            self.ledger.lease(lease, Fate::Dead);
        }
    }

    /// When that process ends, so does the lease.
    pub(crate) fn process_holds(&mut self, what: &'static str, lease: String) {
        self.process_leases.push((what, lease));
    }

    pub(crate) fn process(&mut self, what: &'static str, lease: Option<&str>) -> OwnedFd {
        let process = Process::start(lease);
        let pidfd = process.pidfd();
        self.processes.push((what, process));
        pidfd.as_fd().try_clone_to_owned().expect("a test has descriptors to spare")
    }
}

/// As it is sent when it may have been sent before.
fn again(op: Op) -> Op {
    match op {
        Op::Create(create) if !create.name.is_empty() => Op::Create(CreateRequest { resend: true, ..create }),
        other => other,
    }
}

/// What a request is answered that had been carried out before: not an error to who sends it again.
pub(crate) fn done_before(op: &Op, reason: &str) -> bool {
    match op {
        Op::Revoke(_) | Op::Release(_) => reason == "LEASE_UNKNOWN",
        Op::Attach(_) => ["LEASE_UNKNOWN", "LEASE_ENDING", "HOLDER_INVALID"].contains(&reason),
        Op::Detach(_) => ["LEASE_UNKNOWN", "LEASE_ENDING", "HOLDER_UNKNOWN"].contains(&reason),
        Op::Persist(_) => ["AREA_UNKNOWN", "PATH_UNKNOWN", "NAME_EXISTS"].contains(&reason),
        Op::Claim(_) => reason == "TICKET_UNKNOWN",
        _ => false,
    }
}
