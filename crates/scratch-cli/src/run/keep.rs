//! `scratch run --keep-on-failure`. The lease is to be kept from the start, and that is taken back when the command succeeds:
//! so it is kept, too, when this process is killed, and nobody knows how the command ended. None of this changes the
//! command's exit code.

use std::path::Path;
use std::time::{Duration, SystemTime};

use scratch_client::Lease;

use super::say;
use crate::failure::Failure;
use crate::lease::keep;

/// That the lease is to be kept, and for how long.
#[derive(Debug)]
pub(super) struct KeepOnFailure {
    time: Duration,
}

impl KeepOnFailure {
    /// Has the lease be kept, whatever happens.
    pub(super) fn begin(lease: &Lease, time: Duration) -> Self {
        if let Err(failure) = set(lease, time) {
            say(&format!("if the command fails, its files will not be kept: {failure}"));
        }
        Self { time }
    }

    /// The command has failed: where its files are, until when, and how to be rid of them.
    pub(super) fn tell(self, lease: &Lease, ends_now: bool) {
        // Once more: there may be room for it now.
        if let Err(failure) = set(lease, self.time) {
            say(&format!("the command has failed, and its files can't be kept: {failure}"));
            return;
        }
        let until = if ends_now {
            format!("until {}", humantime::format_rfc3339_seconds(SystemTime::now() + self.time))
        } else {
            format!("for {} after what it left running", humantime::format_duration(self.time))
        };
        let path = lease.path().unwrap_or_else(|| Path::new(lease.id())).display();
        say(&format!(
            "the command has failed; {path} is kept {until}: `scratch lease revoke {}` removes it",
            lease.id()
        ));
    }

    /// The command has succeeded: what it left running does not have its files kept.
    pub(super) fn take_back(self, lease: &Lease) {
        if let Err(failure) = set(lease, Duration::ZERO) {
            say(&format!("the command has ended well, and its files may be kept all the same: {failure}"));
        }
    }
}

fn set(lease: &Lease, time: Duration) -> Result<(), Failure> {
    keep::request(lease.id(), time, 0).map(drop)
}
