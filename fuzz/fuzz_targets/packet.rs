//! A packet of the handle channel with its descriptors: received whole and closed, decoded, counted, checked.
#![no_main]

use std::os::fd::{AsFd, OwnedFd};
use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use prost::Message;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, socketpair};
use scratch_proto::v1::channel_request::Op;
use scratch_proto::v1::{ChannelRequest, ChannelResponse};
use scratch_proto::{PACKET_BYTES_MAX, descriptors};

static PAIR: LazyLock<(OwnedFd, OwnedFd)> = LazyLock::new(|| {
    socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).expect("a pair of sockets")
});

fuzz_target!(|data: &[u8]| {
    let Some((count, bytes)) = data.split_first() else { return };
    let bytes = &bytes[..bytes.len().min(PACKET_BYTES_MAX)];
    if bytes.is_empty() {
        return;
    }
    let (ours, theirs) = &*PAIR;
    let passed = vec![theirs.as_fd(); usize::from(count % 16)];
    scratch_sys::send_packet(theirs.as_fd(), bytes, &passed, SendFlags::DONTWAIT).expect("there is room for one");
    let (mut packet, mut received) = (vec![0; PACKET_BYTES_MAX + 1], Vec::new());
    let length = scratch_sys::receive_packet(ours.as_fd(), &mut packet, &mut received, RecvFlags::DONTWAIT);
    let length = length.expect("it was sent").length;
    assert_eq!((&packet[..length], received.len()), (bytes, passed.len()));
    if let Ok(request) = ChannelRequest::decode(&packet[..length]) {
        assert_eq!(ChannelRequest::decode(&*request.encode_to_vec()).as_ref(), Ok(&request));
        // 256 holders are the most that a packet has room for, and more than any grant may have.
        assert!(descriptors::of_request(&request) <= length);
        if let Some(Op::Create(create)) = &request.op {
            scratchd::fuzz::create(true, create);
        }
    }
    if let Ok(response) = ChannelResponse::decode(&packet[..length]) {
        assert!(descriptors::of_response(&response) <= length + 1);
    }
});
