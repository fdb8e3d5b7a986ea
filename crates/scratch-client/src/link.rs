//! One connection, used by many callers at once: requests with ids go out, answers come back in any order and find their
//! callers, descriptors ride along. A caller may give up at any point; what its request makes is unmade when its answer comes.

use std::future::poll_fn;
use std::mem;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Poll;

use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags};
use scratch_proto::v1::ChannelRequest;
use scratch_proto::v1::channel_request::Op;
use scratch_proto::{PACKET_BYTES_MAX, descriptors};
use scratch_sys::{Received, receive_packet, send_packet};

use crate::ClientError;
use crate::connect::Connected;
use crate::owed::{Owed, Undo};
use crate::packet::{Answer, pack, understand};
use crate::table::{Next, Table};
use crate::tending::Tending;
use crate::wait::Wait;

/// A connection with the requests that are under way on it.
pub(crate) struct Link<W: Wait> {
    socket: W::Socket,
    directory: PathBuf,
    table: Mutex<Table>,
    owed: Arc<Owed>,
}

/// A request under way, and its caller. Dropped early, it leaves nothing behind.
pub(crate) struct Waiting<'a, W: Wait> {
    link: &'a Arc<Link<W>>,
    request: &'a ChannelRequest,
    undo: fn(&Op) -> Option<Undo>,
    is_sent: bool,
}

/// The one that reads.
pub(crate) struct Reading<'a, W: Wait> {
    link: &'a Link<W>,
    buffer: Box<[u8]>,
}

impl<W: Wait> Link<W> {
    pub(crate) fn new(connected: Connected, owed: Arc<Owed>) -> Result<Self, ClientError> {
        let Connected { socket, directory, .. } = connected;
        let socket = W::socket(socket)
            .map_err(|errno| ClientError::io("watch the connection to the broker in", &directory, errno))?;
        Ok(Self { socket, directory, table: Mutex::new(Table::new()), owed })
    }

    /// Sends a request, whole or not at all: after an error it has not arrived. `undo` says what becomes of what it makes if its
    /// caller gives up.
    pub(crate) async fn send<'a>(
        self: &'a Arc<Self>,
        request: &'a mut ChannelRequest,
        descriptors: &[BorrowedFd<'_>],
        undo: fn(&Op) -> Option<Undo>,
    ) -> Result<Waiting<'a, W>, ClientError> {
        debug_assert_eq!(descriptors::of_request(request), descriptors.len());
        self.settle();
        request.id = self.table().begin()?;
        let packet = pack(request);
        let mut waiting = Waiting { link: self, request, undo, is_sent: false };
        let packet = packet.ok_or_else(|| self.error("send a request over 64 KiB to the broker in", Errno::MSGSIZE))?;
        let id = waiting.request.id;
        let sent = {
            let mut sending = pin!(W::send(&self.socket, &packet, descriptors));
            // A broker whose answers nobody reads would stop reading in its turn.
            let mut hearing = pin!(self.hear_until_answered(id));
            let sent = poll_fn(|context| match sending.as_mut().poll(context) {
                Poll::Ready(sent) => Poll::Ready(sent.map_err(|errno| self.error("send to the broker in", errno))),
                Poll::Pending => hearing.as_mut().poll(context).map(|lost| lost.map(drop)),
            });
            // Hearing ends here as well: after an error the rest is taken in below, which only one can do at a time.
            sent.await
        };
        if let Err(error) = sent {
            // What was answered before the end is taken in, and then the end, which tells what has to be said again.
            self.hear_what_is_there();
            // Its runtime is gone: nobody can wait for it any more.
            if matches!(error, ClientError::Io { source: Errno::NOTCONN, .. }) {
                let owed = self.table().hear(Err(error.clone()));
                self.owed.add(owed);
            }
            // Whom the broker does not let in is told so before the end.
            return Err(self.table().last_word().unwrap_or(error));
        }
        waiting.is_sent = true;
        Ok(waiting)
    }

    /// Whether nothing will be answered on it any more.
    pub(crate) fn is_lost(&self) -> bool {
        self.table().is_lost()
    }

    /// Says what is owed, as far as the socket takes it without waiting, and hears what came back, so that no answers pile up
    /// unread: the broker closes a connection that leaves too many.
    pub(crate) fn settle(&self) {
        let mut said = Ok(());
        while said.is_ok() && !self.owed.is_empty() {
            said = self.say_owed();
            self.hear_what_is_there();
        }
    }

    /// Whether nothing is owed, and no answer is outstanding that nobody waits for.
    pub(crate) fn is_settled(&self) -> bool {
        self.table().is_tended_to() && self.owed.is_empty()
    }

    /// The answer to `id`. Reads for all that wait if nobody else does.
    async fn hear_until_answered(&self, id: u64) -> Result<Answer, ClientError> {
        let mut reading = match poll_fn(|context| self.table().poll(id, context)).await {
            Next::Take(answer) => return answer,
            Next::Read(buffer) => self.reading(buffer),
        };
        loop {
            reading.read().await;
            if let Some(answer) = self.table().take(id) {
                return answer;
            }
        }
    }

    fn say_owed(&self) -> Result<(), Errno> {
        if self.is_lost() {
            return Err(Errno::NOTCONN);
        }
        while let Some(op) = self.owed.next() {
            let mut request = ChannelRequest { op: Some(op.clone()), ..ChannelRequest::default() };
            request.id = self.table().tell(op);
            let packet = pack(&mut request).unwrap_or_default();
            if let Err(errno) = send_packet(self.socket.as_fd(), &packet, &[], SendFlags::DONTWAIT) {
                let unsaid = self.table().untell(request.id);
                unsaid.into_iter().for_each(|op| self.owed.put_back(op));
                return Err(errno);
            }
        }
        Ok(())
    }

    fn hear_what_is_there(&self) {
        let Some(buffer) = self.table().try_read() else { return };
        let mut reading = self.reading(buffer);
        while !self.is_lost() {
            let mut descriptors = Vec::new();
            match receive_packet(self.socket.as_fd(), &mut reading.buffer, &mut descriptors, RecvFlags::DONTWAIT) {
                Err(Errno::AGAIN) => return,
                received => reading.hear(received, descriptors),
            }
        }
    }

    pub(crate) fn reading(&self, buffer: Box<[u8]>) -> Reading<'_, W> {
        Reading { link: self, buffer }
    }

    pub(crate) fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn error(&self, operation: &'static str, errno: Errno) -> ClientError {
        ClientError::io(operation, &self.directory, errno)
    }
}

impl<W: Wait> Waiting<'_, W> {
    pub(crate) async fn answer(self) -> Result<Answer, ClientError> {
        self.link.hear_until_answered(self.request.id).await
    }
}

impl<W: Wait> Reading<'_, W> {
    /// Reads one packet, and takes it in.
    pub(crate) async fn read(&mut self) {
        let mut descriptors = Vec::new();
        let received = W::receive(&self.link.socket, &mut self.buffer, &mut descriptors).await;
        self.hear(received, descriptors);
    }

    /// What the broker said before it closed the connection: where something of ours was still unread then, the kernel tells
    /// of that first.
    fn last_word(&self) -> Option<ClientError> {
        let mut buffer = vec![0; PACKET_BYTES_MAX];
        let mut descriptors = Vec::new();
        let received =
            receive_packet(self.link.socket.as_fd(), &mut buffer, &mut descriptors, RecvFlags::DONTWAIT).ok()?;
        let packet = buffer.get(..received.length).filter(|packet| !packet.is_empty())?;
        understand(packet, descriptors).err().filter(|word| !word.is_disconnect())
    }

    fn hear(&self, received: Result<Received, Errno>, descriptors: Vec<OwnedFd>) {
        let heard = match received {
            Ok(Received { length: 0, .. }) => Err(self.link.error("receive from the broker in", Errno::CONNRESET)),
            Ok(Received { truncated: true, .. }) => Err(ClientError::Protocol("a packet that does not fit")),
            Ok(Received { length, .. }) => understand(&self.buffer[..length], descriptors),
            Err(errno) => Err(self.last_word().unwrap_or_else(|| self.link.error("receive from the broker in", errno))),
        };
        let owed = self.link.table().hear(heard);
        if !owed.is_empty() {
            self.link.owed.add(owed);
            self.link.settle();
        }
    }
}

impl<W: Wait> Drop for Waiting<'_, W> {
    fn drop(&mut self) {
        let undo = || self.request.op.as_ref().filter(|_| self.is_sent).and_then(self.undo);
        let left = self.link.table().leave(self.request.id, undo);
        if let Some(owed) = left {
            self.link.owed.add(owed);
            self.link.settle();
            Tending::of(self.link).into_iter().for_each(W::tend);
        }
    }
}

impl<W: Wait> Drop for Reading<'_, W> {
    fn drop(&mut self) {
        let buffer = mem::take(&mut self.buffer);
        self.link.table().stop_reading(buffer);
    }
}
