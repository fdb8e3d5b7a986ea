//! One connection: sends replies, and bounds what the client has not read. A client that does not read is not read from,
//! and after 10 s it is cut off.

use std::collections::{HashSet, VecDeque};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use prost::Message;
use rustix::io::Errno;
use rustix::net::SendFlags;
use scratch_proto::{PACKET_DESCRIPTORS_MAX, v1};

use crate::client::Client;

/// How long a client may leave replies unread before it is cut off.
const UNREAD_FOR_MAX: Duration = Duration::from_secs(10);

/// A client's connection with all that is under way on it.
#[derive(Debug)]
pub(crate) struct Connection {
    pub(crate) client: Client,
    /// Requests that are worked on elsewhere.
    pub(crate) under_way: HashSet<u64>,
    /// Replies that the socket or the budget did not take.
    owed: VecDeque<Owed>,
    /// Since when something is owed.
    blocked: Option<Instant>,
    /// How many requests in a row have come from another thread's CPU.
    pub(crate) strayed: u32,
    /// What the epoll was last told to wait for on it.
    pub(crate) told: Told,
    /// It is readable, and waits for its tenant's turn.
    pub(crate) in_line: bool,
}

/// What an epoll waits for on a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Told {
    /// Requests.
    Read,
    /// Nothing: there is a request to be read, and it would say so again and again.
    Nothing,
    /// Its client's reading. Nothing is read from it until then.
    Room,
}

#[derive(Debug)]
struct Owed {
    bytes: Vec<u8>,
    descriptors: Vec<OwnedFd>,
    undo: Vec<v1::ReleaseRequest>,
}

/// What became of a reply.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Sent {
    /// Everything is out.
    All,
    /// Something is owed: read nothing more.
    Blocked,
    /// The client is gone.
    Closed,
}

impl Connection {
    pub(crate) fn new(client: Client) -> Self {
        Self {
            client,
            under_way: HashSet::new(),
            owed: VecDeque::new(),
            blocked: None,
            strayed: 0,
            told: Told::Read,
            in_line: false,
        }
    }

    pub(crate) fn socket(&self) -> BorrowedFd<'_> {
        self.client.outgoing.socket()
    }

    /// Sends a reply now, or keeps it until the client has read. `undo`: what to take away if it is never sent.
    pub(crate) fn reply(
        &mut self,
        response: &v1::ChannelResponse,
        descriptors: Vec<OwnedFd>,
        undo: impl FnOnce() -> Vec<v1::ReleaseRequest>,
        scratch: &mut Vec<u8>,
    ) -> Sent {
        scratch.clear();
        response.encode(scratch).expect("a Vec takes any length");
        if self.owed.is_empty() {
            match self.try_send(scratch, &descriptors) {
                Ok(()) => return Sent::All,
                Err(Errno::AGAIN | Errno::TOOMANYREFS) => {}
                Err(_) => return Sent::Closed,
            }
        }
        self.owed.push_back(Owed { bytes: scratch.clone(), descriptors, undo: undo() });
        self.blocked.get_or_insert_with(Instant::now);
        Sent::Blocked
    }

    /// Sends what is owed, as far as it goes.
    pub(crate) fn flush(&mut self) -> Sent {
        while let Some(owed) = self.owed.pop_front() {
            match self.try_send(&owed.bytes, &owed.descriptors) {
                Ok(()) => {}
                Err(Errno::AGAIN | Errno::TOOMANYREFS) => {
                    self.owed.push_front(owed);
                    return Sent::Blocked;
                }
                Err(_) => {
                    self.owed.push_front(owed);
                    return Sent::Closed;
                }
            }
        }
        self.blocked = None;
        Sent::All
    }

    /// When the client is to be cut off unless it reads.
    pub(crate) fn cut_off_at(&self) -> Option<Instant> {
        self.blocked.map(|since| since + UNREAD_FOR_MAX)
    }

    /// Whether something is owed.
    pub(crate) fn is_blocked(&self) -> bool {
        self.blocked.is_some()
    }

    /// What was made for replies that were never sent.
    pub(crate) fn take_undo(&mut self) -> Vec<v1::ReleaseRequest> {
        self.owed.drain(..).flat_map(|owed| owed.undo).collect()
    }

    fn try_send(&mut self, bytes: &[u8], descriptors: &[OwnedFd]) -> Result<(), Errno> {
        if !self.client.outgoing.may_send(descriptors.len(), PACKET_DESCRIPTORS_MAX)? {
            return Err(Errno::AGAIN);
        }
        let borrowed: Vec<_> = descriptors.iter().map(AsFd::as_fd).collect();
        scratch_sys::send_packet(self.socket(), bytes, &borrowed, SendFlags::DONTWAIT)?;
        self.client.outgoing.sent(descriptors.len());
        Ok(())
    }
}
