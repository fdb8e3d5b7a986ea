//! Files that are in memory until they are too large for it.

use std::io::{ErrorKind, IoSlice, Read, Seek, SeekFrom, Write};

use super::super::{Desk, all, cases};
use super::temp::{SpooledData, SpooledTempFile, spooled_tempfile, spooled_tempfile_in};

cases! {
    rolls_before_it_is_too_large,
    rolls_when_it_is_told_to,
    rolls_where_it_was_told_to,
    is_sought_in,
    is_overwritten,
    has_holes,
    is_cut_and_extended,
    is_taken_apart,
    is_written_in_parts,
    does_not_overflow,
}

const WORDS: &[u8] = b"the quick brown fox jumps over the lazy dog";

/// One that stays in memory, and one that does not.
fn both() -> [SpooledTempFile; 2] {
    [spooled_tempfile(1000), SpooledTempFile::new(3)]
}

fn rolls_before_it_is_too_large(_: &Desk) {
    let mut file = spooled_tempfile(10);
    assert_eq!(
        (file.is_rolled(), file.stream_position().expect("it has one"), all(&mut file).as_str()),
        (false, 0, "")
    );
    file.write_all(b"0123456789").expect("there is room");
    assert!(!file.is_rolled(), "as large as it may be");
    assert_eq!(all(&mut file), "0123456789");
    file.write_all(b"!").expect("there is room");
    assert!(file.is_rolled());
    assert_eq!((file.stream_position().expect("it has one"), all(&mut file).as_str()), (11, "0123456789!"));
    // By the position, not by what is added.
    let mut file = spooled_tempfile(10);
    file.write_all(b"0123456789").and_then(|()| file.seek(SeekFrom::Start(2)).map(drop)).expect("it is open");
    file.write_all(b"ab").expect("there is room");
    assert!(!file.is_rolled());
    assert_eq!(all(&mut file), "01ab456789");
    let mut none = spooled_tempfile(0);
    none.write_all(b"").expect("there is room");
    assert!(!none.is_rolled());
    none.write_all(b"1").expect("there is room");
    assert!(none.is_rolled());
}

fn rolls_when_it_is_told_to(_: &Desk) {
    let mut file = SpooledTempFile::new(1000);
    file.write_all(WORDS).and_then(|()| file.seek(SeekFrom::Start(4)).map(drop)).expect("it is open");
    for _ in 0..2 {
        file.roll().expect("a file is made");
        assert!(file.is_rolled());
    }
    let mut word = [0; 5];
    file.read_exact(&mut word).expect("there is more");
    assert_eq!((&word, file.stream_position().expect("it has one")), (b"quick", 9));
    assert_eq!(all(&mut file).as_bytes(), WORDS);
}

fn rolls_where_it_was_told_to(desk: &Desk) {
    let mut file = spooled_tempfile_in(3, &desk.path);
    file.write_all(WORDS).expect("there is room");
    assert!(file.is_rolled());
    assert_eq!(all(&mut file).as_bytes(), WORDS);
    // Looked at when it is needed, and not before.
    let mut nowhere = SpooledTempFile::new_in(3, desk.path.join("missing"));
    nowhere.write_all(b"123").expect("there is room");
    assert_eq!(nowhere.write(b"4").expect_err("there is no such directory").kind(), ErrorKind::NotFound);
    assert_eq!(nowhere.roll().expect_err("there is no such directory").kind(), ErrorKind::NotFound);
    assert_eq!((nowhere.is_rolled(), all(&mut nowhere).as_str()), (false, "123"), "what was there is lost");
    let own = super::temp::TempDir::new_in(&desk.path).expect("a directory is made");
    spooled_tempfile_in(3, &own).roll().expect("the directory is there");
}

fn is_sought_in(_: &Desk) {
    for mut file in both() {
        file.write_all(WORDS).expect("there is room");
        let end = WORDS.len() as u64;
        for (to, expected) in [
            (SeekFrom::Current(0), end),
            (SeekFrom::Current(-3), end - 3),
            (SeekFrom::Start(end + 7), end + 7),
            (SeekFrom::Current(-7), end),
            (SeekFrom::End(5), end + 5),
            (SeekFrom::End(-5), end - 5),
            (SeekFrom::Start(0), 0),
        ] {
            assert_eq!(file.seek(to).expect("it is a place"), expected, "{to:?}");
        }
        for to in [SeekFrom::Current(-1), SeekFrom::End(-100)] {
            assert_eq!(file.seek(to).expect_err("it is before the beginning").kind(), ErrorKind::InvalidInput);
        }
        assert_eq!(file.stream_position().expect("it has one"), 0, "moved by what failed");
        file.seek(SeekFrom::End(-8)).expect("it is a place");
        let mut rest = [0; 20];
        assert_eq!(file.read(&mut rest).expect("it is open"), 8);
        assert_eq!(&rest[..8], b"lazy dog");
        assert_eq!(file.read_exact(&mut rest).expect_err("it is the end").kind(), ErrorKind::UnexpectedEof);
    }
}

fn is_overwritten(_: &Desk) {
    for mut file in both() {
        file.write_all(WORDS).and_then(|()| file.seek(SeekFrom::Start(10)).map(drop)).expect("it is open");
        file.write_all(b"white").expect("there is room");
        assert_eq!(all(&mut file), "the quick white fox jumps over the lazy dog");
        file.seek(SeekFrom::End(-3)).expect("it is a place");
        file.write_all(b"old dog").expect("there is room");
        assert_eq!(all(&mut file), "the quick white fox jumps over the lazy old dog");
    }
}

fn has_holes(_: &Desk) {
    for max in [0, 5, 14, 15, 1000] {
        let mut file = spooled_tempfile(max);
        file.write_all(b"start").and_then(|()| file.seek(SeekFrom::Current(5)).map(drop)).expect("it is open");
        assert_eq!(file.is_rolled(), max < 5, "a position takes no room");
        file.write_all(b"after").expect("there is room");
        assert_eq!(file.is_rolled(), max < 15);
        assert_eq!(all(&mut file), "start\0\0\0\0\0after");
    }
}

fn is_cut_and_extended(_: &Desk) {
    for mut file in both() {
        file.write_all(WORDS).and_then(|()| file.set_len(9)).expect("there is room");
        assert_eq!(file.stream_position().expect("it has one"), WORDS.len() as u64);
        assert_eq!(file.read(&mut [0; 4]).expect("the end is no error"), 0);
        assert_eq!(all(&mut file), "the quick");
        file.set_len(12).expect("there is room");
        assert_eq!(all(&mut file), "the quick\0\0\0");
    }
    let mut file = spooled_tempfile(10);
    file.write_all(b"12345").and_then(|()| file.set_len(10)).expect("there is room");
    assert!(!file.is_rolled());
    file.set_len(11).expect("there is room");
    assert_eq!((file.is_rolled(), file.stream_position().expect("it has one")), (true, 5));
    assert_eq!(all(&mut file), "12345\0\0\0\0\0\0");
}

fn is_taken_apart(desk: &Desk) {
    let [mut inside, mut outside] = both();
    for file in [&mut inside, &mut outside] {
        file.write_all(WORDS).expect("there is room");
    }
    assert!(matches!(inside.into_inner(), SpooledData::InMemory(cursor) if cursor.get_ref() == WORDS));
    assert!(matches!(outside.into_inner(), SpooledData::OnDisk(file) if all(&file).as_bytes() == WORDS));
    for mut file in both().into_iter().chain([spooled_tempfile_in(1000, &desk.path)]) {
        file.write_all(WORDS).and_then(|()| file.seek(SeekFrom::Start(4)).map(drop)).expect("it is open");
        let mut file = file.into_file().expect("a file is made");
        assert_eq!(file.stream_position().expect("it has one"), 4);
        assert_eq!(all(&file).as_bytes(), WORDS);
    }
}

fn is_written_in_parts(_: &Desk) {
    let parts = [IoSlice::new(b"12345"), IoSlice::new(b"67890")];
    for (max, is_rolled) in [(9, true), (10, false)] {
        let mut file = spooled_tempfile(max);
        assert_eq!(file.write_vectored(&parts).expect("there is room"), 10);
        assert_eq!((file.is_rolled(), all(&mut file).as_str()), (is_rolled, "1234567890"));
        file.flush().expect("it is open");
    }
}

fn does_not_overflow(_: &Desk) {
    let mut file = spooled_tempfile(10);
    file.seek(SeekFrom::Start(u64::MAX)).expect("memory has room for any position");
    file.write(b"12345").expect_err("no file is so large");
    file.write_vectored(&[IoSlice::new(b"12345")]).expect_err("no file is so large");
}
