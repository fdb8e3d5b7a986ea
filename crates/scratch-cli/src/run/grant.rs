//! The lease of `scratch run`: a child of the one that this process runs under, if there is one.

use std::env;
use std::ffi::OsStr;

use scratch_client::{Client, GrantOptions, Lease};

use super::{RunArgs, failure::Failure, say};

/// Characters of a lease id, all of a-z and 2-7.
const ID_CHARS: usize = 16;

/// Grants the lease. A parent that is not there is told once, and done without.
pub(super) fn grant(client: &Client, args: &RunArgs) -> Result<Lease, Failure> {
    let options = GrantOptions {
        pool: args.pool.clone().unwrap_or_default(),
        labels: args.labels.iter().cloned().collect(),
        lifetime_max: args.ttl,
        search_environment: true,
        ..GrantOptions::default()
    };
    let Some(surrounding) = env::var_os("SCRATCHD_LEASE").filter(|value| !value.is_empty()) else {
        return Ok(client.grant(&options)?);
    };
    if let Some(parent) = lease_id(&surrounding) {
        let below = GrantOptions { parent: Some(parent), ..options.clone() };
        match client.grant(&below) {
            Err(error) if error.is_refusal("LEASE_UNKNOWN") => {}
            result => return Ok(result?),
        }
    }
    say(&format!(
        "SCRATCHD_LEASE={} is no lease of this broker: going on with a lease of its own",
        surrounding.display()
    ));
    Ok(client.grant(&options)?)
}

fn lease_id(text: &OsStr) -> Option<String> {
    let text = text.to_str()?;
    let is_id = text.len() == ID_CHARS && text.bytes().all(|byte| matches!(byte, b'a'..=b'z' | b'2'..=b'7'));
    is_id.then(|| text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_lease_ids_are_asked_for() {
        assert!(lease_id(OsStr::new("abcdefghijklm234")).is_some());
        for text in ["", "abc", "abcdefghijklm231", "ABCDEFGHIJKLM234", "abcdefghijklm2345"] {
            assert!(lease_id(OsStr::new(text)).is_none(), "{text}");
        }
    }
}
