//! Exit codes: sysexits(3) for the program, and for `run` those that env(1), nohup(1) and shells use.

use scratch_client::ClientError;

/// `verify` has found something.
pub(crate) const FINDINGS: u8 = 1;
/// The command line makes no sense.
pub(crate) const USAGE: u8 = 64;
/// No broker, or it can't serve now.
pub(crate) const UNAVAILABLE: u8 = 69;
/// Something that should not happen.
pub(crate) const SOFTWARE: u8 = 70;
/// A lease or an area can't be made.
pub(crate) const CANNOT_CREATE: u8 = 73;
/// A system call failed.
pub(crate) const IO: u8 = 74;
/// It may work later.
pub(crate) const TRY_LATER: u8 = 75;
/// Not permitted, or a broker that may not be trusted.
pub(crate) const NOT_PERMITTED: u8 = 77;

/// The configuration can't be used.
pub(crate) const CONFIG: u8 = 78;

/// `run`: every failure that is not its command's.
pub(crate) const RUN_FAILED: u8 = 125;
/// `run`: the command was found and can't be executed.
pub(crate) const CANNOT_EXECUTE: u8 = 126;
/// `run`: there is no such command.
pub(crate) const NOT_FOUND: u8 = 127;

/// What a shell would say of a command that a signal ended.
pub(crate) fn of_signal(signal: i32) -> u8 {
    u8::try_from(signal).map_or(u8::MAX, |signal| signal.saturating_add(128))
}

/// For every command but `run`.
pub(crate) fn of_client_error(error: &ClientError) -> u8 {
    match error {
        ClientError::NoBroker { .. }
        | ClientError::NoProgram
        | ClientError::Start { .. }
        | ClientError::ChannelClosed
        | ClientError::Closed { .. } => UNAVAILABLE,
        ClientError::ForeignBroker { .. } | ClientError::ForeignDirectory { .. } => NOT_PERMITTED,
        ClientError::Create(_) => CANNOT_CREATE,
        ClientError::Name(_) | ClientError::NoChannel { .. } => USAGE,
        ClientError::Refused { code, .. } => of_code(*code),
        ClientError::Io { .. } => IO,
        _ => SOFTWARE,
    }
}

/// For a refusal with this google.rpc.Code.
pub(crate) fn of_code(code: u32) -> u8 {
    match code {
        3 | 11 => USAGE,
        5 | 6 | 9 => CANNOT_CREATE,
        7 | 16 => NOT_PERMITTED,
        4 | 8 | 10 => TRY_LATER,
        12 | 14 => UNAVAILABLE,
        _ => SOFTWARE,
    }
}
