//! Why a command other than `run` failed, and its exit code.

use std::collections::HashMap;
use std::io::ErrorKind;
use std::path::PathBuf;

use rustix::process::Signal;
use scratch_client::ClientError;
use serde_json::{Value, json};
use tonic_types::StatusExt;

use crate::exit;
use crate::mktemp::TemplateError;

/// One failed command.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    #[error("{0}: not in this version; `scratch --help` lists what is")]
    NotYet(String),
    #[error("{0}: no such command; `scratch --help` lists them")]
    UnknownCommand(String),
    #[error("--dry-run is refused: a name that nobody made can be taken by somebody else; leave it out")]
    DryRun,
    #[error(transparent)]
    Template(#[from] TemplateError),
    #[error("no process of this user called this program that could hold the lease: name one with --holder-pid")]
    NoShell,
    #[error("process {0} is not there: name one that runs")]
    NoProcess(u32),
    #[error("the lease has no directory that this process can reach: choose another pool")]
    NoDirectory,
    #[error("{}", .0.join("; "))]
    Debt(Vec<String>),
    #[error(
        "still live: {0} leases. Nothing is granted, and the broker goes when they have ended; `scratch drain --undo` calls it off"
    )]
    LeasesLeft(u64),
    #[error("the drain was called off: the broker grants again")]
    CalledOff,
    #[error("something fails: see what to do above")]
    Sick(u8),
    #[error("records, memory and disk do not agree: see above")]
    Findings(u8),
    #[error("{0}: {1}")]
    Of(String, Box<Failure>),
    #[error(transparent)]
    Client(#[from] ClientError),
    #[error("{}", of_status(.0))]
    Refused(Box<tonic::Status>),
    #[error("gRPC with the broker failed: {0}; is {1} its socket?")]
    Transport(tonic::transport::Error, PathBuf),
    #[error(transparent)]
    Config(#[from] scratchd::ConfigError),
    #[error("writing the result failed: {0}")]
    Write(#[from] std::io::Error),
}

impl Failure {
    /// Who read the result has gone: that is told by the code alone, as of any other program.
    pub(crate) fn is_unread(&self) -> bool {
        matches!(self, Self::Write(error) if error.kind() == ErrorKind::BrokenPipe)
    }

    pub(crate) fn exit_code(&self) -> u8 {
        match self {
            Self::NotYet(_) | Self::UnknownCommand(_) | Self::DryRun | Self::Template(_) => exit::USAGE,
            Self::NoShell | Self::NoProcess(_) | Self::NoDirectory => exit::CANNOT_CREATE,
            Self::Debt(_) | Self::LeasesLeft(_) | Self::CalledOff => exit::TRY_LATER,
            Self::Sick(code) | Self::Findings(code) => *code,
            Self::Of(_, failure) => failure.exit_code(),
            Self::Client(error) => exit::of_client_error(error),
            Self::Refused(status) => exit::of_code(u32::try_from(i32::from(status.code())).unwrap_or(2)),
            Self::Transport(..) => exit::UNAVAILABLE,
            Self::Config(_) => exit::CONFIG,
            Self::Write(_) if self.is_unread() => exit::of_signal(Signal::PIPE.as_raw()),
            Self::Write(_) => exit::IO,
        }
    }
}

impl Failure {
    /// For scripts: the reason, code and metadata of docs/errors.md where the broker has refused, else null and none.
    pub(crate) fn to_json(&self) -> Value {
        let (reason, code, metadata) = match self.refusal() {
            Some((reason, code, metadata)) => (json!(reason), json!(code_name(code)), json!(metadata)),
            None => (Value::Null, Value::Null, json!({})),
        };
        let message = self.to_string();
        json!({ "error": { "reason": reason, "code": code, "message": message, "metadata": metadata } })
    }

    fn refusal(&self) -> Option<(String, tonic::Code, HashMap<String, String>)> {
        match self {
            Self::Of(_, failure) => failure.refusal(),
            Self::Refused(status) => {
                let info = status.get_details_error_info()?;
                Some((info.reason, status.code(), info.metadata))
            }
            Self::Client(ClientError::Refused { code, reason, metadata, .. }) => {
                let code = tonic::Code::from_i32(i32::try_from(*code).unwrap_or(2));
                Some((reason.clone(), code, metadata.clone()))
            }
            _ => None,
        }
    }
}

/// As google.rpc.Code has it, like NOT_FOUND.
fn code_name(code: tonic::Code) -> String {
    let mut name = String::new();
    for letter in format!("{code:?}").chars() {
        if letter.is_uppercase() && !name.is_empty() {
            name.push('_');
        }
        name.push(letter.to_ascii_uppercase());
    }
    name
}

impl From<tonic::Status> for Failure {
    fn from(status: tonic::Status) -> Self {
        Self::Refused(Box::new(status))
    }
}

fn of_status(status: &tonic::Status) -> String {
    match status.get_details_error_info() {
        Some(info) => format!("{} ({})", status.message(), info.reason),
        None => status.message().to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_is_the_same_for_scripts_on_both_roads() {
        let metadata = HashMap::from([("limit".to_owned(), "1".to_owned())]);
        let details = tonic_types::ErrorDetails::with_error_info("LIMIT_LEASES", "scratchd", metadata.clone());
        let status = tonic::Status::with_error_details(tonic::Code::ResourceExhausted, "too many", details);
        let (reason, message) = ("LIMIT_LEASES".to_owned(), "too many".to_owned());
        let refused = ClientError::Refused { code: 8, reason, message, metadata };
        let expected = json!({ "error": {
            "reason": "LIMIT_LEASES", "code": "RESOURCE_EXHAUSTED", "message": "too many (LIMIT_LEASES)",
            "metadata": { "limit": "1" },
        } });
        assert_eq!(Failure::from(status).to_json(), expected);
        assert_eq!(Failure::from(refused).to_json(), expected);
        assert_eq!(Failure::NoShell.to_json()["error"]["reason"], Value::Null);
    }
}
