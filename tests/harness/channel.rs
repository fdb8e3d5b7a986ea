//! The handle channel as far as requests without descriptors go. The full client of the tests is in tests/python.

use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;

use prost::Message;
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketAddrUnix, SocketFlags, SocketType, connect, recv, send, socket_with,
};
use scratch_proto::PACKET_BYTES_MAX;
use scratch_proto::v1::channel_request::Op;
use scratch_proto::v1::channel_response::Result as Reply;
use scratch_proto::v1::{ChannelRequest, ChannelResponse, PingRequest};

/// A connection to a broker.
#[derive(Debug)]
pub struct Channel {
    socket: OwnedFd,
    last_id: u64,
}

impl Channel {
    /// Connects.
    ///
    /// # Panics
    /// When nobody listens.
    #[must_use]
    pub fn connect(path: &Path) -> Channel {
        let socket = socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None);
        let socket = socket.expect("the kernel has Unix sockets");
        let address = SocketAddrUnix::new(path).expect("a test's paths are short");
        connect(&socket, &address).expect("the broker listens on handle.sock");
        Channel { socket, last_id: 0 }
    }

    /// Sends one request and waits for its reply. The broker's own words (id 0) in between are skipped.
    ///
    /// # Errors
    /// When the broker is gone.
    ///
    /// # Panics
    /// When the reply is not one.
    pub fn try_ask(&mut self, op: Op) -> io::Result<Reply> {
        self.last_id += 1;
        let request = ChannelRequest { id: self.last_id, op: Some(op), ..ChannelRequest::default() };
        send(&self.socket, &request.encode_to_vec(), SendFlags::NOSIGNAL)?;
        loop {
            let mut packet = vec![0; PACKET_BYTES_MAX];
            let (length, _) = recv(&self.socket, &mut packet[..], RecvFlags::empty())?;
            if length == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            let reply = ChannelResponse::decode(&packet[..length]).expect("a reply is a ChannelResponse");
            if reply.id == self.last_id {
                return Ok(reply.result.expect("a reply has a result"));
            }
        }
    }

    /// As `try_ask`, of a broker that must be there.
    ///
    /// # Panics
    /// When it is gone.
    pub fn ask(&mut self, op: Op) -> Reply {
        self.try_ask(op).expect("the broker answers")
    }

    /// Asks for nothing.
    ///
    /// # Panics
    /// As `ask`, and when the broker answers with anything else.
    pub fn ping(&mut self) {
        let reply = self.ask(Op::Ping(PingRequest {}));
        assert!(matches!(reply, Reply::Ping(_)), "{reply:?}");
    }
}
