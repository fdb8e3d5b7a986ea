//! The default temporary directory: the first candidate in which a file can really be written, as CPython's tempfile has
//! it (`_candidate_tempdir_list`, `_get_default_tempdir`).

use std::ffi::OsString;
use std::os::fd::AsFd;
use std::path::PathBuf;

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use crate::{FsError, create_anonymous};

/// TMPDIR, TEMP, TMP as `variable` gives them (empty ones do not count), /tmp, /var/tmp, /usr/tmp, the current directory.
pub fn temporary_directory_candidates(variable: impl Fn(&str) -> Option<OsString>) -> Vec<PathBuf> {
    let from_environment = ["TMPDIR", "TEMP", "TMP"].into_iter().filter_map(variable).filter(|value| !value.is_empty());
    let fixed = ["/tmp", "/var/tmp", "/usr/tmp"].into_iter().map(OsString::from);
    let mut candidates: Vec<PathBuf> = from_environment
        .chain(fixed)
        .map(|text| std::path::absolute(&text).unwrap_or_else(|_| PathBuf::from(text)))
        .collect();
    candidates.push(std::env::current_dir().unwrap_or_else(|_| PathBuf::from(".")));
    candidates
}

/// The first candidate in which a file can be made and written. Nothing stays behind.
///
/// # Errors
/// ENOENT when none is usable, with the list in the path.
pub fn first_usable_directory(candidates: &[PathBuf]) -> Result<PathBuf, FsError> {
    match candidates.iter().find(|candidate| probe(candidate).is_ok()) {
        Some(found) => Ok(found.clone()),
        None => Err(FsError::new("find a usable temporary directory in", format!("{candidates:?}"), Errno::NOENT)),
    }
}

fn probe(candidate: &PathBuf) -> Result<(), Errno> {
    let directory = rustix::fs::open(candidate, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    // Without a name where the file system can: a caller that is killed here leaves nothing, as CPython's probe would.
    let file = create_anonymous(directory.as_fd(), 0o600).map_err(|error| error.errno)?;
    if rustix::io::write(&file, b"blat")? == 4 { Ok(()) } else { Err(Errno::NOSPC) }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use super::*;

    #[test]
    fn the_environment_comes_first_in_order() {
        let set = |name: &str| match name {
            "TMPDIR" => Some(OsString::new()),
            "TEMP" => Some("/one".into()),
            "TMP" => Some("/two".into()),
            _ => None,
        };
        let candidates = temporary_directory_candidates(set);
        let expected = ["/one", "/two", "/tmp", "/var/tmp", "/usr/tmp"].map(PathBuf::from);
        assert_eq!(candidates[..5], expected);
        assert_eq!(candidates.len(), 6);
    }

    #[test]
    fn what_cannot_be_written_is_passed_over() {
        let root = tempfile::tempdir().unwrap();
        let file = root.path().join("file");
        std::fs::write(&file, b"").unwrap();
        let good = root.path().join("good");
        std::fs::create_dir(&good).unwrap();
        let before = UNIX_EPOCH + Duration::from_secs(1);
        std::fs::File::open(&good).unwrap().set_modified(before).unwrap();
        let candidates = [root.path().join("missing"), file, good.clone()];
        assert_eq!(first_usable_directory(&candidates).unwrap(), good);
        assert_eq!(good.metadata().unwrap().modified().unwrap(), before, "no name was there, not for an instant");
        assert_eq!(first_usable_directory(&candidates[..2]).unwrap_err().errno, Errno::NOENT);
    }
}
