//! A lease's record in `.scratch/leases/<id>`: length, CRC32C, one protobuf message, written whole.

use prost::Message;

/// Most bytes of a record; a larger file is not one.
pub(crate) const RECORD_BYTES_MAX: usize = 1024 * 1024;

/// What must outlive the broker's process for a lease to be taken over or put away by the next one.
#[derive(Clone, PartialEq, Message)]
pub struct Record {
    /// The lease's id, also the file's name.
    #[prost(string, tag = "1")]
    pub id: String,
    /// 16 bytes of the client's, or empty.
    #[prost(bytes = "vec", tag = "2")]
    pub nonce: Vec<u8>,
    /// The tenant.
    #[prost(uint32, tag = "3")]
    pub uid: u32,
    /// The tenant's group.
    #[prost(uint32, tag = "4")]
    pub gid: u32,
    /// The tenant's supplementary groups.
    #[prost(uint32, repeated, tag = "5")]
    pub groups: Vec<u32>,
    /// st_dev of the lease's directory.
    #[prost(uint64, tag = "6")]
    pub device: u64,
    /// st_ino of the lease's directory.
    #[prost(uint64, tag = "7")]
    pub inode: u64,
    /// When it was granted, nanoseconds on CLOCK_BOOTTIME.
    #[prost(uint64, tag = "8")]
    pub created: u64,
    /// What held it when this was written.
    #[prost(message, repeated, tag = "9")]
    pub holders: Vec<RecordHolder>,
    /// The lease above it, or empty.
    #[prost(string, tag = "10")]
    pub parent: String,
    /// Labels, in order.
    #[prost(btree_map = "string, string", tag = "11")]
    pub labels: std::collections::BTreeMap<String, String>,
    /// Nanoseconds on CLOCK_BOOTTIME at which it ends whatever holds it; 0: never.
    #[prost(uint64, tag = "12")]
    pub lifetime_end: u64,
    /// Look for processes that name it in their environment before it ends.
    #[prost(bool, tag = "13")]
    pub search_environment: bool,
    /// Nanoseconds that it waits for another holder when the last one has gone.
    #[prost(uint64, tag = "14")]
    pub grace: u64,
    /// Its own limit of bytes. 0 can't be granted.
    #[prost(uint64, tag = "15")]
    pub bytes_limit: u64,
    /// Its own limit of inodes.
    #[prost(uint64, tag = "16")]
    pub inodes_limit: u64,
    /// Nanoseconds for which it is to be kept after its end; 0: not at all.
    #[prost(uint64, tag = "17")]
    pub keep_for: u64,
    /// It has ended, and is kept until then: nanoseconds on CLOCK_BOOTTIME; 0: it has not.
    #[prost(uint64, tag = "18")]
    pub kept_until: u64,
    /// Bytes that it may have to be kept.
    #[prost(uint64, tag = "19")]
    pub keep_bytes: u64,
    /// The id of the next holder; 0 in records of 0.1.0.
    #[prost(uint32, tag = "21")]
    pub holder_next: u32,
    /// Who has asked for it, where that was not the tenant.
    #[prost(uint32, optional, tag = "28")]
    pub granted_by: Option<u32>,
    /// It may end when its pool is too full.
    #[prost(bool, tag = "29")]
    pub preemptible: bool,
    /// The uuid of the pool that the parent lies in, where that is another one.
    #[prost(string, tag = "36")]
    pub parent_pool: String,
}

/// One holder of a record.
#[derive(Clone, PartialEq, Message)]
pub struct RecordHolder {
    /// Which kind; absent in records of kinds that this version does not know.
    #[prost(oneof = "RecordHolderKind", tags = "1, 2, 3, 4, 5, 6")]
    pub kind: Option<RecordHolderKind>,
    /// Its id, the same after a restart; 0 in records of 0.1.0.
    #[prost(uint32, tag = "15")]
    pub id: u32,
}

/// The kinds of holders, and what tells them apart after a restart.
#[derive(Clone, PartialEq, prost::Oneof)]
pub enum RecordHolderKind {
    /// A process.
    #[prost(message, tag = "1")]
    Process(RecordProcess),
    /// The granted time to live in nanoseconds; granted in full again after a restart.
    #[prost(uint64, tag = "2")]
    Ttl(u64),
    /// A connection, which may resume within the grace.
    #[prost(bool, tag = "3")]
    Connection(bool),
    /// A passed socket, which does not outlive the broker's process; the environment is searched instead.
    #[prost(bool, tag = "4")]
    Descriptor(bool),
    /// A cgroup.
    #[prost(message, tag = "5")]
    Cgroup(RecordCgroup),
    /// A hold, which lasts until it is detached or this boot ends.
    #[prost(bool, tag = "6")]
    Hold(bool),
}

/// A process by all that the kernel tells of it.
#[derive(Clone, PartialEq, Message)]
pub struct RecordProcess {
    /// Its number.
    #[prost(int32, tag = "1")]
    pub pid: i32,
    /// Its start in clock ticks since boot, from /proc/pid/stat.
    #[prost(uint64, tag = "2")]
    pub start_time: u64,
    /// The inode of its pidfd, unique in one boot where pidfs has one (Linux 6.9); else 0.
    #[prost(uint64, tag = "3")]
    pub pidfd_inode: u64,
}

/// A cgroup, and how to find it again.
#[derive(Clone, PartialEq, Message)]
pub struct RecordCgroup {
    /// Its inode, unique in one boot.
    #[prost(uint64, tag = "1")]
    pub inode: u64,
    /// The inode of the root that `path` is below.
    #[prost(uint64, tag = "2")]
    pub root_inode: u64,
    /// Its path below that root; empty where it was not found there.
    #[prost(bytes = "vec", tag = "3")]
    pub path: Vec<u8>,
    /// It had a process when it became a holder.
    #[prost(bool, tag = "4")]
    pub populated: bool,
    /// Microseconds that its processes had run when it became a holder: more shows that it has had one since.
    #[prost(uint64, tag = "5")]
    pub usage: u64,
    /// Its processes are to be killed when the lease ends.
    #[prost(bool, tag = "6")]
    pub kill: bool,
}

/// A record that cannot be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the record is torn or was changed: its length or checksum does not match")]
pub struct Torn;

impl Record {
    /// The bytes of the file.
    #[must_use]
    pub fn to_file(&self) -> Vec<u8> {
        with_checksum(&self.encode_to_vec())
    }

    /// Reads the bytes of a file.
    ///
    /// # Errors
    /// [`Torn`] unless length, checksum and message are all whole and nothing follows.
    pub fn from_file(file: &[u8]) -> Result<Self, Torn> {
        Self::decode(checked(file)?).map_err(|_| Torn)
    }
}

/// Length and CRC32C before a message.
pub(crate) fn with_checksum(body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(body.len()).expect("limits keep messages far below 4 GiB");
    let mut file = Vec::with_capacity(8 + body.len());
    file.extend_from_slice(&length.to_le_bytes());
    file.extend_from_slice(&crc32c::crc32c(body).to_le_bytes());
    file.extend_from_slice(body);
    file
}

/// The message of a file that is whole.
pub(crate) fn checked(file: &[u8]) -> Result<&[u8], Torn> {
    let (length, rest) = file.split_first_chunk().ok_or(Torn)?;
    let (checksum, body) = rest.split_first_chunk().ok_or(Torn)?;
    let whole = usize::try_from(u32::from_le_bytes(*length)) == Ok(body.len());
    if whole && u32::from_le_bytes(*checksum) == crc32c::crc32c(body) { Ok(body) } else { Err(Torn) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record() -> Record {
        let process = RecordProcess { pid: 7, start_time: 8, pidfd_inode: 9 };
        Record {
            id: "aaaaaaaaaaaaaaaa".into(),
            uid: 1000,
            holders: vec![RecordHolder { kind: Some(RecordHolderKind::Process(process)), id: 3 }],
            labels: [("a".to_owned(), "b".to_owned())].into(),
            ..Record::default()
        }
    }

    #[test]
    fn a_record_comes_back_as_it_was() {
        assert_eq!(Record::from_file(&record().to_file()), Ok(record()));
    }

    #[test]
    fn holders_of_later_versions_are_there_without_a_kind() {
        // Field 9, holders: field 10, which is none of ours, and the id in field 15.
        let later = [&[9 << 3 | 2, 4][..], &[10 << 3, 1, 15 << 3, 7]].concat();
        let record = Record::decode(later.as_slice()).unwrap();
        assert_eq!(record.holders, [RecordHolder { kind: None, id: 7 }]);
    }

    #[test]
    fn every_cut_and_every_flipped_bit_is_noticed() {
        let file = record().to_file();
        for length in 0..file.len() {
            assert_eq!(Record::from_file(&file[..length]), Err(Torn), "cut at {length}");
        }
        for index in 0..file.len() * 8 {
            let mut bad = file.clone();
            bad[index / 8] ^= 1 << (index % 8);
            assert_eq!(Record::from_file(&bad), Err(Torn), "bit {index}");
        }
        let mut longer = file;
        longer.push(0);
        assert_eq!(Record::from_file(&longer), Err(Torn));
    }
}
