//! Results as JSON: times RFC 3339, durations as "30s", a path that is not UTF-8 also as `path_b64`.

use std::time::{Duration, SystemTime};

use base64::Engine;
use scratch_proto::v1;
use serde_json::{Map, Value, json};

use crate::debt::has_more;
use crate::line;

/// Writes a value as one line.
pub(crate) fn print(value: &Value) -> std::io::Result<()> {
    line::print(&value.to_string())
}

/// A lease as `ls` and `lease show` have it.
pub(crate) fn lease(lease: &v1::Lease) -> Value {
    let mut value = json!({
        "id": lease.id,
        "tenant": tenant(lease.tenant.as_ref()),
        "pool": lease.pool,
        "state": state(lease.state()),
        "holders": lease.holders.iter().map(holder).collect::<Vec<_>>(),
        "granted_ttl": duration(lease.granted_ttl),
        "expire_time": time(lease.expire_time),
        "labels": lease.labels,
        "areas": lease.areas,
    });
    insert_path(&mut value, &lease.path);
    value
}

/// Limits of bytes and inodes, and what is left of them: the lease's own, or, where it has none, those that it shares with one
/// above it. Null where there is none.
fn limits(lease: &v1::Lease) -> Value {
    let own = lease.limits.unwrap_or_default();
    let left = lease.limits_left.unwrap_or_default();
    let some = |limit: u64| Some(limit).filter(|limit| *limit != 0);
    json!({
        "bytes": some(own.bytes),
        "inodes": some(own.inodes),
        "bytes_left": left.bytes,
        "inodes_left": left.inodes,
        "bytes_used": lease.used.and_then(|used| used.bytes),
        "inodes_used": lease.used.and_then(|used| used.inodes),
        "firmness": firmness(lease.firmness()),
    })
}

/// How firm limits are.
pub(crate) fn firmness(firmness: v1::Firmness) -> &'static str {
    match firmness {
        v1::Firmness::Unspecified => "unknown",
        v1::Firmness::Soft => "soft",
        v1::Firmness::Cooperative => "cooperative",
        v1::Firmness::Hard => "hard",
    }
}

/// A lease with what is in it, why it is there, or went, and what happened to it.
pub(crate) fn lease_with_areas(shown: &v1::Lease, areas: &[v1::Area], events: &[v1::WatchResponse]) -> Value {
    let mut value = lease(shown);
    value["areas"] = areas.iter().map(area).collect();
    value["limits"] = limits(shown);
    value["granted_by"] = tenant(shown.granted_by.as_ref());
    value["events"] = events.iter().map(event).collect();
    value["reason"] = shown
        .reason
        .as_ref()
        .map_or(Value::Null, |reason| json!({ "code": reason.code, "text": reason.text, "time": time(reason.time) }));
    value
}

fn area(area: &v1::Area) -> Value {
    let mut value = json!({ "kind": area_kind(area.kind()), "path": null, "bytes": area.bytes });
    insert_bytes(&mut value, "id", &area.id);
    if !area.path.is_empty() {
        insert_path(&mut value, &area.path);
    }
    value
}

/// An area's kind by name.
pub(crate) fn area_kind(kind: v1::Kind) -> &'static str {
    match kind {
        v1::Kind::File => "file",
        v1::Kind::Directory => "directory",
        v1::Kind::Anonymous => "anonymous",
        v1::Kind::Memory => "memory",
        v1::Kind::Unspecified => "other",
    }
}

/// An event as `events` and `lease show` have it.
pub(crate) fn event(message: &v1::WatchResponse) -> Value {
    let event = message.event.as_ref();
    json!({
        "revision": message.revision,
        "time": time(event.and_then(|event| event.time)),
        "event": event.map_or(Value::Null, |event| json!({ "code": event.code, "text": event.text })),
        "lease": if message.lease.is_empty() { Value::Null } else { json!(message.lease) },
        "tenant": tenant(message.tenant.as_ref()),
        "metadata": message.metadata,
    })
}

/// A debt.
pub(crate) fn debt(debt: &v1::Debt) -> Value {
    let mut value = json!({
        "lease": debt.lease,
        "tenant": tenant(debt.tenant.as_ref()),
        "errno": if debt.errno.is_empty() { Value::Null } else { json!(debt.errno) },
        "blocker": debt.blocker,
        "tries": debt.tries,
        "next_try": time(debt.next_try),
        "bytes": debt.bytes,
    });
    insert_path(&mut value, &debt.path);
    // Beside what is promised, where there is more to say.
    if has_more(debt) {
        value["pids"] = json!(debt.pids);
        value["detail"] = json!(debt.detail);
    }
    value
}

/// A time, or null.
pub(crate) fn time(time: Option<prost_types::Timestamp>) -> Value {
    let time = time.and_then(|time| SystemTime::try_from(time).ok());
    time.map_or(Value::Null, |time| json!(humantime::format_rfc3339_seconds(time).to_string()))
}

/// A path's text, and the path itself where the text is not all of it.
pub(crate) fn insert_path(value: &mut Value, path: &[u8]) {
    insert_bytes(value, "path", path);
}

/// As [`insert_path`], for another key.
pub(crate) fn insert_bytes(value: &mut Value, key: &str, bytes: &[u8]) {
    let Some(fields) = value.as_object_mut() else { return };
    insert(fields, key, bytes);
}

fn insert(fields: &mut Map<String, Value>, key: &str, bytes: &[u8]) {
    fields.insert(key.to_owned(), json!(String::from_utf8_lossy(bytes)));
    if std::str::from_utf8(bytes).is_err() {
        let whole = base64::engine::general_purpose::STANDARD.encode(bytes);
        fields.insert(format!("{key}_b64"), json!(whole));
    }
}

/// A tenant, or null.
pub(crate) fn tenant(tenant: Option<&v1::Tenant>) -> Value {
    tenant.map_or(Value::Null, |tenant| {
        let name = if tenant.name.is_empty() { Value::Null } else { json!(tenant.name) };
        json!({ "uid": tenant.uid, "name": name })
    })
}

fn holder(holder: &v1::Holder) -> Value {
    use v1::holder::Kind;
    let mut value = json!({ "id": holder.id, "kind": kind(holder) });
    match &holder.kind {
        Some(Kind::Process(process)) => value["pid"] = json!(process.pid),
        Some(Kind::Ttl(ttl)) => value["expire_time"] = time(ttl.expire_time),
        Some(Kind::Cgroup(cgroup)) => {
            insert_path(&mut value, &cgroup.path);
            if cgroup.kill {
                value["kill"] = json!(true);
            }
        }
        Some(Kind::Connection(_) | Kind::Descriptor(_) | Kind::Hold(_)) | None => {}
    }
    value
}

/// A holder's kind by name.
pub(crate) fn kind(holder: &v1::Holder) -> &'static str {
    use v1::holder::Kind;
    match &holder.kind {
        Some(Kind::Connection(_)) => "connection",
        Some(Kind::Process(_)) => "process",
        Some(Kind::Ttl(_)) => "ttl",
        Some(Kind::Descriptor(_)) => "descriptor",
        Some(Kind::Cgroup(_)) => "cgroup",
        Some(Kind::Hold(_)) => "hold",
        None => "unknown",
    }
}

/// A lease's state by name.
pub(crate) fn state(state: v1::LeaseState) -> &'static str {
    match state {
        v1::LeaseState::Live => "live",
        v1::LeaseState::Ending => "ending",
        v1::LeaseState::Kept => "kept",
        v1::LeaseState::Ended => "ended",
        v1::LeaseState::Lost => "lost",
        v1::LeaseState::Unspecified => "unknown",
    }
}

/// A duration, or null.
pub(crate) fn duration(duration: Option<prost_types::Duration>) -> Value {
    let duration = duration.and_then(|duration| Duration::try_from(duration).ok());
    duration.map_or(Value::Null, |duration| json!(humantime::format_duration(duration).to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lease_has_the_keys_of_the_contract() {
        let value = lease(&v1::Lease {
            id: "a".into(),
            path: b"/p/\xff".to_vec(),
            state: v1::LeaseState::Live.into(),
            granted_ttl: Some(prost_types::Duration { seconds: 30, nanos: 0 }),
            ..v1::Lease::default()
        });
        assert_eq!(value["granted_ttl"], "30s");
        assert_eq!(value["expire_time"], Value::Null);
        assert_eq!(value["path_b64"], "L3Av/w==");
        for key in ["id", "tenant", "pool", "path", "state", "holders", "labels", "areas"] {
            assert!(value.get(key).is_some(), "{key}");
        }
    }

    #[test]
    fn a_shown_lease_has_its_areas_and_its_reason() {
        let reason = v1::Reason { code: "HELD".into(), text: "by a process".into(), time: None };
        let shown = v1::Lease {
            areas: 2,
            reason: Some(reason),
            limits: Some(v1::Limits { bytes: 0, inodes: 9 }),
            limits_left: Some(v1::LimitsLeft { bytes: Some(0), inodes: Some(3) }),
            used: Some(v1::Used { bytes: Some(7), inodes: None }),
            firmness: v1::Firmness::Hard.into(),
            ..v1::Lease::default()
        };
        let file = v1::Area {
            id: b"a/b".to_vec(),
            kind: v1::Kind::File.into(),
            path: b"/p/a/b".to_vec(),
            ..v1::Area::default()
        };
        let memory = v1::Area { id: b"#1".to_vec(), kind: v1::Kind::Memory.into(), ..v1::Area::default() };
        let value = lease_with_areas(&shown, &[v1::Area { bytes: Some(4096), ..file }, memory], &[]);
        let limits = json!({
            "bytes": null, "inodes": 9, "bytes_left": 0, "inodes_left": 3, "bytes_used": 7, "inodes_used": null,
            "firmness": "hard"
        });
        assert_eq!(value["limits"], limits);
        assert_eq!(value["reason"], json!({ "code": "HELD", "text": "by a process", "time": null }));
        let expected = json!([
            { "id": "a/b", "kind": "file", "path": "/p/a/b", "bytes": 4096 },
            { "id": "#1", "kind": "memory", "path": null, "bytes": null }
        ]);
        assert_eq!(value["areas"], expected);
    }
}
