//! Tickets: descriptors of areas that were made over gRPC, until they are claimed on the handle channel.
//! Waits on: the oldest ticket's end.

use std::collections::{HashMap, VecDeque};
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use rustix::io::Errno;
use scratch_fs::FsError;
use scratch_lease::{AreaKey, BootTime, LeaseId};
use scratch_proto::v1;
use tokio::sync::Notify;

use crate::broker::Broker;
use crate::clock;
use crate::load::Counted;
use crate::reason::RequestError;
use crate::release::area_number;
use crate::side::NOBODYS;

/// How long a ticket is good for.
const GOOD_FOR: Duration = Duration::from_secs(30);

type Number = [u8; 16];

/// What a ticket stands for.
#[derive(Debug)]
pub(crate) struct Ticket {
    pub(crate) lease: LeaseId,
    pub(crate) areas: Vec<v1::Created>,
    pub(crate) handles: Vec<OwnedFd>,
    /// Areas that end with their descriptors.
    pub(crate) unnamed: bool,
    /// They count as sent until they are.
    pub(crate) _counted: Counted,
}

/// The open tickets.
#[derive(Debug, Default)]
pub(crate) struct Tickets {
    open: Mutex<Open>,
    /// There is a first one.
    first: Notify,
}

#[derive(Debug, Default)]
struct Open {
    tickets: HashMap<Number, Kept>,
    /// In the order in which they end, claimed ones included.
    ends: VecDeque<(BootTime, Number)>,
    /// Of each tenant, with those that are being made.
    counts: HashMap<u32, usize>,
}

#[derive(Debug)]
struct Kept {
    tenant: u32,
    until: BootTime,
    ticket: Ticket,
}

/// A tenant's place for one ticket more; given up when dropped.
#[derive(Debug)]
pub(crate) struct Place<'a> {
    tickets: &'a Tickets,
    tenant: u32,
    number: Number,
    used: bool,
}

impl Tickets {
    /// Makes room before anything is created.
    ///
    /// # Errors
    /// LIMIT_TICKETS; when the kernel has no random numbers.
    pub(crate) fn place(&self, tenant: u32, limit: usize) -> Result<Place<'_>, RequestError> {
        let mut number = Number::default();
        getrandom::fill(&mut number).map_err(|_| FsError::new("draw a ticket", "getrandom", Errno::IO))?;
        let mut open = self.lock();
        let count = open.counts.entry(tenant).or_default();
        if *count >= limit {
            return Err(RequestError::LimitTickets { limit });
        }
        *count += 1;
        Ok(Place { tickets: self, tenant, number, used: false })
    }

    /// How many of a tenant's are open.
    pub(crate) fn open(&self, tenant: u32) -> usize {
        self.lock().counts.get(&tenant).copied().unwrap_or(0)
    }

    /// Takes what a ticket stands for: once, and only for its own tenant.
    ///
    /// # Errors
    /// TICKET_UNKNOWN.
    pub(crate) fn claim(&self, tenant: u32, ticket: &[u8]) -> Result<Ticket, RequestError> {
        let number = Number::try_from(ticket).map_err(|_| RequestError::TicketUnknown)?;
        let mut open = self.lock();
        let now = clock::now();
        match open.tickets.get(&number) {
            Some(kept) if kept.tenant == tenant && kept.until > now => {
                open.take(&number).ok_or(RequestError::TicketUnknown)
            }
            _ => Err(RequestError::TicketUnknown),
        }
    }

    /// Takes all tickets of a lease that has ended: their descriptors would keep what is dead.
    pub(crate) fn of_lease(&self, lease: LeaseId) -> Vec<Ticket> {
        let mut open = self.lock();
        let of_lease = open.tickets.iter().filter(|(_, kept)| kept.ticket.lease == lease);
        let numbers: Vec<Number> = of_lease.map(|(number, _)| *number).collect();
        numbers.iter().filter_map(|number| open.take(number)).collect()
    }

    /// Those that nobody has claimed in time, and when the next one ends.
    fn ended(&self, now: BootTime) -> (Vec<Ticket>, Option<BootTime>) {
        let mut open = self.lock();
        let mut ended = Vec::new();
        while let Some((until, number)) = open.ends.front().copied() {
            if until > now {
                return (ended, Some(until));
            }
            open.ends.pop_front();
            ended.extend(open.take(&number));
        }
        (ended, None)
    }

    fn lock(&self) -> MutexGuard<'_, Open> {
        self.open.lock().expect("a thread that panics ends the process")
    }
}

impl Open {
    fn take(&mut self, number: &Number) -> Option<Ticket> {
        let kept = self.tickets.remove(number)?;
        self.leave(kept.tenant);
        Some(kept.ticket)
    }

    fn leave(&mut self, tenant: u32) {
        if let Some(count) = self.counts.get_mut(&tenant) {
            *count -= 1;
            if *count == 0 {
                self.counts.remove(&tenant);
            }
        }
    }
}

impl Place<'_> {
    /// Opens the ticket; its number is for the client alone.
    pub(crate) fn open(mut self, ticket: Ticket) -> Vec<u8> {
        self.used = true;
        let number = self.number;
        let mut open = self.tickets.lock();
        let until = clock::now() + GOOD_FOR;
        open.tickets.insert(number, Kept { tenant: self.tenant, until, ticket });
        open.ends.push_back((until, number));
        if open.ends.len() == 1 {
            self.tickets.first.notify_one();
        }
        number.to_vec()
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        if !self.used {
            self.tickets.lock().leave(self.tenant);
        }
    }
}

impl Broker {
    /// Closes what nobody claims in time. Never returns.
    pub(crate) async fn expire_tickets(self: Arc<Self>) {
        loop {
            let now = clock::now();
            let (ended, next) = self.tickets.ended(now);
            self.drop_tickets(ended);
            match next {
                None => self.tickets.first.notified().await,
                // A clock that stood still in a suspend makes this late; a claim looks at the time itself.
                Some(until) => tokio::time::sleep(until.duration_since(now)).await,
            }
        }
    }

    /// Closes unclaimed descriptors; areas without a name end with them, named ones stay.
    pub(crate) fn drop_tickets(&self, tickets: Vec<Ticket>) {
        for ticket in tickets {
            if ticket.unnamed {
                let mut state = self.lock();
                for number in ticket.areas.iter().filter_map(|area| area_number(&area.name)) {
                    state.table.remove_area(ticket.lease, &AreaKey::Number(number));
                }
            }
            self.side.close(NOBODYS, ticket.handles);
        }
    }
}
