//! A scope: what a piece of work makes, under a lease of its own, to be removed at once.

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::path::{Path, PathBuf};
use std::process;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::io::Errno;

use crate::broker::Broker;
use crate::lease::Held;
use crate::named::Named;
use crate::site::Site;
use crate::tenure::Tenure;
use crate::wait::Wait;
use crate::{AreaOptions, ClientError, GrantOptions};

/// What a scope is to be like.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ScopeOptions {
    /// Before the random characters of each name.
    pub prefix: OsString,
    /// Of the scope's leases. With a `parent` they are below that one, and end with it at the latest. A ttl among the holders is
    /// renewed by nobody.
    pub lease: GrantOptions,
    /// As [`Scope::cleanup_on_error`](crate::Scope::cleanup_on_error).
    pub cleanup_on_error: bool,
}

impl Default for ScopeOptions {
    fn default() -> Self {
        Self { prefix: AreaOptions::default().prefix, lease: GrantOptions::default(), cleanup_on_error: true }
    }
}

/// Where something still is that failed work has made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Left {
    /// The lease that it is under, and goes with.
    pub lease: String,
    /// That lease's directory; none where this process can name none.
    pub path: Option<PathBuf>,
}

/// Work that failed, and what became of what it made.
#[derive(Debug)]
pub struct ScopeError<E> {
    /// Why it failed.
    pub error: E,
    /// What was not removed: it was not to be, or the broker could not be told. Absent: all is gone.
    pub left: Option<Box<Left>>,
}

/// The logic of both flavours' scopes.
#[derive(Debug)]
pub(crate) struct Scoped<W: Wait> {
    broker: Arc<Broker<W>>,
    options: ScopeOptions,
    state: Mutex<State<W>>,
}

/// What belongs to one process.
#[derive(Debug)]
struct State<W: Wait> {
    process: u32,
    cleanup_on_error: bool,
    /// Granted at first use.
    held: Option<Held<W>>,
    left: Option<Left>,
}

/// Work in progress. Dropped before it is done the work has panicked, or was given up.
pub(crate) struct Work<'a, W: Wait> {
    scoped: &'a Scoped<W>,
    is_done: bool,
}

impl<W: Wait> Scoped<W> {
    pub(crate) fn new(broker: Arc<Broker<W>>, options: &ScopeOptions) -> Self {
        let state = State::new(options.cleanup_on_error);
        Self { broker, options: options.clone(), state: Mutex::new(state) }
    }

    pub(crate) fn id(&self) -> Option<String> {
        self.state().held.as_ref().map(|held| held.tenure.id.clone())
    }

    pub(crate) fn path(&self) -> Option<PathBuf> {
        self.state().held.as_ref().and_then(|held| held.tenure.path.clone())
    }

    pub(crate) fn left(&self) -> Option<Left> {
        self.state().left.clone()
    }

    pub(crate) fn cleanup_on_error(&self, cleanup: bool) {
        self.state().cleanup_on_error = cleanup;
    }

    pub(crate) fn options(&self, suffix: &OsStr) -> AreaOptions {
        AreaOptions { prefix: self.options.prefix.clone(), suffix: suffix.to_owned(), ..AreaOptions::default() }
    }

    pub(crate) async fn file(&self, options: &AreaOptions) -> Result<(std::fs::File, Named<W>), ClientError> {
        let tenure = self.tenure().await?;
        Site::of(&self.broker, &tenure).file(options).await
    }

    pub(crate) async fn directory(&self, options: &AreaOptions) -> Result<Named<W>, ClientError> {
        let tenure = self.tenure().await?;
        Site::of(&self.broker, &tenure).directory(options).await
    }

    /// A file that stays until the scope's lease ends.
    pub(crate) async fn create_file(&self, options: &AreaOptions) -> Result<PathBuf, ClientError> {
        let (_, named) = self.file(options).await?;
        stay(named)
    }

    /// A directory that stays until the scope's lease ends.
    pub(crate) async fn create_directory(&self, options: &AreaOptions) -> Result<PathBuf, ClientError> {
        stay(self.directory(options).await?)
    }

    /// Ends the lease with all that is under it. That it had ended is no error. After an error it is still the scope's, unless that
    /// has got another one meanwhile.
    pub(crate) async fn cleanup_all(&self) -> Result<(), ClientError> {
        let Some(held) = self.take() else { return Ok(()) };
        self.broker.forget(&held.tenure.id);
        match self.broker.revoke(&held.tenure.id).await {
            Err(error) if !error.is_refusal("LEASE_UNKNOWN") => {
                self.put_back(held);
                Err(error)
            }
            _ => {
                held.into_tenure();
                Ok(())
            }
        }
    }

    pub(crate) fn begin(&self) -> Work<'_, W> {
        Work { scoped: self, is_done: false }
    }

    /// The lease that things are made under now.
    async fn tenure(&self) -> Result<Arc<Tenure>, ClientError> {
        if let Some(held) = &self.state().held {
            return Ok(Arc::clone(&held.tenure));
        }
        let granted = self.broker.grant(&self.options.lease).await?;
        // Where another was faster the guard ends this one, not under the lock.
        let mut state = self.state();
        let (tenure, spare) = match &state.held {
            Some(held) => (Arc::clone(&held.tenure), Some(granted)),
            None => (Arc::clone(&state.held.insert(granted).tenure), None),
        };
        drop(state);
        drop(spare);
        Ok(tenure)
    }

    fn take(&self) -> Option<Held<W>> {
        self.state().held.take()
    }

    fn put_back(&self, held: Held<W>) {
        let mut state = self.state();
        if state.held.is_none() {
            state.held = Some(held);
        } else {
            // Its guard may wait for the broker.
            drop(state);
            drop(held);
        }
    }

    /// The state of this process: a forked child begins with a lease of its own, whose end is not its parent's.
    fn state(&self) -> MutexGuard<'_, State<W>> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.process != process::id() {
            *state = State::new(state.cleanup_on_error);
        }
        state
    }
}

impl<W: Wait> State<W> {
    fn new(cleanup_on_error: bool) -> Self {
        Self { process: process::id(), cleanup_on_error, held: None, left: None }
    }
}

impl<W: Wait> Work<'_, W> {
    /// Says how the work went, and does what is to be done about it.
    pub(crate) async fn end<T, E>(mut self, result: Result<T, E>) -> Result<T, ScopeError<E>> {
        let outcome = match result {
            Ok(value) => Ok(value),
            Err(error) => Err(ScopeError { error, left: self.fail().await.map(Box::new) }),
        };
        self.is_done = true;
        outcome
    }

    /// Gives what is still there.
    async fn fail(&self) -> Option<Left> {
        if !self.scoped.state().cleanup_on_error {
            return self.leave();
        }
        // Ignoring why: where what is left is said, and it goes with the scope's lease at the latest.
        let removed = self.scoped.cleanup_all().await;
        let state = self.scoped.state();
        state.held.as_ref().filter(|_| removed.is_err()).map(|held| Left::under(&held.tenure))
    }

    /// Leaves the lease to its holders.
    fn leave(&self) -> Option<Left> {
        let held = self.scoped.take()?;
        let left = Left::under(&held.into_tenure());
        self.scoped.state().left = Some(left.clone());
        Some(left)
    }
}

impl<W: Wait> Drop for Work<'_, W> {
    fn drop(&mut self) {
        if self.is_done {
            return;
        }
        if self.scoped.state().cleanup_on_error {
            drop(self.scoped.take());
        } else {
            self.leave();
        }
    }
}

impl Left {
    fn under(tenure: &Tenure) -> Self {
        Self { lease: tenure.id.clone(), path: tenure.path.clone() }
    }
}

impl<E: fmt::Display> fmt::Display for ScopeError<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.error.fmt(f)?;
        match self.left.as_deref() {
            None => Ok(()),
            Some(Left { path: Some(path), .. }) => write!(f, "; what was made is still in {}", path.display()),
            Some(Left { lease, .. }) => write!(f, "; what was made is still under lease {lease}"),
        }
    }
}

impl<E: std::error::Error + 'static> std::error::Error for ScopeError<E> {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.error)
    }
}

/// Gives up the guard of an area that has a path.
fn stay<W: Wait>(named: Named<W>) -> Result<PathBuf, ClientError> {
    let path = named.path().map(Path::to_owned);
    let path = path.ok_or_else(|| ClientError::io("name an area of", "a lease without a path", Errno::OPNOTSUPP))?;
    named.keep();
    Ok(path)
}
