//! Where the broker is looked for, and whether others have a say there.

use std::env;
use std::fs;
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

use rustix::process::geteuid;

use super::finding::Finding;
use super::of_io;

const SYSTEM: &str = "/run/scratchd";

/// Which directory it is and why, whose, and the sockets in it.
pub(super) fn check(directory: &Path) -> Vec<Finding> {
    let mut findings = vec![choice(directory), owner(directory)];
    findings.extend(["handle.sock", "grpc.sock"].into_iter().filter_map(|name| socket(&directory.join(name))));
    findings
}

/// Whether the broker there is the system's, which no client ever starts.
pub(super) fn is_system(directory: &Path) -> bool {
    directory == Path::new(SYSTEM)
}

fn choice(directory: &Path) -> Finding {
    const CHECK: &str = "search order";
    let said = env::var_os("SCRATCHD_RUNTIME_DIR").is_some_and(|value| !value.is_empty());
    let shown = directory.display();
    if said && Path::new(SYSTEM).is_dir() && !is_system(directory) {
        return Finding::note(
            CHECK,
            format!("{shown}, as SCRATCHD_RUNTIME_DIR says; {SYSTEM} is there and left aside"),
        );
    }
    let why = match directory {
        _ if said => "as SCRATCHD_RUNTIME_DIR says",
        _ if is_system(directory) => "the system's, which is there",
        _ if env::var_os("XDG_RUNTIME_DIR")
            .is_some_and(|runtime| Path::new(&runtime).join("scratchd") == directory) =>
        {
            "this user's own, in XDG_RUNTIME_DIR"
        }
        _ => "this user's own; XDG_RUNTIME_DIR names no directory of this user",
    };
    Finding::ok(CHECK, format!("{shown}, {why}"))
}

fn owner(directory: &Path) -> Finding {
    const CHECK: &str = "runtime directory";
    let shown = directory.display();
    let found = match fs::symlink_metadata(directory) {
        Ok(found) => found,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Finding::note(CHECK, format!("{shown} is not there; the first lease makes it"));
        }
        Err(error) => {
            return Finding::fails(CHECK, format!("{shown} can't be looked at: {}", of_io(&error)))
                .remedy("set SCRATCHD_RUNTIME_DIR to where your broker is, or unset it");
        }
    };
    let about = format!("{shown}: owner uid {}, mode {:04o}", found.uid(), found.mode() & 0o7777);
    if !found.is_dir() && !found.is_symlink() {
        return Finding::fails(CHECK, format!("{shown} is no directory"))
            .remedy("remove it, or set SCRATCHD_RUNTIME_DIR");
    }
    if found.uid() != 0 && found.uid() != geteuid().as_raw() {
        return Finding::foreign(CHECK, format!("{about}; neither root's nor yours"))
            .remedy("ask who made it there, or set SCRATCHD_RUNTIME_DIR to a directory of your own");
    }
    if found.is_dir() && found.mode() & 0o022 != 0 {
        return Finding::foreign(CHECK, format!("{about}; others may put a socket of theirs there"))
            .remedy(format!("chmod go-w {shown}"));
    }
    Finding::ok(CHECK, about)
}

/// Nothing is said of one that is not there: the broker's own check does.
fn socket(path: &Path) -> Option<Finding> {
    const CHECK: &str = "socket";
    let shown = path.display();
    let found = fs::symlink_metadata(path).ok()?;
    let about = format!("{shown}: owner uid {}, mode {:04o}", found.uid(), found.mode() & 0o7777);
    if !found.file_type().is_socket() {
        return Some(
            Finding::fails(CHECK, format!("{shown} is no socket")).remedy("remove it and start the broker again"),
        );
    }
    // For every user, or for one's own alone.
    Some(match found.mode() & 0o777 {
        0o666 | 0o600 => Finding::ok(CHECK, about),
        _ => Finding::warn(CHECK, format!("{about}; the broker makes it 0666, for one user alone 0600"))
            .remedy("start the broker again, and see who changes it"),
    })
}
