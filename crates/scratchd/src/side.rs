//! Side threads: what may block through a client's doing is done here, never on a channel thread. Clients' descriptors are
//! used and closed here alone: closing a lingering socket blocked for 5 s when tried.

use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};

use crate::turns::Turns;

/// Threads that run jobs, by key; and threads that close descriptors.
const THREADS: usize = 2;
const CLOSERS: usize = 2;

/// Descriptors of one tenant that may wait to be closed before it is cut off.
const WAITING_MAX: usize = 4096;

/// Whose descriptors those are that the broker itself lets go of.
pub(crate) const NOBODYS: u32 = u32::MAX;

type Job = Box<dyn FnOnce() + Send>;

/// The jobs that wait for one thread.
#[derive(Default)]
struct Line {
    jobs: Mutex<Turns<Job>>,
    came: Condvar,
}

impl std::fmt::Debug for Line {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Line").finish_non_exhaustive()
    }
}

/// The side threads.
#[derive(Debug)]
pub(crate) struct Side {
    lines: Vec<Arc<Line>>,
    closing: Arc<Closing>,
}

/// The descriptors that wait to be closed.
#[derive(Debug, Default)]
struct Closing {
    queue: Mutex<Queue>,
    came: Condvar,
}

#[derive(Debug, Default)]
struct Queue {
    descriptors: Turns<(u32, Vec<OwnedFd>)>,
    /// How many of each tenant, those that are being closed included.
    waiting: HashMap<u32, usize>,
}

impl Closing {
    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().expect("a thread that panics ends the process")
    }

    fn work(&self) -> ! {
        loop {
            let queue = self.came.wait_while(self.lock(), |queue| queue.descriptors.is_empty());
            let next = queue.expect("a thread that panics ends the process").descriptors.pop();
            let Some((tenant, descriptors)) = next else { continue };
            let count = descriptors.len();
            drop(descriptors);
            self.lock().closed(tenant, count);
        }
    }
}

impl Queue {
    fn closed(&mut self, tenant: u32, count: usize) {
        if let Some(waiting) = self.waiting.get_mut(&tenant) {
            *waiting -= count;
            if *waiting == 0 {
                self.waiting.remove(&tenant);
            }
        }
    }
}

impl Line {
    fn work(&self) -> ! {
        loop {
            let jobs = self.jobs.lock().expect("a thread that panics ends the process");
            let mut jobs =
                self.came.wait_while(jobs, |jobs| jobs.is_empty()).expect("a thread that panics ends the process");
            let job = jobs.pop();
            drop(jobs);
            if let Some(job) = job {
                job();
            }
        }
    }
}

impl Side {
    /// Starts them; they end with the process.
    ///
    /// # Errors
    /// When a thread can't be made.
    pub(crate) fn start() -> std::io::Result<Self> {
        let mut side = Self { lines: Vec::new(), closing: Arc::default() };
        for number in 0..THREADS {
            let line = Arc::new(Line::default());
            side.lines.push(Arc::clone(&line));
            std::thread::Builder::new().name(format!("side-{number}")).spawn(move || line.work())?;
        }
        for number in 0..CLOSERS {
            let closing = Arc::clone(&side.closing);
            std::thread::Builder::new().name(format!("close-{number}")).spawn(move || closing.work())?;
        }
        Ok(side)
    }

    /// Runs a job on the thread of this key. A tenant's jobs of one key run in order, one after the other; between tenants it
    /// goes in turns.
    pub(crate) fn run(&self, tenant: u32, key: u64, job: impl FnOnce() + Send + 'static) {
        let thread = usize::try_from(key % THREADS as u64).unwrap_or(0);
        let line = &self.lines[thread];
        line.jobs.lock().expect("a thread that panics ends the process").push(tenant, Box::new(job));
        line.came.notify_one();
    }

    /// Whether too many descriptors of this tenant wait to be closed to take more.
    pub(crate) fn is_flooded_by(&self, tenant: u32) -> bool {
        self.closing.lock().waiting.get(&tenant).is_some_and(|waiting| *waiting >= WAITING_MAX)
    }

    /// Closes descriptors that this tenant has passed; tenants take turns.
    pub(crate) fn close(&self, tenant: u32, descriptors: Vec<OwnedFd>) {
        if descriptors.is_empty() {
            return;
        }
        let mut queue = self.closing.lock();
        *queue.waiting.entry(tenant).or_default() += descriptors.len();
        queue.descriptors.push(tenant, (tenant, descriptors));
        drop(queue);
        self.closing.came.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc::{channel, sync_channel};

    #[test]
    fn a_tenant_with_many_jobs_leaves_others_their_turn() {
        let side = Side::start().unwrap();
        let (done, seen) = channel();
        let (go_on, wait) = sync_channel::<()>(0);
        side.run(1, 0, move || wait.recv().unwrap());
        for number in 0..100 {
            let done = done.clone();
            side.run(1, 0, move || done.send((1, number)).unwrap());
        }
        side.run(2, 0, move || done.send((2, 0)).unwrap());
        go_on.send(()).unwrap();
        let order: Vec<(u32, u32)> = seen.iter().collect();
        assert!(order.iter().position(|one| *one == (2, 0)).unwrap() <= 1);
        let own: Vec<u32> = order.iter().filter(|(tenant, _)| *tenant == 1).map(|(_, number)| *number).collect();
        assert!(own.is_sorted() && own.len() == 100);
    }
}
