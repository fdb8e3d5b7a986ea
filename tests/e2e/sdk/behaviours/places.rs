//! What is made by a function of the caller's, and what becomes of relative paths when the process goes elsewhere.

use std::collections::HashSet;
use std::env::set_current_dir;
use std::fs::{self, File};
use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::fs::{FileTypeExt, symlink};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;

use scratch_tests::{DEADLINE, eventually};

use super::super::{Desk, all, cases, content};
use super::kept;
use super::temp::{Builder, NamedTempFile, TempDir, tempdir_in, tempfile_in};

cases! {
    a_file_is_made_by_the_caller,
    a_socket_is_made_by_the_caller,
    is_made_again_while_its_name_is_taken,
    is_made_once_where_its_name_is_exact,
    what_the_caller_says_is_what_is_heard,
    stays_where_it_is_when_the_process_goes,
    here_has_many_names,
    is_persisted_by_a_relative_path,
    a_slash_at_the_end_is_a_directorys,
    is_made_in_a_directory_of_its_own,
    a_link_in_a_directory_of_its_own_leads_out,
}

fn a_file_is_made_by_the_caller(_: &Desk) {
    let mut calls = 0;
    let make = Builder::new().prefix("made-").suffix(".x").make(|path| {
        calls += 1;
        File::create_new(path)
    });
    let mut file = make.expect("a file is made");
    write!(file, "content").expect("it is open for writing");
    let path = file.path().to_owned();
    assert_eq!((calls, content(&path).as_str()), (1, "content"));
    let name = path.file_name().and_then(|name| name.to_str()).expect("it is plain");
    assert!(name.starts_with("made-") && name.ends_with(".x"));
    drop(file);
    assert!(!path.exists());
}

fn a_socket_is_made_by_the_caller(desk: &Desk) {
    let make = || Builder::new().suffix(".sock").make(|path| UnixListener::bind(path)).expect("a socket is made");
    let speak = |listener: &UnixListener, path: &std::path::Path| {
        let mut stream = UnixStream::connect(path).expect("it listens");
        stream.write_all(b"word").and_then(|()| stream.shutdown(std::net::Shutdown::Both)).expect("it is open");
        let mut said = String::new();
        listener.accept().and_then(|(mut peer, _)| peer.read_to_string(&mut said)).expect("somebody came");
        assert_eq!(said, "word");
    };
    let socket = make();
    speak(socket.as_file(), socket.path());
    let path = socket.path().to_owned();
    drop(socket);
    assert!(!path.exists());
    let target = desk.path.join("target");
    let socket = make();
    let path = socket.path().to_owned();
    let listener = socket.persist(&target).expect("a socket can be moved");
    speak(&listener, &target);
    assert!(!path.exists() && target.metadata().expect("it is there").file_type().is_socket());
}

fn is_made_again_while_its_name_is_taken(_: &Desk) {
    for kind in [ErrorKind::AlreadyExists, ErrorKind::AddrInUse] {
        let mut paths = HashSet::<PathBuf>::new();
        let made = Builder::new().make(|path| {
            assert!(paths.insert(path.to_owned()), "the same again");
            if paths.len() < 7 { Err(kind.into()) } else { File::create_new(path) }
        });
        let file = made.expect("a file is made");
        assert!(paths.len() == 7 && file.path().is_file());
        drop(file);
        assert!(paths.iter().all(|path| !path.exists()));
    }
}

fn is_made_once_where_its_name_is_exact(_: &Desk) {
    let mut builder = Builder::new();
    builder.prefix("exact.sock").rand_bytes(0);
    let socket = builder.make(|path| UnixListener::bind(path)).expect("the name is free");
    assert!(socket.path().ends_with("exact.sock"));
    let mut calls = 0;
    let refused = builder.make(|path| {
        calls += 1;
        UnixListener::bind(path)
    });
    let kind = refused.expect_err("the name is taken").kind();
    assert!(matches!(kind, ErrorKind::AddrInUse | ErrorKind::AlreadyExists), "{kind}");
    assert!(calls == 1 && socket.path().exists(), "what is somebody's was removed");
}

fn what_the_caller_says_is_what_is_heard(_: &Desk) {
    let mut seen = PathBuf::new();
    let made: io::Result<NamedTempFile<()>> = Builder::new().make(|path| {
        path.clone_into(&mut seen);
        File::create_new(path)?;
        Err(io::Error::other("no more of it"))
    });
    assert_eq!(made.expect_err("it said so").to_string(), "no more of it");
    // What it leaves behind is its own.
    fs::remove_file(seen).expect("it is there");
}

fn stays_where_it_is_when_the_process_goes(desk: &Desk) {
    set_current_dir(&desk.path).expect("it is there");
    let [dropped, persisted, opened, kept] = [(); 4].map(|()| NamedTempFile::new_in(".").expect("a file is made"));
    let [directory, closed] = [(); 2].map(|()| TempDir::new_in(".").expect("a directory is made"));
    fs::create_dir("below").and_then(|()| set_current_dir("below")).expect("the directory is ours");
    let paths = [dropped.path(), opened.path(), directory.path(), closed.path()].map(ToOwned::to_owned);
    assert!(paths.iter().all(|path| path.is_absolute() && path.exists()), "{paths:?}");
    opened.reopen().expect("it is there");
    persisted.persist("persisted").expect("the name is free");
    let (_, kept) = kept.keep().expect("it can stay");
    assert!(kept.is_absolute() && kept.is_file() && desk.path.join("below/persisted").is_file());
    closed.close().expect("it can be removed");
    drop((dropped, opened, directory));
    assert!(paths.iter().all(|path| !path.exists()), "{paths:?}");
    set_current_dir("/").expect("it is there");
}

fn here_has_many_names(desk: &Desk) {
    fs::create_dir(desk.path.join("below")).expect("the directory is ours");
    set_current_dir(&desk.path).expect("it is there");
    for here in ["", ".", "below/..", "./"] {
        let file = NamedTempFile::new_in(here).expect("a file is made");
        let directory = TempDir::new_in(here).expect("a directory is made");
        let nameless = tempfile_in(here).expect("a file is made");
        assert_eq!(all(&nameless), "");
        let found = fs::read_dir(&desk.path).expect("it is there").count();
        assert_eq!(found, 3, "{here:?}: {} and {}", file.path().display(), directory.path().display());
    }
    set_current_dir("/").expect("it is there");
}

fn is_persisted_by_a_relative_path(desk: &Desk) {
    set_current_dir(&desk.path).expect("it is there");
    fs::create_dir("below").expect("the directory is ours");
    for target in ["plain", "./dotted", "below/deeper", "below/../back"] {
        NamedTempFile::new().expect("a file is made").persist(target).expect("the name is free");
        assert!(desk.path.join(target).is_file(), "{target}");
    }
    for target in ["", ".", "below/..", "/"] {
        NamedTempFile::new().expect("a file is made").persist(target).expect_err("it is no name for a file");
    }
    set_current_dir("/").expect("it is there");
}

fn a_slash_at_the_end_is_a_directorys(desk: &Desk) {
    let at = |name: &str| PathBuf::from(format!("{}/{name}", desk.path.display()));
    fs::create_dir(at("directory")).and_then(|()| fs::write(at("file"), "before")).expect("the desk is ours");
    for slashes in ["directory/", "directory//", "directory/./"] {
        let file = NamedTempFile::new_in(at(slashes)).expect("a file is made");
        let directory = tempdir_in(at(slashes)).expect("a directory is made");
        for path in [file.path(), directory.path()] {
            assert!(path.parent() == Some(&at("directory")) && path.exists(), "{}", path.display());
        }
        assert_eq!(all(&tempfile_in(at(slashes)).expect("a file is made")), "");
    }
    // A file gets no such name, whatever is there.
    for target in ["missing/", "directory/", "directory//", "file/"] {
        let refused = NamedTempFile::new().expect("a file is made").persist(at(target)).expect_err("it is a file");
        assert_eq!(refused.error.kind(), ErrorKind::NotADirectory, "{target}");
    }
    for (target, kind) in [("missing/", ErrorKind::NotADirectory), ("directory/", ErrorKind::AlreadyExists)] {
        let refused = NamedTempFile::new().expect("a file is made").persist_noclobber(at(target));
        assert_eq!(refused.expect_err("it is a file").error.kind(), kind, "{target}");
    }
    for target in ["missing/.", "directory/.", "directory/./"] {
        NamedTempFile::new().expect("a file is made").persist(at(target)).expect_err("it is no name for a file");
    }
    assert!(!at("missing").exists() && content(&at("file")) == "before");
    let inside = || fs::read_dir(at("directory")).expect("it is there").count();
    eventually(DEADLINE, "nothing is left", || inside() == 0);
}

fn is_made_in_a_directory_of_its_own(desk: &Desk) {
    let outer = TempDir::new().expect("a directory is made");
    fs::create_dir_all(outer.path().join("a/b")).expect("the directory is ours");
    for below in ["", "a", "a/b", "a/./b/"] {
        let there = outer.path().join(below);
        let [dropped, closed, persisted, stays] = [(); 4].map(|()| {
            let mut file = NamedTempFile::new_in(&there).expect("a file is made");
            write!(file, "content").expect("it is open for writing");
            file
        });
        let [inner, left] = [(); 2].map(|()| TempDir::new_in(&there).expect("a directory is made"));
        let paths = [dropped.path(), closed.path(), persisted.path(), inner.path()].map(ToOwned::to_owned);
        assert!(paths.iter().all(|path| path.parent() == Some(&there) && path.exists()), "{paths:?}");
        assert_eq!(all(dropped.reopen().expect("it is there")), "content");
        drop((dropped, inner));
        closed.close().expect("it can be removed");
        let target = desk.path.join("target");
        persisted.persist(&target).expect("the name is free");
        assert!(paths.iter().all(|path| !path.exists()) && content(&target) == "content", "{paths:?}");
        // What stays is in the directory still, and goes with that.
        let (before, before_left) = (stays.path().to_owned(), left.path().to_owned());
        assert_eq!(stays.keep().expect("it can stay").1, before);
        assert_eq!(kept(left), before_left);
        assert!(content(&before) == "content" && before_left.is_dir());
        fs::remove_file(target).expect("it is ours");
    }
    NamedTempFile::new_in(outer.path().join("missing")).expect_err("there is no such directory");
    let path = outer.path().to_owned();
    outer.close().expect("it can be removed");
    assert!(!path.exists());
}

fn a_link_in_a_directory_of_its_own_leads_out(desk: &Desk) {
    let outer = TempDir::new().expect("a directory is made");
    let link = outer.path().join("link");
    symlink(&desk.path, &link).expect("the directory is ours");
    let file = NamedTempFile::new_in(&link).expect("a file is made");
    let directory = TempDir::new_in(&link).expect("a directory is made");
    let here = || fs::read_dir(&desk.path).expect("it is there").count();
    assert!(here() == 2 && file.path().is_file() && directory.path().is_dir());
    drop((file, directory));
    eventually(DEADLINE, "nothing is left where it leads", || here() == 0);
}
