//! One connection: requests with ids go out, replies come back in any order, descriptors ride along.
//! Sending and receiving are apart, so that only the waiting between them is blocking.

use std::collections::HashMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;

use prost::Message;
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags};
use scratch_proto::v1::channel_response::Result as Reply;
use scratch_proto::v1::{ChannelRequest, ChannelResponse};
use scratch_proto::{PACKET_BYTES_MAX, descriptors};
use scratch_sys::{receive_packet, send_packet};

use crate::ClientError;
use crate::connect::Connected;

/// The broker's answer to one request, an error of its own among them.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) reply: Reply,
    pub(crate) descriptors: Vec<OwnedFd>,
}

/// A connection with the requests that are under way on it.
#[derive(Debug)]
pub(crate) struct Channel {
    socket: OwnedFd,
    directory: PathBuf,
    last_id: u64,
    /// Answers to requests other than the one that was waited for.
    early: HashMap<u64, Answer>,
    buffer: Vec<u8>,
}

impl Channel {
    pub(crate) fn new(connected: Connected) -> Self {
        let Connected { socket, directory, .. } = connected;
        Self { socket, directory, last_id: 0, early: HashMap::new(), buffer: vec![0; PACKET_BYTES_MAX] }
    }

    /// Sends a request, and gives the id that it got and its answer will have.
    pub(crate) fn send(
        &mut self,
        request: &mut ChannelRequest,
        descriptors: &[BorrowedFd<'_>],
    ) -> Result<u64, ClientError> {
        debug_assert_eq!(descriptors::of_request(request), descriptors.len());
        self.last_id += 1;
        request.id = self.last_id;
        request.cpu = u32::try_from(rustix::thread::sched_getcpu()).map_or(0, |cpu| cpu.saturating_add(1));
        let packet = request.encode_to_vec();
        if packet.len() > PACKET_BYTES_MAX {
            return Err(self.error("send a request over 64 KiB to the broker in", Errno::MSGSIZE));
        }
        send_packet(self.socket.as_fd(), &packet, descriptors, SendFlags::empty())
            .map_err(|errno| self.error("send to the broker in", errno))?;
        Ok(self.last_id)
    }

    /// Waits for the answer to one request; those to others are kept for who asks for them.
    pub(crate) fn wait_for(&mut self, id: u64) -> Result<Answer, ClientError> {
        loop {
            if let Some(answer) = self.early.remove(&id) {
                return Ok(answer);
            }
            if let Some((answered, answer)) = self.receive()? {
                self.early.insert(answered, answer);
            }
        }
    }

    /// Receives one packet: an answer, or nothing that anybody waits for.
    fn receive(&mut self) -> Result<Option<(u64, Answer)>, ClientError> {
        let mut descriptors = Vec::new();
        let received = receive_packet(self.socket.as_fd(), &mut self.buffer, &mut descriptors, RecvFlags::empty())
            .map_err(|errno| self.error("receive from the broker in", errno))?;
        if received.length == 0 {
            return Err(self.error("receive from the broker in", Errno::CONNRESET));
        }
        if received.truncated {
            return Err(ClientError::Protocol("a packet that does not fit"));
        }
        let response = ChannelResponse::decode(&self.buffer[..received.length])
            .map_err(|_| ClientError::Protocol("a packet that is no response"))?;
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
            (id, Some(_)) if id > self.last_id => {
                Err(ClientError::Protocol("an answer to a request that was not made"))
            }
            (id, Some(reply)) => Ok(Some((id, Answer { reply, descriptors }))),
        }
    }

    fn error(&self, operation: &'static str, errno: Errno) -> ClientError {
        ClientError::io(operation, &self.directory, errno)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
    use scratch_proto::v1::channel_request::Op;
    use scratch_proto::v1::{Closing, PingRequest, PingResponse};

    fn pair() -> (Channel, OwnedFd) {
        let (near, far) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).unwrap();
        (Channel::new(Connected { socket: near, directory: "/run/test".into(), process: 1 }), far)
    }

    fn ping() -> ChannelRequest {
        ChannelRequest { id: 0, op: Some(Op::Ping(PingRequest {})), ..ChannelRequest::default() }
    }

    fn answer(far: &OwnedFd, id: u64, reply: Reply) {
        let packet = ChannelResponse { id, result: Some(reply) }.encode_to_vec();
        send_packet(far.as_fd(), &packet, &[], SendFlags::empty()).unwrap();
    }

    #[test]
    fn answers_find_their_requests_in_any_order() {
        let (mut channel, far) = pair();
        let ids = [(); 3].map(|()| channel.send(&mut ping(), &[]).unwrap());
        for id in [ids[2], ids[0], ids[1]] {
            answer(&far, id, Reply::Ping(PingResponse {}));
        }
        for id in ids {
            assert!(matches!(channel.wait_for(id).unwrap().reply, Reply::Ping(_)));
        }
        assert!(channel.early.is_empty());
    }

    #[test]
    fn the_brokers_own_words_are_heard() {
        let (mut channel, far) = pair();
        let id = channel.send(&mut ping(), &[]).unwrap();
        answer(&far, 0, Reply::Restarted(scratch_proto::v1::Restarted { generation: 2 }));
        answer(&far, 0, Reply::Closing(Closing { reason: "too slow".into() }));
        assert!(matches!(channel.wait_for(id), Err(ClientError::Closed { reason }) if reason == "too slow"));
    }

    #[test]
    fn a_lost_connection_is_told_from_nonsense() {
        let (mut channel, far) = pair();
        let id = channel.send(&mut ping(), &[]).unwrap();
        answer(&far, 17, Reply::Ping(PingResponse {}));
        assert!(matches!(channel.wait_for(id), Err(ClientError::Protocol(_))));
        drop(far);
        assert!(channel.wait_for(id).unwrap_err().is_disconnect());
    }
}
