//! The programs of the tour in README.md, word for word between the lines that say so.

use scratch_client::ClientError;

/// Makes what the tour makes; returns whether that is there, and lets it go.
pub(super) fn from_a_program() -> Result<bool, ClientError> {
    // README
    let client = scratch_client::Client::connect_or_start(&Default::default())?;
    let lease = client.grant(&Default::default())?;      // held by this process
    let file = lease.file(&Default::default())?;         // gone with the guard, or with the process
    let directory = lease.directory(&Default::default())?;
    // README
    Ok(file.path().is_some_and(|path| path.is_file()) && directory.path().is_some_and(|path| path.is_dir()))
}
