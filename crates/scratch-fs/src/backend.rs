//! How a pool stores its leases, and how firm the limits of bytes and inodes are there.

/// How a pool stores its leases.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Backend {
    /// A directory each.
    #[default]
    Dir,
    /// A btrfs subvolume each.
    Btrfs,
    /// A tmpfs each, which is mounted nowhere.
    Tmpfs,
}

/// What a limit is worth.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Firmness {
    /// Metered: who writes sees no error.
    Soft,
    /// Enforced, but its owner can step out of it; the meter notices.
    Cooperative,
    /// Its owner can't get round it.
    Hard,
}

impl Backend {
    /// As the configuration calls it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Dir => "dir",
            Self::Btrfs => "btrfs",
            Self::Tmpfs => "tmpfs",
        }
    }
}
