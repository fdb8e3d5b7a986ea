//! A program that forks with one of each guard in hand, and whose child ends before it.
//!
//! `forking-client NAMED drop|exit|use` makes things in leases and in the directory NAMED. There is no fork(2) without `unsafe`: it is
//! started with a library in front of libc's to which getppid(2) is that. The child drops its guards and ends, ends without
//! that, or makes things of its own first. Then the parent looks whether all of its own is there, drops it, and looks whether it
//! is gone.

use std::fs::File;
use std::io::{self, Write};
use std::os::unix::net::UnixListener;
use std::os::unix::process::parent_id;
use std::path::{Path, PathBuf};
use std::process::exit;

use rustix::process::{Pid, WaitOptions, waitpid};
use scratch_client::temp::{
    Builder, NamedTempFile, SpooledTempFile, TempDir, TempPath, client, spooled_tempfile, tempfile,
};
use scratch_client::{AreaOptions, Directory, GrantOptions, Holder, Lease, NamedFile, Scope, ScopeOptions, Stock};

/// One of each kind.
struct Held {
    named: NamedTempFile,
    inside: NamedTempFile,
    there: NamedTempFile,
    path: TempPath,
    socket: NamedTempFile<UnixListener>,
    directory: TempDir,
    directory_there: TempDir,
    nameless: File,
    spooled: SpooledTempFile,
    area: NamedFile,
    area_directory: Directory,
    scope: Scope,
    stock: Stock,
    leases: [Lease; 2],
}

fn main() -> io::Result<()> {
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    let [there, what] = &arguments[..] else { panic!("usage: forking-client NAMED drop|exit|use") };
    let held = hold(Path::new(there))?;
    let paths = held.paths();
    assert!(paths.iter().all(|path| path.exists()), "{paths:?}");
    let child = parent_id();
    if child == 0 {
        match &**what {
            "drop" => drop(held),
            "use" => use_own(&held, &paths)?,
            _ => {}
        }
        exit(0);
    }
    let child = i32::try_from(child).ok().and_then(Pid::from_raw);
    let ended = waitpid(child, WaitOptions::empty())?.expect("a child that is waited for has ended");
    assert_eq!(ended.1.exit_status(), Some(0), "the child");

    assert!(paths.iter().all(|path| path.exists()), "{paths:?}");
    held.check()?;
    drop(held);
    assert!(paths.iter().all(|path| !path.exists()), "{paths:?}");
    Ok(())
}

fn hold(there: &Path) -> io::Result<Held> {
    let (client, options) = (client()?, AreaOptions::default());
    let directory = TempDir::new()?;
    let scope = client.scope(&ScopeOptions::default());
    scope.create_temp_file("")?;
    let mut stock = client.stock(8)?;
    drop(stock.take()?);
    let by = |holder| client.grant(&GrantOptions { holders: vec![holder], ..GrantOptions::default() });
    let leases = [by(Holder::Process)?, by(Holder::Connection)?];
    let mut nameless = tempfile()?;
    nameless.write_all(b"content")?;
    let mut spooled = spooled_tempfile(1);
    spooled.write_all(b"content")?;
    Ok(Held {
        named: NamedTempFile::new()?,
        inside: NamedTempFile::new_in(&directory)?,
        there: NamedTempFile::new_in(there)?,
        path: NamedTempFile::new()?.into_temp_path(),
        socket: Builder::new().make(|path| UnixListener::bind(path))?,
        directory,
        directory_there: TempDir::new_in(there)?,
        nameless,
        spooled,
        area: leases[0].file(&options)?,
        area_directory: leases[1].directory(&options)?,
        scope,
        stock,
        leases,
    })
}

impl Held {
    fn paths(&self) -> Vec<PathBuf> {
        let guards = [self.named.path(), self.inside.path(), self.there.path(), &self.path, self.socket.path()];
        let directories = [self.directory.path(), self.directory_there.path()];
        let areas = [self.area.path(), self.area_directory.path(), self.leases[0].path(), self.leases[1].path()];
        let scope = self.scope.path();
        let all = guards.into_iter().chain(directories).chain(areas.into_iter().flatten());
        all.map(Path::to_owned).chain(scope).collect()
    }

    /// Each still serves.
    fn check(&self) -> io::Result<()> {
        for lease in &self.leases {
            drop(lease.file(&AreaOptions::default())?);
        }
        drop(self.scope.temp_file("")?);
        drop(NamedTempFile::new()?);
        drop(NamedTempFile::new_in(&self.directory)?);
        assert_eq!(self.nameless.metadata()?.len(), 7);
        assert!(self.spooled.is_rolled() && self.stock.len() <= 8);
        Ok(())
    }
}

/// By the client that it has from its parent, whose leases are not its own.
fn use_own(held: &Held, parents: &[PathBuf]) -> io::Result<()> {
    let (file, directory) = (NamedTempFile::new()?, TempDir::new()?);
    assert_ne!(file.path().parent(), held.named.path().parent(), "a child has its own lease");
    let scoped = held.scope.temp_file("")?;
    assert!(scoped.path().is_some_and(|path| parents.iter().all(|parent| !path.starts_with(parent))));
    drop((file, directory, scoped));
    Ok(())
}
