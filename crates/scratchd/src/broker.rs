//! The broker itself: what is shared by the threads that serve, watch and reap; and the one place where the lease table's
//! decisions become acts. The table's lock is never held across a system call.

use std::collections::{HashMap, HashSet};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock};
use std::time::SystemTime;

use scratch_fs::{Ended as Put, FsError, Place, Pool};
use scratch_lease::{BootTime, ConnectionId, Due, HolderKind, LeaseId, Reason, Table};
use tokio::sync::{Notify, watch};

use crate::channel::Channels;
use crate::clock;
use crate::config::Config;
use crate::debt::{Debt, Subject};
use crate::drain::Drain;
use crate::ended::Ended;
use crate::grpc::Streams;
use crate::load::Loads;
use crate::peer::Identity;
use crate::process::HeldProcess;
use crate::reaper::{Reaper, WhenFreed};
use crate::search::Searches;
use crate::settings::{InForce, Settings};
use crate::side::Side;
use crate::tickets::Tickets;
use crate::watch::Watch;

/// One broker and its pool.
#[derive(Debug)]
pub(crate) struct Broker {
    pub(crate) config: Config,
    pub(crate) pool: Pool,
    pub(crate) runtime: PathBuf,
    /// Whose rights the broker has; work for tenants of this user needs no change of identity.
    pub(crate) uid: u32,
    pub(crate) session: bool,
    pub(crate) settings: InForce,
    pub(crate) started: SystemTime,
    pub(crate) watch: Watch,
    pub(crate) reaper: Reaper,
    pub(crate) side: Side,
    pub(crate) channels: OnceLock<Channels>,
    /// What each tenant has under way on the handle channel.
    pub(crate) loads: Arc<Loads>,
    state: Mutex<State>,
    /// Deadlines up to here have passed: all that was readable then has been read since.
    expired_until: AtomicU64,
    awaited_until: AtomicU64,
    /// Grows with whatever shows that the broker is in use.
    activity: AtomicU64,
    /// Rings with it.
    pub(crate) changed: Notify,
    pub(crate) searches: Searches,
    pub(crate) tickets: Tickets,
    /// KeepAlive streams over gRPC.
    pub(crate) streams: Streams,
    /// Where tasks run, once there is something to be served.
    pub(crate) tokio: OnceLock<tokio::runtime::Handle>,
    /// Leases that went lately, and why.
    pub(crate) ended: Ended,
    /// True once the broker is on its way out: whoever is cut off then has lost nothing.
    pub(crate) stopping: watch::Sender<bool>,
    /// The pool, or part of it, is not where its path says: nothing is granted in it.
    pub(crate) pool_lost: AtomicBool,
    next_connection: AtomicU64,
}

/// Connections' numbers start here; those below are something else to a channel thread.
pub(crate) const FIRST_CONNECTION: u64 = 2;

/// What the table's lock guards.
#[derive(Debug)]
pub(crate) struct State {
    pub(crate) table: Table,
    /// With whose rights a lease's work is done; in its record too, since the reaper has no peer to ask.
    pub(crate) identities: HashMap<LeaseId, Arc<Identity>>,
    /// Which directory each lease's name stands for.
    pub(crate) places: HashMap<LeaseId, Place>,
    /// Connections and KeepAlive streams that are open: a holder of another one would never end.
    pub(crate) open: HashSet<ConnectionId>,
    pub(crate) drain: Drain,
}

/// What ending a lease on disk takes to know.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Dead {
    pub(crate) tenant: u32,
    pub(crate) place: Place,
}

/// What a broker is made of.
pub(crate) struct Parts {
    pub(crate) config: Config,
    pub(crate) pool: Pool,
    pub(crate) runtime: PathBuf,
    pub(crate) session: bool,
    pub(crate) settings: Settings,
    pub(crate) generation: u64,
}

impl Broker {
    /// Puts a broker together; it serves nothing yet.
    ///
    /// # Errors
    /// When watcher or side threads can't be made.
    pub(crate) fn new(parts: Parts) -> std::io::Result<Self> {
        let table = Table::new(parts.config.lease_limits(), parts.generation);
        Ok(Self {
            uid: rustix::process::geteuid().as_raw(),
            config: parts.config,
            pool: parts.pool,
            runtime: parts.runtime,
            session: parts.session,
            settings: InForce::new(parts.settings),
            started: SystemTime::now(),
            watch: Watch::new()?,
            reaper: Reaper::default(),
            side: Side::start()?,
            channels: OnceLock::new(),
            loads: Arc::default(),
            state: Mutex::new(State {
                table,
                identities: HashMap::new(),
                places: HashMap::new(),
                open: HashSet::new(),
                drain: Drain::default(),
            }),
            expired_until: AtomicU64::new(clock::now().0),
            awaited_until: AtomicU64::new(0),
            activity: AtomicU64::new(0),
            changed: Notify::new(),
            searches: Searches::default(),
            tickets: Tickets::default(),
            streams: Streams::default(),
            tokio: OnceLock::new(),
            ended: Ended::default(),
            stopping: watch::channel(false).0,
            pool_lost: AtomicBool::new(false),
            next_connection: AtomicU64::new(FIRST_CONNECTION),
        })
    }

    /// The lease table. Held for lines, never across a system call.
    pub(crate) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("a thread that panics ends the process")
    }

    /// Notes that the broker is in use.
    pub(crate) fn activity(&self) -> u64 {
        self.changed.notify_waiters();
        self.activity.fetch_add(1, Ordering::Relaxed)
    }

    /// A number for a connection, unique in this process.
    pub(crate) fn new_connection(&self) -> ConnectionId {
        ConnectionId(self.next_connection.fetch_add(1, Ordering::Relaxed))
    }

    /// A connection has closed: it holds nothing any more. While the broker itself ends, that is not its client's doing.
    pub(crate) fn connection_closed(&self, connection: ConnectionId) {
        if *self.stopping.borrow() {
            return;
        }
        let is_due = {
            let mut state = self.lock();
            state.open.remove(&connection);
            state.table.connection_closed(connection);
            state.table.next_deadline().is_some_and(|time| time <= clock::now())
        };
        if is_due {
            self.watch.wake();
        }
        self.activity();
    }

    /// Whether nothing needs this broker: no lease, connection, trash or retryable debt.
    pub(crate) fn is_idle(&self) -> bool {
        self.loads.connections(None) == 0 && self.lock().table.totals().leases == 0 && self.reaper.is_idle()
    }

    /// Does all that is due now: what every event ends in.
    pub(crate) fn settle(self: &Arc<Self>) {
        let due = self.lock().table.due(BootTime(self.decided_until()));
        self.watch.arm(|| {
            let awaited = self.awaited_until.load(Ordering::Acquire);
            self.lock().table.next_deadline().filter(|time| time.0 > awaited)
        });
        for one in due {
            match one {
                Due::End { id, reason } => {
                    self.end(id, reason, None);
                }
                Due::Search(id) => self.search(id),
            }
        }
    }

    /// Deadlines up to here may be acted on, later ones not yet.
    pub(crate) fn decided_until(&self) -> u64 {
        self.expired_until.load(Ordering::Acquire)
    }

    /// Deadlines up to `time` have passed, and wait for what is still to be read: the timer need not tell of them again.
    pub(crate) fn await_deadlines(&self, time: BootTime) {
        self.awaited_until.fetch_max(time.0, Ordering::AcqRel);
    }

    /// Deadlines up to `time` may be acted on.
    pub(crate) fn pass_deadlines(&self, time: BootTime) {
        self.expired_until.fetch_max(time.0, Ordering::AcqRel);
    }

    /// Ends a lease that the table has decided to end. What can't be moved out of sight becomes debt.
    pub(crate) fn end(&self, id: LeaseId, reason: Reason, when_freed: Option<WhenFreed>) {
        tracing::info!(lease = %id, reason = reason.code(), "lease ends: {reason}");
        if let Some(lease) = self.lock().table.lease(id) {
            self.ended.note(lease, reason);
        }
        match self.end_on_disk(id, None) {
            Ok(()) => {
                if let Some(when_freed) = when_freed {
                    self.reaper.when_lease_is_freed(id, when_freed);
                }
            }
            Err(debt) => {
                tracing::warn!(lease = %id, path = %debt.path.display(), blocker = %debt.blocker, "lease can't be put away yet");
                let owed = debt.subject.id();
                self.reaper.owe(*debt);
                if let Some(when_freed) = when_freed {
                    when_freed(vec![owed]);
                }
            }
        }
    }

    /// Moves an ended lease into trash and forgets it; to be tried again as often as need be. `dead` is for a lease that is
    /// in no table any more. What has its name and is not its directory stays.
    pub(crate) fn end_on_disk(&self, id: LeaseId, dead: Option<Dead>) -> Result<(), Box<Debt>> {
        let known = {
            let state = self.lock();
            let place = state.places.get(&id).copied();
            state.table.lease(id).zip(place).map(|(lease, place)| Dead { tenant: lease.tenant().0, place })
        };
        // Neither: somebody else has just ended it.
        let Some(dead) = known.or(dead) else { return Ok(()) };
        match self.pool.end_lease(id, dead.tenant, dead.place) {
            Ok(Put::Trashed(tree)) => self.reaper.push(tree, None),
            Ok(Put::Gone) => {}
            Ok(Put::Replaced) => {
                self.keep_replaced(id, dead);
                self.forget(id);
                return Ok(());
            }
            Err(error) => return Err(Box::new(lease_debt(id, dead, &error))),
        }
        if let Err(error) = self.pool.drop_record(id) {
            tracing::warn!(lease = %id, %error, "the record of a lease that is gone stays until the next start, ignoring");
        }
        self.forget(id);
        Ok(())
    }

    /// Drops a lease from memory, with all that watches it.
    fn forget(&self, id: LeaseId) {
        let holders: Vec<_> = {
            let mut state = self.lock();
            let holders = state.table.lease(id).map(|lease| lease.holders().to_vec()).unwrap_or_default();
            state.table.forget(id);
            state.identities.remove(&id);
            state.places.remove(&id);
            holders
        };
        for holder in holders {
            let process = match holder.kind {
                HolderKind::Process(process) => Some(process),
                _ => None,
            };
            self.side.close(self.watch.forget((id, holder.id), process).into_iter().collect());
        }
        self.drop_tickets(self.tickets.of_lease(id));
        self.activity();
    }

    /// Watches a process for a holder that the table has; where that fails the holder is not lost: it is unknown, so the
    /// lease lives on and the process is looked at again at the next restart.
    pub(crate) fn watch_process(&self, lease: LeaseId, holder: u32, process: HeldProcess) {
        if let Err(errno) = self.watch.process(process, (lease, holder)) {
            tracing::error!(%lease, %errno, "a process can't be watched; its lease lives until it is revoked");
        }
    }

    /// The broker acting for itself.
    pub(crate) fn own_word(&self) -> scratch_lease::Caller {
        scratch_lease::Caller { tenant: scratch_lease::TenantId(self.uid), admin: true }
    }
}

fn lease_debt(id: LeaseId, dead: Dead, error: &FsError) -> Debt {
    let blocker = match error.errno {
        rustix::io::Errno::BUSY => "mount",
        rustix::io::Errno::ROFS => "read-only",
        rustix::io::Errno::PERM => "immutable",
        rustix::io::Errno::ACCESS => "permission",
        _ => "other",
    };
    let debt = Debt::new(Subject::Lease(id), dead.tenant, error.path.clone(), blocker);
    Debt { errno: Some(error.errno), place: dead.place, ..debt }
}
