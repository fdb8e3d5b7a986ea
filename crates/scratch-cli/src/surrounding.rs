//! The lease that this process runs under, SCRATCHD_LEASE: new leases are granted below it.

use std::env;
use std::ffi::OsStr;

use scratch_client::{Client, ClientError, GrantOptions, Lease};

/// Characters of a lease id, all of a-z and 2-7.
const ID_CHARS: usize = 16;

/// Grants a lease below the surrounding one, if there is one. Of one that is not there `tell` is told, and it is done without.
pub(crate) fn grant_below(
    client: &Client,
    options: &GrantOptions,
    tell: impl FnOnce(&str),
) -> Result<Lease, ClientError> {
    let Some(surrounding) = env::var_os("SCRATCHD_LEASE").filter(|value| !value.is_empty()) else {
        return client.grant(options);
    };
    if let Some(parent) = lease_id(&surrounding) {
        let below = GrantOptions { parent: Some(parent.to_owned()), ..options.clone() };
        match client.grant(&below) {
            Err(error) if error.is_refusal("LEASE_UNKNOWN") => {}
            result => return result,
        }
    }
    tell(&format!(
        "SCRATCHD_LEASE={} is no lease of this broker: going on with a lease of its own",
        surrounding.display()
    ));
    client.grant(options)
}

/// The text of a lease's id, if that is what it is.
pub(crate) fn lease_id(text: &OsStr) -> Option<&str> {
    let text = text.to_str()?;
    let is_id = text.len() == ID_CHARS && text.bytes().all(|byte| matches!(byte, b'a'..=b'z' | b'2'..=b'7'));
    is_id.then_some(text)
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
