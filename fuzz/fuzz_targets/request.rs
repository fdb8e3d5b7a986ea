//! gRPC requests where the services take them over: what is translated and checked before the broker acts; and the bytes of a
//! connection, in pieces, on their way to HTTP/2.
#![no_main]

use libfuzzer_sys::fuzz_target;
use prost::Message;
use scratch_proto::v1;

fuzz_target!(|data: &[u8]| {
    let Some((which, bytes)) = data.split_first() else { return };
    match which % 6 {
        0 => {
            if let Ok(request) = v1::CreateRequest::decode(bytes) {
                scratchd::fuzz::create(false, &request);
            }
        }
        1 => {
            if let Ok(request) = v1::GrantRequest::decode(bytes) {
                scratchd::fuzz::grant(&request);
            }
        }
        2 => {
            if let Ok(request) = v1::KeepRequest::decode(bytes) {
                scratchd::fuzz::duration(request.keep_for);
                scratchd::fuzz::word(&request.lease);
            }
        }
        3 => {
            if let Ok(request) = v1::ReleaseRequest::decode(bytes) {
                scratchd::fuzz::area(&request.area);
                scratchd::fuzz::word(&request.lease);
            }
        }
        4 => {
            if let Ok(text) = std::str::from_utf8(bytes) {
                scratchd::fuzz::word(text);
            }
        }
        _ => scratchd::fuzz::connection(bytes),
    }
});
