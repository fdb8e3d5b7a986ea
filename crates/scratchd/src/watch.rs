//! The liveness watcher: one thread that waits on pidfds, on passed sockets, on cgroups, on one boot-time timer and on being
//! woken. It reports what has ended; what follows from that is decided elsewhere.

mod cgroups;

use std::collections::HashMap;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};
use rustix::event::{EventfdFlags, eventfd};
use rustix::io::Errno;
use rustix::time::{Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec};
use scratch_lease::{BootTime, HolderId, LeaseId, Parting, ProcessId};

use crate::cgroup::Cgroup;
use crate::process::HeldProcess;
use cgroups::Cgroups;

const TIMER: u64 = 0;
const WAKE: u64 = 1;
const REMOVALS: u64 = 2;
const FIRST_TOKEN: u64 = 3;

/// A holder of a lease, as the table names it.
pub(crate) type HolderKey = (LeaseId, HolderId);

/// What one wait has brought.
#[derive(Debug, Default)]
pub(crate) struct Ended {
    /// Holders that are gone, on positive proof, and how they went.
    pub(crate) holders: Vec<(HolderKey, Parting)>,
    /// Descriptors of clients that are to be closed elsewhere: closing may block.
    pub(crate) descriptors: Vec<OwnedFd>,
    /// The deadline that the timer fired for.
    pub(crate) deadline: Option<BootTime>,
}

/// Everything that is being watched. Shared by whoever adds to it and the one thread that waits.
#[derive(Debug)]
pub(crate) struct Watch {
    epoll: OwnedFd,
    timer: OwnedFd,
    wake: OwnedFd,
    /// What the timer is set to.
    armed: Mutex<Option<BootTime>>,
    next_token: AtomicU64,
    watched: Mutex<Watched>,
    /// Locked apart: whether a cgroup has processes is read under this lock.
    cgroups: Mutex<Cgroups>,
}

#[derive(Debug, Default)]
struct Watched {
    processes: HashMap<u64, (ProcessId, OwnedFd, Vec<HolderKey>)>,
    tokens: HashMap<ProcessId, u64>,
    sockets: HashMap<u64, (OwnedFd, HolderKey)>,
    socket_tokens: HashMap<HolderKey, u64>,
}

impl Watch {
    /// An empty one.
    ///
    /// # Errors
    /// Of the system calls that make it.
    pub(crate) fn new() -> Result<Self, Errno> {
        let epoll = epoll::create(CreateFlags::CLOEXEC)?;
        let timer =
            rustix::time::timerfd_create(TimerfdClockId::Boottime, TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK)?;
        let wake = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        epoll::add(&epoll, &timer, EventData::new_u64(TIMER), EventFlags::IN)?;
        epoll::add(&epoll, &wake, EventData::new_u64(WAKE), EventFlags::IN)?;
        let cgroups = Cgroups::new()?;
        epoll::add(&epoll, &cgroups.inotify, EventData::new_u64(REMOVALS), EventFlags::IN)?;
        let (next_token, cgroups) = (AtomicU64::new(FIRST_TOKEN), Mutex::new(cgroups));
        Ok(Self { epoll, timer, wake, armed: Mutex::new(None), next_token, watched: Mutex::default(), cgroups })
    }

    /// Watches a process for a holder. Many holders of one process share one pidfd.
    ///
    /// # Errors
    /// Of epoll_ctl(2); then nothing is watched.
    pub(crate) fn process(&self, process: HeldProcess, holder: HolderKey) -> Result<(), Errno> {
        let HeldProcess { id, pidfd } = process;
        let mut watched = self.lock();
        if let Some(known) = watched.tokens.get(&id).copied()
            && let Some((_, _, holders)) = watched.processes.get_mut(&known)
        {
            holders.push(holder);
            return Ok(());
        }
        // Level-triggered: a process that ends before this line is reported right after it.
        let token = self.next_token.fetch_add(1, Ordering::Relaxed);
        epoll::add(&self.epoll, &pidfd, EventData::new_u64(token), EventFlags::IN)?;
        watched.tokens.insert(id, token);
        watched.processes.insert(token, (id, pidfd, vec![holder]));
        Ok(())
    }

    /// Watches a process that is watched already for one holder more. False: it is not.
    pub(crate) fn also(&self, process: ProcessId, holder: HolderKey) -> bool {
        let mut watched = self.lock();
        let Some(token) = watched.tokens.get(&process).copied() else { return false };
        watched.processes.get_mut(&token).is_some_and(|(_, _, holders)| {
            holders.push(holder);
            true
        })
    }

    /// Watches one end of a socket pair for a holder: it is gone when every copy of the other end is closed.
    ///
    /// # Errors
    /// Of epoll_ctl(2); the socket is handed back, to be closed where that may block.
    pub(crate) fn socket(&self, socket: OwnedFd, holder: HolderKey) -> Result<(), (Errno, OwnedFd)> {
        let token = self.next_token.fetch_add(1, Ordering::Relaxed);
        let mut watched = self.lock();
        if let Err(errno) = epoll::add(&self.epoll, &socket, EventData::new_u64(token), EventFlags::empty()) {
            return Err((errno, socket));
        }
        watched.socket_tokens.insert(holder, token);
        watched.sockets.insert(token, (socket, holder));
        Ok(())
    }

    /// Gives up all passed sockets, for the next broker to watch.
    pub(crate) fn give_up_sockets(&self) -> Vec<(HolderKey, OwnedFd)> {
        let mut watched = self.lock();
        watched.socket_tokens.clear();
        let sockets = std::mem::take(&mut watched.sockets);
        for (socket, _) in sockets.values() {
            // An error means only that it never was in the set.
            let _ = epoll::delete(&self.epoll, socket);
        }
        sockets.into_values().map(|(socket, holder)| (holder, socket)).collect()
    }

    /// Watches a cgroup for a holder.
    ///
    /// # Errors
    /// Of inotify_add_watch(2) and epoll_ctl(2); then nothing is watched.
    pub(crate) fn cgroup(&self, cgroup: Cgroup, holder: HolderKey) -> Result<(), Errno> {
        let token = self.next_token.fetch_add(1, Ordering::Relaxed);
        self.cgroups().add(&self.epoll, token, cgroup, holder)
    }

    /// Stops watching for a holder whose lease has ended. A passed socket is returned, to be closed where that may block.
    pub(crate) fn forget(&self, holder: HolderKey, process: Option<ProcessId>) -> Option<OwnedFd> {
        if self.cgroups().forget(&self.epoll, holder) {
            return None;
        }
        let mut watched = self.lock();
        if let Some(token) = watched.socket_tokens.remove(&holder) {
            let (socket, _) = watched.sockets.remove(&token)?;
            // Its copy at the client keeps it in the set: an error means only that it never was.
            let _ = epoll::delete(&self.epoll, &socket);
            return Some(socket);
        }
        let token = watched.tokens.get(&process?).copied()?;
        let (_, _, holders) = watched.processes.get_mut(&token)?;
        holders.retain(|other| *other != holder);
        if holders.is_empty() {
            watched.drop_process(token, &self.epoll);
        }
        None
    }

    /// Sets the timer to the earliest deadline there is. It is asked for under the timer's own lock, so that of two threads
    /// the later one has the last word.
    pub(crate) fn arm(&self, next: impl FnOnce() -> Option<BootTime>) {
        let mut armed = self.timer_lock();
        let deadline = next();
        if *armed == deadline {
            return;
        }
        let wanted = deadline.map_or(0, |time| time.0.max(1));
        let time = Timespec {
            tv_sec: i64::try_from(wanted / 1_000_000_000).unwrap_or(i64::MAX),
            tv_nsec: i64::try_from(wanted % 1_000_000_000).unwrap_or(0),
        };
        let once = Itimerspec { it_interval: Timespec { tv_sec: 0, tv_nsec: 0 }, it_value: time };
        rustix::time::timerfd_settime(&self.timer, TimerfdTimerFlags::ABSTIME, &once)
            .expect("the timer is ours and the time a valid one");
        *armed = deadline;
    }

    /// The deadline that the timer has fired for, if it has: it is set to none then.
    fn fired(&self) -> Option<BootTime> {
        let mut armed = self.timer_lock();
        // EAGAIN: it was set anew since.
        if rustix::io::read(&self.timer, &mut [0; 8]).is_ok() { armed.take() } else { None }
    }

    fn timer_lock(&self) -> std::sync::MutexGuard<'_, Option<BootTime>> {
        self.armed.lock().expect("a thread that panics ends the process")
    }

    /// Lets the waiting thread return once, though nothing has ended.
    pub(crate) fn wake(&self) {
        // EAGAIN: the counter is full of wake-ups already.
        let _ = rustix::io::write(&self.wake, &1u64.to_ne_bytes());
    }

    /// Waits until something happens.
    ///
    /// # Errors
    /// Of epoll_wait(2).
    pub(crate) fn wait(&self) -> Result<Ended, Errno> {
        let mut events = Vec::with_capacity(64);
        match epoll::wait(&self.epoll, rustix::buffer::spare_capacity(&mut events), None) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(errno) => return Err(errno),
        }
        let mut ended = Ended::default();
        for event in events {
            self.collect(event, &mut ended);
        }
        Ok(ended)
    }

    fn collect(&self, event: Event, ended: &mut Ended) {
        match event.data.u64() {
            TIMER => {
                ended.deadline = self.fired();
            }
            WAKE => {
                // EAGAIN can't be: it was readable, and only this thread reads it.
                let _ = rustix::io::read(&self.wake, &mut [0; 8]);
            }
            REMOVALS => ended.holders.extend(self.cgroups().look_below(&self.epoll)),
            token => {
                ended.holders.extend(self.cgroups().look(&self.epoll, token));
                let gone = |holder| (holder, Parting::Gone);
                let mut watched = self.lock();
                if let Some(holders) = watched.drop_process(token, &self.epoll) {
                    ended.holders.extend(holders.into_iter().map(gone));
                } else if let Some((socket, holder)) = watched.sockets.remove(&token) {
                    watched.socket_tokens.remove(&holder);
                    let _ = epoll::delete(&self.epoll, &socket); // it is closed elsewhere, later
                    ended.holders.push(gone(holder));
                    ended.descriptors.push(socket);
                }
            }
        }
    }

    fn cgroups(&self) -> std::sync::MutexGuard<'_, Cgroups> {
        self.cgroups.lock().expect("a thread that panics ends the process")
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Watched> {
        self.watched.lock().expect("a thread that panics ends the process")
    }
}

impl Watched {
    fn drop_process(&mut self, token: u64, epoll: &OwnedFd) -> Option<Vec<HolderKey>> {
        let (id, pidfd, holders) = self.processes.remove(&token)?;
        if self.tokens.get(&id) == Some(&token) {
            self.tokens.remove(&id);
        }
        // The kernel drops it with the last descriptor, which this is; an error changes nothing.
        let _ = epoll::delete(epoll, pidfd.as_fd());
        Some(holders)
    }
}
