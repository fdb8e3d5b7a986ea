//! The sections `[[pool]]`.

use std::ops::RangeInclusive;
use std::path::PathBuf;

use serde::{Deserialize, Deserializer, de};

use super::size;

/// Bytes of a pool in memory that says nothing of them.
const MEMORY_SIZE: u64 = 1 << 30;

/// One pool.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PoolConfig {
    /// What clients call it.
    pub name: String,
    /// Its directory, for the broker alone.
    pub root: PathBuf,
    /// How areas are stored.
    #[serde(default)]
    pub backend: Backend,
    /// Bytes that it may promise to leases in all; absent: what its file system has, where that holds leases to limits;
    /// of `tmpfs` 1 GiB of memory.
    #[serde(default, deserialize_with = "some_size")]
    pub size: Option<u64>,
    /// Inodes that it may promise, likewise.
    #[serde(default)]
    pub inodes: Option<u64>,
    /// Numbers of projects that backend `dir` may use for quotas, as in "1000000000-1000999999"; empty: none.
    #[serde(default = "project_ids", deserialize_with = "numbers")]
    pub project_ids: RangeInclusive<u32>,
    /// How full it may be.
    #[serde(default)]
    pub high_water: HighWaterConfig,
    /// Of `tmpfs`: bytes of a lease that asks for no limit.
    #[serde(default = "lease_bytes", deserialize_with = "size")]
    pub lease_bytes: u64,
    /// Of `tmpfs`: inodes of a lease that asks for no limit.
    #[serde(default = "lease_inodes")]
    pub lease_inodes: u64,
}

impl PoolConfig {
    /// A pool of plain directories, with defaults for all else.
    pub(super) fn of(root: PathBuf) -> Self {
        Self {
            name: "default".to_owned(),
            root,
            backend: Backend::Dir,
            size: None,
            inodes: None,
            project_ids: project_ids(),
            high_water: HighWaterConfig::default(),
            lease_bytes: lease_bytes(),
            lease_inodes: lease_inodes(),
        }
    }

    /// What makes no sense, alone or beside those before it.
    pub(super) fn nonsense(&self, others: &[Self]) -> Option<String> {
        if self.name.is_empty() {
            return Some("a pool's name is empty; give it one".to_owned());
        }
        if others.iter().any(|other| other.name == self.name || other.root == self.root) {
            return Some(format!("pool {:?} has the name or root of another one; give it its own", self.name));
        }
        let inside = |other: &PoolConfig| other.root.starts_with(&self.root) || self.root.starts_with(&other.root);
        if others.iter().any(inside) {
            return Some(format!(
                "pool {:?}: its root lies inside another pool's, or around it; keep them apart",
                self.name
            ));
        }
        if !self.root.is_absolute() {
            return Some(format!("pool {:?}: root must be an absolute path", self.name));
        }
        if self.lease_bytes == 0 || self.lease_inodes == 0 {
            return Some(format!("pool {:?}: lease_bytes and lease_inodes must not be 0", self.name));
        }
        if self.backend == Backend::Tmpfs && self.lease_bytes > self.memory() {
            return Some(format!(
                "pool {:?}: lease_bytes is more than its size, {} bytes; make one of them fit",
                self.name,
                self.memory()
            ));
        }
        if self.backend == Backend::Tmpfs && self.high_water != HighWaterConfig::default() {
            return Some(format!("pool {:?}: high_water is for pools on disk; size bounds this one", self.name));
        }
        None
    }

    /// Bytes that leases of a pool in memory may take in all.
    pub(crate) fn memory(&self) -> u64 {
        self.size.unwrap_or(MEMORY_SIZE)
    }
}

/// How full a pool may be before nothing more is granted in it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct HighWaterConfig {
    /// Percent of its bytes.
    #[serde(deserialize_with = "percent")]
    pub bytes: Option<u8>,
    /// Percent of its inodes.
    #[serde(deserialize_with = "percent")]
    pub inodes: Option<u8>,
    /// Whether leases that were granted as preemptible end then.
    pub end_preemptible: bool,
}

/// High enough that nobody has chosen one of them by hand.
fn project_ids() -> RangeInclusive<u32> {
    1_000_000_000..=1_000_999_999
}

fn lease_bytes() -> u64 {
    64 << 20
}

fn lease_inodes() -> u64 {
    4096
}

/// How a pool stores its areas.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Backend {
    /// Plain directories.
    #[default]
    Dir,
    /// A subvolume a lease.
    Btrfs,
    /// A detached tmpfs a lease.
    Tmpfs,
}

impl From<Backend> for scratch_fs::Backend {
    fn from(backend: Backend) -> Self {
        match backend {
            Backend::Dir => Self::Dir,
            Backend::Btrfs => Self::Btrfs,
            Backend::Tmpfs => Self::Tmpfs,
        }
    }
}

fn percent<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u8>, D::Error> {
    let text = String::deserialize(deserializer)?;
    let number =
        text.strip_suffix('%').and_then(|number| number.parse().ok()).filter(|number| (1..=100).contains(number));
    number.map(Some).ok_or_else(|| de::Error::custom(format!("{text:?} is no share like \"90%\"")))
}

fn some_size<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u64>, D::Error> {
    size(deserializer).map(Some)
}

fn numbers<'de, D: Deserializer<'de>>(deserializer: D) -> Result<RangeInclusive<u32>, D::Error> {
    let text = String::deserialize(deserializer)?;
    if text.is_empty() {
        // From one that nothing may have to one below it.
        return Ok(RangeInclusive::new(1, 0));
    }
    let range = text.split_once('-').and_then(|(first, last)| Some(first.parse().ok()?..=last.parse().ok()?));
    // 0 is no project, and the last number stands for none as well.
    range
        .filter(|range| !range.is_empty() && *range.start() != 0 && *range.end() != u32::MAX)
        .ok_or_else(|| de::Error::custom(format!("{text:?} are no numbers like \"1000000000-1000999999\"")))
}
