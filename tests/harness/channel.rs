//! The handle channel, without any of the SDK's kindness. What checks the contract from outside is in tests/python.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use prost::Message;
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with};
use scratch_proto::PACKET_BYTES_MAX;
use scratch_proto::v1::channel_request::Op;
use scratch_proto::v1::channel_response::Result as Reply;
use scratch_proto::v1::{ChannelRequest, ChannelResponse, PingRequest};
use scratch_sys::{receive_packet, send_packet};

use crate::wait::DEADLINE;

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
        Channel::try_connect(path).expect("the broker listens on handle.sock")
    }

    /// Connects, if somebody listens.
    ///
    /// # Errors
    /// When nobody does.
    ///
    /// # Panics
    /// When the path is too long for a socket.
    pub fn try_connect(path: &Path) -> io::Result<Channel> {
        let socket = socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None);
        let socket = socket.expect("the kernel has Unix sockets");
        // A broker that never answers is to fail the test, not to hang it.
        set_socket_timeout(&socket, Timeout::Recv, Some(DEADLINE * 2)).expect("a socket may have a time limit");
        let address = SocketAddrUnix::new(path).expect("a test's paths are short");
        connect(&socket, &address)?;
        Ok(Channel { socket, last_id: 0 })
    }

    /// Sends one request and waits for its reply. The broker's own words (id 0) in between are skipped.
    ///
    /// # Errors
    /// When the broker is gone.
    ///
    /// # Panics
    /// When the reply is not one.
    pub fn try_ask(&mut self, op: Op) -> io::Result<Reply> {
        self.try_ask_with(op, &[]).map(|(reply, _)| reply)
    }

    /// As `try_ask`, with descriptors that ride along on both ways.
    ///
    /// # Errors
    /// When the broker is gone, or says nothing for too long.
    ///
    /// # Panics
    /// When the reply is not one.
    pub fn try_ask_with(&mut self, op: Op, descriptors: &[BorrowedFd<'_>]) -> io::Result<(Reply, Vec<OwnedFd>)> {
        let id = self.send(op, descriptors)?;
        loop {
            let (reply, received) = self.receive()?;
            if reply.id == id {
                return Ok((reply.result.expect("a reply has a result"), received));
            }
        }
    }

    /// Sends one request and waits for nothing; returns its id.
    ///
    /// # Errors
    /// When the broker is gone.
    pub fn send(&mut self, op: Op, descriptors: &[BorrowedFd<'_>]) -> io::Result<u64> {
        self.last_id += 1;
        let request = ChannelRequest { id: self.last_id, op: Some(op), ..ChannelRequest::default() };
        send_packet(self.socket.as_fd(), &request.encode_to_vec(), descriptors, SendFlags::empty())?;
        Ok(self.last_id)
    }

    /// The next packet, whatever it is.
    ///
    /// # Errors
    /// When the broker is gone, or says nothing for too long.
    ///
    /// # Panics
    /// When it is not a response.
    pub fn receive(&mut self) -> io::Result<(ChannelResponse, Vec<OwnedFd>)> {
        let (mut packet, mut received) = (vec![0; PACKET_BYTES_MAX], Vec::new());
        let length = receive_packet(self.socket.as_fd(), &mut packet, &mut received, RecvFlags::empty())?.length;
        if length == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok((ChannelResponse::decode(&packet[..length]).expect("a reply is a ChannelResponse"), received))
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
