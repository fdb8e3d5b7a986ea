//! What outlives a broker that is told to stop: connections of the handle channel and passed sockets, in the queue of one
//! socket pair, and what is to be known of each. The last message names what came before it: a broker that is killed in the
//! middle of this has parked nothing.

use std::collections::HashMap;
use std::fs::File;
use std::io::{Read, Seek, Write};
use std::os::fd::{AsFd, OwnedFd};

use prost::Message;
use rustix::fs::MemfdFlags;
use rustix::io::Errno;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, socketpair};
use scratch_lease::{ConnectionId, HolderKind, LeaseId};

use crate::broker::Broker;
use crate::channel::Connection;
use crate::pools::InUse;
use crate::sockets::{Ours, SocketName};
use crate::store;
use crate::watch::HolderKey;

/// Descriptors of one message; the kernel takes 253.
const AT_ONCE: usize = 250;

const DESCRIPTORS: &[u8] = b"d";
const CONTENTS: &[u8] = b"c";

/// What was parked, in the order of the descriptors. No field is ever given another meaning: the next broker may be of
/// another version, and what it does not know it closes.
#[derive(Clone, PartialEq, Message)]
struct Contents {
    /// The first pool of those that it is about.
    #[prost(string, tag = "1")]
    pool: String,
    /// Of the broker that has parked it.
    #[prost(uint64, tag = "2")]
    generation: u64,
    #[prost(message, repeated, tag = "3")]
    connections: Vec<ParkedConnection>,
    /// After the connections.
    #[prost(message, repeated, tag = "4")]
    sockets: Vec<Held>,
    /// Of the listeners that are kept beside it.
    #[prost(message, repeated, tag = "5")]
    listeners: Vec<SocketName>,
    /// After the sockets.
    #[prost(message, repeated, tag = "6")]
    memories: Vec<ParkedMemory>,
}

/// What a lease in memory has.
#[derive(Clone, PartialEq, Message)]
struct ParkedMemory {
    /// The pool's uuid.
    #[prost(string, tag = "1")]
    pool: String,
    #[prost(string, tag = "2")]
    lease: String,
}

#[derive(Clone, PartialEq, Message)]
struct ParkedConnection {
    /// Empty: it has none.
    #[prost(string, tag = "1")]
    own_lease: String,
    /// The client has not been told of its own lease's grant.
    #[prost(bool, tag = "2")]
    untold: bool,
    /// Descriptors that it was sent and has perhaps not received.
    #[prost(uint32, tag = "3")]
    unread: u32,
    #[prost(message, repeated, tag = "4")]
    holds: Vec<Held>,
    /// The lease that a delegated connection is confined to; empty: it is not confined.
    #[prost(string, tag = "5")]
    delegated_lease: String,
    /// How many times it was delegated on.
    #[prost(uint32, tag = "6")]
    delegations: u32,
}

/// A holder of a lease.
#[derive(Clone, PartialEq, Message)]
struct Held {
    #[prost(string, tag = "1")]
    lease: String,
    #[prost(uint32, tag = "2")]
    holder: u32,
}

/// What has come through the restart, as far as leases are held by it.
#[derive(Debug, Default)]
pub(crate) struct Survived {
    pub(crate) connections: HashMap<HolderKey, ConnectionId>,
    pub(crate) descriptors: HashMap<HolderKey, OwnedFd>,
}

/// All that has come through the restart.
#[derive(Debug, Default)]
pub(crate) struct Unparked {
    pub(crate) connections: Vec<Resumed>,
    pub(crate) survived: Survived,
    pub(crate) listeners: Vec<SocketName>,
}

/// A connection that has come through the restart.
#[derive(Debug)]
pub(crate) struct Resumed {
    pub(crate) id: ConnectionId,
    pub(crate) socket: OwnedFd,
    pub(crate) own_lease: Option<LeaseId>,
    pub(crate) untold: bool,
    pub(crate) unread: usize,
    /// Of a delegated one: the lease that it is confined to, and how many times it was delegated on.
    pub(crate) confined: Option<(LeaseId, u8)>,
}

/// Hands connections, passed sockets and these listeners to the service manager, which hands them to the next broker.
///
/// # Errors
/// When nothing could be handed over: all goes with this process then, as if it had been killed.
pub(crate) fn park(broker: &Broker, connections: &[Connection], listeners: &[Ours]) -> Result<(), Errno> {
    let sockets = broker.watch.give_up_sockets();
    let (put, kept) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
    let memories = broker.memories();
    // What can't come again first.
    let all: Vec<_> = memories
        .iter()
        .map(|(_, mount)| mount.as_fd())
        .chain(connections.iter().map(Connection::socket))
        .chain(sockets.iter().map(|(_, socket)| socket.as_fd()))
        .collect();
    let mut count = 0;
    for some in all.chunks(AT_ONCE) {
        if let Err(errno) = scratch_sys::send_packet(put.as_fd(), DESCRIPTORS, some, SendFlags::DONTWAIT) {
            tracing::warn!(%errno, kept = count, of = all.len(), "not all connections can be kept; the others come again");
            break;
        }
        count += some.len();
    }
    let mut contents = broker.contents(connections, &sockets, count.saturating_sub(memories.len()));
    contents.memories = memories.into_iter().take(count).map(|(memory, _)| memory).collect();
    contents.listeners = listeners.iter().map(|listener| listener.name.clone()).collect();
    let memory = rustix::fs::memfd_create(c"scratchd-parked", MemfdFlags::CLOEXEC)?;
    let mut file = File::from(memory);
    file.write_all(&contents.encode_to_vec()).map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))?;
    scratch_sys::send_packet(put.as_fd(), CONTENTS, &[file.as_fd()], SendFlags::DONTWAIT)?;
    drop(put);
    if !listeners.is_empty() {
        let listeners: Vec<_> = listeners.iter().map(|listener| listener.socket.as_fd()).collect();
        store::keep(store::LISTENERS, &listeners)?;
    }
    store::keep(store::PARKED, &[kept.as_fd()])?;
    store::wait_until_taken()?;
    tracing::info!(connections = connections.len(), sockets = sockets.len(), "kept for the next broker");
    Ok(())
}

impl Broker {
    /// Of the first `count` of these connections and sockets.
    fn contents(&self, connections: &[Connection], sockets: &[(HolderKey, OwnedFd)], count: usize) -> Contents {
        let mut holds: HashMap<ConnectionId, Vec<Held>> = HashMap::new();
        let generation = {
            let state = self.lock();
            for lease in state.table.leases() {
                for holder in lease.holders() {
                    if let HolderKind::Connection(connection) = holder.kind {
                        holds.entry(connection).or_default().push(held(lease.id(), holder.id));
                    }
                }
            }
            state.table.generation()
        };
        let parked = |connection: &Connection| ParkedConnection {
            own_lease: connection.client.own_lease.map(|lease| lease.to_string()).unwrap_or_default(),
            untold: connection.client.untold.is_some(),
            unread: u32::try_from(connection.client.outgoing.unread()).unwrap_or(u32::MAX),
            holds: holds.remove(&connection.client.id).unwrap_or_default(),
            delegated_lease: connection
                .client
                .peer
                .caller
                .confined_to
                .map(|lease| lease.to_string())
                .unwrap_or_default(),
            delegations: connection.client.delegations.into(),
        };
        Contents {
            pool: self.pools.first().disk.uuid().to_owned(),
            generation,
            connections: connections.iter().take(count).map(parked).collect(),
            sockets: sockets
                .iter()
                .take(count.saturating_sub(connections.len()))
                .map(|((lease, holder), _)| held(*lease, *holder))
                .collect(),
            listeners: Vec::new(),
            memories: Vec::new(),
        }
    }

    /// What is held of leases in memory.
    fn memories(&self) -> Vec<(ParkedMemory, OwnedFd)> {
        let of_pool = |pool: &InUse| {
            let parked = |lease: LeaseId| ParkedMemory { pool: pool.disk.uuid().to_owned(), lease: lease.to_string() };
            pool.disk.memories().into_iter().map(move |(lease, mount)| (parked(lease), mount)).collect::<Vec<_>>()
        };
        self.pools.iter().flat_map(of_pool).collect()
    }

    /// Takes over the memory of a lease; what waits in its trash is handed on.
    fn unpark_memory(&self, parked: &ParkedMemory, mount: OwnedFd) {
        let Some((pool, lease)) = self.pools.of_uuid(&parked.pool).zip(parked.lease.parse().ok()) else { return };
        match pool.disk.take_over_memory(lease, mount) {
            Ok(trees) => trees.into_iter().for_each(|tree| self.reaper.push(pool.id, tree, None)),
            Err(error) => tracing::error!(%lease, %error, "what a lease has in memory can't be taken over"),
        }
    }

    /// Takes what the broker before has parked. What is of another pool, of another run or incomplete is closed.
    pub(crate) fn unpark(&self, parked: Vec<OwnedFd>, last_generation: u64) -> Unparked {
        let mut unparked = Unparked::default();
        let Unparked { connections, survived, listeners } = &mut unparked;
        for kept in parked {
            let (contents, descriptors) = match empty(&kept) {
                Ok(Some(found)) => found,
                Ok(None) => continue,
                Err(errno) => {
                    tracing::warn!(%errno, "what the broker before has parked can't be read; its clients come again");
                    continue;
                }
            };
            if self.pools.of_uuid(&contents.pool).is_none() || contents.generation != last_generation {
                tracing::warn!("what was parked is of another pool or an earlier broker; its clients come again");
                continue;
            }
            let mut descriptors = descriptors.into_iter();
            let memories = contents.memories.iter().zip(descriptors.by_ref());
            memories.for_each(|(parked, mount)| self.unpark_memory(parked, mount));
            for (parked, socket) in contents.connections.into_iter().zip(descriptors.by_ref()) {
                connections.extend(self.unpark_connection(parked, socket, survived));
            }
            let sockets = contents.sockets.iter().zip(descriptors);
            survived.descriptors.extend(sockets.filter_map(|(held, socket)| Some((key(held)?, socket))));
            listeners.extend(contents.listeners);
        }
        unparked
    }

    fn unpark_connection(&self, parked: ParkedConnection, socket: OwnedFd, survived: &mut Survived) -> Option<Resumed> {
        // One that was not accepted is delegated, or nobody's: its peer, by the kernel's word, would be the broker itself.
        let confined = match parked.delegated_lease.as_str() {
            "" if was_accepted(&socket) => None,
            lease => Some((lease.parse().ok()?, u8::try_from(parked.delegations).ok()?)),
        };
        let id = self.new_connection();
        survived.connections.extend(parked.holds.iter().filter_map(key).map(|key| (key, id)));
        self.lock().open.insert(id);
        Some(Resumed {
            id,
            socket,
            own_lease: parked.own_lease.parse().ok(),
            untold: parked.untold,
            unread: parked.unread as usize,
            confined,
        })
    }
}

fn held(lease: LeaseId, holder: u32) -> Held {
    Held { lease: lease.to_string(), holder }
}

fn key(held: &Held) -> Option<HolderKey> {
    Some((held.lease.parse().ok()?, held.holder))
}

/// All that is in the queue. Nothing where its last message is not there: it was taken before.
fn empty(kept: &OwnedFd) -> Result<Option<(Contents, Vec<OwnedFd>)>, Errno> {
    let mut descriptors = Vec::new();
    loop {
        let mut kind = [0];
        let received = scratch_sys::receive_packet(kept.as_fd(), &mut kind, &mut descriptors, RecvFlags::DONTWAIT)?;
        if received.truncated {
            return Err(Errno::MFILE);
        }
        match &kind[..received.length] {
            DESCRIPTORS => {}
            CONTENTS => break,
            _ => return Ok(None),
        }
    }
    let mut contents = Vec::new();
    let mut file = File::from(descriptors.pop().ok_or(Errno::BADMSG)?);
    file.rewind()
        .and_then(|()| file.read_to_end(&mut contents))
        .map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))?;
    let contents = Contents::decode(contents.as_slice()).map_err(|_| Errno::BADMSG)?;
    Ok(Some((contents, descriptors)))
}

/// Whether a listener has accepted it: then it has the listener's name.
fn was_accepted(socket: &OwnedFd) -> bool {
    let name = rustix::net::getsockname(socket).ok();
    let name = name.and_then(|name| rustix::net::SocketAddrUnix::try_from(name).ok());
    name.is_some_and(|name| name.path_bytes().is_some_and(|path| !path.is_empty()))
}
