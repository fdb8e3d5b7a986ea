//! What `scratch run` itself can fail at: a line for people, with a remedy, and an exit code.

use std::ffi::OsString;
use std::io;

use rustix::io::Errno;
use scratch_client::ClientError;

use crate::exit;

/// A failure of the wrapper; the command has not run, or its end is not known.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failure {
    #[error("{option} is not in this version: leave it out")]
    NotYet { option: &'static str },
    #[error(transparent)]
    Client(#[from] ClientError),
    #[error("the lease has no directory that this process can reach: choose another pool with --pool")]
    NoDirectory,
    #[error("cannot {operation}: {errno}: see ulimit -a, and try again")]
    System { operation: &'static str, errno: Errno },
    #[error("cannot mount for the command alone: {errno}: {}", refused(*errno))]
    Mounts { errno: Errno },
    #[error("cannot execute {}: {errno}: {}", .command.display(), remedy(*errno))]
    Execute { command: OsString, errno: Errno },
}

impl Failure {
    /// For `map_err` on a system call.
    pub(super) fn system(operation: &'static str) -> impl FnOnce(Errno) -> Self {
        move |errno| Self::System { operation, errno }
    }

    pub(super) fn from_io(operation: &'static str, error: &io::Error) -> Self {
        Self::System { operation, errno: Errno::from_io_error(error).unwrap_or(Errno::IO) }
    }

    pub(super) fn code(&self) -> u8 {
        match self {
            Self::Execute { errno: Errno::NOENT | Errno::NOTDIR, .. } => exit::NOT_FOUND,
            Self::Execute { .. } => exit::CANNOT_EXECUTE,
            Self::NotYet { .. } | Self::Client(_) | Self::NoDirectory | Self::System { .. } | Self::Mounts { .. } => {
                exit::RUN_FAILED
            }
        }
    }
}

/// Who is not root mounts in a user namespace, which much can refuse: at once, or when it comes to mounting.
fn refused(errno: Errno) -> &'static str {
    match errno {
        Errno::PERM | Errno::ACCESS | Errno::NOSPC | Errno::USERS | Errno::INVAL => {
            "user namespaces seem to be refused: have user.max_user_namespaces above 0, kernel.unprivileged_userns_clone at 1 \
             and kernel.apparmor_restrict_unprivileged_userns at 0 where sysctl has them, call from outside any chroot, or \
             leave --private-tmp out and choose a pool that is not in memory"
        }
        Errno::NOSYS => "it takes Linux 5.2 or later with user namespaces",
        _ => "see mount_namespaces(7), or leave --private-tmp out",
    }
}

fn remedy(errno: Errno) -> &'static str {
    match errno {
        Errno::NOENT | Errno::NOTDIR => "check its name, its first line and PATH",
        Errno::ACCESS | Errno::PERM => "make it executable, and check the mount's noexec",
        Errno::NOEXEC => "it is no program for this machine",
        _ => "see execve(2)",
    }
}
