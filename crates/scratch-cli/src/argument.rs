//! How values are written on the command line.

use std::time::Duration;

/// A time that is more than nothing, as in 90s or 2h.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    match humantime::parse_duration(text) {
        Ok(Duration::ZERO) => Err("it must be more than nothing".to_owned()),
        Ok(time) => Ok(time),
        Err(error) => Err(error.to_string()),
    }
}

/// A number of bytes that is more than nothing, as in 500MB or 1GiB.
pub(crate) fn bytes(text: &str) -> Result<u64, String> {
    match text.parse::<bytesize::ByteSize>()?.as_u64() {
        0 => Err("it must be more than nothing".to_owned()),
        bytes => Ok(bytes),
    }
}

/// KEY=VALUE; the key has no `=`.
pub(crate) fn label(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err("KEY=VALUE is wanted".to_owned()),
    }
}

/// A user's number, by that or by name.
pub(crate) fn user(text: &str) -> Result<u32, String> {
    if let Ok(uid) = text.parse() {
        return Ok(uid);
    }
    match nix::unistd::User::from_name(text) {
        Ok(Some(user)) => Ok(user.uid.as_raw()),
        Ok(None) => Err("there is no such user here".to_owned()),
        Err(errno) => Err(format!("the user data base does not answer: {}", errno.desc())),
    }
}
