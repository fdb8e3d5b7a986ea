//! The broker itself: what is shared by the threads that serve, watch and reap; and the one place where the lease table's
//! decisions become acts. The table's lock is never held across a system call.

use std::collections::{HashMap, HashSet};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::SystemTime;

use scratch_fs::{Ended as Put, FsError, Place, QuotaId};
use scratch_lease::{BootTime, ConnectionId, Due, Holder, HolderKind, LeaseId, LeaseState, PoolId, Reason, Table};
use tokio::sync::{Notify, watch};

use crate::cgroup::{Cgroup, KnownCgroups};
use crate::channel::Channels;
use crate::clock;
use crate::config::Config;
use crate::debt::{Debt, Subject};
use crate::drain::Drain;
use crate::ended::Ended;
use crate::events::{Locked, Watchers};
use crate::foreign::Foreign;
use crate::grpc::Streams;
use crate::keep::Measures;
use crate::load::Loads;
use crate::peer::Identity;
use crate::pools::Pools;
use crate::process::HeldProcess;
use crate::reaper::{Reaper, WhenFreed};
use crate::search::Searches;
use crate::settings::{InForce, Settings};
use crate::side::NOBODYS;
use crate::side::Side;
use crate::tickets::Tickets;
use crate::watch::Watch;

/// One broker and its pools.
#[derive(Debug)]
pub(crate) struct Broker {
    pub(crate) config: Config,
    pub(crate) pools: Pools,
    pub(crate) runtime: PathBuf,
    /// Whose rights the broker has; work for tenants of this user needs no change of identity.
    pub(crate) uid: u32,
    pub(crate) session: bool,
    /// It can take on other users' rights; else there is one tenant only, the broker's own user.
    pub(crate) acts_as_others: bool,
    pub(crate) settings: InForce,
    pub(crate) started: SystemTime,
    pub(crate) watch: Watch,
    /// Cgroups that hold leases, and where they are; never locked before the table is.
    pub(crate) cgroups: KnownCgroups,
    pub(crate) reaper: Reaper,
    pub(crate) side: Side,
    pub(crate) foreign: Foreign,
    pub(crate) channels: OnceLock<Channels>,
    /// What each tenant has under way on the handle channel.
    pub(crate) loads: Arc<Loads>,
    state: Mutex<State>,
    /// Who is woken when something happens.
    pub(crate) watchers: Watchers,
    /// Deadlines up to here have passed: all that was readable then has been read since.
    expired_until: AtomicU64,
    awaited_until: AtomicU64,
    /// Grows with whatever shows that the broker is in use.
    activity: AtomicU64,
    /// Rings with it.
    pub(crate) changed: Notify,
    pub(crate) searches: Searches,
    pub(crate) tickets: Tickets,
    /// The sockets of all gRPC connections: KeepAlive streams may be on any of them.
    pub(crate) streams: Streams,
    /// Where tasks run, once there is something to be served.
    pub(crate) tokio: OnceLock<tokio::runtime::Handle>,
    /// Leases that went lately, and why.
    pub(crate) ended: Ended,
    /// Kept leases that are still to be measured.
    pub(crate) measures: Measures,
    /// True once the broker is on its way out: whoever is cut off then has lost nothing.
    pub(crate) stopping: watch::Sender<bool>,
    /// Whether a handle can be made that its holder stays in, once that was tried.
    pub(crate) can_contain: OnceLock<bool>,
    /// Held while a quota on disk is set to what the table says.
    pub(crate) fitting: Mutex<()>,
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
    /// What that is counted in on disk, where it is.
    pub(crate) quotas: HashMap<LeaseId, QuotaId>,
    /// Connections and KeepAlive streams that are open: a holder of another one would never end.
    pub(crate) open: HashSet<ConnectionId>,
    pub(crate) drain: Drain,
}

/// What ending a lease on disk takes to know.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Dead {
    pub(crate) pool: PoolId,
    pub(crate) tenant: u32,
    pub(crate) place: Place,
}

/// What a broker is made of.
pub(crate) struct Parts {
    pub(crate) config: Config,
    pub(crate) pools: Pools,
    pub(crate) runtime: PathBuf,
    pub(crate) session: bool,
    pub(crate) settings: Settings,
    pub(crate) generation: u64,
    pub(crate) acts_as_others: bool,
}

impl Broker {
    /// Puts a broker together; it serves nothing yet.
    ///
    /// # Errors
    /// When watcher or side threads can't be made.
    pub(crate) fn new(parts: Parts) -> std::io::Result<Self> {
        let mut table = Table::new(parts.config.lease_limits(), parts.generation);
        table.set_limits(parts.config.lease_limits(), parts.config.rule_limits());
        table.at(clock::now()).started();
        Ok(Self {
            uid: rustix::process::geteuid().as_raw(),
            config: parts.config,
            pools: parts.pools,
            runtime: parts.runtime,
            session: parts.session,
            acts_as_others: parts.acts_as_others,
            settings: InForce::new(parts.settings),
            started: SystemTime::now(),
            watch: Watch::new()?,
            cgroups: KnownCgroups::default(),
            reaper: Reaper::default(),
            side: Side::start()?,
            foreign: Foreign::default(),
            channels: OnceLock::new(),
            loads: Arc::default(),
            state: Mutex::new(State {
                table,
                identities: HashMap::new(),
                places: HashMap::new(),
                quotas: HashMap::new(),
                open: HashSet::new(),
                drain: Drain::default(),
            }),
            watchers: Watchers::default(),
            expired_until: AtomicU64::new(clock::now().0),
            awaited_until: AtomicU64::new(0),
            activity: AtomicU64::new(0),
            changed: Notify::new(),
            searches: Searches::default(),
            tickets: Tickets::default(),
            streams: Streams::default(),
            tokio: OnceLock::new(),
            ended: Ended::default(),
            measures: Measures::default(),
            stopping: watch::channel(false).0,
            can_contain: OnceLock::new(),
            fitting: Mutex::default(),
            next_connection: AtomicU64::new(FIRST_CONNECTION),
        })
    }

    /// The lease table. Held for lines, never across a system call.
    pub(crate) fn lock(&self) -> Locked<'_> {
        Locked::new(self.state.lock().expect("a thread that panics ends the process"), &self.watchers)
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
            state.table.at(clock::now()).connection_closed(connection);
            state.table.next_deadline().is_some_and(|time| time <= clock::now())
        };
        if is_due {
            self.watch.wake();
        }
        self.activity();
    }

    /// Whether nothing needs this broker: no lease, one that has ended and is kept included, no connection, trash or
    /// retryable debt.
    pub(crate) fn is_idle(&self) -> bool {
        self.loads.connections(None) == 0 && self.lock().table.totals().is_without_leases() && self.reaper.is_idle()
    }

    /// Does all that is due now: what every event ends in.
    pub(crate) fn settle(self: &Arc<Self>) {
        let due = self.lock().table.due(BootTime(self.decided_until()));
        self.arm_timer();
        for one in due {
            match one {
                Due::End { id, reason } => {
                    self.end(id, reason, None);
                }
                Due::Keep { id, reason } => self.keep_ended(id, reason),
                Due::Search(id) => self.search(id),
                Due::Grace(id) => self.wait_for_holder(id),
            }
        }
    }

    /// A lease without holders waits for one, and the timer for the end of that.
    pub(crate) fn wait_for_holder(&self, id: LeaseId) {
        self.lock().table.wait_for_holder(id, clock::now());
        tracing::info!(lease = %id, "nothing holds the lease any more, its grace begins");
        self.arm_timer();
    }

    /// Sets the timer to the next deadline of the table.
    pub(crate) fn arm_timer(&self) {
        self.watch.arm(|| {
            let awaited = self.awaited_until.load(Ordering::Acquire);
            self.lock().table.next_deadline().filter(|time| time.0 > awaited)
        });
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
    pub(crate) fn end(self: &Arc<Self>, id: LeaseId, reason: Reason, when_freed: Option<WhenFreed>) {
        tracing::info!(lease = %id, reason = reason.code(), "lease ends: {reason}");
        if let Some(lease) = self.lock().table.lease(id).filter(|lease| lease.state() == LeaseState::Ending) {
            self.ended.note(lease, reason);
        }
        self.end_foreign_of(id);
        // Who waits for it to be freed wants it freed.
        if when_freed.is_none() && self.put_aside(id) {
            return;
        }
        match self.end_on_disk(id, None) {
            Ok(()) => {
                if let Some(when_freed) = when_freed {
                    self.reaper.when_lease_is_freed(id, when_freed);
                }
            }
            Err(debt) => {
                tracing::warn!(lease = %id, path = %debt.path.display(), blocker = %debt.blocker, "lease can't be put away yet");
                if let Err(error) = self.rewrite_record(id) {
                    tracing::warn!(lease = %id, %error, "its record still names holders, ignoring");
                }
                let owed = debt.subject.id();
                self.owe(*debt);
                if let Some(when_freed) = when_freed {
                    when_freed(vec![owed]);
                }
            }
        }
    }

    /// Moves an ended lease into trash and forgets it; to be tried again as often as need be. `dead` is for a lease that is
    /// in no table any more. What has its name and is not its directory stays.
    pub(crate) fn end_on_disk(&self, id: LeaseId, dead: Option<Dead>) -> Result<(), Box<Debt>> {
        let (known, holders) = {
            let state = self.lock();
            let place = state.places.get(&id).copied();
            let lease = state.table.lease(id);
            // It lives, or is kept: nobody has it to end.
            if lease.is_some_and(|lease| !matches!(lease.state(), LeaseState::Ending | LeaseState::Gone { .. })) {
                return Ok(());
            }
            let known =
                lease.zip(place).map(|(lease, place)| Dead { pool: lease.pool(), tenant: lease.tenant().0, place });
            (known, lease.map(|lease| lease.holders().to_vec()).unwrap_or_default())
        };
        // Neither: somebody else has just ended it.
        let Some(dead) = known.or(dead) else { return Ok(()) };
        let owed = |error: FsError| Box::new(lease_debt(id, dead, &error));
        let pool = &self.pools.get(dead.pool).disk;
        let dying = self.cgroups.kill(id, &holders);
        let free = |tree| match dying.as_slice() {
            [] => self.reaper.push(dead.pool, tree, None),
            dying => self.reaper.hold_back(dead.pool, tree, dying.to_vec()),
        };
        pool.end_memory(id, dead.tenant).map_err(owed)?.into_iter().for_each(free);
        let mut freed = None;
        // What has the path of one that is out of sight is nothing to it.
        if !self.free_gone(id, dead).map_err(owed)? {
            match pool.end_lease(id, dead.tenant, dead.place).map_err(owed)? {
                Put::Trashed(tree) => freed = Some(tree),
                Put::Gone => {}
                Put::Replaced => {
                    self.keep_replaced(id, dead);
                    self.forget(id);
                    return Ok(());
                }
            }
        }
        if let Err(error) = pool.drop_record(id) {
            tracing::warn!(lease = %id, %error, "the record of a lease that is gone stays until the next start, ignoring");
        }
        // After the record: a start that finds one knows by its tree in trash that the lease was ended.
        freed.into_iter().for_each(free);
        self.forget(id);
        Ok(())
    }

    /// Drops a lease from memory, with all that watches it.
    fn forget(&self, id: LeaseId) {
        let loosened = self.pool_of(id).zip(self.loosened(id));
        let holders: Vec<_> = {
            let mut state = self.lock();
            let holders = state.table.lease(id).map(|lease| lease.holders().to_vec()).unwrap_or_default();
            state.table.at(clock::now()).forget_until_freed(id);
            state.identities.remove(&id);
            state.places.remove(&id);
            state.quotas.remove(&id);
            holders
        };
        if let Some((pool, loosened)) = loosened {
            self.loosen(pool, &loosened);
        }
        self.let_go(id, &holders);
        self.count_what_is_left(id);
        self.activity();
    }

    /// Drops what a lease has when it ends, but for the lease: what watches its holders, and tickets, whose descriptors would
    /// keep what is dead.
    pub(crate) fn let_go(&self, id: LeaseId, holders: &[Holder]) {
        self.cgroups.forget(id, holders);
        for holder in holders {
            let process = match holder.kind {
                HolderKind::Process(process) => Some(process),
                _ => None,
            };
            self.side.close(NOBODYS, self.watch.forget((id, holder.id), process).into_iter().collect());
        }
        self.drop_tickets(self.tickets.of_lease(id));
    }

    /// Watches a process for a holder that the table has; where that fails the holder is not lost: it is unknown, so the
    /// lease lives on and the process is looked at again at the next restart.
    pub(crate) fn watch_process(&self, lease: LeaseId, holder: u32, process: HeldProcess) {
        if let Err(errno) = self.watch.process(process, (lease, holder)) {
            tracing::error!(%lease, %errno, "a process can't be watched; its lease lives until it is revoked");
        }
    }

    /// The same for a cgroup.
    pub(crate) fn watch_cgroup(&self, lease: LeaseId, holder: u32, cgroup: Cgroup) {
        if let Err(errno) = self.watch.cgroup(cgroup, (lease, holder)) {
            tracing::error!(%lease, %errno, "a cgroup can't be watched; its lease lives until it is revoked");
        }
    }

    /// The broker acting for itself.
    pub(crate) fn own_word(&self) -> scratch_lease::Caller {
        scratch_lease::Caller { admin: true, ..scratch_lease::Caller::of(scratch_lease::TenantId(self.uid)) }
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
    let debt = Debt::new(Subject::Lease(id), (dead.pool, dead.tenant), error.path.clone(), blocker);
    Debt { errno: Some(error.errno), place: dead.place, ..debt }
}
