//! The handle channel: `handle.sock`, SOCK_SEQPACKET. A few threads, an epoll each; a request is carried out on the thread
//! that received it, and never handed on unless it brings descriptors, writes a lease's record, or waits for the reaper.

mod connection;
mod dispatch;
mod serve;
mod thread;

use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use rustix::event::{EventfdFlags, eventfd};
use rustix::thread::CpuSet;
use scratch_lease::{Caller, LeaseId};
use scratch_proto::v1;

use crate::broker::Broker;
pub(crate) use crate::channel::connection::Connection;
use crate::channel::connection::Sent;
pub(crate) use crate::channel::dispatch::lease_key;
use crate::channel::serve::of_broker;
use crate::client::{Client, Road};
use crate::parked::Resumed;
use crate::peer::Peer;

/// Channel threads at most, however many CPUs there are.
const THREADS_MAX: usize = 16;

/// Something for a channel thread that did not come through a socket.
pub(crate) enum Mail {
    /// The answer to a request that was worked on elsewhere.
    Reply(Box<LateReply>),
    /// A connection whose client runs on this thread's CPU, or one that was delegated.
    Follow { token: u64, connection: Box<Connection> },
    /// Read all that is readable, then say so.
    ReadOn(Arc<ReadOn>),
    /// Stop reading, send what is owed, end.
    Stop,
}

/// The answer to a request that was worked on elsewhere.
pub(crate) struct LateReply {
    pub(crate) connection: u64,
    pub(crate) response: v1::ChannelResponse,
    pub(crate) handle: Option<OwnedFd>,
    /// What to take away if it is never sent.
    pub(crate) undo: Vec<v1::ReleaseRequest>,
}

/// Counts the threads that have read on; the last one acts.
pub(crate) struct ReadOn {
    left: AtomicUsize,
    then: Mutex<Option<Box<dyn FnOnce() + Send>>>,
}

/// One thread's letter box.
#[derive(Clone)]
pub(crate) struct MailBox {
    letters: Arc<Mutex<Vec<Mail>>>,
    bell: Arc<OwnedFd>,
}

/// The channel threads, as the rest of the broker knows them.
pub(crate) struct Channels {
    boxes: Vec<MailBox>,
    /// Which of the threads runs on which CPU.
    cpus: Vec<usize>,
    threads: Mutex<Vec<std::thread::JoinHandle<Vec<Connection>>>>,
}

impl std::fmt::Debug for Channels {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Channels").field("threads", &self.boxes.len()).finish_non_exhaustive()
    }
}

impl Channels {
    /// Starts a thread on each CPU (at most 16) for a listening socket that is not blocking. A thread stays on its CPU: a
    /// request that wakes a thread on another one cost 80 us when measured, one on the client's own 16.
    ///
    /// # Errors
    /// When epoll, eventfd or a thread can't be made.
    pub(crate) fn start(broker: &Arc<Broker>, listener: OwnedFd) -> std::io::Result<Self> {
        let allowed = rustix::thread::sched_getaffinity(None)?;
        let cpus: Vec<usize> = (0..CpuSet::MAX_CPU).filter(|cpu| allowed.is_set(*cpu)).take(THREADS_MAX).collect();
        let listener = Arc::new(listener);
        let mut channels = Self { boxes: Vec::new(), cpus: cpus.clone(), threads: Mutex::default() };
        let mut threads = Vec::new();
        for (number, cpu) in cpus.into_iter().enumerate() {
            let mail = MailBox::new()?;
            channels.boxes.push(mail.clone());
            let thread = thread::Thread::new(Arc::clone(broker), Arc::clone(&listener), mail)?;
            let name = format!("channel-{number}");
            let run = move || {
                let mut own = CpuSet::new();
                own.set(cpu);
                if let Err(errno) = rustix::thread::sched_setaffinity(None, &own) {
                    tracing::debug!(%errno, cpu, "a channel thread goes where the kernel puts it");
                }
                thread.run(number)
            };
            threads.push(std::thread::Builder::new().name(name).spawn(run)?);
        }
        *channels.threads.lock().expect("a thread that panics ends the process") = threads;
        Ok(channels)
    }

    /// The thread of a CPU.
    fn of_cpu(&self, cpu: usize) -> Option<usize> {
        self.cpus.iter().position(|other| *other == cpu)
    }

    /// Calls `then` when every thread has read all that is readable now.
    pub(crate) fn read_on_then(&self, then: impl FnOnce() + Send + 'static) {
        let left = AtomicUsize::new(self.boxes.len());
        let read_on = Arc::new(ReadOn { left, then: Mutex::new(Some(Box::new(then))) });
        for mail in &self.boxes {
            mail.send(Mail::ReadOn(Arc::clone(&read_on)));
        }
    }

    /// Stops reading and waits until every thread has sent what it owes, or given up after 5 s. Gives the connections on
    /// which nothing is owed: another broker can go on with them.
    pub(crate) fn stop(&self) -> Vec<Connection> {
        for mail in &self.boxes {
            mail.send(Mail::Stop);
        }
        let threads = std::mem::take(&mut *self.threads.lock().expect("a thread that panics ends the process"));
        // With panic = "abort" a thread can't have panicked.
        let mut connections: Vec<_> =
            threads.into_iter().flat_map(|thread| thread.join().unwrap_or_default()).collect();
        // One that followed its client to a thread that had stopped by then.
        for mail in self.boxes.iter().flat_map(MailBox::take) {
            if let Mail::Follow { connection, .. } = mail {
                connections.push(*connection);
            }
        }
        connections
    }

    /// Goes on with connections of the broker before. Each is told: what was asked and not read then is read now, once.
    pub(crate) fn resume(&self, broker: &Broker, resumed: Vec<Resumed>) {
        let generation = broker.lock().table.generation();
        let restarted = of_broker(v1::channel_response::Result::Restarted(v1::Restarted { generation }));
        for (one, mail) in resumed.into_iter().zip(self.boxes.iter().cycle()) {
            let id = one.id;
            let resumed = broker.resume(one).map(|client| {
                let mut connection = Connection::new(client);
                let sent = connection.reply(&restarted, Vec::new(), Vec::new, &mut Vec::new());
                (sent, connection)
            });
            match resumed {
                Some((Sent::All | Sent::Blocked, connection)) => {
                    mail.send(Mail::Follow { token: id.0, connection: Box::new(connection) });
                }
                // Its client has gone meanwhile, or may not have so many any more.
                Some((Sent::Closed, _)) | None => broker.connection_closed(id),
            }
        }
    }
}

impl Broker {
    /// The client of a connection of the broker before, looked at anew: the kernel still names its peer; that of a delegated
    /// one is whose lease it is confined to, if that lives.
    fn resume(&self, one: Resumed) -> Option<Client> {
        let settings = self.settings.get();
        let peer = match one.confined {
            None => self.peer(one.socket.as_fd()).ok()?,
            Some((lease, _)) => self.confined_peer(lease)?,
        };
        let seat = self.loads.join(peer.identity.uid, settings.limits_of(peer.caller).connections)?;
        let mut client = Client::new(one.socket, peer, (one.id, Road::Channel), seat);
        client.outgoing.sent(one.unread);
        client.delegations = one.confined.map_or(0, |(_, delegations)| delegations);
        let state = self.lock();
        let own = one.own_lease.and_then(|lease| state.table.lease(lease));
        client.own_lease = own.map(scratch_lease::Lease::id);
        client.untold = own.filter(|_| one.untold).map(|own| self.wire_grant(own, state.table.generation(), ""));
        drop(state);
        Some(client)
    }

    fn confined_peer(&self, lease: LeaseId) -> Option<Peer> {
        let state = self.lock();
        let tenant = state.table.lease(lease)?.tenant();
        let identity = state.identities.get(&lease)?;
        let caller = Caller { confined_to: Some(lease), ..Caller::of(tenant) };
        Some(Peer::delegated(caller, Arc::clone(identity)))
    }
}

impl ReadOn {
    /// One thread has read on.
    pub(crate) fn done(&self) {
        if self.left.fetch_sub(1, Ordering::AcqRel) == 1
            && let Some(then) = self.then.lock().expect("a thread that panics ends the process").take()
        {
            then();
        }
    }
}

impl MailBox {
    fn new() -> std::io::Result<Self> {
        let bell = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        Ok(Self { letters: Arc::default(), bell: Arc::new(bell) })
    }

    /// Leaves a letter and rings.
    pub(crate) fn send(&self, mail: Mail) {
        self.letters.lock().expect("a thread that panics ends the process").push(mail);
        // EAGAIN: it rings already.
        let _ = rustix::io::write(&*self.bell, &1u64.to_ne_bytes());
    }

    fn take(&self) -> Vec<Mail> {
        let mut counter = [0; 8];
        // EAGAIN: another ring was taken for this one; the letters are taken all the same.
        let _ = rustix::io::read(&*self.bell, &mut counter);
        std::mem::take(&mut *self.letters.lock().expect("a thread that panics ends the process"))
    }
}
