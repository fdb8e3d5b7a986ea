//! A scope's guard: dropped, it removes all that was made in it.

use std::ffi::OsStr;
use std::io::Write;
use std::path::PathBuf;
use std::sync::Arc;

use super::{Blocking, Client, Directory, Lease, NamedFile, block};
use crate::scope::Scoped;
use crate::{AreaOptions, ClientError, Left, ScopeError, ScopeOptions};

/// What a piece of work makes, a request or a job, under a lease of its own: all of it is removed at once, by one revocation.
/// Many threads may use it at once.
///
/// The lease is granted at first use, and held as [`ScopeOptions`] say; by default by this process. Dropping the scope ends it,
/// and ignores errors: the broker ends it in any case when its holders are gone. A forked child begins with a lease of
/// its own.
///
/// ```no_run
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use scratch_client::{Client, ConnectOptions, ScopeOptions};
///
/// let client = Client::connect_or_start(&ConnectOptions::default())?;
/// let scope = client.scope(&ScopeOptions { prefix: "job-".into(), ..ScopeOptions::default() });
/// let lines = scope.run(|scope| {
///     let table = scope.create_temp_file(".csv")?;
///     std::fs::write(&table, "1\n2\n")?;
///     std::fs::read_to_string(&table).map(|text| text.lines().count())
/// })?;
/// assert_eq!(lines, 2);
/// scope.cleanup_all()?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
#[must_use = "what is made in a scope is removed when it is dropped"]
pub struct Scope {
    scoped: Scoped<Blocking>,
}

impl Client {
    /// Begins a scope. Nothing is granted before something is made in it.
    pub fn scope(&self, options: &ScopeOptions) -> Scope {
        Scope { scoped: Scoped::new(Arc::clone(&self.broker), options) }
    }
}

impl Lease {
    /// Begins a scope whose lease is below this one, whatever `parent` the options name.
    pub fn scope(&self, options: &ScopeOptions) -> Scope {
        let (broker, tenure) = self.held.parts();
        let mut options = options.clone();
        options.lease.parent = Some(tenure.id.clone());
        Scope { scoped: Scoped::new(broker, &options) }
    }
}

impl Scope {
    /// Makes a named file, mode 0600, open for reading and writing. Dropping its guard removes it before the scope ends.
    ///
    /// # Errors
    /// Those of granting a lease and of [`Lease::file`]; LEASE_UNKNOWN where somebody else has ended the scope's lease:
    /// [`Self::cleanup_all`] has the next call begin with another one.
    pub fn temp_file(&self, suffix: impl AsRef<OsStr>) -> Result<NamedFile, ClientError> {
        block(self.scoped.file(&self.options(suffix))).map(NamedFile::new)
    }

    /// Makes a directory, mode 0700. Dropping its guard removes it with everything in it before the scope ends.
    ///
    /// # Errors
    /// As [`Self::temp_file`].
    pub fn temp_directory(&self, suffix: impl AsRef<OsStr>) -> Result<Directory, ClientError> {
        block(self.scoped.directory(&self.options(suffix))).map(Directory::new)
    }

    /// Makes an empty file that stays until the scope ends.
    ///
    /// # Errors
    /// As [`Self::temp_file`]; Unsupported where this process can name no path, as on a delegated channel.
    pub fn create_temp_file(&self, suffix: impl AsRef<OsStr>) -> Result<PathBuf, ClientError> {
        block(self.scoped.create_file(&self.options(suffix)))
    }

    /// Makes a directory that stays until the scope ends.
    ///
    /// # Errors
    /// As [`Self::create_temp_file`].
    pub fn create_temp_dir(&self, suffix: impl AsRef<OsStr>) -> Result<PathBuf, ClientError> {
        block(self.scoped.create_directory(&self.options(suffix)))
    }

    /// Makes a file of mode 0600 with these bytes in it, whatever the umask: nobody else can read them at any time. They are
    /// written when this returns; the position is behind them.
    ///
    /// # Errors
    /// As [`Self::temp_file`], and those of write(2): then the file is removed.
    pub fn secure_temp_write(
        &self,
        bytes: impl AsRef<[u8]>,
        suffix: impl AsRef<OsStr>,
    ) -> Result<NamedFile, ClientError> {
        let mut made = self.temp_file(suffix)?;
        made.file.write_all(bytes.as_ref()).map_err(|error| {
            ClientError::std_io("write", made.path().unwrap_or_else(|| made.name().as_ref()), &error)
        })?;
        Ok(made)
    }

    /// Runs work in this scope. Where it fails or panics, all that is in the scope is removed, what was there before included;
    /// after [`Self::cleanup_on_error`] with `false` it stays until its lease's holders end instead, and the error says where. What
    /// has a guard inside of the work goes with that guard in any case. After good work all stays as it is until the scope ends.
    ///
    /// # Errors
    /// What the work says.
    pub fn run<T, E>(&self, work: impl FnOnce(&Self) -> Result<T, E>) -> Result<T, ScopeError<E>> {
        let begun = self.scoped.begin();
        let result = work(self);
        block(begun.end(result))
    }

    /// Removes all that is in the scope; returns when it is out of the name space. The next call begins with a lease of its own. That
    /// all is gone already is no error.
    ///
    /// # Errors
    /// Those of the connection: then it can be tried again.
    pub fn cleanup_all(&self) -> Result<(), ClientError> {
        block(self.scoped.cleanup_all())
    }

    /// Whether what [`Self::run`] runs loses what it made when it fails. It does unless it was said otherwise.
    pub fn cleanup_on_error(&self, cleanup: bool) {
        self.scoped.cleanup_on_error(cleanup);
    }

    /// Where the last work is that failed and was not removed; also after a panic.
    #[must_use]
    pub fn left(&self) -> Option<Left> {
        self.scoped.left()
    }

    /// The id of its lease; none before something is made.
    #[must_use]
    pub fn lease(&self) -> Option<String> {
        self.scoped.id()
    }

    /// The directory of its lease; none before something is made, or where this process can name none.
    #[must_use]
    pub fn path(&self) -> Option<PathBuf> {
        self.scoped.path()
    }

    fn options(&self, suffix: impl AsRef<OsStr>) -> AreaOptions {
        self.scoped.options(suffix.as_ref())
    }
}
