//! Every way in which a request is refused or fails, and the one exhaustive map to gRPC codes and reasons.
//! docs/errors.md has each reason with its cause and remedy.

use std::path::PathBuf;

use rustix::io::Errno;
use scratch_fs::{FsError, NameError};
use scratch_lease::{Refusal, Resource};
use scratch_proto::v1;
use tonic_types::{ErrorDetails, StatusExt as _};

/// Whose reasons they are, in ErrorInfo.
pub(crate) const DOMAIN: &str = "scratchd";

/// Most bytes of a message or path that an error shows.
const SHOWN_BYTES_MAX: usize = 800;

/// Why a request was not carried out. Nothing was changed by it.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RequestError {
    #[error(transparent)]
    Refused(#[from] Refusal),
    #[error(transparent)]
    Name(#[from] NameError),
    #[error("{0:?} exists in the lease; propose another name, or set resend if this request was sent before")]
    NameExists(PathBuf),
    #[error("{0:?} exists in the directory it should go to; choose another name, or how to replace it")]
    NameTaken(PathBuf),
    #[error("a batch has 1 to 200 areas, not {0}; send several")]
    BatchSize(u32),
    #[error("random_chars must be 3 to 64, not {0}")]
    RandomChars(u32),
    #[error("mode {0:04o} has bits besides the permissions; use at most 0777")]
    Mode(u32),
    #[error("{0}")]
    Kind(&'static str),
    #[error("{0}")]
    Request(&'static str),
    #[error("the request says {expected} descriptors ride along, {received} did; all were closed")]
    DescriptorCount { expected: usize, received: usize },
    #[error("a packet has at most 64 KiB and 253 descriptors; send several")]
    PacketTooLarge,
    #[error("the packet is no ChannelRequest; see proto/scratchd/v1/channel.proto")]
    PacketGarbled,
    #[error("the reply would pass 64 KiB; ask for fewer or shorter names")]
    ReplyTooLarge,
    #[error("{0}")]
    Holder(&'static str),
    #[error("the process is gone, was before it could be held, or has no number in the broker's PID namespace")]
    ProcessGone,
    #[error("pool {0:?} is not configured; leave it empty for the default")]
    PoolUnknown(String),
    #[error("the pool at {} is not there any more, or only in part; an administrator must put it back", .0.display())]
    PoolLost(PathBuf),
    #[error("a delegated channel takes no {0}; it is for who delegated it")]
    Delegated(&'static str),
    #[error("{0} is for {1}")]
    NotPermitted(&'static str, &'static str),
    #[error(
        "the kernel names this peer as user {0}, as it does all that the broker's user name space has no number for; run a broker where its users have numbers"
    )]
    UserUnmapped(u32),
    #[error(
        "pool {pool:?} has {percent} % of its {resource} in use, and grants nothing until there are less; try again later"
    )]
    PoolFull { pool: String, resource: &'static str, percent: u8 },
    #[error("user {0} has no account here; a lease is granted on behalf of those that have one")]
    TenantUnknown(u32),
    #[error(
        "this broker can't act as another user than its own; it needs CAP_SETUID and CAP_SETGID for that, or use one of your own"
    )]
    OtherUser,
    #[error("{limit} descriptors were sent to this tenant and not received; receive them first")]
    LimitUnread { limit: usize },
    #[error("this tenant has {limit} connections; close some")]
    LimitConnections { limit: usize },
    #[error("this tenant has {limit} calls under way; wait for some, or raise limits.calls")]
    LimitCalls { limit: usize },
    #[error("{limit} tickets of this tenant are unclaimed; claim them on the handle channel first")]
    LimitTickets { limit: usize },
    #[error("this tenant has {limit} watches under way; end some, or raise limits.watches")]
    LimitWatches { limit: usize },
    #[error("{limit} areas of this tenant are being persisted; send it again when one is done")]
    LimitPersists { limit: usize },
    #[error("this tenant has {limit} {what}; release some, wait for some, or raise the limit in [foreign]")]
    LimitForeign { what: &'static str, limit: usize },
    #[error(
        "the directory has not answered within {}; what is made there yet is taken away again",
        humantime::format_duration(*.0)
    )]
    ForeignTimeout(std::time::Duration),
    #[error("{0:?} exists in the directory that was passed; propose another name")]
    NameForeign(PathBuf),
    #[error("{0} needs a descriptor, which gRPC can't carry; ask for it on the handle channel")]
    NeedsChannel(&'static str),
    #[error("no such ticket: it is unknown, was claimed before, or is older than 30 s; make the areas anew")]
    TicketUnknown,
    #[error("the lease has ended, and can't be brought back any more or never could; see keep.undelete_window")]
    UndeleteOver,
    #[error("{0:?}: no such area in the lease")]
    AreaUnknown(PathBuf),
    #[error("what happened after this revision is not kept any more; list anew, then watch from now on")]
    Compacted,
    #[error("events came faster than this client read them; list anew, then watch from now on")]
    SlowReader,
    #[error("the broker is draining and grants nothing; try again when another one runs")]
    Draining,
    #[error("the broker is stopping; connect again, leases stay")]
    Stopping,
    #[error("the call's deadline has passed; what it asked for may have been done")]
    Deadline,
    #[error("there is no such call, or its compression is not spoken here; the reflection service lists the calls")]
    MethodUnknown,
    #[error("a message has at most 128 KiB; send several")]
    MessageTooLarge,
    #[error("the message is not of its call's type; see proto/scratchd/v1")]
    MessageGarbled,
    #[error("there is no such service or name here; the reflection service lists them")]
    ServiceUnknown,
    #[error("this broker can't make a handle that its holder stays in: {}; see handles.uncontained", errno_name(*.0))]
    HandleUncontained(Errno),
    #[error(
        "this lease lies in memory that an earlier broker had and took along: what has it attached keeps it, the broker can \
         make and see nothing in it"
    )]
    MemoryLost,

    #[error(transparent)]
    FileSystem(#[from] FsError),
}

/// One area of a batch, and why it failed.
#[derive(Debug)]
pub(crate) struct AtIndex {
    pub(crate) index: usize,
    pub(crate) error: RequestError,
}

impl RequestError {
    /// The gRPC code and the reason: the only place where they are chosen.
    pub(crate) fn code_and_reason(&self) -> (tonic::Code, &'static str) {
        use tonic::Code;
        match self {
            Self::Refused(refusal) => refusal_code_and_reason(refusal),
            Self::Name(_) => (Code::InvalidArgument, "NAME_INVALID"),
            Self::NameExists(_) | Self::NameTaken(_) | Self::NameForeign(_) => (Code::AlreadyExists, "NAME_EXISTS"),
            Self::BatchSize(_) => (Code::InvalidArgument, "BATCH_SIZE"),
            Self::RandomChars(_) => (Code::InvalidArgument, "RANDOM_CHARS"),
            Self::Mode(_) => (Code::InvalidArgument, "MODE_INVALID"),
            Self::Kind(_) => (Code::InvalidArgument, "KIND_INVALID"),
            Self::Request(_) => (Code::InvalidArgument, "REQUEST_INVALID"),
            Self::DescriptorCount { .. } => (Code::InvalidArgument, "DESCRIPTOR_COUNT"),
            Self::PacketTooLarge => (Code::InvalidArgument, "PACKET_TOO_LARGE"),
            Self::PacketGarbled => (Code::InvalidArgument, "PACKET_GARBLED"),
            Self::ReplyTooLarge => (Code::InvalidArgument, "REPLY_TOO_LARGE"),
            Self::Holder(_) => (Code::InvalidArgument, "HOLDER_INVALID"),
            Self::ProcessGone => (Code::FailedPrecondition, "PROCESS_GONE"),
            Self::PoolUnknown(_) => (Code::NotFound, "POOL_UNKNOWN"),
            Self::PoolLost(_) => (Code::Unavailable, "POOL_LOST"),
            Self::Delegated(_) => (Code::PermissionDenied, "DELEGATED"),
            Self::NotPermitted(..) => (Code::PermissionDenied, "NOT_PERMITTED"),
            Self::UserUnmapped(_) => (Code::PermissionDenied, "USER_UNMAPPED"),
            Self::PoolFull { .. } => (Code::ResourceExhausted, "POOL_FULL"),
            Self::TenantUnknown(_) => (Code::NotFound, "TENANT_UNKNOWN"),
            Self::OtherUser => (Code::FailedPrecondition, "OTHER_USER"),
            Self::LimitUnread { .. } => (Code::ResourceExhausted, "LIMIT_UNREAD"),
            Self::LimitConnections { .. } => (Code::ResourceExhausted, "LIMIT_CONNECTIONS"),
            Self::LimitCalls { .. } => (Code::ResourceExhausted, "LIMIT_CALLS"),
            Self::LimitTickets { .. } => (Code::ResourceExhausted, "LIMIT_TICKETS"),
            Self::LimitPersists { .. } => (Code::ResourceExhausted, "LIMIT_PERSISTS"),
            Self::LimitForeign { .. } => (Code::ResourceExhausted, "LIMIT_FOREIGN"),
            Self::ForeignTimeout(_) => (Code::DeadlineExceeded, "FOREIGN_TIMEOUT"),
            Self::LimitWatches { .. } => (Code::ResourceExhausted, "LIMIT_WATCHES"),
            Self::Compacted => (Code::Aborted, "COMPACTED"),
            Self::SlowReader => (Code::Aborted, "SLOW_READER"),
            Self::NeedsChannel(_) => (Code::FailedPrecondition, "NEEDS_CHANNEL"),
            Self::TicketUnknown => (Code::NotFound, "TICKET_UNKNOWN"),
            Self::UndeleteOver => (Code::FailedPrecondition, "UNDELETE_OVER"),
            Self::AreaUnknown(_) => (Code::NotFound, "AREA_UNKNOWN"),
            Self::Draining => (Code::Unavailable, "DRAINING"),
            Self::Stopping => (Code::Unavailable, "STOPPING"),
            Self::Deadline => (Code::DeadlineExceeded, "DEADLINE"),
            Self::MethodUnknown => (Code::Unimplemented, "METHOD_UNKNOWN"),
            Self::MessageTooLarge => (Code::ResourceExhausted, "MESSAGE_TOO_LARGE"),
            Self::MessageGarbled => (Code::InvalidArgument, "MESSAGE_GARBLED"),
            Self::ServiceUnknown => (Code::NotFound, "SERVICE_UNKNOWN"),
            Self::HandleUncontained(_) => (Code::FailedPrecondition, "HANDLE_UNCONTAINED"),
            Self::MemoryLost => (Code::FailedPrecondition, "MEMORY_LOST"),

            Self::FileSystem(error) => errno_code_and_reason(error.errno),
        }
    }

    /// What a program may want to know besides the reason.
    fn metadata(&self) -> Vec<(&'static str, String)> {
        match self {
            Self::FileSystem(error) => {
                vec![("errno", errno_name(error.errno)), ("path", shortened(percent(error.path.as_os_str())))]
            }
            Self::NameExists(path) | Self::NameTaken(path) | Self::NameForeign(path) => {
                vec![("errno", "EEXIST".to_owned()), ("path", shortened(percent(path.as_os_str())))]
            }
            Self::Refused(refusal) => {
                let more = match refusal {
                    Refusal::LimitShare { left, .. }
                    | Refusal::LimitGranted { left, .. }
                    | Refusal::PoolPromised { left, .. } => Some(("left", left.to_string())),
                    Refusal::LimitRate { retry_after, .. } => {
                        Some(("retry_after", humantime::format_duration(*retry_after).to_string()))
                    }
                    _ => None,
                };
                refusal_limit(refusal).map(|limit| ("limit", limit)).into_iter().chain(more).collect()
            }
            Self::HandleUncontained(errno) => vec![("errno", errno_name(*errno))],
            Self::AreaUnknown(path) | Self::PoolLost(path) => vec![("path", shortened(percent(path.as_os_str())))],
            Self::LimitUnread { limit }
            | Self::LimitConnections { limit }
            | Self::LimitCalls { limit }
            | Self::LimitTickets { limit }
            | Self::LimitWatches { limit }
            | Self::LimitForeign { limit, .. }
            | Self::LimitPersists { limit } => vec![("limit", limit.to_string())],
            Self::PoolFull { percent, resource, .. } => {
                vec![("limit", format!("{percent}%")), ("resource", (*resource).to_owned())]
            }
            Self::BatchSize(_) => vec![("limit", scratch_proto::BATCH_MAX.to_string())],
            _ => Vec::new(),
        }
    }

    /// As the handle channel carries it, and a KeepAlive stream for one lease. `index`: in a batch.
    pub(crate) fn to_wire(&self, index: Option<usize>) -> v1::Error {
        let (code, reason) = self.code_and_reason();
        let metadata = self.metadata().into_iter().map(|(key, value)| (key.to_owned(), value));
        v1::Error {
            code: u32::try_from(i32::from(code)).unwrap_or(2),
            reason: reason.to_owned(),
            message: shortened(self.to_string()),
            metadata: metadata.chain(index.map(|index| ("index".to_owned(), index.to_string()))).collect(),
        }
    }

    /// As gRPC carries it.
    pub(crate) fn to_status(&self, index: Option<usize>) -> tonic::Status {
        let (code, _) = self.code_and_reason();
        let v1::Error { reason, message, metadata, .. } = self.to_wire(index);
        tonic::Status::with_error_details(code, message, ErrorDetails::with_error_info(reason, DOMAIN, metadata))
    }
}

fn refusal_code_and_reason(refusal: &Refusal) -> (tonic::Code, &'static str) {
    use tonic::Code;
    match refusal {
        Refusal::LeaseUnknown => (Code::NotFound, "LEASE_UNKNOWN"),
        Refusal::LeaseLost => (Code::FailedPrecondition, "LEASE_LOST"),
        Refusal::LeaseEnding => (Code::FailedPrecondition, "LEASE_ENDING"),
        Refusal::LeaseKept => (Code::FailedPrecondition, "LEASE_KEPT"),
        Refusal::LimitKept { .. } | Refusal::KeepTooLong { .. } | Refusal::KeepTooMuch { .. } => {
            (Code::ResourceExhausted, "LIMIT_KEEP")
        }
        Refusal::HolderUnknown => (Code::NotFound, "HOLDER_UNKNOWN"),
        Refusal::HolderKind(_) | Refusal::NoHolder => (Code::InvalidArgument, "HOLDER_INVALID"),
        Refusal::LimitLeases { .. } => (Code::ResourceExhausted, "LIMIT_LEASES"),
        Refusal::LimitAreas { .. } => (Code::ResourceExhausted, "LIMIT_AREAS"),
        Refusal::LimitShare { resource: Resource::Bytes, .. }
        | Refusal::LimitGranted { resource: Resource::Bytes, .. } => (Code::ResourceExhausted, "LIMIT_BYTES"),
        Refusal::LimitShare { resource: Resource::Inodes, .. }
        | Refusal::LimitGranted { resource: Resource::Inodes, .. } => (Code::ResourceExhausted, "LIMIT_INODES"),
        Refusal::LimitRate { .. } => (Code::ResourceExhausted, "LIMIT_RATE"),
        Refusal::LimitSpent { resource: Resource::Bytes, .. } => (Code::ResourceExhausted, "LIMIT_BYTES"),
        Refusal::LimitSpent { resource: Resource::Inodes, .. } => (Code::ResourceExhausted, "LIMIT_INODES"),
        Refusal::LimitsNotFirm => (Code::FailedPrecondition, "LIMITS_NOT_FIRM"),
        Refusal::PoolPromised { .. } => (Code::ResourceExhausted, "POOL_PROMISED"),
        Refusal::NoLimit(_) => (Code::FailedPrecondition, "NO_LIMIT"),
        Refusal::LimitHolders { .. } => (Code::ResourceExhausted, "LIMIT_HOLDERS"),
        Refusal::LimitLabels { .. } | Refusal::LabelTooLong { .. } => (Code::InvalidArgument, "LIMIT_LABELS"),
        Refusal::TtlTooLong { .. } | Refusal::TtlTooShort { .. } => (Code::InvalidArgument, "TTL_INVALID"),
        Refusal::GraceTooLong { .. } => (Code::InvalidArgument, "LIMIT_GRACE"),
        Refusal::NoTtl => (Code::FailedPrecondition, "NO_TTL"),
        Refusal::Depth { .. } => (Code::ResourceExhausted, "LIMIT_DEPTH"),
        Refusal::NonceBusy => (Code::Unavailable, "NONCE_BUSY"),
    }
}

fn refusal_limit(refusal: &Refusal) -> Option<String> {
    match refusal {
        Refusal::LimitLeases { limit }
        | Refusal::LimitAreas { limit }
        | Refusal::LimitHolders { limit }
        | Refusal::LimitLabels { limit }
        | Refusal::LabelTooLong { limit }
        | Refusal::LimitKept { limit }
        | Refusal::Depth { limit } => Some(limit.to_string()),
        Refusal::LimitShare { limit, .. }
        | Refusal::LimitGranted { limit, .. }
        | Refusal::PoolPromised { limit, .. }
        | Refusal::KeepTooMuch { limit } => Some(limit.to_string()),
        Refusal::LimitRate { limit, .. } => Some(limit.to_string()),
        Refusal::TtlTooLong { limit }
        | Refusal::TtlTooShort { limit }
        | Refusal::GraceTooLong { limit }
        | Refusal::KeepTooLong { limit } => Some(humantime::format_duration(*limit).to_string()),
        Refusal::LeaseUnknown
        | Refusal::LeaseEnding
        | Refusal::LeaseKept
        | Refusal::LeaseLost
        | Refusal::HolderUnknown
        | Refusal::HolderKind(_)
        | Refusal::NoTtl
        | Refusal::NonceBusy
        | Refusal::LimitsNotFirm
        | Refusal::LimitSpent { .. }
        | Refusal::NoLimit(_)
        | Refusal::NoHolder => None,
    }
}

/// The kernel's word, in the contract's. Errnos are the kernel's to add to, so that this one map has a rest.
fn errno_code_and_reason(errno: Errno) -> (tonic::Code, &'static str) {
    use tonic::Code;
    match errno {
        Errno::NOSPC | Errno::DQUOT => (Code::ResourceExhausted, "NO_SPACE"),
        Errno::MFILE | Errno::NFILE | Errno::NOMEM => (Code::ResourceExhausted, "BROKER_EXHAUSTED"),
        Errno::ACCESS | Errno::PERM => (Code::PermissionDenied, "PERMISSION"),
        Errno::NOENT | Errno::NOTDIR => (Code::NotFound, "PATH_UNKNOWN"),
        Errno::LOOP | Errno::XDEV => (Code::InvalidArgument, "PATH_LEAVES"),
        Errno::EXIST => (Code::AlreadyExists, "NAME_EXISTS"),
        Errno::ROFS => (Code::FailedPrecondition, "READ_ONLY"),
        Errno::BUSY => (Code::FailedPrecondition, "BUSY"),
        _ => (Code::Internal, "FILE_SYSTEM"),
    }
}

/// An errno by its name, as in ENOSPC; a number where it has none that we know.
pub(crate) fn errno_name(errno: Errno) -> String {
    let known = NAMES.iter().find(|(known, _)| *known == errno);
    known.map_or_else(|| format!("errno {}", errno.raw_os_error()), |(_, name)| (*name).to_owned())
}

const NAMES: &[(Errno, &str)] = &[
    (Errno::ACCESS, "EACCES"),
    (Errno::AGAIN, "EAGAIN"),
    (Errno::BADF, "EBADF"),
    (Errno::BUSY, "EBUSY"),
    (Errno::CONNABORTED, "ECONNABORTED"),
    (Errno::DQUOT, "EDQUOT"),
    (Errno::EXIST, "EEXIST"),
    (Errno::FBIG, "EFBIG"),
    (Errno::INTR, "EINTR"),
    (Errno::INVAL, "EINVAL"),
    (Errno::IO, "EIO"),
    (Errno::ISDIR, "EISDIR"),
    (Errno::LOOP, "ELOOP"),
    (Errno::MFILE, "EMFILE"),
    (Errno::MLINK, "EMLINK"),
    (Errno::NAMETOOLONG, "ENAMETOOLONG"),
    (Errno::NFILE, "ENFILE"),
    (Errno::NODEV, "ENODEV"),
    (Errno::NOENT, "ENOENT"),
    (Errno::NOMEM, "ENOMEM"),
    (Errno::NOSPC, "ENOSPC"),
    (Errno::NOSYS, "ENOSYS"),
    (Errno::NOTCONN, "ENOTCONN"),
    (Errno::NOTDIR, "ENOTDIR"),
    (Errno::NOTEMPTY, "ENOTEMPTY"),
    (Errno::NXIO, "ENXIO"),
    (Errno::OPNOTSUPP, "EOPNOTSUPP"),
    (Errno::PERM, "EPERM"),
    (Errno::ROFS, "EROFS"),
    (Errno::SRCH, "ESRCH"),
    (Errno::STALE, "ESTALE"),
    (Errno::TXTBSY, "ETXTBSY"),
    (Errno::XDEV, "EXDEV"),
];

/// Without the middle of what would be too long: clients take 8 KiB of a gRPC error and its details together.
fn shortened(text: String) -> String {
    if text.len() <= SHOWN_BYTES_MAX {
        return text;
    }
    let half = SHOWN_BYTES_MAX / 2;
    let boundary = |at: usize| (0..=at).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
    let (start, end) = (boundary(half), boundary(text.len() - half));
    format!("{}…{}", &text[..start], &text[end..])
}

/// A path for gRPC metadata, which is ASCII: everything but the plain characters of paths as %XX.
fn percent(path: &std::ffi::OsStr) -> String {
    use std::fmt::Write as _;
    use std::os::unix::ffi::OsStrExt as _;
    path.as_bytes().iter().fold(String::new(), |mut text, byte| {
        if byte.is_ascii_alphanumeric() || b"/._-~".contains(byte) {
            text.push(char::from(*byte));
        } else {
            let _ = write!(text, "%{byte:02X}"); // writing to a String can't fail
        }
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_carry_errno_path_and_index() {
        let error = RequestError::FileSystem(FsError::new("create file", "/a b", Errno::NOSPC));
        let sent = error.to_wire(Some(3));
        assert_eq!((sent.code, sent.reason.as_str()), (8, "NO_SPACE"));
        assert_eq!(sent.metadata["errno"], "ENOSPC");
        assert_eq!(sent.metadata["path"], "/a%20b");
        assert_eq!(sent.metadata["index"], "3");
        let status = error.to_status(None);
        assert_eq!(status.get_details_error_info().unwrap().reason, "NO_SPACE");
    }

    #[test]
    fn unknown_errnos_are_numbers() {
        assert_eq!(errno_name(Errno::BUSY), "EBUSY");
        assert_eq!(errno_name(Errno::from_raw_os_error(517)), "errno 517");
    }
}
