//! The watcher's thread: turns what has ended, and time that has passed, into the table's decisions.
//! Waits on: pidfds, passed sockets, cgroups, the boot-time timer, being woken.

use std::sync::Arc;
use std::time::Duration;

use scratch_lease::BootTime;

use crate::broker::Broker;
use crate::clock;
use crate::holders::STREAM_COMES_WITHIN;
use crate::side::NOBODYS;

/// A timer that fires this late shows that the broker did not run; nobody could renew in that time.
const LATE: Duration = Duration::from_secs(1);

impl Broker {
    /// The watcher thread's life.
    pub(crate) fn watch_holders(self: &Arc<Self>) -> ! {
        let mut suspended = clock::suspended();
        loop {
            let ended = match self.watch.wait() {
                Ok(ended) => ended,
                Err(errno) => {
                    tracing::error!(%errno, "waiting for holders failed, stopping");
                    std::process::abort();
                }
            };
            if !ended.holders.is_empty() {
                let mut state = self.lock();
                state.table.at(clock::now());
                for ((lease, holder), how) in ended.holders {
                    state.table.holder_parted(lease, holder, how);
                }
            }
            self.side.close(NOBODYS, ended.descriptors);
            if let Some(deadline) = ended.deadline {
                self.deadline_passed(deadline, &mut suspended);
            }
            self.settle();
        }
    }

    /// Expiry is decided only after all that is readable was read: the channel threads read on, then wake this thread.
    fn deadline_passed(self: &Arc<Self>, deadline: BootTime, suspended: &mut Duration) {
        if *self.stopping.borrow() {
            // Nobody could renew any more: the next broker gives everybody the full time again.
            return;
        }
        let now = clock::now();
        let slept = clock::suspended();
        let late = now.duration_since(deadline) > LATE;
        if late || slept > *suspended + LATE {
            tracing::info!("the broker did not run for a while; every ttl holder gets its full time again");
            let grace = self.settings.get().grace.max(STREAM_COMES_WITHIN);
            self.lock().table.rearm(now, grace);
        }
        *suspended = slept;
        self.await_deadlines(now);
        match self.channels.get() {
            None => self.pass_deadlines(now),
            Some(channels) => {
                let broker = Arc::clone(self);
                channels.read_on_then(move || {
                    broker.pass_deadlines_when_streams_are_read(now);
                });
            }
        }
    }
}
