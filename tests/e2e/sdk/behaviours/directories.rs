//! Directories, with what is in them.

use std::fs::{self, Permissions};
use std::io::Write;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::panic::catch_unwind;
use std::path::{Path, PathBuf};
use std::sync::mpsc::channel;
use std::thread;

use rustix::fs::Mode;
use rustix::process::umask;

use super::super::{Desk, cases, content};
use super::kept;
use super::temp::{Builder, NamedTempFile, TempDir, tempdir, tempdir_in};

cases! {
    goes_with_all_that_is_in_it,
    is_closed,
    follows_no_link,
    has_the_name_that_was_asked_for,
    has_the_mode_that_was_asked_for,
    goes_to_threads_and_comes_back,
    goes_when_a_thread_panics,
    does_not_panic_twice,
    is_a_path_by_reference,
    what_is_below_may_go_first_or_last,
    is_kept,
    is_left_where_that_was_asked_for,
}

fn two(desk: &Desk) -> [TempDir; 2] {
    [tempdir(), tempdir_in(&desk.path)].map(|made| made.expect("a directory is made"))
}

fn fill(directory: &TempDir) {
    let below = directory.path().join("a/b/c");
    fs::create_dir_all(&below).expect("the directory is ours");
    for name in ["one", "two"] {
        fs::write(below.join(name), name).expect("the directory is ours");
    }
    fs::set_permissions(directory.path().join("a/b"), Permissions::from_mode(0o500)).expect("it is ours");
}

fn goes_with_all_that_is_in_it(desk: &Desk) {
    for directory in two(desk) {
        fill(&directory);
        let path = directory.path().to_owned();
        assert!(path.is_absolute() && path.join("a/b/c/one").is_file());
        drop(directory);
        assert!(!path.exists());
    }
}

fn is_closed(desk: &Desk) {
    for directory in two(desk) {
        fill(&directory);
        let path = directory.path().to_owned();
        directory.close().expect("it can be removed");
        assert!(!path.exists());
    }
}

fn follows_no_link(desk: &Desk) {
    let outside = desk.path.join("outside");
    fs::create_dir(&outside).and_then(|()| fs::write(outside.join("file"), "alive")).expect("the desk is ours");
    for directory in two(desk) {
        symlink(&outside, directory.path().join("directory")).expect("the directory is ours");
        symlink(outside.join("file"), directory.path().join("file")).expect("the directory is ours");
        directory.close().expect("it can be removed");
        assert_eq!(content(&outside.join("file")), "alive");
    }
}

fn has_the_name_that_was_asked_for(desk: &Desk) {
    let name = |made: std::io::Result<TempDir>| {
        let directory = made.expect("a directory is made");
        directory.path().file_name().and_then(|name| name.to_str()).expect("it is plain").to_owned()
    };
    let starts = [TempDir::with_prefix("start-"), TempDir::with_prefix_in("start-", &desk.path)];
    assert!(starts.map(name).iter().all(|name| name.starts_with("start-")));
    let ends = [TempDir::with_suffix(".end"), TempDir::with_suffix_in(".end", &desk.path)];
    assert!(ends.map(name).iter().all(|name| name.ends_with(".end")));
    let mut builder = Builder::new();
    builder.prefix("start-").suffix(".end").rand_bytes(20);
    for name in [builder.tempdir(), builder.tempdir_in(&desk.path)].map(name) {
        assert!(name.starts_with("start-") && name.ends_with(".end") && name.len() == 6 + 20 + 4, "{name}");
    }
}

fn has_the_mode_that_was_asked_for(desk: &Desk) {
    let before = umask(Mode::from_raw_mode(0));
    for mode in [0o700, 0o750, 0o777] {
        let mut builder = Builder::new();
        builder.permissions(Permissions::from_mode(mode));
        for directory in [builder.tempdir(), builder.tempdir_in(&desk.path)].map(|made| made.expect("it is made")) {
            assert_eq!(directory.path().metadata().expect("it is there").mode() & 0o7777, mode);
        }
    }
    umask(before);
}

fn goes_to_threads_and_comes_back(_: &Desk) {
    let path = {
        let directory = thread::spawn(TempDir::new).join().expect("it does not panic").expect("a directory is made");
        let path = directory.path().to_owned();
        assert!(path.is_dir());
        path
    };
    assert!(!path.exists());
    let many: Vec<_> = (0..8).map(|_| thread::spawn(|| [(); 8].map(|()| TempDir::new()))).collect();
    let made = many.into_iter().flat_map(|thread| thread.join().expect("it does not panic"));
    let made: Vec<_> = made.map(|made| made.expect("a directory is made")).collect();
    let paths: Vec<PathBuf> = made.iter().map(|directory| directory.path().to_owned()).collect();
    assert!(paths.iter().all(|path| path.is_dir()));
    thread::spawn(move || drop(made)).join().expect("it does not panic");
    assert!(paths.iter().all(|path| !path.exists()));
}

fn goes_when_a_thread_panics(desk: &Desk) {
    let (send, receive) = channel();
    let own = TempDir::new_in(&desk.path).expect("a directory is made");
    let thread = thread::spawn(move || {
        let directory = TempDir::new().expect("a directory is made");
        fill(&directory);
        let file = NamedTempFile::new().expect("a file is made");
        let paths = [directory.path(), own.path(), file.path()].map(ToOwned::to_owned);
        send.send(paths).expect("the other side waits");
        panic!("as this case wants it");
    });
    thread.join().expect_err("it panics");
    let paths = receive.recv().expect("it was sent");
    assert!(paths.iter().all(|path| !path.exists()), "{paths:?}");
}

fn does_not_panic_twice(desk: &Desk) {
    for directory in two(desk) {
        let result = catch_unwind(move || {
            fs::remove_dir(directory.path()).expect("it is empty");
            panic!("as this case wants it");
        });
        result.expect_err("it panics");
    }
}

fn is_a_path_by_reference(_: &Desk) {
    fn is_there(path: impl AsRef<Path>) -> bool {
        path.as_ref().is_dir()
    }
    let directory = TempDir::new().expect("a directory is made");
    assert!(is_there(&directory));
    assert_eq!(format!("{directory:?}"), format!("TempDir {{ path: {:?} }}", directory.path()));
}

fn what_is_below_may_go_first_or_last(desk: &Desk) {
    for outer in two(desk) {
        let [first, last] = [(); 2].map(|()| TempDir::new_in(&outer).expect("a directory is made"));
        let mut file = NamedTempFile::new_in(&last).expect("a file is made");
        let paths = [outer.path(), first.path(), last.path(), file.path()].map(ToOwned::to_owned);
        drop(first);
        assert!(!paths[1].exists());
        drop(outer);
        assert!(paths.iter().all(|path| !path.exists()));
        file.write_all(b"without a name").expect("it is open still");
        drop((last, file));
    }
}

fn is_kept(desk: &Desk) {
    for directory in two(desk) {
        let is_there = directory.path().parent() == Some(&*desk.path);
        let before = directory.path().to_owned();
        fs::write(before.join("file"), "content").expect("it is ours");
        let path = kept(directory);
        assert!(path.is_absolute() && (!is_there || path == before));
        assert_eq!(content(&path.join("file")), "content");
        fs::remove_file(path.join("file")).and_then(|()| fs::remove_dir(&path)).expect("it is ours");
    }
}

fn is_left_where_that_was_asked_for(desk: &Desk) {
    for (first, then) in [(false, None), (true, None), (true, Some(false)), (false, Some(true))] {
        let mut builder = Builder::new();
        builder.disable_cleanup(first);
        for made in [builder.tempdir(), builder.tempdir_in(&desk.path)] {
            let mut directory = made.expect("a directory is made");
            if let Some(then) = then {
                directory.disable_cleanup(then);
            }
            let path = directory.path().to_owned();
            drop(directory);
            assert_eq!(path.exists(), then.unwrap_or(first));
            let _ = fs::remove_dir(path);
        }
    }
}
