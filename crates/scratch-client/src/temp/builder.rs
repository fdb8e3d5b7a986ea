//! How what is made is to be, and where.

use std::ffi::{OsStr, OsString};
use std::fs::{File, Permissions};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;

use rustix::fs::OFlags;
use rustix::io::Errno;

use super::place::{Place, Under};
use super::{NamedTempFile, TempDir, TempPath};
use crate::named::{Maker, Named};
use crate::spot::Spot;
use crate::{AreaOptions, ClientError, Lease};

/// As often a fresh name is tried.
const NAMES_MAX: usize = 10_000;

/// Makes files and directories with names of one's own, modes of one's own, or under another lease than this process's.
///
/// ```
/// # fn main() -> std::io::Result<()> {
/// let file = scratch_client::temp::Builder::new().prefix("report-").suffix(".csv").tempfile()?;
/// assert!(file.path().to_string_lossy().ends_with(".csv"));
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct Builder {
    prefix: OsString,
    suffix: OsString,
    rand_bytes: usize,
    mode: Option<u32>,
    append: bool,
    disable_cleanup: bool,
    place: Place,
}

impl Default for Builder {
    fn default() -> Self {
        let AreaOptions { prefix, suffix, random_chars, .. } = AreaOptions::default();
        Self {
            prefix,
            suffix,
            rand_bytes: random_chars,
            mode: None,
            append: false,
            disable_cleanup: false,
            place: Place::default(),
        }
    }
}

impl Builder {
    /// `tmp` and 8 random characters, for this user alone, under the lease of this process.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Before the random characters; no `/` and no NUL.
    pub fn prefix(&mut self, prefix: &(impl AsRef<OsStr> + ?Sized)) -> &mut Self {
        prefix.as_ref().clone_into(&mut self.prefix);
        self
    }

    /// After the random characters; no `/` and no NUL.
    pub fn suffix(&mut self, suffix: &(impl AsRef<OsStr> + ?Sized)) -> &mut Self {
        suffix.as_ref().clone_into(&mut self.suffix);
        self
    }

    /// How many random characters, 3 to 64. With 0 prefix and suffix are the name: AlreadyExists where it is taken.
    pub fn rand_bytes(&mut self, rand: usize) -> &mut Self {
        self.rand_bytes = rand;
        self
    }

    /// Writes go to the end of the file, as with O_APPEND.
    pub fn append(&mut self, append: bool) -> &mut Self {
        self.append = append;
        self
    }

    /// Permission bits, exact whatever the umask.
    pub fn mode(&mut self, mode: u32) -> &mut Self {
        self.mode = Some(mode);
        self
    }

    /// As [`Self::mode`].
    pub fn permissions(&mut self, permissions: Permissions) -> &mut Self {
        self.mode(permissions.mode() & 0o7777)
    }

    /// As [`TempPath::disable_cleanup`].
    pub fn disable_cleanup(&mut self, disable_cleanup: bool) -> &mut Self {
        self.disable_cleanup = disable_cleanup;
        self
    }

    /// Under this lease instead of that of this process.
    pub fn under(&mut self, lease: &Lease) -> &mut Self {
        self.place.lease = Some(lease.under());
        self
    }

    /// Makes a file in the lease's directory.
    ///
    /// # Errors
    /// InvalidInput for names that can't be; AlreadyExists; those of the file system and of the connection. A lease in memory
    /// and a delegated channel have no paths: Unsupported.
    pub fn tempfile(&self) -> io::Result<NamedTempFile> {
        self.file(&self.place)
    }

    /// Makes a file in a directory of this user's own. It is removed with its lease all the same. One in the lease's directory, such
    /// as a [`TempDir`] of this process, costs no more than none.
    ///
    /// # Errors
    /// As [`Lease::file_in`].
    pub fn tempfile_in(&self, dir: impl AsRef<Path>) -> io::Result<NamedTempFile> {
        self.file(&self.place.in_directory(dir.as_ref()))
    }

    /// Makes a directory in the lease's directory.
    ///
    /// # Errors
    /// As [`Self::tempfile`].
    pub fn tempdir(&self) -> io::Result<TempDir> {
        self.directory(&self.place)
    }

    /// Makes a directory in a directory of this user's own, as [`Self::tempfile_in`].
    ///
    /// # Errors
    /// As [`Lease::directory_in`].
    pub fn tempdir_in(&self, dir: impl AsRef<Path>) -> io::Result<TempDir> {
        self.directory(&self.place.in_directory(dir.as_ref()))
    }

    /// Has `make` make something at a path in the lease's directory, a Unix socket for example. It is called again with another
    /// path as long as it says AlreadyExists or AddrInUse.
    ///
    /// # Errors
    /// As [`Self::tempfile`], and what `make` says.
    pub fn make<R>(&self, mut make: impl FnMut(&Path) -> io::Result<R>) -> io::Result<NamedTempFile<R>> {
        let Under { broker, tenure } = self.place.under()?;
        let options = self.options();
        for _ in 0..if options.name.is_some() { 1 } else { NAMES_MAX } {
            let name = options.draw()?;
            let spot = Spot { inside: None, name };
            let named = Named::new(Arc::clone(&broker), Arc::clone(&tenure), spot, Maker::Process);
            let mut path = TempPath::new(named)?;
            // Until it is made, somebody else's may have the name.
            path.disable_cleanup(true);
            match make(&path) {
                Ok(made) => {
                    path.disable_cleanup(self.disable_cleanup);
                    return Ok(NamedTempFile::from_parts(made, path));
                }
                Err(error) if matches!(error.kind(), io::ErrorKind::AlreadyExists | io::ErrorKind::AddrInUse) => {}
                Err(error) => return Err(error),
            }
        }
        Err(ClientError::io("make", tenure.path.as_deref().unwrap_or_else(|| Path::new("")), Errno::EXIST).into())
    }

    fn options(&self) -> AreaOptions {
        let mut name = self.prefix.clone();
        name.push(&self.suffix);
        AreaOptions {
            prefix: self.prefix.clone(),
            suffix: self.suffix.clone(),
            random_chars: self.rand_bytes,
            name: (self.rand_bytes == 0).then_some(name),
            mode: self.mode,
            inside: None,
        }
    }

    fn file(&self, place: &Place) -> io::Result<NamedTempFile> {
        let (file, named) = place.file(&self.options())?;
        let mut path = TempPath::new(named)?;
        if self.append {
            append(&file).map_err(|errno| ClientError::io("append to", &*path, errno))?;
        }
        path.disable_cleanup(self.disable_cleanup);
        Ok(NamedTempFile::from_parts(file, path))
    }

    fn directory(&self, place: &Place) -> io::Result<TempDir> {
        let mut made = TempDir::of(place.directory(&self.options())?)?;
        made.disable_cleanup(self.disable_cleanup);
        Ok(made)
    }
}

fn append(file: &File) -> Result<(), Errno> {
    rustix::fs::fcntl_setfl(file, rustix::fs::fcntl_getfl(file)? | OFlags::APPEND)
}
