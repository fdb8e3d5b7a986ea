//! A thread that renews a lease's ttl.

use std::process;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;

use super::{Blocking, Lease, block};
use crate::ClientError;
use crate::broker::Broker;
use crate::renewal::Course;

/// A thread that renews a lease's ttl holders, for as long as this is there. Dropping it has the thread end, and does not wait for
/// that. It says what went wrong, and that there is nothing to renew any more.
///
/// A forked child has no such thread, and in it this does nothing. The thread makes calls: a child that is forked meanwhile must not
/// use the client at all, see [`Client`](crate::Client).
#[derive(Debug)]
#[must_use = "a lease is not renewed any more when this is dropped"]
pub struct Renewal {
    shared: Arc<Shared>,
    process: u32,
}

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug)]
struct State {
    is_wanted: bool,
    is_over: bool,
    last_error: Option<ClientError>,
}

impl Lease {
    /// Renews the lease's ttl holders by a thread, at once and again each time a third of their time has passed, until what is
    /// returned is dropped. A broker that was restarted is connected to anew, and one that is away is looked for.
    ///
    /// # Errors
    /// Those of starting a thread.
    pub fn renew_in_background(&self) -> Result<Renewal, ClientError> {
        let state = State { is_wanted: true, is_over: false, last_error: None };
        let shared = Arc::new(Shared { state: Mutex::new(state), changed: Condvar::new() });
        let ((broker, tenure), seen) = (self.held.parts(), Arc::clone(&shared));
        let started = thread::Builder::new().name("scratch-renewal".to_owned());
        started
            .spawn(move || seen.renew(&broker, &tenure.id))
            .map_err(|error| ClientError::std_io("start a thread that renews", self.id(), &error))?;
        Ok(Renewal { shared, process: process::id() })
    }
}

impl Renewal {
    /// Why the last renewal failed; none where it did not.
    #[must_use]
    pub fn last_error(&self) -> Option<ClientError> {
        if self.is_ours() { self.shared.state().last_error.clone() } else { None }
    }

    /// Whether it has ended by itself, as there is nothing to renew any more: the lease has ended (LEASE_UNKNOWN), has no ttl (NO_TTL),
    /// or was reached by a delegated channel that is closed. [`Self::last_error`] says which.
    #[must_use]
    pub fn is_over(&self) -> bool {
        !self.is_ours() || self.shared.state().is_over
    }

    fn is_ours(&self) -> bool {
        self.process == process::id()
    }
}

impl Drop for Renewal {
    fn drop(&mut self) {
        // In a forked child the lock may be another thread's for ever.
        if self.is_ours() {
            self.shared.state().is_wanted = false;
            self.shared.changed.notify_all();
        }
    }
}

impl Shared {
    fn renew(&self, broker: &Broker<Blocking>, lease: &str) {
        let mut course = Course::default();
        while self.state().is_wanted {
            let renewed = block(broker.keep_alive(lease));
            let next = course.next(&renewed);
            let mut state = self.state();
            state.last_error = renewed.err();
            let Some(time) = next else {
                state.is_over = true;
                return;
            };
            let waited = self.changed.wait_timeout_while(state, time, |state| state.is_wanted);
            drop(waited.unwrap_or_else(PoisonError::into_inner));
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
