//! Files with a name and without one, as long as nobody moves them.

use std::ffi::OsStr;
use std::fs::{self, File, Permissions};
use std::io::{self, ErrorKind, IoSlice, IoSliceMut, Read, Seek, SeekFrom, Write};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::panic::{RefUnwindSafe, UnwindSafe};

use rustix::fs::Mode;
use rustix::process::umask;

use super::super::{Desk, all, cases, content};
use super::temp::{
    Builder, NamedTempFile, PathPersistError, PersistError, SpooledTempFile, TempDir, TempPath, tempfile, tempfile_in,
};

cases! {
    is_written_and_read_back,
    is_used_by_reference,
    every_call_of_the_traits_is_the_files,
    is_gone_when_dropped_or_closed,
    without_a_name,
    has_the_name_that_was_asked_for,
    is_where_it_was_asked_for,
    an_exact_name,
    appends,
    has_the_mode_that_was_asked_for,
    is_opened_again,
    another_file_of_its_name_is_not_opened,
    becomes_a_file,
    comes_apart_and_together,
    is_one_descriptor,
    can_go_to_threads,
    fits_bounds_on_references,
}

fn is_written_and_read_back(_: &Desk) {
    let mut named = NamedTempFile::new().expect("a file is made");
    let word = "second";
    named.write_all(b"first ").and_then(|()| write!(named, "{word}")).expect("it is open for writing");
    assert_eq!((all(&mut named).as_str(), &*content(named.path())), ("first second", "first second"));
    assert_eq!(named.seek(SeekFrom::Current(-6)).expect("a file can be sought"), 6);
    let mut rest = String::new();
    named.read_to_string(&mut rest).expect("it is open for reading");
    assert_eq!(rest, "second");
    let mut nameless = tempfile().expect("a file is made");
    nameless.write_all(b"content").expect("it is open for writing");
    assert_eq!(all(&nameless), "content");
}

fn is_used_by_reference(_: &Desk) {
    let file = NamedTempFile::new().expect("a file is made");
    let (mut writer, mut reader) = (&file, &file);
    writer.write_all(b"content").and_then(|()| writer.flush()).expect("it is open for writing");
    assert_eq!(reader.seek(SeekFrom::End(-4)).expect("a file can be sought"), 3);
    let mut rest = [0; 4];
    reader.read_exact(&mut rest).expect("it is open for reading");
    assert_eq!(&rest, b"tent");
}

fn every_call_of_the_traits_is_the_files(_: &Desk) {
    let mut file = NamedTempFile::new().expect("a file is made");
    let parts = [IoSlice::new(b"one"), IoSlice::new(b"two")];
    assert_eq!(file.write_vectored(&parts).expect("it is open for writing"), 6);
    file.rewind().expect("a file can be sought");
    let (mut one, mut two) = ([0; 3], [0; 3]);
    let mut into = [IoSliceMut::new(&mut one), IoSliceMut::new(&mut two)];
    assert_eq!(file.read_vectored(&mut into).expect("it is open for reading"), 6);
    assert_eq!((&one, &two), (b"one", b"two"));
    assert_eq!(file.stream_position().expect("it has one"), 6);
    let mut bytes = Vec::new();
    file.rewind().and_then(|()| file.read_to_end(&mut bytes)).expect("it is open for reading");
    assert_eq!(bytes, b"onetwo");
    assert_eq!(file.read(&mut [0; 4]).expect("the end is no error"), 0);
    assert_eq!(file.read_exact(&mut [0; 4]).expect_err("there is no more").kind(), ErrorKind::UnexpectedEof);
}

fn is_gone_when_dropped_or_closed(desk: &Desk) {
    for make in [|_: &Desk| NamedTempFile::new(), |desk: &Desk| NamedTempFile::new_in(&desk.path)] {
        let [dropped, closed, moved] = [(); 3].map(|()| make(desk).expect("a file is made"));
        let paths = [&dropped, &closed, &moved].map(|file| file.path().to_owned());
        assert!(paths.iter().all(|path| path.is_file()));
        drop(dropped);
        closed.close().expect("it can be removed");
        let mine = desk.path.join("mine");
        fs::rename(moved.path(), &mine).expect("the file is ours");
        drop(moved);
        assert!(paths.iter().all(|path| !path.exists()) && mine.is_file());
    }
}

fn without_a_name(desk: &Desk) {
    let make = [tempfile(), tempfile_in(&desk.path), SpooledTempFile::new_in(0, &desk.path).into_file()];
    for mut file in make.map(|made| made.expect("a file is made")) {
        let about = file.metadata().expect("it is open");
        assert_eq!(about.nlink(), 0);
        file.write_all(b"content").expect("it is open for writing");
        assert_eq!(all(&file), "content");
    }
    assert_eq!(fs::read_dir(&desk.path).expect("it is there").count(), 0);
}

fn has_the_name_that_was_asked_for(desk: &Desk) {
    let name = |file: io::Result<NamedTempFile>| {
        let file = file.expect("a file is made");
        file.path().file_name().expect("it has a name").to_owned()
    };
    let starts = [NamedTempFile::with_prefix("start-"), NamedTempFile::with_prefix_in("start-", &desk.path)];
    assert!(starts.map(name).iter().all(|name| name.as_bytes().starts_with(b"start-")));
    let ends = [NamedTempFile::with_suffix(".end"), NamedTempFile::with_suffix_in(".end", &desk.path)];
    assert!(ends.map(name).iter().all(|name| name.as_bytes().ends_with(b".end")));
    let mut builder = Builder::new();
    let bytes = OsStr::from_bytes(b"\xff-");
    builder.prefix(bytes).suffix(".rs").rand_bytes(12);
    let names = [builder.tempfile(), builder.tempfile_in(&desk.path), builder.clone().tempfile()].map(name);
    for name in &names {
        let name = name.as_bytes();
        assert!(name.starts_with(b"\xff-") && name.ends_with(b".rs") && name.len() == 2 + 12 + 3, "{name:?}");
        assert!(name[2..14].iter().all(|&byte| byte.is_ascii_alphanumeric() || byte == b'_'), "{name:?}");
    }
    assert!(names[0] != names[1] && names[1] != names[2]);
}

fn is_where_it_was_asked_for(desk: &Desk) {
    let file = NamedTempFile::new_in(&desk.path).expect("a file is made");
    assert_eq!(file.path().parent(), Some(&*desk.path));
    let own = TempDir::new_in(&desk.path).expect("a directory is made");
    let inner = Builder::new().tempfile_in(&own).expect("a file is made");
    assert_eq!(inner.path().parent(), Some(own.path()));
    for (place, kind) in [("missing", ErrorKind::NotFound), ("file", ErrorKind::NotADirectory)] {
        let place = desk.path.join(place);
        if kind == ErrorKind::NotADirectory {
            File::create(&place).expect("the directory is ours");
        }
        assert_eq!(tempfile_in(&place).expect_err("nothing can be made there").kind(), kind);
        let refused = [NamedTempFile::new_in(&place).map(drop), TempDir::new_in(&place).map(drop)];
        for error in refused.map(|made| made.expect_err("nothing can be made there")) {
            assert_eq!(error.kind(), kind);
            assert!(error.to_string().contains(place.to_str().expect("plain")), "which one? {error}");
        }
    }
}

fn an_exact_name(desk: &Desk) {
    let mut builder = Builder::new();
    builder.prefix("the-").suffix("name").rand_bytes(0);
    let file = builder.tempfile_in(&desk.path).expect("the name is free");
    assert_eq!(file.path(), desk.path.join("the-name"));
    assert_eq!(builder.tempfile_in(&desk.path).expect_err("it is taken").kind(), ErrorKind::AlreadyExists);
    assert_eq!(builder.tempdir_in(&desk.path).expect_err("it is taken").kind(), ErrorKind::AlreadyExists);
    drop(file);
    builder.tempdir_in(&desk.path).expect("the name is free again").close().expect("it can be removed");
    let file = builder.tempfile().expect("the name is free");
    assert!(file.path().ends_with("the-name"));
    assert_eq!(builder.tempfile().expect_err("it is taken").kind(), ErrorKind::AlreadyExists);
}

fn appends(desk: &Desk) {
    let mut builder = Builder::new();
    builder.append(true);
    for mut file in [builder.tempfile(), builder.tempfile_in(&desk.path)].map(|made| made.expect("a file is made")) {
        for word in ["one", "two"] {
            file.rewind().and_then(|()| file.write_all(word.as_bytes())).expect("it is open for writing");
        }
        assert_eq!(all(&mut file), "onetwo");
    }
}

fn has_the_mode_that_was_asked_for(desk: &Desk) {
    let before = umask(Mode::from_raw_mode(0));
    for mode in [0o600, 0o640, 0o444, 0o777] {
        let mut builder = Builder::new();
        builder.permissions(Permissions::from_mode(mode));
        let made = [builder.tempfile(), builder.tempfile_in(&desk.path)];
        for mut file in made.map(|made| made.expect("a file is made")) {
            assert_eq!(file.as_file().metadata().expect("it is open").mode() & 0o7777, mode);
            file.write_all(b"whatever its mode").expect("it is open for writing");
        }
    }
    umask(before);
    let mode = |file: NamedTempFile| file.as_file().metadata().expect("it is open").mode() & 0o7777;
    assert_eq!(NamedTempFile::new().map(mode).expect("a file is made"), 0o600);
    assert_eq!(NamedTempFile::new_in(&desk.path).map(mode).expect("a file is made"), 0o600);
}

fn is_opened_again(desk: &Desk) {
    for source in [NamedTempFile::new(), NamedTempFile::new_in(&desk.path)].map(|made| made.expect("a file is made")) {
        let [mut one, two] = [(); 2].map(|()| source.reopen().expect("it is there"));
        drop(source);
        one.write_all(b"content").expect("it is open for writing");
        assert_eq!((all(&one), all(&two)), ("content".to_owned(), "content".to_owned()));
    }
}

fn another_file_of_its_name_is_not_opened(desk: &Desk) {
    let file = NamedTempFile::new_in(&desk.path).expect("a file is made");
    fs::rename(file.path(), desk.path.join("mine")).expect("it is ours");
    assert_eq!(file.reopen().expect_err("it is gone").kind(), ErrorKind::NotFound);
    fs::write(file.path(), "another").expect("the directory is ours");
    assert_eq!(file.reopen().expect_err("it is another").kind(), ErrorKind::NotFound);
}

fn becomes_a_file(_: &Desk) {
    let mut named = NamedTempFile::new().expect("a file is made");
    let path = named.path().to_owned();
    named.write_all(b"content").expect("it is open for writing");
    let file = named.into_file();
    assert!(!path.exists());
    assert_eq!(all(&file), "content");
}

fn comes_apart_and_together(_: &Desk) {
    let mut named = NamedTempFile::new().expect("a file is made");
    named.as_file_mut().write_all(b"content").expect("it is open for writing");
    let (file, path) = named.into_parts();
    assert!(path.is_file());
    let named = NamedTempFile::from_parts("anything", path);
    let at = named.path().to_owned();
    assert_eq!((named.as_file(), content(&at).as_str()), (&"anything", "content"));
    let (_, path) = named.into_parts();
    drop(path);
    assert!(!at.exists());
    assert_eq!(all(&file), "content");
}

fn is_one_descriptor(_: &Desk) {
    let file = NamedTempFile::new().expect("a file is made");
    let (fd, number) = (file.as_fd().as_raw_fd(), file.as_raw_fd());
    assert_eq!((fd, number), (file.as_file().as_raw_fd(), file.as_file().as_raw_fd()));
    let flags = rustix::io::fcntl_getfd(file.as_fd()).expect("it is open");
    assert!(flags.contains(rustix::io::FdFlags::CLOEXEC), "a program that is started inherits it");
}

fn can_go_to_threads(_: &Desk) {
    fn plain<T: Send + Sync + Unpin + 'static>() {}
    fn even_when_one_panics<T: UnwindSafe + RefUnwindSafe>() {}
    plain::<(NamedTempFile, TempPath, TempDir, SpooledTempFile, PersistError, PathPersistError)>();
    plain::<Builder>();
    even_when_one_panics::<(NamedTempFile, TempPath, TempDir, SpooledTempFile)>();
    even_when_one_panics::<Builder>();
}

fn fits_bounds_on_references(_: &Desk) {
    struct Through<T>(T);
    impl<T: Send + Sync + 'static> Through<T>
    where
        for<'a> &'a T: Read + Write + Seek,
    {
        fn again(&self) -> String {
            (&self.0).write_all(b"content").expect("it is open for writing");
            all(&self.0)
        }
    }
    assert_eq!(Through(NamedTempFile::new().expect("a file is made")).again(), "content");
    assert_eq!(Through(tempfile().expect("a file is made")).again(), "content");
}
