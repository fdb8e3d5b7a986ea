//! A program that is killed: it holds one of each kind of temporary thing, and persists others with a content that tells
//! whether it is whole.
//!
//! `guards-client NAMED TARGETS OTHER ROUNDS` makes things in its lease and in the directory NAMED, and persists into the
//! directories TARGETS, on the pool's file system, and OTHER, on another one; what it keeps is in NAMED/kept and in TMPDIR. After
//! each round it adds a line to the file ROUNDS. It says `well` after the first, and goes on until it is killed.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, ErrorKind, Write, stdout};
use std::net::Shutdown;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use scratch_client::Replace;
use scratch_client::temp::{
    Builder, NamedTempFile, SpooledTempFile, TempDir, TempPath, spooled_tempfile, spooled_tempfile_in, tempfile,
};
use scratch_tests::{PERSISTED_DIRECTORY_MODE, PERSISTED_FILE_MODE, whole};

/// One of each kind, held until the next round's are there.
struct Held {
    _named: NamedTempFile,
    _nameless: File,
    _directory: TempDir,
    _spooled: [SpooledTempFile; 3],
    _path: TempPath,
    _file_there: NamedTempFile,
    _directory_there: TempDir,
    _socket: NamedTempFile<UnixListener>,
}

fn main() -> io::Result<()> {
    let arguments: Vec<PathBuf> = std::env::args_os().skip(1).map(PathBuf::from).collect();
    let [named, targets, other, rounds] = &arguments[..] else {
        panic!("usage: guards-client NAMED TARGETS OTHER ROUNDS");
    };
    let mut rounds = OpenOptions::new().create(true).append(true).open(rounds)?;
    let mut before = None;
    for round in 0_u64.. {
        let held = hold(named, round)?;
        for target in [targets, other] {
            persist(target, round)?;
        }
        from_there(named, targets, round)?;
        writeln!(rounds, "{round}")?;
        if before.replace(held).is_none() {
            writeln!(stdout(), "well")?;
        }
    }
    Ok(())
}

fn hold(there: &Path, round: u64) -> io::Result<Held> {
    let mut named = NamedTempFile::new()?;
    named.write_all(&whole(round))?;
    let mut nameless = tempfile()?;
    nameless.write_all(&whole(round))?;
    let mut spooled = [spooled_tempfile(1 << 30), spooled_tempfile(1), spooled_tempfile_in(1, there)];
    for file in &mut spooled {
        file.write_all(&whole(round))?;
    }
    let socket = Builder::new().suffix(".sock").make(|path| UnixListener::bind(path))?;
    UnixStream::connect(socket.path())?.shutdown(Shutdown::Both)?;
    let mut file_there = NamedTempFile::new_in(there)?;
    file_there.write_all(&whole(round))?;
    Ok(Held {
        _named: named,
        _nameless: nameless,
        _directory: fill(TempDir::new()?, round)?,
        _spooled: spooled,
        _path: NamedTempFile::new()?.into_temp_path(),
        _file_there: file_there,
        _directory_there: fill(TempDir::new_in(there)?, round)?,
        _socket: socket,
    })
}

fn fill(directory: TempDir, round: u64) -> io::Result<TempDir> {
    let below = directory.path().join("below");
    fs::create_dir(&below)?;
    for file in [directory.path().join("file"), below.join("file")] {
        write(&mut OpenOptions::new().write(true).create_new(true).open(&file)?, round)?;
    }
    fs::set_permissions(below, Permissions::from_mode(PERSISTED_DIRECTORY_MODE))?;
    Ok(directory)
}

fn write(file: &mut File, round: u64) -> io::Result<()> {
    file.set_permissions(Permissions::from_mode(PERSISTED_FILE_MODE))?;
    file.write_all(&whole(round))
}

fn file(round: u64) -> io::Result<NamedTempFile> {
    let mut file = Builder::new().permissions(Permissions::from_mode(PERSISTED_FILE_MODE)).tempfile()?;
    file.write_all(&whole(round))?;
    Ok(file)
}

/// Out of the lease: new names, a name that is replaced each time, and one that must not be.
fn persist(target: &Path, round: u64) -> io::Result<()> {
    file(round)?.persist(target.join(format!("file-{round}")))?;
    file(round)?.persist(target.join("latest"))?;
    let refused = file(round)?.persist_noclobber(target.join("latest")).expect_err("the name is taken");
    if refused.error.kind() != ErrorKind::AlreadyExists {
        return Err(refused.error);
    }
    refused.file.persist_noclobber(target.join(format!("once-{round}")))?;
    file(round)?.into_temp_path().persist(target.join(format!("path-{round}")))?;
    let directory = Builder::new().permissions(Permissions::from_mode(PERSISTED_DIRECTORY_MODE)).tempdir()?;
    let directory = fill(directory, round)?;
    directory.persist(target.join(format!("directory-{round}")), Replace::Never).map_err(|refused| refused.error)?;
    file(round)?.keep()?;
    Ok(())
}

/// Out of a directory of one's own.
fn from_there(there: &Path, target: &Path, round: u64) -> io::Result<()> {
    let file = |directory: &Path| {
        let mut builder = Builder::new();
        let mut file = builder.permissions(Permissions::from_mode(PERSISTED_FILE_MODE)).tempfile_in(directory)?;
        file.write_all(&whole(round))?;
        Ok::<_, io::Error>(file)
    };
    file(there)?.persist(target.join(format!("there-{round}")))?;
    file(there)?.persist(target.join("latest"))?;
    file(there)?.persist_noclobber(target.join(format!("there-once-{round}")))?;
    file(&there.join("kept"))?.keep()?;
    Ok(())
}
