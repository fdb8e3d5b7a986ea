//! The lease of `scratch run`.

use scratch_client::{Client, GrantOptions, Lease};

use super::{RunArgs, failure::Failure, say};
use crate::surrounding::grant_below;

/// Grants the lease, below the one that this process runs under.
pub(super) fn grant(client: &Client, args: &RunArgs) -> Result<Lease, Failure> {
    let options = GrantOptions {
        pool: args.pool.clone().unwrap_or_default(),
        labels: args.labels.iter().cloned().collect(),
        lifetime_max: args.ttl,
        search_environment: true,
        preemptible: args.preemptible,
        want_mount: true,
        ..GrantOptions::default()
    };
    Ok(grant_below(client, &options, say)?)
}
