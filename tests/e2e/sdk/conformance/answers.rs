//! The SDK's answers in the table's form: what it shows of a reply, and its errors.

use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::Duration;

use rustix::io::Errno;
use scratch_client::ClientError;
use serde_json::{Value, json};

use super::flavour::{Lease, Of};
use super::values::{NOT_SHOWN, hex, hide};

/// What the SDK does not show of a reply, by call and key, and why.
const HIDDEN: [(&str, &str, &str); 17] = [
    ("Leases.Grant", "firmness", "soft limits are asked for, or refused"),
    ("Leases.Grant", "grantedTtl", "keep_alive tells"),
    ("Leases.Grant", "holders.process", "a holder is its id"),
    ("Leases.Grant", "holders.connection", "a holder is its id"),
    ("Leases.Grant", "holders.ttl", "a holder is its id"),
    ("Leases.Grant", "holders.descriptor", "a holder is its id"),
    ("Leases.Grant", "holders.hold", "a holder is its id"),
    ("Leases.Attach", "holder.process", "a holder is its id"),
    ("Leases.Attach", "holder.ttl", "a holder is its id"),
    ("Leases.Attach", "holder.hold", "a holder is its id"),
    ("Leases.KeepAlive", "lease", "it is the caller's"),
    ("Areas.Create", "areas.name", "a guard of a name is there only where there is one"),
    ("Areas.Create", "areas.fd", "a file always comes open, a directory never"),
    ("Areas.Create", "areas.id", "a guard knows it"),
    ("Areas.Create", "lease.generation", "of the client's own lease only the directory shows"),
    ("Areas.Create", "lease.holders", "of the client's own lease only the directory shows"),
    ("Channel.Delegate", "lease", "who has the channel has the lease"),
];
/// Nobody waits for that but `revoke_until_freed`: the others return when it is out of the name space.
const HIDDEN_OF_ENDS: [&str; 2] = ["freed", "debt"];

pub(super) fn reply(call: &str, mut reply: Value) -> Value {
    for (_, path, _) in HIDDEN.iter().filter(|(of, ..)| *of == call) {
        hide(&mut reply, path);
    }
    if call == "Areas.Release" || call == "Leases.Revoke" {
        HIDDEN_OF_ENDS.iter().for_each(|key| hide(&mut reply, key));
    }
    reply
}

pub(super) fn granted(lease: &Lease) -> Value {
    let (id, generation, note, holders) = match lease {
        Of::Blocking(lease) => (lease.id(), lease.generation(), lease.note(), lease.holders()),
        Of::Async(lease) => (lease.id(), lease.generation(), lease.note(), lease.holders()),
    };
    let (path, mount) = match lease {
        Of::Blocking(lease) => (lease.path(), lease.mount()),
        Of::Async(lease) => (lease.path(), lease.mount()),
    };
    let holders: Vec<_> = holders.iter().map(|id| json!({"id": id})).collect();
    json!({
        "id": id, "path": shown(path), "generation": generation, "note": note, "holders": holders,
        "fd": mount.is_some(), "mountAt": shown(mount.map(|mount| &*mount.place)),
    })
}

/// The lease that a client grants itself at first use, and the directory that its areas are in.
pub(super) fn own_lease(id: &str, directory: Option<&Path>) -> Value {
    json!({"id": id, "path": directory.map_or_else(|| NOT_SHOWN.to_owned(), |path| shown(Some(path)))})
}

fn shown(path: Option<&Path>) -> String {
    hex(path.map_or(&[], |path| path.as_os_str().as_bytes()))
}

/// As proto3 JSON has it.
pub(super) fn duration(time: Duration) -> String {
    match time.subsec_millis() {
        0 => format!("{}s", time.as_secs()),
        rest => format!("{}.{rest:03}s", time.as_secs()),
    }
}

/// A refusal as it came; what went wrong in this process under the reason that a broker has for the same.
pub(super) fn error(error: &ClientError) -> Value {
    let message = error.to_string();
    match error {
        ClientError::Refused { code, reason, metadata, .. } => {
            json!({"id": 0, "reason": reason, "code": code_name(*code), "message": message, "metadata": metadata})
        }
        ClientError::Name(name) => {
            let is_count = name.to_string().starts_with("random_chars");
            let reason = if is_count { "RANDOM_CHARS" } else { "NAME_INVALID" };
            json!({"reason": reason, "code": "INVALID_ARGUMENT", "message": message})
        }
        ClientError::Create(failed) => {
            let (reason, code, errno) = match failed.errno {
                Errno::EXIST => ("NAME_EXISTS", "ALREADY_EXISTS", "EEXIST"),
                Errno::NOSPC => ("NO_SPACE", "RESOURCE_EXHAUSTED", "ENOSPC"),
                Errno::INVAL => ("MODE_INVALID", "INVALID_ARGUMENT", "EINVAL"),
                _ => ("", "", ""),
            };
            let metadata = json!({"errno": errno, "path": percent(&failed.path), "index": NOT_SHOWN});
            json!({"reason": reason, "code": code, "message": message, "metadata": metadata})
        }
        other => json!({"reason": format!("{other:?}"), "message": message}),
    }
}

fn percent(path: &Path) -> String {
    let shown = |byte: &u8| match byte {
        byte if byte.is_ascii_alphanumeric() || b"._-~/".contains(byte) => char::from(*byte).to_string(),
        byte => format!("%{byte:02X}"),
    };
    path.as_os_str().as_bytes().iter().map(shown).collect()
}

/// In google.rpc.Code.
pub(super) fn code_name(code: u32) -> &'static str {
    const NAMES: [&str; 17] = [
        "OK",
        "CANCELLED",
        "UNKNOWN",
        "INVALID_ARGUMENT",
        "DEADLINE_EXCEEDED",
        "NOT_FOUND",
        "ALREADY_EXISTS",
        "PERMISSION_DENIED",
        "RESOURCE_EXHAUSTED",
        "FAILED_PRECONDITION",
        "ABORTED",
        "OUT_OF_RANGE",
        "UNIMPLEMENTED",
        "INTERNAL",
        "UNAVAILABLE",
        "DATA_LOSS",
        "UNAUTHENTICATED",
    ];
    NAMES[code as usize]
}
