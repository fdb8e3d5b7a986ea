//! Files that are moved, kept or left: where they are then, and what is said where that can't be.

use std::fs::{self, File};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::symlink;
use std::path::Path;

use super::super::{Desk, all, cases, content};
use super::temp::{Builder, NamedTempFile, PersistError, TempPath};

cases! {
    is_persisted,
    replaces_what_is_there,
    does_not_replace_where_it_must_not,
    comes_back_where_it_cant_be_moved,
    a_path_is_persisted,
    a_path_comes_back,
    a_path_is_a_path,
    a_path_can_be_written_to,
    is_kept,
    is_left_where_that_was_asked_for,
}

fn two(desk: &Desk) -> [NamedTempFile; 2] {
    [NamedTempFile::new(), NamedTempFile::new_in(&desk.path)].map(|made| {
        let mut file = made.expect("a file is made");
        file.write_all(b"content").expect("it is open for writing");
        file
    })
}

fn is_persisted(desk: &Desk) {
    for (file, target) in two(desk).into_iter().zip(["one", "two"]) {
        let (path, target) = (file.path().to_owned(), desk.path.join(target));
        let mut open = file.persist(&target).expect("the name is free");
        assert!(!path.exists());
        assert_eq!((all(&open).as_str(), &*content(&target)), ("content", "content"));
        open.write_all(b" and more").expect("it is open still");
        assert_eq!(content(&target), "content and more");
    }
}

fn replaces_what_is_there(desk: &Desk) {
    let (target, behind) = (desk.path.join("target"), desk.path.join("behind"));
    for file in two(desk) {
        fs::write(&target, "before").expect("the directory is ours");
        let before = File::open(&target).expect("it is there");
        file.persist(&target).expect("it can be replaced");
        assert_eq!((content(&target).as_str(), &*all(&before)), ("content", "before"));
        fs::remove_file(&target).expect("it is ours");
    }
    // A symbolic link is what is there, not what it leads to.
    fs::write(&behind, "behind").expect("the directory is ours");
    for file in two(desk) {
        symlink("behind", &target).expect("the directory is ours");
        file.persist(&target).expect("it can be replaced");
        assert_eq!((content(&target).as_str(), &*content(&behind)), ("content", "behind"));
        fs::remove_file(&target).expect("it is ours");
    }
}

fn does_not_replace_where_it_must_not(desk: &Desk) {
    let (target, link) = (desk.path.join("target"), desk.path.join("link"));
    fs::write(&target, "before").expect("the directory is ours");
    symlink("nowhere", &link).expect("the directory is ours");
    for mut file in two(desk) {
        for taken in [&target, &link] {
            let refused = file.persist_noclobber(taken).expect_err("it is taken");
            assert_eq!(refused.error.kind(), ErrorKind::AlreadyExists);
            file = refused.file;
        }
        assert_eq!((content(&target).as_str(), &*content(file.path())), ("before", "content"));
        let free = desk.path.join("free");
        assert_eq!(all(&file.persist_noclobber(&free).expect("it is free")), "content");
        fs::remove_file(&free).expect("it is ours");
    }
    assert!(!desk.path.join("nowhere").exists());
}

fn comes_back_where_it_cant_be_moved(desk: &Desk) {
    let directory = desk.path.join("directory");
    fs::create_dir(&directory).expect("the desk is ours");
    for file in two(desk) {
        let path = file.path().to_owned();
        let missing = desk.path.join("missing/target");
        let refused: PersistError = file.persist(&missing).expect_err("there is no such directory");
        assert_eq!(refused.error.kind(), ErrorKind::NotFound);
        assert!(!refused.to_string().is_empty() && std::error::Error::source(&refused).is_some());
        let mut file = NamedTempFile::from(refused);
        file.write_all(b" and more").expect("it is open still");
        assert_eq!((file.path(), &*content(&path)), (&*path, "content and more"));
        let refused = file.persist(&directory).expect_err("it is a directory");
        assert_eq!(io::Error::from(refused).kind(), ErrorKind::IsADirectory);
        assert!(!path.exists(), "the error that was dropped had the file");
    }
}

fn a_path_is_persisted(desk: &Desk) {
    for (file, target) in two(desk).into_iter().zip(["one", "two"]) {
        let (path, target) = (file.into_temp_path(), desk.path.join(target));
        let at = path.to_path_buf();
        path.persist(&target).expect("the name is free");
        assert!(!at.exists());
        assert_eq!(content(&target), "content");
    }
}

fn a_path_comes_back(desk: &Desk) {
    for path in two(desk).map(NamedTempFile::into_temp_path) {
        let at = path.to_path_buf();
        let refused = path.persist(desk.path.join("missing/target")).expect_err("there is no such directory");
        assert_eq!(refused.error.kind(), ErrorKind::NotFound);
        assert!(!refused.to_string().is_empty() && std::error::Error::source(&refused).is_some());
        let refused = TempPath::from(refused).persist_noclobber(&desk.path).expect_err("it is taken");
        assert!(refused.path.is_file());
        assert_eq!(io::Error::from(refused).kind(), ErrorKind::AlreadyExists);
        assert!(!at.exists(), "the error that was dropped had the file");
    }
}

fn a_path_is_a_path(desk: &Desk) {
    fn named(path: impl AsRef<Path>) -> bool {
        path.as_ref().is_file()
    }
    for path in two(desk).map(NamedTempFile::into_temp_path) {
        assert!(named(&path) && path.is_file() && path.starts_with("/"));
        assert_eq!(format!("{path:?}"), format!("{:?}", &*path));
        let said = std::process::Command::new("cat").arg(&path).output().expect("cat can be run");
        assert_eq!(said.stdout, b"content");
        let at = path.to_path_buf();
        path.close().expect("it can be removed");
        assert!(!at.exists());
    }
    let file = NamedTempFile::new().expect("a file is made");
    assert!(named(&file));
    assert_eq!(format!("{file:?}"), format!("NamedTempFile({:?})", file.path()));
}

fn a_path_can_be_written_to(_: &Desk) {
    let path = NamedTempFile::new().expect("a file is made").into_temp_path();
    fs::write(&path, "content").expect("it is there");
    assert_eq!(content(&path), "content");
}

fn is_kept(desk: &Desk) {
    for file in two(desk) {
        let is_there = file.path().parent() == Some(&*desk.path);
        let before = file.path().to_owned();
        let (open, path) = file.keep().expect("it can stay");
        assert!(path.is_absolute() && (!is_there || path == before));
        assert_eq!((all(&open).as_str(), &*content(&path)), ("content", "content"));
        fs::remove_file(&path).expect("it is ours");
    }
    for path in two(desk).map(NamedTempFile::into_temp_path) {
        let path = path.keep().expect("it can stay");
        assert_eq!(content(&path), "content");
        fs::remove_file(&path).expect("it is ours");
    }
}

fn is_left_where_that_was_asked_for(desk: &Desk) {
    for (first, then) in [(false, None), (true, None), (true, Some(false)), (false, Some(true))] {
        let mut builder = Builder::new();
        builder.disable_cleanup(first);
        for made in [builder.tempfile(), builder.tempfile_in(&desk.path)] {
            let mut file = made.expect("a file is made");
            if let Some(then) = then {
                file.disable_cleanup(then);
            }
            let path = file.path().to_owned();
            drop(file);
            assert_eq!(path.exists(), then.unwrap_or(first));
            let _ = fs::remove_file(path);
        }
        let mut path = builder.tempfile().expect("a file is made").into_temp_path();
        path.disable_cleanup(!first);
        let at = path.to_path_buf();
        drop(path);
        assert_eq!(at.exists(), !first);
        let _ = fs::remove_file(at);
    }
}
