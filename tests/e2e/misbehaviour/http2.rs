//! HTTP/2 by hand, as far as it takes to do what no gRPC library would (RFC 9113; header fields as in RFC 7541, all literal).

use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use prost::Message;
use scratch_tests::{Broker, DEADLINE, eventually};

pub(crate) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
pub(crate) const DATA: u8 = 0;
pub(crate) const HEADERS: u8 = 1;
pub(crate) const RST_STREAM: u8 = 3;
pub(crate) const SETTINGS: u8 = 4;
pub(crate) const PING: u8 = 6;
pub(crate) const CONTINUATION: u8 = 9;
pub(crate) const END_STREAM: u8 = 1;
pub(crate) const END_HEADERS: u8 = 4;
pub(crate) const ACK: u8 = 1;
/// What a stream is reset with by who does not want it any more.
pub(crate) const CANCEL: [u8; 4] = [0, 0, 0, 8];

pub(crate) const LIST: &str = "/scratchd.v1.Leases/List";
pub(crate) const LIST_AREAS: &str = "/scratchd.v1.Areas/List";
pub(crate) const CREATE: &str = "/scratchd.v1.Areas/Create";
pub(crate) const KEEP_ALIVE: &str = "/scratchd.v1.Leases/KeepAlive";

/// A connection on which whatever is wanted can be sent.
pub(crate) struct Raw {
    pub(crate) socket: UnixStream,
}

/// The ids that a client's streams have.
pub(crate) fn streams() -> impl Iterator<Item = u32> {
    (1..).step_by(2)
}

pub(crate) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).expect("a frame is short").to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// One header field, not to be put into any table.
pub(crate) fn field(name: &str, value: &str) -> Vec<u8> {
    let text = |text: &str| [&[u8::try_from(text.len()).expect("a short text")], text.as_bytes()].concat();
    [vec![0], text(name), text(value)].concat()
}

/// The header fields of a call.
pub(crate) fn call(path: &str) -> Vec<u8> {
    let fields = [(":method", "POST"), (":scheme", "http"), (":path", path), (":authority", "localhost")];
    let more = [("content-type", "application/grpc"), ("te", "trailers")];
    fields.into_iter().chain(more).flat_map(|(name, value)| field(name, value)).collect()
}

/// A call's beginning.
pub(crate) fn begin(stream: u32, path: &str) -> Vec<u8> {
    frame(HEADERS, END_HEADERS, stream, &call(path))
}

/// A message, and with `END_STREAM` the end of what is sent.
pub(crate) fn message(stream: u32, flags: u8, message: &impl Message) -> Vec<u8> {
    let bytes = message.encode_to_vec();
    let length = u32::try_from(bytes.len()).expect("a message is short").to_be_bytes();
    frame(DATA, flags, stream, &[&[0], &length[..], &bytes].concat())
}

impl Raw {
    /// Connects, and says nothing.
    pub(crate) fn silent(broker: &Broker) -> Raw {
        let socket = UnixStream::connect(broker.grpc_socket()).expect("the broker listens on grpc.sock");
        Raw { socket }
    }

    /// Connects and says what every client begins with.
    pub(crate) fn connect(broker: &Broker) -> Raw {
        let mut raw = Raw::silent(broker);
        raw.send(&[PREFACE, &frame(SETTINGS, 0, 0, &[])].concat()).expect("the broker reads");
        raw
    }

    /// An error: it was cut off.
    pub(crate) fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.socket.write_all(bytes)
    }

    /// Sends for as long as it is read from, and not cut off. True when all was taken. Some tenths of a second without
    /// anything being taken are enough: a connection that is not read from stays so.
    pub(crate) fn send_what_is_taken(&mut self, mut bytes: &[u8]) -> bool {
        self.socket.set_write_timeout(Some(Duration::from_millis(300))).expect("a socket has a time limit");
        while !bytes.is_empty() {
            match self.socket.write(bytes) {
                Ok(length) => bytes = &bytes[length..],
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) => return false,
            }
        }
        true
    }

    /// Waits until the broker has read all that was sent, or has cut it off.
    pub(crate) fn wait_until_read(&self) {
        let is_read = || scratch_sys::unread_by_peer(self.socket.as_fd()).is_ok_and(|unread| unread == 0);
        eventually(DEADLINE, "the broker reads what was sent", is_read);
    }

    /// Whether it is still served: true when what was sent before was read, false at the end. `number` is good once.
    pub(crate) fn answers_a_ping(&mut self, number: u64) -> bool {
        let payload = number.to_be_bytes();
        // An error: it was cut off.
        let _ = self.send(&frame(PING, 0, 0, &payload));
        let answer = frame(PING, ACK, 0, &payload);
        self.socket.set_read_timeout(Some(DEADLINE)).expect("a socket has a time limit");
        let (mut read, mut bytes) = (Vec::new(), vec![0; 1 << 16]);
        while !read.windows(answer.len()).any(|part| part == answer) {
            match self.socket.read(&mut bytes) {
                Ok(0) => return false,
                Ok(length) => read.extend_from_slice(&bytes[..length]),
                Err(error) if error.kind() == ErrorKind::ConnectionReset => return false,
                Err(error) => panic!("neither answered nor cut off: {error}"),
            }
        }
        true
    }

    /// Reads on, on a thread of its own, until the end.
    pub(crate) fn read_all(&self) -> std::thread::JoinHandle<u64> {
        let mut socket = self.socket.try_clone().expect("descriptors are left");
        std::thread::spawn(move || io::copy(&mut socket, &mut io::sink()).unwrap_or_default())
    }
}
