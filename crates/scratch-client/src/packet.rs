//! Requests to packets, packets to answers. No I/O.

use std::os::fd::OwnedFd;

use prost::Message;
use scratch_proto::v1::channel_response::Result as Reply;
use scratch_proto::v1::{ChannelRequest, ChannelResponse};
use scratch_proto::{PACKET_BYTES_MAX, descriptors};

use crate::ClientError;

/// The broker's answer to one request, an error of its own among them.
pub(crate) struct Answer {
    pub(crate) reply: Reply,
    pub(crate) descriptors: Vec<OwnedFd>,
}

/// The packet of a request; nothing if it is over 64 KiB.
pub(crate) fn pack(request: &mut ChannelRequest) -> Option<Vec<u8>> {
    request.cpu = u32::try_from(rustix::thread::sched_getcpu()).map_or(0, |cpu| cpu.saturating_add(1));
    let packet = request.encode_to_vec();
    (packet.len() <= PACKET_BYTES_MAX).then_some(packet)
}

/// The answer in a packet, and to which request it is; or nothing that anybody waits for.
///
/// # Errors
/// The connection is of no more use.
pub(crate) fn understand(packet: &[u8], descriptors: Vec<OwnedFd>) -> Result<Option<(u64, Answer)>, ClientError> {
    let response =
        ChannelResponse::decode(packet).map_err(|_| ClientError::Protocol("a packet that is no response"))?;
    if descriptors::of_response(&response) != descriptors.len() {
        return Err(ClientError::Protocol("a wrong number of descriptors"));
    }
    match (response.id, response.result) {
        (_, None) => Err(ClientError::Protocol("a response without a result")),
        // The same connection goes on with the next broker; nothing has to be sent again on it.
        (0, Some(Reply::Restarted(_))) => Ok(None),
        (0, Some(Reply::Closing(closing))) => Err(ClientError::Closed { reason: closing.reason }),
        (0, Some(Reply::Error(refusal))) => Err(refusal.into()),
        (0, Some(_)) => Err(ClientError::Protocol("an answer to no request")),
        (id, Some(reply)) => Ok(Some((id, Answer { reply, descriptors }))),
    }
}
