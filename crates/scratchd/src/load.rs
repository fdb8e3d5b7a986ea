//! What each tenant has under way together: connections on both sockets, and descriptors that were sent and not received.

use std::collections::HashMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, Weak};

use rustix::io::Errno;
use tokio::sync::Semaphore;

/// Calls of one tenant that look at trees at once.
const SLOW_MAX: usize = 4;
/// Calls of one tenant that wait for a record to be written.
const RECORDS_MAX: usize = 64;
/// Lists that a tenant was sent and has not read.
pub(crate) const PAGES_MAX: usize = 64;

/// The tenants that are connected.
#[derive(Debug, Default)]
pub(crate) struct Loads(Mutex<HashMap<u32, Arc<Load>>>);

/// One tenant's.
#[derive(Debug)]
pub(crate) struct Load {
    connections: AtomicUsize,
    unread: AtomicUsize,
    outgoing: Mutex<Vec<Weak<Outgoing>>>,
    calls: AtomicUsize,
    persists: AtomicUsize,
    foreign: AtomicUsize,
    watches: AtomicUsize,
    slow: Arc<Semaphore>,
    records: Arc<Semaphore>,
    pages: Arc<Semaphore>,
    /// The rule that its last connection came under.
    rule: Mutex<Option<u16>>,
}

impl Default for Load {
    fn default() -> Self {
        Self {
            connections: AtomicUsize::new(0),
            unread: AtomicUsize::new(0),
            outgoing: Mutex::default(),
            calls: AtomicUsize::new(0),
            persists: AtomicUsize::new(0),
            foreign: AtomicUsize::new(0),
            watches: AtomicUsize::new(0),
            slow: Arc::new(Semaphore::new(SLOW_MAX)),
            records: Arc::new(Semaphore::new(RECORDS_MAX)),
            pages: Arc::new(Semaphore::new(PAGES_MAX)),
            rule: Mutex::default(),
        }
    }
}

/// What a tenant has of what is counted here.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct InUse {
    pub(crate) connections: usize,
    pub(crate) calls: usize,
    pub(crate) watches: usize,
    pub(crate) unread: usize,
}

/// Something that is counted for as long as this lives.
#[derive(Debug)]
pub(crate) struct Counted {
    load: Arc<Load>,
    count: fn(&Load) -> &AtomicUsize,
    number: usize,
}

/// One connection's place among its tenant's; given up when dropped.
#[derive(Debug)]
pub(crate) struct Seat {
    loads: Arc<Loads>,
    tenant: u32,
    load: Arc<Load>,
}

/// A socket that descriptors are sent on, and how many were perhaps not received.
#[derive(Debug)]
pub(crate) struct Outgoing {
    socket: OwnedFd,
    unread: AtomicUsize,
    load: Arc<Load>,
}

impl Loads {
    /// A place for one connection more; `None` when the tenant has as many as it may have.
    pub(crate) fn join(self: &Arc<Self>, tenant: u32, limit: usize) -> Option<Seat> {
        let mut loads = self.lock();
        let load = Arc::clone(loads.entry(tenant).or_default());
        if load.connections.load(Ordering::Relaxed) >= limit {
            return None;
        }
        load.connections.fetch_add(1, Ordering::Relaxed);
        Some(Seat { loads: Arc::clone(self), tenant, load })
    }

    /// Tenants that are connected.
    pub(crate) fn tenants(&self) -> usize {
        self.lock().len()
    }

    /// Who they are.
    pub(crate) fn all(&self) -> Vec<u32> {
        self.lock().keys().copied().collect()
    }

    /// The rule that a tenant's last connection came under, if it is connected.
    pub(crate) fn rule(&self, tenant: u32) -> Option<Option<u16>> {
        let loads = self.lock();
        Some(*loads.get(&tenant)?.rule.lock().expect("a thread that panics ends the process"))
    }

    /// What one of them has.
    pub(crate) fn in_use(&self, tenant: u32) -> InUse {
        let loads = self.lock();
        let Some(load) = loads.get(&tenant) else { return InUse::default() };
        let now = |count: &AtomicUsize| count.load(Ordering::Relaxed);
        InUse {
            connections: now(&load.connections),
            calls: now(&load.calls),
            watches: now(&load.watches),
            unread: now(&load.unread),
        }
    }

    /// Connections there are, of one tenant or of all.
    pub(crate) fn connections(&self, tenant: Option<u32>) -> usize {
        let loads = self.lock();
        let wanted = loads.iter().filter(|(uid, _)| tenant.is_none_or(|tenant| tenant == **uid));
        wanted.map(|(_, load)| load.connections.load(Ordering::Relaxed)).sum()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<u32, Arc<Load>>> {
        self.0.lock().expect("a thread that panics ends the process")
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut loads = self.loads.lock();
        let last = self.load.connections.fetch_sub(1, Ordering::Relaxed) == 1;
        // Besides the map and this seat: what still counts would be forgotten.
        if last && Arc::strong_count(&self.load) == 2 {
            loads.remove(&self.tenant);
        }
    }
}

impl Seat {
    /// A socket of this connection.
    pub(crate) fn outgoing(&self, socket: OwnedFd) -> Arc<Outgoing> {
        let outgoing = Arc::new(Outgoing { socket, unread: AtomicUsize::new(0), load: Arc::clone(&self.load) });
        let mut all = self.load.sockets();
        all.retain(|other| other.strong_count() > 0);
        all.push(Arc::downgrade(&outgoing));
        outgoing
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        (self.count)(&self.load).fetch_sub(self.number, Ordering::Relaxed);
    }
}

impl Load {
    fn count(self: &Arc<Self>, count: fn(&Load) -> &AtomicUsize, number: usize) -> Counted {
        count(self).fetch_add(number, Ordering::Relaxed);
        Counted { load: Arc::clone(self), count, number }
    }

    fn count_up_to(self: &Arc<Self>, count: fn(&Load) -> &AtomicUsize, limit: usize) -> Option<Counted> {
        let counted = self.count(count, 1);
        (count(self).load(Ordering::Relaxed) <= limit).then_some(counted)
    }

    fn sockets(&self) -> MutexGuard<'_, Vec<Weak<Outgoing>>> {
        self.outgoing.lock().expect("a thread that panics ends the process")
    }
}

impl Outgoing {
    /// The rule that its connection comes under.
    pub(crate) fn comes_under(&self, rule: Option<u16>) {
        *self.load.rule.lock().expect("a thread that panics ends the process") = rule;
    }

    /// One gRPC call more of this tenant, if it may.
    pub(crate) fn call(&self, limit: usize) -> Option<Counted> {
        self.load.count_up_to(|load| &load.calls, limit)
    }

    /// One Persist more of this tenant, if it may.
    pub(crate) fn persist(&self, limit: usize) -> Option<Counted> {
        self.load.count_up_to(|load| &load.persists, limit)
    }

    /// One Create more in a directory of this tenant's own, if it may.
    pub(crate) fn foreign(&self, limit: usize) -> Option<Counted> {
        self.load.count_up_to(|load| &load.foreign, limit)
    }

    /// One Watch more of this tenant, if it may.
    pub(crate) fn watch(&self, limit: usize) -> Option<Counted> {
        self.load.count_up_to(|load| &load.watches, limit)
    }

    /// Places for calls of this tenant that look at trees.
    pub(crate) fn slow(&self) -> Arc<Semaphore> {
        Arc::clone(&self.load.slow)
    }

    /// Places for calls of this tenant that have a record written.
    pub(crate) fn records(&self) -> Arc<Semaphore> {
        Arc::clone(&self.load.records)
    }

    /// Places for lists that were sent to this tenant and not read.
    pub(crate) fn pages(&self) -> Arc<Semaphore> {
        Arc::clone(&self.load.pages)
    }

    /// Descriptors that wait to be sent, behind a ticket.
    pub(crate) fn keep(&self, descriptors: usize) -> Counted {
        self.load.count(|load| &load.unread, descriptors)
    }

    pub(crate) fn socket(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    /// Descriptors were sent.
    pub(crate) fn sent(&self, count: usize) {
        self.unread.fetch_add(count, Ordering::Relaxed);
        self.load.unread.fetch_add(count, Ordering::Relaxed);
    }

    /// Descriptors that were sent on this connection and perhaps not received.
    pub(crate) fn unread(&self) -> usize {
        self.unread.load(Ordering::Relaxed)
    }

    /// Whether so many more may be sent on this connection without passing `limit`. The kernel only tells whether
    /// everything was received, so it is asked when the count says no.
    pub(crate) fn may_send(&self, count: usize, limit: usize) -> Result<bool, Errno> {
        let fits = || count == 0 || self.unread.load(Ordering::Relaxed) + count <= limit;
        if !fits() {
            self.recount()?;
        }
        Ok(fits())
    }

    /// Whether so many more may be sent to this tenant. Other connections may have received everything since they were
    /// last sent to, so all are looked at before the answer is no.
    pub(crate) fn tenant_may_be_sent(&self, count: usize, limit: usize) -> bool {
        let fits = || count == 0 || self.load.unread.load(Ordering::Relaxed) + count <= limit;
        if !fits() {
            let sockets: Vec<_> = self.load.sockets().iter().filter_map(Weak::upgrade).collect();
            for socket in sockets {
                // An error: that client is gone, and its thread is about to find out.
                let _ = socket.recount();
            }
        }
        fits()
    }

    fn recount(&self) -> Result<(), Errno> {
        if self.unread.load(Ordering::Relaxed) > 0 && scratch_sys::unread_by_peer(self.socket())? == 0 {
            self.load.unread.fetch_sub(self.unread.swap(0, Ordering::Relaxed), Ordering::Relaxed);
        }
        Ok(())
    }
}

impl Drop for Outgoing {
    fn drop(&mut self) {
        self.load.unread.fetch_sub(self.unread.load(Ordering::Relaxed), Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, socketpair};

    #[test]
    fn connections_are_counted_and_limited_for_each_tenant() {
        let loads = Arc::new(Loads::default());
        let (one, two) = (loads.join(1, 2).unwrap(), loads.join(1, 2).unwrap());
        assert!(loads.join(1, 2).is_none());
        let other = loads.join(2, 2).unwrap();
        assert_eq!((loads.connections(None), loads.connections(Some(2))), (3, 1));
        drop(one);
        assert!(loads.join(1, 2).is_some());
        drop((two, other));
        assert_eq!(loads.connections(None), 0);
        assert!(loads.lock().is_empty());
    }

    #[test]
    fn what_other_connections_have_received_is_not_held_against_a_tenant() {
        let loads = Arc::new(Loads::default());
        let seat = loads.join(1, 2).unwrap();
        let pair = || socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::empty(), None).unwrap();
        let ((one, peer), (two, _kept)) = (pair(), pair());
        let (one, two) = (seat.outgoing(one), seat.outgoing(two));
        scratch_sys::send_packet(one.socket(), b"x", &[], SendFlags::empty()).unwrap();
        one.sent(3);
        assert!(!two.tenant_may_be_sent(1, 3) && !one.may_send(1, 3).unwrap());
        scratch_sys::receive_packet(peer.as_fd(), &mut [0; 8], &mut Vec::new(), RecvFlags::empty()).unwrap();
        assert!(two.tenant_may_be_sent(1, 3) && one.may_send(1, 3).unwrap());
    }
}
