//! Requests of the table in the SDK's words, as far as it has them.

use std::collections::VecDeque;
use std::fs::File;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::time::Duration;

use scratch_client::{AreaOptions, GrantOptions, Holder, Limits, Pidfd, Replace};
use serde_json::Value;

use super::values::{Stop, bytes, no_word, unhex};

/// What rides along with a request.
pub(super) enum Passed {
    Process(Pidfd),
    Path(PathBuf),
    Socket(OwnedFd),
}

/// In their order; a request takes them from the front.
pub(super) type AllPassed = VecDeque<Passed>;

pub(super) fn grant(request: &Value, passed: &mut AllPassed) -> Result<GrantOptions, Stop> {
    let mut options = GrantOptions::default();
    for (key, value) in fields(request) {
        match key {
            "pool" => options.pool = text(value),
            "holders" => options.holders = holders(value, passed)?,
            "labels" => options.labels = fields(value).map(|(key, label)| (key.to_owned(), text(label))).collect(),
            "limits" => options.limits = limits(value),
            "soft" => options.soft = value == true,
            "parent" => options.parent = Some(text(value)),
            "lifetimeMax" => options.lifetime_max = Some(duration(value)?),
            "grace" => options.grace = Some(duration(value)?),
            "nonce" => options.nonce = Some(nonce(value)?),
            "wantMount" => options.want_mount = value == true,
            _ => return no_word(format!("GrantOptions have no {key}")),
        }
    }
    Ok(options)
}

fn holders(specs: &Value, passed: &mut AllPassed) -> Result<Vec<Holder>, Stop> {
    specs.as_array().into_iter().flatten().map(|spec| holder(spec, passed)).collect()
}

pub(super) fn holder(spec: &Value, passed: &mut AllPassed) -> Result<Holder, Stop> {
    let Some((kind, about)) = fields(spec).next() else { return no_word("a Holder is of some kind") };
    match (kind, about["fd"] == true) {
        ("process", false) => Ok(Holder::Process),
        ("process", true) => match passed.pop_front() {
            Some(Passed::Process(process)) => Ok(Holder::Other(process)),
            _ => no_word("a Pidfd is a process's"),
        },
        ("connection", _) => Ok(Holder::Connection),
        ("hold", _) => Ok(Holder::Hold),
        ("ttl", _) if about["ttl"].is_null() => no_word("Holder::Ttl has a time"),
        ("ttl", _) => Ok(Holder::Ttl(duration(&about["ttl"])?)),
        ("descriptor", true) => match passed.pop_front() {
            Some(Passed::Socket(end)) => Ok(Holder::Descriptor(end.into())),
            Some(Passed::Path(path)) => Ok(Holder::Descriptor(opened(path).into())),
            _ => no_word("a SocketEnd is a descriptor"),
        },
        ("cgroup", true) => match passed.pop_front() {
            Some(Passed::Path(path)) => Ok(Holder::Cgroup(opened(path).into())),
            _ => no_word("a CgroupDirectory is opened by its path"),
        },
        _ => no_word(format!("there is no Holder for {spec}")),
    }
}

/// How an area is named, and its mode.
pub(super) fn area(request: &Value) -> Result<AreaOptions, Stop> {
    let mut options = AreaOptions::default();
    for (key, value) in fields(request) {
        match key {
            "prefix" => options.prefix = bytes(request, key),
            "suffix" => options.suffix = bytes(request, key),
            "name" => options.name = Some(bytes(request, key)),
            "randomChars" => options.random_chars = number(value),
            "mode" => options.mode = Some(u32::try_from(number::<u64>(value)).expect("a mode fits")),
            "where" if !value["directory"].is_null() => options.inside = Some(bytes(value, "directory").into()),
            "resend" => return no_word("what is sent again is the SDK's to say"),
            // The caller's to choose a method by.
            "lease" | "kind" | "count" | "wantHandle" | "where" => {}
            _ => return no_word(format!("AreaOptions have no {key}")),
        }
    }
    Ok(options)
}

pub(super) fn replace(request: &Value) -> Replace {
    match request["replace"].as_str() {
        None | Some("REPLACE_NEVER") => Replace::Never,
        Some("REPLACE_ALWAYS") => Replace::Always,
        Some("REPLACE_EXCHANGE") => Replace::Exchange,
        Some(other) => panic!("no such replace: {other}"),
    }
}

pub(super) fn limits(value: &Value) -> Limits {
    let of = |key: &str| value[key].as_str().map_or(0, |text| text.parse().expect("a limit is a number"));
    Limits { bytes: of("bytes"), inodes: of("inodes") }
}

/// The request's lease; "" is the connection's own.
pub(super) fn lease(request: &Value) -> &str {
    request["lease"].as_str().unwrap_or_default()
}

pub(super) fn number<T: TryFrom<u64>>(value: &Value) -> T {
    let fits = value.as_u64().and_then(|number| T::try_from(number).ok());
    fits.unwrap_or_else(|| panic!("{value} is no such number"))
}

pub(super) fn fields(value: &Value) -> impl Iterator<Item = (&str, &Value)> {
    value.as_object().into_iter().flatten().map(|(key, value)| (&**key, value))
}

pub(super) fn opened(path: PathBuf) -> OwnedFd {
    File::open(path).expect("what is passed can be opened").into()
}

fn nonce(value: &Value) -> Result<[u8; 16], Stop> {
    unhex(&text(value)).try_into().or_else(|_| no_word("a nonce has 16 bytes"))
}

fn duration(value: &Value) -> Result<Duration, Stop> {
    let seconds: f64 = text(value).trim_end_matches('s').parse().expect("a duration is a number");
    Duration::try_from_secs_f64(seconds).or_else(|_| no_word("a Duration is not below zero"))
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}
