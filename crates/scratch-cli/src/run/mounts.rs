//! What the command finds mounted: with `--private-tmp` the lease's directory as its own /tmp and /var/tmp; and in any case
//! the directory itself, where that lies in memory and has no path.

use std::path::Path;

use scratch_client::Lease;
use scratch_sys::OwnMounts;

use super::failure::Failure;

/// What is covered; where it is missing, so it stays.
const PLACES: [&str; 2] = ["/tmp", "/var/tmp"];

/// The lease's directory, as the command is to find it.
#[derive(Debug)]
pub(super) struct Found<'a> {
    /// The path by which everybody finds it, if the command can, too.
    pub(super) path: &'a Path,
    /// `None`: it stays in our mount namespace.
    pub(super) mounts: Option<OwnMounts>,
}

impl<'a> Found<'a> {
    /// Of a lease whose directory may be below one of the places, as that of a session broker mostly is.
    pub(super) fn of(lease: &'a Lease, private_tmp: bool) -> Result<Self, Failure> {
        let mount = lease.mount();
        let directory =
            lease.path().or_else(|| mount.map(|mount| mount.place.as_path())).ok_or(Failure::NoDirectory)?;
        if mount.is_none() && !private_tmp {
            return Ok(Self { path: directory, mounts: None });
        }
        let covered: &[&str] = if private_tmp { &PLACES } else { &[] };
        let covers = |place: &&&str| std::fs::canonicalize(place).is_ok_and(|place| directory.starts_with(place));
        let path = covered.iter().find(covers).map_or(directory, Path::new);
        let attached = mount.map(|mount| mount.mount.try_clone()).transpose();
        let attached = attached.map_err(|error| Failure::from_io("hold the lease's mount", &error))?;
        let places: Vec<&Path> = covered.iter().map(Path::new).collect();
        let mounts = OwnMounts::new(directory, attached, &places).map_err(Failure::system("use the lease's path"))?;
        Ok(Self { path, mounts: Some(mounts) })
    }
}
