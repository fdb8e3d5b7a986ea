//! What the fuzz targets in fuzz/ reach of the broker's inside. Nobody's API.

use prost_types::Duration;
use scratch_fs::split_area_path;
use scratch_proto::{BATCH_MAX, v1};

use crate::client::Road;
use crate::plan::{exact_name, plan};
use crate::release::area_number;
use crate::translate;

/// Checks a Create: what is let through is of a size, in a place and of a mode that may be.
///
/// # Panics
/// When it is not.
pub fn create(on_channel: bool, request: &v1::CreateRequest) {
    let road = if on_channel { Road::Channel } else { Road::Grpc };
    let Ok(exact) = exact_name(request) else { return };
    if let Ok(plan) = plan(road, request, exact.as_deref()) {
        assert!((1..=BATCH_MAX as usize).contains(&plan.count) && plan.mode <= 0o777);
        if let Some(place) = plan.place {
            let inside = |part: &[u8]| !part.is_empty() && part != b"." && part != b"..";
            assert!(place.to_bytes().split(|byte| *byte == b'/').all(inside));
        }
    }
}

/// Translates what a Grant is made of.
pub fn grant(request: &v1::GrantRequest) {
    word(&request.parent);
    duration(request.lifetime_max);
    duration(request.grace);
    let _ = translate::share(request.limits);
}

/// Translates a duration there and back.
///
/// # Panics
/// When another one comes back.
pub fn duration(wire: Option<Duration>) {
    let Some(Ok(duration)) = wire.map(translate::duration) else { return };
    let back = translate::wire_duration(duration);
    assert_eq!(translate::duration(back).ok(), Some(duration));
}

/// Reads an area's id.
pub fn area(id: &[u8]) {
    let _ = (area_number(id), split_area_path(id));
}

/// Reads what clients send as text: ids of leases, page tokens, revisions.
///
/// # Panics
/// When an id is not what was read.
pub fn word(text: &str) {
    if let Ok(id) = translate::lease_id(text) {
        assert_eq!(id.as_str(), text);
    }
    crate::grpc::fuzz_tokens(text);
}

/// Follows the bytes of a connection, cut at every place that the first byte says.
///
/// # Panics
/// When it makes a difference where they are cut.
pub fn connection(bytes: &[u8]) {
    crate::grpc::fuzz_authority(bytes);
}
