//! One channel thread. Waits on: the listening socket, its connections, its letter box, the time to cut somebody off.

use std::collections::{HashMap, HashSet};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use prost::Message;
use rustix::event::Timespec;
use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};
use rustix::io::Errno;
use rustix::net::{SendFlags, SocketFlags, accept_with, sockopt};
use scratch_lease::ConnectionId;
use scratch_proto::{PACKET_BYTES_MAX, v1};

use crate::broker::{Broker, FIRST_CONNECTION};
use crate::channel::connection::{Connection, Sent, Told};
use crate::channel::dispatch::refusal;
use crate::channel::serve::of_broker;
use crate::channel::{LateReply, Mail, MailBox};
use crate::client::{Client, Road};
use crate::reason::RequestError;
use crate::release::Released;
use crate::turns::Turns;

// A connection's token is its number, so that late mail can't reach another one.
const LISTENER: u64 = 0;
const BELL: u64 = 1;
const _: () = assert!(BELL < FIRST_CONNECTION);

const READ: EventFlags = EventFlags::IN;
/// Edge-triggered: each reading by the peer rings once, so that a full budget is looked at again.
const WAIT_FOR_ROOM: EventFlags = EventFlags::OUT.union(EventFlags::ET);

/// How long what is owed may take to be sent when the broker stops.
const STOP_FOR_MAX: Duration = Duration::from_secs(5);

/// How long to accept nothing where the system has no descriptor left for it.
const NO_ACCEPT_FOR: Duration = Duration::from_millis(100);

/// Requests in a row from another CPU after which a connection follows its client there.
const STRAYED_MAX: u32 = 4;

/// Events that are served as they come; where there are more, of more than one tenant, the tenants take turns. As many
/// requests are served before it is looked again who else has come.
const TURN: usize = 16;

/// Events that are looked at together.
const EVENTS_MAX: usize = 64;

/// Requests of one connection that may be worked on elsewhere at once.
const UNDER_WAY_MAX: usize = 64;

/// A thread's own state.
pub(crate) struct Thread {
    pub(super) broker: Arc<Broker>,
    listener: Arc<OwnedFd>,
    pub(super) mail: MailBox,
    epoll: OwnedFd,
    /// This thread among the channel threads.
    pub(super) number: usize,
    connections: HashMap<u64, Connection>,
    /// Those that owe something to their client, and are not read from.
    blocked: HashSet<u64>,
    /// Connections with a request to be read, by tenant. The epoll does not tell of them meanwhile.
    turns: Turns<u64>,
    pub(super) packet: Vec<u8>,
    pub(super) scratch: Vec<u8>,
    stop_at: Option<Instant>,
    /// Connections are accepted again from here on.
    accept_at: Option<Instant>,
}

/// Whether a connection goes on.
#[derive(PartialEq, Eq)]
pub(super) enum Go {
    On,
    Away,
}

impl Thread {
    /// Made before the thread, so that a failure is known at start.
    pub(crate) fn new(broker: Arc<Broker>, listener: Arc<OwnedFd>, mail: MailBox) -> std::io::Result<Self> {
        let epoll = epoll::create(CreateFlags::CLOEXEC)?;
        listen(&epoll, &listener)?;
        epoll::add(&epoll, &*mail.bell, EventData::new_u64(BELL), EventFlags::IN)?;
        Ok(Self {
            broker,
            listener,
            mail,
            epoll,
            number: 0,
            connections: HashMap::new(),
            blocked: HashSet::new(),
            turns: Turns::default(),
            packet: vec![0; PACKET_BYTES_MAX + 1],
            scratch: Vec::with_capacity(1024),
            stop_at: None,
            accept_at: None,
        })
    }

    /// Until it is stopped. Gives the connections on which nothing is owed and nothing is under way.
    pub(crate) fn run(mut self, number: usize) -> Vec<Connection> {
        self.number = number;
        let mut events = Vec::with_capacity(EVENTS_MAX);
        while !self.has_stopped() {
            let timeout = if self.turns.is_empty() { self.timeout() } else { Some(Duration::ZERO) };
            self.wait(&mut events, timeout);
            let in_turns = self.takes_turns(&events);
            for event in events.drain(..) {
                self.handle(event, in_turns);
            }
            self.serve_in_line(TURN);
            if !self.blocked.is_empty() {
                self.cut_off();
            }
            if self.accept_at.is_some_and(|time| time <= Instant::now()) && self.stop_at.is_none() {
                self.accept_at = listen(&self.epoll, &self.listener).err().map(|_| Instant::now() + NO_ACCEPT_FOR);
            }
        }
        let mut kept = Vec::with_capacity(self.connections.len());
        for (token, connection) in std::mem::take(&mut self.connections) {
            if owes(&connection) {
                self.close(token, connection);
            } else {
                kept.push(connection);
            }
        }
        kept
    }

    fn wait(&self, events: &mut Vec<Event>, timeout: Option<Duration>) -> usize {
        let timeout = timeout.map(|time| Timespec {
            tv_sec: i64::try_from(time.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: i64::from(time.subsec_nanos()),
        });
        events.clear();
        match epoll::wait(&self.epoll, rustix::buffer::spare_capacity(events), timeout.as_ref()) {
            Ok(count) => count,
            Err(Errno::INTR) => 0,
            Err(errno) => {
                tracing::error!(%errno, "waiting for clients failed, stopping");
                std::process::abort();
            }
        }
    }

    fn handle(&mut self, event: Event, in_turns: bool) {
        match event.data.u64() {
            LISTENER => self.accept(),
            BELL => self.read_mail(),
            token if in_turns => self.line_up(token, event.flags),
            token => self.serve(token, event.flags),
        }
    }

    /// Whether there is more to do than can be done at once, for more than one tenant.
    fn takes_turns(&self, events: &[Event]) -> bool {
        !self.turns.is_empty() || events.len() > TURN && self.broker.loads.tenants() > 1
    }

    /// A connection that can be read from waits for its tenant's turn; anything else is done now.
    fn line_up(&mut self, token: u64, flags: EventFlags) {
        let Some(connection) = self.connections.get_mut(&token) else { return };
        if connection.in_line {
            // A hang-up is told in any case; it is found when its turn comes.
            return;
        }
        if connection.told != Told::Read || !flags.contains(EventFlags::IN) {
            return self.serve(token, flags);
        }
        connection.in_line = true;
        tell_epoll(&self.epoll, connection, token, Told::Nothing);
        self.turns.push(connection.client.peer.identity.uid, token);
    }

    /// Serves those that wait for their turn, so many at most.
    fn serve_in_line(&mut self, most: usize) {
        for _ in 0..most {
            let Some(token) = self.turns.pop() else { return };
            self.serve(token, EventFlags::IN);
        }
    }

    /// Until when something has to happen by itself.
    fn timeout(&self) -> Option<Duration> {
        let blocked = self.blocked.iter().filter_map(|token| self.connections.get(token)?.cut_off_at()).min();
        let earliest = blocked.into_iter().chain(self.stop_at).chain(self.accept_at).min()?;
        Some(earliest.saturating_duration_since(Instant::now()))
    }

    fn has_stopped(&self) -> bool {
        self.stop_at.is_some_and(|end| Instant::now() >= end || !self.connections.values().any(owes))
    }

    fn accept(&mut self) {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = match accept_with(&*self.listener, flags) {
            Ok(socket) => socket,
            // Another thread was quicker, or the client is gone again.
            Err(Errno::AGAIN | Errno::CONNABORTED | Errno::INTR) => return,
            Err(errno) => {
                tracing::warn!(%errno, "connections are not accepted for a moment");
                self.accept_at = Some(Instant::now() + NO_ACCEPT_FOR);
                // It stays readable: without this the thread would run in circles. An error: it is not in the set.
                let _ = epoll::delete(&self.epoll, &*self.listener);
                return;
            }
        };
        let ConnectionId(token) = self.broker.new_connection();
        match self.admit(socket, token) {
            Ok(connection) => {
                self.connections.insert(token, connection);
            }
            // An event tells of it, by the second: nobody is to fill the log with this.
            Err(error @ RequestError::FileSystem(_)) => tracing::warn!(%error, "a connection was refused"),
            Err(error) => tracing::debug!(%error, "a connection was refused"),
        }
    }

    fn admit(&self, socket: OwnedFd, token: u64) -> Result<Connection, RequestError> {
        let system = |errno| scratch_fs::FsError::new("listen to", "a connection", errno);
        let tell = |error: &RequestError| {
            let told = of_broker(refusal(error, None)).encode_to_vec();
            // It is closed in any case.
            let _ = scratch_sys::send_packet(socket.as_fd(), &told, &[], SendFlags::DONTWAIT);
        };
        let peer = self.broker.peer(socket.as_fd()).inspect_err(tell)?;
        // Not older than those that it was looked at under.
        let settings = self.broker.settings.get();
        let tenant = peer.identity.uid;
        let limits = settings.limits_of(peer.caller);
        let limit = limits.connections;
        let Some(seat) = self.broker.loads.join(tenant, limit) else {
            let error = RequestError::LimitConnections { limit };
            self.broker.note_refusal(tenant, error.code_and_reason().1);
            tell(&error);
            return Err(error);
        };
        let unread_bytes = limits.unread_bytes;
        let connection = Connection::new(Client::new(socket, peer, (ConnectionId(token), Road::Channel), seat));
        // The kernel doubles what it is told.
        let bytes = usize::try_from(unread_bytes / 2).unwrap_or(usize::MAX);
        sockopt::set_socket_send_buffer_size(connection.socket(), bytes)
            .and_then(|()| epoll::add(&self.epoll, connection.socket(), EventData::new_u64(token), READ))
            .map_err(system)?;
        self.broker.lock().open.insert(ConnectionId(token));
        self.broker.activity();
        Ok(connection)
    }

    fn read_mail(&mut self) {
        for mail in self.mail.take() {
            match mail {
                Mail::Reply(late) => self.late_reply(*late),
                Mail::Follow { token, connection } => self.take_over(token, *connection),
                Mail::ReadOn(read_on) => {
                    self.read_on();
                    read_on.done();
                }
                Mail::Stop => {
                    self.stop_at = Some(Instant::now() + STOP_FOR_MAX);
                    // An error: it is not in the set any more.
                    let _ = epoll::delete(&self.epoll, &*self.listener);
                    for (token, connection) in &mut self.connections {
                        tell_epoll(&self.epoll, connection, *token, Told::Room);
                    }
                }
            }
        }
    }

    /// Serves what is readable now, and what that brings, within bounds: a client that floods can't put off the end of
    /// another's lease for ever.
    fn read_on(&mut self) {
        let mut events = Vec::with_capacity(EVENTS_MAX);
        for _ in 0..256 {
            self.wait(&mut events, Some(Duration::ZERO));
            events.retain(|event| event.data.u64() != BELL);
            if events.is_empty() && self.turns.is_empty() {
                return;
            }
            let in_turns = self.takes_turns(&events);
            for event in events.drain(..) {
                // What waits in a connection that waits to be accepted is readable as well.
                self.handle(event, in_turns);
            }
            self.serve_in_line(EVENTS_MAX);
        }
    }

    fn late_reply(&mut self, late: LateReply) {
        let LateReply { connection: token, mut response, handle, undo } = late;
        let Some(mut connection) = self.connections.remove(&token) else { return };
        connection.under_way.remove(&response.id);
        match &mut response.result {
            Some(v1::channel_response::Result::Error(error)) => {
                self.broker.note_refusal(connection.client.peer.identity.uid, &error.reason);
            }
            Some(v1::channel_response::Result::Create(created)) => {
                // The first reply that is made in the connection's own lease tells of it.
                let own = created.lease.take();
                let own = own.and_then(|own| connection.client.untold.take_if(|untold| untold.id == own.id));
                created.lease = own;
            }
            _ => {}
        }
        let sent = connection.reply(&response, handle.into_iter().collect(), || undo, &mut self.scratch);
        self.go_on(token, connection, if sent == Sent::Closed { Go::Away } else { Go::On });
    }

    fn serve(&mut self, token: u64, flags: EventFlags) {
        let Some(mut connection) = self.connections.remove(&token) else { return };
        connection.in_line = false;
        let mut go = Go::On;
        if connection.is_blocked() && connection.flush() == Sent::Closed {
            go = Go::Away;
        } else if connection.told != Told::Room && flags.contains(EventFlags::IN) {
            go = self.receive(token, &mut connection);
        } else if flags.intersects(EventFlags::HUP | EventFlags::ERR) {
            go = Go::Away;
        }
        self.go_on(token, connection, go);
    }

    fn go_on(&mut self, token: u64, mut connection: Connection, go: Go) {
        if go == Go::Away {
            self.close(token, connection);
            return;
        }
        let busy = connection.is_blocked() || connection.under_way.len() >= UNDER_WAY_MAX;
        let wanted = if busy || self.stop_at.is_some() {
            Told::Room
        } else if connection.in_line {
            Told::Nothing
        } else {
            Told::Read
        };
        if connection.is_blocked() {
            self.blocked.insert(token);
        } else if !self.blocked.is_empty() {
            self.blocked.remove(&token);
        }
        tell_epoll(&self.epoll, &mut connection, token, wanted);
        if let Some(connection) = self.follow(token, connection) {
            self.connections.insert(token, connection);
        }
    }

    /// A connection follows its client to another CPU, when nothing of it is under way here.
    fn follow(&mut self, token: u64, mut connection: Connection) -> Option<Connection> {
        let may_go =
            connection.strayed >= STRAYED_MAX && connection.told == Told::Read && connection.under_way.is_empty();
        let there = connection.client.cpu.and_then(|cpu| self.broker.channels.get()?.of_cpu(cpu));
        let (true, Some(there), Some(channels)) = (may_go, there, self.broker.channels.get()) else {
            return Some(connection);
        };
        connection.strayed = 0;
        if there == self.number || epoll::delete(&self.epoll, connection.socket()).is_err() {
            return Some(connection);
        }
        channels.boxes[there].send(Mail::Follow { token, connection: Box::new(connection) });
        None
    }

    fn take_over(&mut self, token: u64, connection: Connection) {
        match epoll::add(&self.epoll, connection.socket(), EventData::new_u64(token), READ) {
            Ok(()) => self.go_on(token, connection, Go::On),
            Err(_) => self.close(token, connection),
        }
    }

    /// Closes those that have left replies unread for too long.
    fn cut_off(&mut self) {
        let now = Instant::now();
        let late = |connection: &Connection| connection.cut_off_at().is_some_and(|time| time <= now);
        let is_late = |token: &&u64| self.connections.get(token).is_some_and(late);
        let tokens: Vec<u64> = self.blocked.iter().filter(is_late).copied().collect();
        for token in tokens {
            if let Some(connection) = self.connections.remove(&token) {
                tracing::info!(tenant = connection.client.peer.identity.uid, "cut off a client that does not read");
                self.close(token, connection);
            }
        }
    }

    /// Ends a connection: undoes what was made for replies it never got, and tells the table.
    fn close(&mut self, token: u64, mut connection: Connection) {
        self.blocked.remove(&token);
        for undo in connection.take_undo() {
            match self.broker.release(&mut connection.client, &undo) {
                Ok(Released::Foreign(lease, number)) => self.broker.end_foreign(lease, number, None, None),
                Ok(Released::Trashed(pool, tree)) => self.broker.reaper.push(pool, tree, None),
                Ok(Released::Gone | Released::Nothing) => {}
                Err(error) => tracing::debug!(%error, "could not undo, ignoring: it goes with its lease"),
            }
        }
        if self.stop_at.is_some() {
            // The broker ends, not the client: the next broker lets it resume within the grace.
            return;
        }
        self.broker.connection_closed(ConnectionId(token));
    }
}

/// Whether something is still to be sent on it.
fn owes(connection: &Connection) -> bool {
    connection.is_blocked() || !connection.under_way.is_empty()
}

/// Waits for connections, one thread woken for each.
fn listen(epoll: &OwnedFd, listener: &OwnedFd) -> Result<(), Errno> {
    epoll::add(epoll, listener, EventData::new_u64(LISTENER), EventFlags::IN | EventFlags::EXCLUSIVE)
}

/// Tells the epoll what to wait for on a connection, if that has changed.
fn tell_epoll(epoll: &OwnedFd, connection: &mut Connection, token: u64, wanted: Told) {
    if connection.told == wanted {
        return;
    }
    connection.told = wanted;
    let flags = match wanted {
        Told::Read => READ,
        Told::Nothing => EventFlags::empty(),
        Told::Room => WAIT_FOR_ROOM,
    };
    // An error means that the socket is gone, which the next event on it would say as well.
    let _ = epoll::modify(epoll, connection.socket(), EventData::new_u64(token), flags);
}
