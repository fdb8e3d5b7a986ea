//! Everything that can go wrong for a client, as one error whose text says what to do next.

use std::collections::HashMap;
use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};

use rustix::io::Errno;
use scratch_fs::{FsError, NameError};
use scratch_proto::v1::Error as Refusal;

/// One failed call.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum ClientError {
    /// Nothing answers where a broker should be.
    #[error("no broker answers in {}: start scratchd, or set SCRATCHD_RUNTIME_DIR to where it runs", .runtime_directory.display())]
    NoBroker {
        /// Where it was looked for.
        runtime_directory: PathBuf,
    },
    /// Somebody else's broker answers, who could read and change what we make.
    #[error("the broker in {} runs as uid {uid}, which is neither root nor you: ask who started it there, or set SCRATCHD_RUNTIME_DIR", .runtime_directory.display())]
    ForeignBroker {
        /// Where it answers.
        runtime_directory: PathBuf,
        /// Whose it is, as the kernel says.
        uid: u32,
    },
    /// A session broker would have to live where others have a say.
    #[error(
        "{} is not yours, or others may write to it: remove it, or set SCRATCHD_RUNTIME_DIR to a directory of your own",
        .runtime_directory.display()
    )]
    ForeignDirectory {
        /// Where it would have been started.
        runtime_directory: PathBuf,
    },
    /// A session broker is needed, and its program was not found.
    #[error(
        "no broker runs, and no program `scratch` was found to start one: set SCRATCHD_BIN to it, or add its directory to PATH"
    )]
    NoProgram,
    /// A session broker was started and did not become ready.
    #[error("the broker did not start: {reason}; see {}", .log.display())]
    Start {
        /// What it wrote while it started.
        log: PathBuf,
        /// What it said, or how it ended.
        reason: String,
    },
    /// SCRATCHD_CHANNEL names no delegated channel.
    #[error(
        "SCRATCHD_CHANNEL={} is no channel for this client: it must be the number of an inherited Unix seqpacket socket, and \
         one client of a process takes it, for all",
        .value.display()
    )]
    NoChannel {
        /// What it was set to.
        value: OsString,
    },
    /// A delegated channel has ended, or belongs to the process that this one was forked from.
    #[error(
        "the delegated channel is closed, or another process's: what was under it ends; ask who delegated it for another"
    )]
    ChannelClosed,
    /// A system call failed.
    #[error("{operation} {}: {source}", .path.display())]
    Io {
        /// What was tried, as a verb.
        operation: &'static str,
        /// On what; for messages only.
        path: PathBuf,
        /// What the kernel answered.
        source: Errno,
    },
    /// An area could not be made in the lease's directory.
    #[error(transparent)]
    Create(#[from] FsError),
    /// A prefix, suffix, name or path below a lease that can't be one.
    #[error(transparent)]
    Name(#[from] NameError),
    /// The broker refused, and changed nothing.
    #[error("{message} ({reason})")]
    Refused {
        /// A google.rpc.Code.
        code: u32,
        /// A name from docs/errors.md.
        reason: String,
        /// What happened, where, and what to do.
        message: String,
        /// path (percent-encoded), errno (by name), limit, index, …
        metadata: HashMap<String, String>,
    },
    /// The broker closed the connection and said why.
    #[error("the broker closed the connection: {reason}")]
    Closed {
        /// Its words.
        reason: String,
    },
    /// The broker's answer is not one to the question: versions that do not fit.
    #[error("the broker's answer makes no sense: {0}; are broker and client of one version?")]
    Protocol(&'static str),
}

impl ClientError {
    pub(crate) fn io(operation: &'static str, path: impl AsRef<Path>, source: Errno) -> Self {
        Self::Io { operation, path: path.as_ref().to_owned(), source }
    }

    /// Of the standard library, which keeps no error but the kernel's here.
    pub(crate) fn std_io(operation: &'static str, path: impl AsRef<Path>, error: &io::Error) -> Self {
        Self::io(operation, path, Errno::from_io_error(error).unwrap_or(Errno::IO))
    }

    /// Whether the broker refused for this reason, a name from docs/errors.md.
    #[must_use]
    pub fn is_refusal(&self, expected: &str) -> bool {
        matches!(self, Self::Refused { reason, .. } if reason == expected)
    }

    /// Whether the connection is gone, so that the same on a new one may succeed.
    pub(crate) fn is_disconnect(&self) -> bool {
        match self {
            Self::Io { source, .. } => matches!(*source, Errno::PIPE | Errno::CONNRESET | Errno::NOTCONN),
            Self::Closed { .. } => true,
            _ => false,
        }
    }

    fn kind(&self) -> io::ErrorKind {
        match self {
            Self::NoBroker { .. } | Self::Closed { .. } | Self::ChannelClosed => io::ErrorKind::NotConnected,
            Self::ForeignBroker { .. } | Self::ForeignDirectory { .. } => io::ErrorKind::PermissionDenied,
            Self::NoProgram => io::ErrorKind::NotFound,
            Self::NoChannel { .. } => io::ErrorKind::InvalidInput,
            Self::Start { .. } => io::ErrorKind::Other,
            Self::Io { source, .. } => io::Error::from(*source).kind(),
            Self::Create(error) => io::Error::from(error.errno).kind(),
            Self::Name(_) => io::ErrorKind::InvalidInput,
            Self::Refused { code, metadata, .. } => {
                metadata.get("errno").and_then(|errno| kind_of_errno(errno)).unwrap_or_else(|| kind_of_code(*code))
            }
            Self::Protocol(_) => io::ErrorKind::InvalidData,
        }
    }
}

impl From<Refusal> for ClientError {
    fn from(refusal: Refusal) -> Self {
        let Refusal { code, reason, message, metadata } = refusal;
        Self::Refused { code, reason, message, metadata }
    }
}

impl From<ClientError> for io::Error {
    fn from(error: ClientError) -> Self {
        Self::new(error.kind(), error)
    }
}

/// What the kernel answered the broker says more than FILE_SYSTEM's code, which is INTERNAL.
fn kind_of_errno(name: &str) -> Option<io::ErrorKind> {
    match name {
        "EISDIR" => Some(io::ErrorKind::IsADirectory),
        "ENOTDIR" => Some(io::ErrorKind::NotADirectory),
        "ENOTEMPTY" => Some(io::ErrorKind::DirectoryNotEmpty),
        "EOPNOTSUPP" => Some(io::ErrorKind::Unsupported),
        "ESTALE" => Some(io::ErrorKind::StaleNetworkFileHandle),
        _ => None,
    }
}

/// The kind that programs know for a google.rpc.Code.
fn kind_of_code(code: u32) -> io::ErrorKind {
    match code {
        3 => io::ErrorKind::InvalidInput,
        4 => io::ErrorKind::TimedOut,
        5 => io::ErrorKind::NotFound,
        6 => io::ErrorKind::AlreadyExists,
        7 | 16 => io::ErrorKind::PermissionDenied,
        8 => io::ErrorKind::QuotaExceeded,
        12 => io::ErrorKind::Unsupported,
        14 => io::ErrorKind::NotConnected,
        _ => io::ErrorKind::Other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_keep_their_kind_and_text_as_io_errors() {
        let refusal =
            Refusal { code: 6, reason: "NAME_EXISTS".into(), message: "it is there".into(), ..Refusal::default() };
        let error = ClientError::from(refusal);
        assert!(error.is_refusal("NAME_EXISTS") && !error.is_disconnect());
        let error = io::Error::from(error);
        assert_eq!(
            (error.kind(), error.to_string().as_str()),
            (io::ErrorKind::AlreadyExists, "it is there (NAME_EXISTS)")
        );
        let metadata = HashMap::from([("errno".to_owned(), "EISDIR".to_owned())]);
        let refusal = Refusal { code: 13, reason: "FILE_SYSTEM".into(), metadata, ..Refusal::default() };
        assert_eq!(io::Error::from(ClientError::from(refusal)).kind(), io::ErrorKind::IsADirectory);
        let gone = ClientError::io("receive from", "/run/x", Errno::CONNRESET);
        assert!(gone.is_disconnect());
        assert_eq!(io::Error::from(gone).kind(), io::ErrorKind::ConnectionReset);
    }
}
