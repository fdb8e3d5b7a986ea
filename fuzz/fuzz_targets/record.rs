//! Files of a pool: records and the book of debts, torn or whole with any content, and the marker.
#![no_main]

use libfuzzer_sys::fuzz_target;
use prost::Message;
use scratch_fs::{DebtBook, GoneName, Record, TrashName};

fuzz_target!(|data: &[u8]| {
    if let Ok(record) = Record::from_file(data) {
        assert_eq!(Record::from_file(&record.to_file()).as_ref(), Ok(&record));
    }
    if let Ok(record) = Record::decode(data) {
        let file = record.to_file();
        assert_eq!(Record::from_file(&file).as_ref(), Ok(&record));
        // A bit that was changed, or a byte that is missing, never goes unseen.
        let mut torn = file.clone();
        let at = data.len() % file.len();
        torn[at] ^= 1;
        assert!(Record::from_file(&torn).is_err() && Record::from_file(&file[..at]).is_err());
    }
    if let Ok(book) = DebtBook::decode(data) {
        assert_eq!(DebtBook::decode(&*book.encode_to_vec()).as_ref(), Ok(&book));
    }
    scratch_fs::fuzz::marker(&String::from_utf8_lossy(data));
    if let Some(name) = TrashName::parse(data) {
        assert_eq!(name.to_string().as_bytes(), data);
    }
    if let Some(name) = GoneName::parse(data) {
        assert_eq!(name.to_string().as_bytes(), data);
    }
});
