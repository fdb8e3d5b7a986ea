//! Side threads: what may block through a client's doing is done here, never on a channel thread. Clients' descriptors are
//! used and closed here alone: closing a lingering socket blocked for 5 s when tried.

use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex};

/// Threads that run jobs in order of arrival, by key; and threads that close descriptors.
const THREADS: usize = 2;
const CLOSERS: usize = 2;

/// Descriptors that may wait to be closed before whoever sends more is cut off.
const WAITING_MAX: usize = 4096;

type Job = Box<dyn FnOnce() + Send>;

/// The side threads.
#[derive(Debug)]
pub(crate) struct Side {
    jobs: Vec<Mutex<Sender<Job>>>,
    closers: Vec<Mutex<Sender<Vec<OwnedFd>>>>,
    waiting: Arc<AtomicUsize>,
}

impl Side {
    /// Starts them; they end with the process.
    ///
    /// # Errors
    /// When a thread can't be made.
    pub(crate) fn start() -> std::io::Result<Self> {
        let waiting = Arc::new(AtomicUsize::new(0));
        let mut side = Self { jobs: Vec::new(), closers: Vec::new(), waiting: Arc::clone(&waiting) };
        for number in 0..THREADS {
            let (sender, receiver) = channel::<Job>();
            let run = move || receiver.into_iter().for_each(|job| job());
            std::thread::Builder::new().name(format!("side-{number}")).spawn(run)?;
            side.jobs.push(Mutex::new(sender));
        }
        for number in 0..CLOSERS {
            let (sender, receiver) = channel::<Vec<OwnedFd>>();
            let waiting = Arc::clone(&waiting);
            let close = move || {
                for descriptors in receiver {
                    let count = descriptors.len();
                    drop(descriptors);
                    waiting.fetch_sub(count, Ordering::Relaxed);
                }
            };
            std::thread::Builder::new().name(format!("close-{number}")).spawn(close)?;
            side.closers.push(Mutex::new(sender));
        }
        Ok(side)
    }

    /// Runs a job on the thread of this key: jobs of one key run in order, one after the other.
    pub(crate) fn run(&self, key: u64, job: impl FnOnce() + Send + 'static) {
        let thread = usize::try_from(key % THREADS as u64).unwrap_or(0);
        let sender = self.jobs[thread].lock().expect("a thread that panics ends the process");
        sender.send(Box::new(job)).expect("the thread ends with the process");
    }

    /// Whether too many descriptors wait to be closed to take more.
    pub(crate) fn is_flooded(&self) -> bool {
        self.waiting.load(Ordering::Relaxed) >= WAITING_MAX
    }

    /// Closes a client's descriptors.
    pub(crate) fn close(&self, descriptors: Vec<OwnedFd>) {
        if descriptors.is_empty() {
            return;
        }
        let waiting = self.waiting.fetch_add(descriptors.len(), Ordering::Relaxed);
        let closer = &self.closers[waiting % CLOSERS];
        let sender = closer.lock().expect("a thread that panics ends the process");
        sender.send(descriptors).expect("the thread ends with the process");
    }
}
