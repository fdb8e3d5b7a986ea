//! The configuration file: TOML, unknown keys refused, every key but the pool with a default.

mod foreign;

use std::path::{Path, PathBuf};
use std::time::Duration;

use bytesize::ByteSize;
use serde::{Deserialize, Deserializer, de};

pub(crate) use foreign::ForeignConfig;

/// Everything that can be configured.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Where areas live. The first one is the default.
    #[serde(default)]
    pub pool: Vec<PoolConfig>,
    /// What a restart does with what it finds.
    #[serde(default)]
    pub restart: RestartConfig,
    /// Who is an admin.
    #[serde(default)]
    pub admin: AdminConfig,
    /// What one tenant may have.
    #[serde(default)]
    pub limits: LimitsConfig,
    /// What may outlive its end.
    #[serde(default)]
    pub keep: KeepConfig,
    /// Areas in directories that clients pass.
    #[serde(default)]
    pub foreign: ForeignConfig,
}

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
}

/// How a pool stores its areas.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Backend {
    /// Plain directories.
    #[default]
    Dir,
    /// A subvolume a lease; not in this version.
    Btrfs,
    /// A detached tmpfs a lease; not in this version.
    Tmpfs,
}

/// What a restart does.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RestartConfig {
    /// How long lost connections may come back. Zero: a restart reaps everything at once.
    #[serde(deserialize_with = "duration")]
    pub grace: Duration,
}

impl Default for RestartConfig {
    fn default() -> Self {
        Self { grace: Duration::from_secs(30) }
    }
}

/// Who sees and ends every tenant's leases, besides root.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AdminConfig {
    /// A group's name.
    pub group: Option<String>,
}

/// Limits of each tenant.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LimitsConfig {
    /// Live leases.
    pub leases: usize,
    /// Areas that the broker made and that were not released.
    pub areas: usize,
    /// Holders of one lease.
    pub holders: usize,
    /// Labels of one lease.
    pub labels: usize,
    /// Bytes of one label, key and value.
    #[serde(deserialize_with = "size")]
    pub label_bytes: u64,
    /// Shortest TTL granted.
    #[serde(deserialize_with = "duration")]
    pub ttl_min: Duration,
    /// Longest TTL granted.
    #[serde(deserialize_with = "duration")]
    pub ttl_max: Duration,
    /// Longest grace of a lease.
    #[serde(deserialize_with = "duration")]
    pub grace_max: Duration,
    /// Connections to the handle channel.
    pub connections: usize,
    /// Descriptors that were sent on all its connections and not yet received, or wait behind a ticket.
    pub unread_descriptors: usize,
    /// gRPC calls and streams under way, on all its connections.
    pub calls: usize,
    /// Watch streams, on all its connections.
    pub watches: usize,
    /// Bytes of replies on one connection that were sent and not yet received.
    #[serde(deserialize_with = "size")]
    pub unread_bytes: u64,
}

impl Default for LimitsConfig {
    fn default() -> Self {
        let lease = scratch_lease::Limits::default();
        Self {
            leases: lease.leases_per_tenant,
            areas: lease.areas_per_tenant,
            holders: lease.holders_per_lease,
            labels: lease.labels_per_lease,
            label_bytes: lease.label_bytes as u64,
            ttl_min: lease.ttl_min,
            ttl_max: lease.ttl_max,
            grace_max: lease.grace_max,
            connections: 4096,
            unread_descriptors: 4096,
            calls: 4096,
            watches: 16,
            unread_bytes: 256 * 1024,
        }
    }
}

/// What may be kept past its end, and brought back.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct KeepConfig {
    /// The longest that a lease is kept.
    #[serde(deserialize_with = "duration")]
    pub time_max: Duration,
    /// The most bytes of a lease that is kept.
    #[serde(deserialize_with = "size")]
    pub bytes_max: u64,
    /// Kept leases of one tenant.
    pub leases_max: usize,
    /// How long any lease can be brought back after its end. Zero: not at all.
    #[serde(deserialize_with = "duration")]
    pub undelete_window: Duration,
    /// Leases of one tenant that can be brought back; what ends beyond that can't.
    pub undelete_max: usize,
}

impl Default for KeepConfig {
    fn default() -> Self {
        let lease = scratch_lease::Limits::default();
        Self {
            time_max: lease.keep_time_max,
            bytes_max: lease.keep_bytes_max,
            leases_max: lease.kept_per_tenant,
            undelete_window: lease.undelete_window,
            undelete_max: lease.gone_per_tenant,
        }
    }
}

/// Why a configuration can't be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file can't be read.
    #[error("{path}: {source}; name a readable file with --config, or use --pool DIR alone")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// Not TOML, an unknown key, or a value of the wrong kind.
    #[error("{path}: {message}; docs/operations.md and the shipped example have every key")]
    Parse {
        /// The file.
        path: PathBuf,
        /// Where and what.
        message: String,
    },
    /// It parses, and makes no sense.
    #[error("{path}: {what}")]
    Sense {
        /// The file.
        path: PathBuf,
        /// What, and what to do.
        what: String,
    },
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

impl Config {
    /// Reads and checks a file.
    ///
    /// # Errors
    /// [`ConfigError`], each with what to do.
    pub fn read(path: &Path) -> Result<Self, ConfigError> {
        let read = |source| ConfigError::Read { path: path.to_owned(), source };
        Self::parse(&std::fs::read_to_string(path).map_err(read)?, path)
    }

    /// Parses and checks a file's text.
    ///
    /// # Errors
    /// [`ConfigError`], each with what to do.
    pub fn parse(text: &str, path: &Path) -> Result<Self, ConfigError> {
        let parse = |error: toml::de::Error| ConfigError::Parse {
            path: path.to_owned(),
            message: error.to_string().trim_end().to_owned(),
        };
        let config: Self = toml::from_str(text).map_err(parse)?;
        match config.nonsense() {
            None => Ok(config),
            Some(what) => Err(ConfigError::Sense { path: path.to_owned(), what }),
        }
    }

    /// One pool and defaults for all else.
    #[must_use]
    pub fn of_pool(root: PathBuf) -> Self {
        let pool = PoolConfig { name: "default".to_owned(), root, backend: Backend::Dir };
        Self {
            pool: vec![pool],
            restart: RestartConfig::default(),
            admin: AdminConfig::default(),
            limits: LimitsConfig::default(),
            keep: KeepConfig::default(),
            foreign: ForeignConfig::default(),
        }
    }

    fn nonsense(&self) -> Option<String> {
        if self.pool.is_empty() {
            return Some("no pool; add [[pool]] with name and root".to_owned());
        }
        for (index, pool) in self.pool.iter().enumerate() {
            if pool.name.is_empty() {
                return Some("a pool's name is empty; give it one".to_owned());
            }
            if self.pool[..index].iter().any(|other| other.name == pool.name || other.root == pool.root) {
                return Some(format!("pool {:?} has the name or root of another one; give it its own", pool.name));
            }
            let inside = |other: &PoolConfig| other.root.starts_with(&pool.root) || pool.root.starts_with(&other.root);
            if self.pool[..index].iter().any(inside) {
                return Some(format!(
                    "pool {:?}: its root lies inside another pool's, or around it; keep them apart",
                    pool.name
                ));
            }
            if !pool.root.is_absolute() {
                return Some(format!("pool {:?}: root must be an absolute path", pool.name));
            }
            if pool.backend != Backend::Dir {
                let backend = format!("{:?}", pool.backend).to_lowercase();
                return Some(format!("pool {:?}: backend {backend:?} is not in this version; use \"dir\"", pool.name));
            }
        }
        if self.limits.ttl_min > self.limits.ttl_max {
            return Some("limits.ttl_min is longer than limits.ttl_max; swap them".to_owned());
        }
        if self.foreign.threads == 0 {
            return Some("foreign.threads is 0; with foreign.directories = 0 nothing is made there".to_owned());
        }
        None
    }

    /// The part of the limits that the lease table decides on.
    #[must_use]
    pub fn lease_limits(&self) -> scratch_lease::Limits {
        scratch_lease::Limits {
            leases_per_tenant: self.limits.leases,
            areas_per_tenant: self.limits.areas,
            holders_per_lease: self.limits.holders,
            labels_per_lease: self.limits.labels,
            label_bytes: usize::try_from(self.limits.label_bytes).unwrap_or(usize::MAX),
            ttl_min: self.limits.ttl_min,
            ttl_max: self.limits.ttl_max,
            grace_max: self.limits.grace_max,
            kept_per_tenant: self.keep.leases_max,
            keep_time_max: self.keep.time_max,
            keep_bytes_max: self.keep.bytes_max,
            undelete_window: self.keep.undelete_window,
            gone_per_tenant: self.keep.undelete_max,
            ..scratch_lease::Limits::default()
        }
    }
}

fn duration<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    let text = String::deserialize(deserializer)?;
    humantime::parse_duration(&text)
        .map_err(|error| de::Error::custom(format!("{text:?} is no duration like \"30s\": {error}")))
}

fn size<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
    let text = String::deserialize(deserializer)?;
    text.parse::<ByteSize>()
        .map(|size| size.as_u64())
        .map_err(|error| de::Error::custom(format!("{text:?} is no size like \"64MiB\": {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Config, String> {
        Config::parse(text, Path::new("test.toml")).map_err(|error| error.to_string())
    }

    #[test]
    fn the_smallest_config_has_defaults_for_all_else() {
        let config = parse("[[pool]]\nname = \"default\"\nroot = \"/p\"\nbackend = \"dir\"\n").unwrap();
        assert_eq!(config.restart.grace, Duration::from_secs(30));
        assert_eq!(config.limits.leases, 10_000);
    }

    #[test]
    fn the_shipped_example_has_every_key_with_its_default() {
        let shipped = parse(include_str!("../../../deploy/scratchd.toml")).unwrap();
        let defaults = Config::of_pool("/var/lib/scratchd/default".into());
        assert_eq!(format!("{shipped:?}"), format!("{defaults:?}"));
    }

    #[test]
    fn what_is_wrong_is_named() {
        let pool = "[[pool]]\nname = \"p\"\nroot = \"/p\"\n";
        for (text, expected) in [
            (String::new(), "no pool"),
            (format!("{pool}colour = 1\n"), "colour"),
            (format!("{pool}[restart]\ngrace = \"soon\"\n"), "no duration"),
            (format!("{pool}[limits]\nlabel_bytes = \"many\"\n"), "no size"),
            (format!("{pool}[limits]\nlabel_bytes = \"-1KiB\"\n"), "no size"),
            (format!("{pool}backend = \"zfs\"\n"), "zfs"),
            (format!("{pool}backend = \"tmpfs\"\n"), "not in this version"),
            (format!("{pool}{pool}"), "name or root of another"),
            (format!("{pool}[[pool]]\nname = \"q\"\nroot = \"/p/q\"\n"), "inside another"),
            ("[[pool]]\nname = \"p\"\nroot = \"p\"\n".to_owned(), "absolute"),
            ("[[pool]]\nname = \"p\"\n".to_owned(), "root"),
        ] {
            let error = parse(&text).unwrap_err();
            assert!(error.contains(expected), "{text}: {error}");
        }
    }
}
