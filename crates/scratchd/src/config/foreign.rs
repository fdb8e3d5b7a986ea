//! The section `[foreign]`.

use std::time::Duration;

use serde::Deserialize;

use super::duration;

/// What one tenant may have in directories that it passes.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ForeignConfig {
    /// Areas in them, those that are to go included.
    pub areas: usize,
    /// Such directories.
    pub directories: usize,
    /// Threads that work in them.
    pub threads: usize,
    /// How long one may take to answer.
    #[serde(deserialize_with = "duration")]
    pub deadline: Duration,
}

impl Default for ForeignConfig {
    fn default() -> Self {
        Self { areas: 10_000, directories: 64, threads: 4, deadline: Duration::from_secs(10) }
    }
}
