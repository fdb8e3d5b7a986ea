//! One client of the handle channel, as far as requests are concerned: who it is, and what it has used before.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use rustix::io::Errno;
use scratch_fs::FsError;
use scratch_lease::{ConnectionId, LeaseId};

use crate::broker::Broker;
use crate::peer::Peer;
use crate::process::HeldProcess;

/// What all connections of a tenant have under way together.
#[derive(Debug, Default)]
pub(crate) struct Load {
    pub(crate) connections: AtomicUsize,
    /// Descriptors that were sent and perhaps not received.
    unread: AtomicUsize,
}

/// State of one connection that requests read and change.
#[derive(Debug)]
pub(crate) struct Client {
    pub(crate) socket: OwnedFd,
    pub(crate) peer: Peer,
    pub(crate) id: ConnectionId,
    /// The connection's own lease, once it has one.
    pub(crate) own_lease: Option<LeaseId>,
    /// The lease's directory that was used last: many requests in a row use the same.
    directory: Option<(LeaseId, OwnedFd)>,
    load: Arc<Load>,
    /// This connection's part of the load's unread descriptors.
    unread: usize,
}

impl Drop for Client {
    fn drop(&mut self) {
        self.load.unread.fetch_sub(self.unread, Ordering::Relaxed);
    }
}

impl Client {
    /// A client that has asked for nothing yet.
    pub(crate) fn new(socket: OwnedFd, peer: Peer, id: ConnectionId, load: Arc<Load>) -> Self {
        Self { socket, peer, id, own_lease: None, directory: None, load, unread: 0 }
    }

    /// Descriptors were sent.
    pub(crate) fn sent(&mut self, count: usize) {
        self.unread += count;
        self.load.unread.fetch_add(count, Ordering::Relaxed);
    }

    /// Whether so many more may be sent on this connection without passing `limit`. The kernel only tells whether
    /// everything was received, so it is asked when the count says no.
    pub(crate) fn may_send(&mut self, count: usize, limit: usize) -> Result<bool, Errno> {
        if count > 0 && self.unread + count > limit {
            self.forget_received()?;
        }
        Ok(count == 0 || self.unread + count <= limit)
    }

    /// Whether so many more may be sent to this tenant.
    pub(crate) fn tenant_may_be_sent(&mut self, count: usize, limit: usize) -> Result<bool, Errno> {
        let fits = |load: &Load| load.unread.load(Ordering::Relaxed) + count <= limit;
        if count > 0 && !fits(&self.load) {
            self.forget_received()?;
        }
        Ok(count == 0 || fits(&self.load))
    }

    fn forget_received(&mut self) -> Result<(), Errno> {
        if scratch_sys::unread_by_peer(self.socket.as_fd())? == 0 {
            self.load.unread.fetch_sub(self.unread, Ordering::Relaxed);
            self.unread = 0;
        }
        Ok(())
    }

    /// The peer's process, held.
    ///
    /// # Errors
    /// SRCH when it is gone.
    pub(crate) fn process(&self) -> Result<Option<HeldProcess>, Errno> {
        self.peer.process(self.socket.as_fd())
    }

    /// The directory of a lease, opened or still held from the last request.
    ///
    /// # Errors
    /// Of opening it.
    pub(crate) fn directory(&mut self, broker: &Broker, lease: LeaseId) -> Result<BorrowedFd<'_>, FsError> {
        if self.directory.as_ref().is_none_or(|(held, _)| *held != lease) {
            self.directory = Some((lease, broker.pool.open_lease(lease)?));
        }
        let (_, directory) = self.directory.as_ref().ok_or_else(|| FsError::new("open lease", "", Errno::NOENT))?;
        Ok(directory.as_fd())
    }

    /// Lets go of a lease's directory, which would keep its inode past the end.
    pub(crate) fn let_go(&mut self, lease: LeaseId) {
        self.directory.take_if(|(held, _)| *held == lease);
    }
}
