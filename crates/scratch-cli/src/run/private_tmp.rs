//! `--private-tmp`: the lease's directory as the command's own /tmp and /var/tmp.

use std::path::Path;

use scratch_sys::OwnMounts;

use super::failure::Failure;

/// What is covered; where it is missing, so it stays.
const PLACES: [&str; 2] = ["/tmp", "/var/tmp"];

/// What the command finds mounted.
#[derive(Debug)]
pub(super) struct PrivateTmp<'a> {
    pub(super) mounts: OwnMounts,
    /// Where the command finds its directory by the same name as everybody, if it can.
    pub(super) seen: &'a Path,
}

impl<'a> PrivateTmp<'a> {
    /// With the lease's directory, which may be below one of the places, as that of a session broker mostly is.
    pub(super) fn of(directory: &'a Path) -> Result<Self, Failure> {
        let mounts =
            OwnMounts::new(directory, None, &PLACES.map(Path::new)).map_err(Failure::system("use the lease's path"))?;
        let covers = |place: &str| std::fs::canonicalize(place).is_ok_and(|place| directory.starts_with(place));
        let seen = PLACES.into_iter().find(|place| covers(place)).map_or(directory, Path::new);
        Ok(Self { mounts, seen })
    }
}
