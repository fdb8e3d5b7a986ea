//! The configuration file: TOML, unknown keys refused, every key but the pool with a default.

mod foreign;
mod pool;

use std::path::{Path, PathBuf};
use std::time::Duration;

use bytesize::ByteSize;
use serde::{Deserialize, Deserializer, de};

pub(crate) use foreign::ForeignConfig;
pub use pool::{Backend, PoolConfig};

use crate::rules::RuleConfig;

/// It would be busy with nothing else.
const METER_INTERVAL_MIN: Duration = Duration::from_millis(100);

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
    /// Who has what else; the first that fits.
    #[serde(default)]
    pub rule: Vec<RuleConfig>,
    /// What the broker denies itself.
    #[serde(default)]
    pub confine: ConfineConfig,
    /// Handles of directories.
    #[serde(default)]
    pub handles: HandlesConfig,
    /// How limits are looked after that nothing enforces.
    #[serde(default)]
    pub meter: MeterConfig,
    /// Areas in directories that clients pass.
    #[serde(default)]
    pub foreign: ForeignConfig,
}

/// The meter.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct MeterConfig {
    /// How long it rests between two rounds.
    #[serde(deserialize_with = "duration")]
    pub interval: Duration,
    /// What follows when a lease has more than it may, or has stepped out of its quota.
    pub consequence: Consequence,
}

impl Default for MeterConfig {
    fn default() -> Self {
        Self { interval: Duration::from_secs(30), consequence: Consequence::Report }
    }
}

/// What follows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Consequence {
    /// An event.
    Report,
    /// The broker makes nothing more in it.
    Refuse,
    /// It ends.
    End,
}

impl From<Consequence> for scratch_lease::Consequence {
    fn from(consequence: Consequence) -> Self {
        match consequence {
            Consequence::Report => Self::Report,
            Consequence::Refuse => Self::Refuse,
            Consequence::End => Self::End,
        }
    }
}

/// Handles of directories.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct HandlesConfig {
    /// What a client gets where a handle can't be made that it stays in.
    pub uncontained: Uncontained,
    /// Nothing can be executed through one.
    pub noexec: bool,
}

/// What is done where a directory's handle can't be contained.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Uncontained {
    /// None is given.
    #[default]
    Refuse,
    /// A plain descriptor, which leads out of the directory.
    Plain,
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
    /// Bytes that its leases are granted together. 0: as many as they like.
    #[serde(deserialize_with = "size")]
    pub bytes: u64,
    /// Inodes, alike.
    pub inodes: u64,
    /// Leases and areas made in a second. 0: as many as it gets.
    pub creates_per_second: u32,
    /// Those that may be made at once.
    pub creates_burst: u32,
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
    /// Tickets that are open.
    pub tickets: usize,
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
            bytes: 0,
            inodes: 0,
            creates_per_second: 0,
            creates_burst: 1000,
            holders: lease.holders_per_lease,
            labels: lease.labels_per_lease,
            label_bytes: lease.label_bytes as u64,
            ttl_min: lease.ttl_min,
            ttl_max: lease.ttl_max,
            grace_max: lease.grace_max,
            connections: 4096,
            unread_descriptors: 4096,
            tickets: 64,
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

/// What the broker denies itself.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ConfineConfig {
    /// System calls that a broker has no use for, by a seccomp filter.
    pub system_calls: bool,
}

impl Default for ConfineConfig {
    fn default() -> Self {
        Self { system_calls: true }
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
        let mut config: Self = toml::from_str(text).map_err(parse)?;
        let written: toml::Table = toml::from_str(text).map_err(parse)?;
        config.rule.iter_mut().try_for_each(|rule| rule.complete(written.get("limits"))).map_err(parse)?;
        match config.nonsense() {
            None => Ok(config),
            Some(what) => Err(ConfigError::Sense { path: path.to_owned(), what }),
        }
    }

    /// One pool and defaults for all else.
    #[must_use]
    pub fn of_pool(root: PathBuf) -> Self {
        Self {
            pool: vec![PoolConfig::of(root)],
            restart: RestartConfig::default(),
            admin: AdminConfig::default(),
            limits: LimitsConfig::default(),
            keep: KeepConfig::default(),
            rule: Vec::new(),
            confine: ConfineConfig::default(),
            handles: HandlesConfig::default(),
            meter: MeterConfig::default(),
            foreign: ForeignConfig::default(),
        }
    }

    fn nonsense(&self) -> Option<String> {
        if self.pool.is_empty() {
            return Some("no pool; add [[pool]] with name and root".to_owned());
        }
        for (index, pool) in self.pool.iter().enumerate() {
            if let Some(what) = pool.nonsense(&self.pool[..index]) {
                return Some(what);
            }
        }
        if self.meter.interval < METER_INTERVAL_MIN {
            return Some("meter.interval is shorter than 100ms; make it longer".to_owned());
        }
        if self.foreign.threads == 0 {
            return Some("foreign.threads is 0; with foreign.directories = 0 nothing is made there".to_owned());
        }
        let all_limits = self.rule.iter().map(|rule| &rule.held_to).chain([&self.limits]);
        self.rule.iter().find_map(|rule| rule.nonsense(self)).or_else(|| all_limits.into_iter().find_map(nonsense_of))
    }

    /// The part of the limits that the lease table decides on.
    #[must_use]
    pub fn lease_limits(&self) -> scratch_lease::Limits {
        self.lease_limits_of(&self.limits)
    }

    /// Those of each rule.
    #[must_use]
    pub fn rule_limits(&self) -> Vec<scratch_lease::Limits> {
        self.rule.iter().map(|rule| self.lease_limits_of(&rule.held_to)).collect()
    }

    fn lease_limits_of(&self, limits: &LimitsConfig) -> scratch_lease::Limits {
        let some = |limit: u64| Some(limit).filter(|limit| *limit > 0);
        let (per_second, burst) = (limits.creates_per_second, limits.creates_burst);
        scratch_lease::Limits {
            leases_per_tenant: limits.leases,
            areas_per_tenant: limits.areas,
            bytes_per_tenant: some(limits.bytes),
            inodes_per_tenant: some(limits.inodes),
            creates: (per_second > 0).then_some(scratch_lease::Rate { per_second, burst }),
            holders_per_lease: limits.holders,
            labels_per_lease: limits.labels,
            label_bytes: usize::try_from(limits.label_bytes).unwrap_or(usize::MAX),
            ttl_min: limits.ttl_min,
            ttl_max: limits.ttl_max,
            grace_max: limits.grace_max,
            kept_per_tenant: self.keep.leases_max,
            keep_time_max: self.keep.time_max,
            keep_bytes_max: self.keep.bytes_max,
            undelete_window: self.keep.undelete_window,
            gone_per_tenant: self.keep.undelete_max,
            ..scratch_lease::Limits::default()
        }
    }
}

fn nonsense_of(limits: &LimitsConfig) -> Option<String> {
    (limits.ttl_min > limits.ttl_max).then(|| "limits.ttl_min is longer than limits.ttl_max; swap them".to_owned())
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
            (format!("{pool}high_water = {{ bytes = \"101%\" }}\n"), "no share"),
            (format!("{pool}high_water = {{ bytes = \"9\" }}\n"), "no share"),
            (format!("{pool}backend = \"zfs\"\n"), "zfs"),
            (format!("{pool}size = \"big\"\n"), "no size"),
            (format!("{pool}[meter]\ninterval = \"0s\"\n"), "meter.interval"),
            (format!("{pool}[meter]\nconsequence = \"kill\"\n"), "kill"),
            (format!("{pool}project_ids = \"7\"\n"), "no numbers"),
            (format!("{pool}project_ids = \"7-6\"\n"), "no numbers"),
            (format!("{pool}project_ids = \"0-6\"\n"), "no numbers"),
            (format!("{pool}backend = \"tmpfs\"\nsize = \"1MiB\"\n"), "more than its size"),
            (format!("{pool}lease_inodes = 0\n"), "must not be 0"),
            (format!("{pool}[handles]\nuncontained = \"some\"\n"), "some"),
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
