//! One request: received, counted, carried out, answered.

use std::os::fd::OwnedFd;

use prost::Message;
use rustix::io::Errno;
use rustix::net::RecvFlags;
use scratch_proto::v1::channel_request::Op;
use scratch_proto::v1::channel_response::Result as Answer;
use scratch_proto::{PACKET_BYTES_MAX, descriptors, v1};

use crate::channel::connection::{Connection, Sent};
use crate::channel::dispatch::{Outcome, ReplyTo, dispatch, refusal};
use crate::channel::thread::{Go, Thread};
use crate::create::Creation;
use crate::reason::RequestError;

impl Thread {
    /// One packet: received, counted, carried out, answered.
    pub(super) fn receive(&mut self, token: u64, connection: &mut Connection) -> Go {
        let mut received = Vec::new();
        let packet =
            scratch_sys::receive_packet(connection.socket(), &mut self.packet, &mut received, RecvFlags::DONTWAIT);
        let packet = match packet {
            Ok(packet) => packet,
            Err(Errno::AGAIN) => return Go::On,
            Err(_) => return Go::Away,
        };
        let tenant = connection.client.peer.identity.uid;
        if packet.length == 0 && !packet.truncated {
            self.broker.side.close(tenant, received);
            return Go::Away;
        }
        let may_go_on = |sent| if sent == Sent::Closed { Go::Away } else { Go::On };
        if !received.is_empty() && self.broker.side.is_flooded_by(tenant) {
            // Whoever sends more descriptors than can be closed is cut off.
            self.broker.side.close(tenant, received);
            return Go::Away;
        }
        if packet.truncated || packet.length > PACKET_BYTES_MAX {
            self.broker.side.close(tenant, received);
            return self.turn_away(connection, &RequestError::PacketTooLarge);
        }
        let Ok(request) = v1::ChannelRequest::decode(&self.packet[..packet.length]) else {
            self.broker.side.close(tenant, received);
            return self.turn_away(connection, &RequestError::PacketGarbled);
        };
        if let Some(cpu) = usize::try_from(request.cpu).ok().and_then(|cpu| cpu.checked_sub(1)) {
            let here = self.broker.channels.get().is_some_and(|channels| channels.cpus.get(self.number) == Some(&cpu));
            connection.strayed = if here { 0 } else { connection.strayed.saturating_add(1) };
            connection.client.cpu = Some(cpu);
        }
        let expected = descriptors::of_request(&request);
        if expected != received.len() {
            let error = RequestError::DescriptorCount { expected, received: received.len() };
            self.broker.side.close(tenant, received);
            return may_go_on(self.refuse(connection, request.id, &error));
        }
        if let Err(error) = connection.client.look_again(&self.broker) {
            self.broker.side.close(tenant, received);
            self.refuse(connection, request.id, &error);
            return Go::Away;
        }
        let op = match self.check(connection, request.id, request.op) {
            Ok(op) => op,
            Err(error) => {
                self.broker.side.close(tenant, received);
                return may_go_on(self.refuse(connection, request.id, &error));
            }
        };
        let reply_to = ReplyTo { mail: self.mail.clone(), connection: token, request: request.id };
        match dispatch(&self.broker, &mut connection.client, op, received, reply_to) {
            Outcome::UnderWay => {
                connection.under_way.insert(request.id);
                Go::On
            }
            Outcome::Answer(answer, handles) => may_go_on(self.answer(connection, request.id, answer, handles)),
            Outcome::Created(creation) => may_go_on(self.created(connection, request.id, creation)),
        }
    }

    fn check(&self, connection: &Connection, id: u64, op: Option<Op>) -> Result<Op, RequestError> {
        if id == 0 {
            return Err(RequestError::Request("a request's id must not be 0"));
        }
        if connection.under_way.contains(&id) {
            return Err(RequestError::Request("this id is in use on this connection; choose another"));
        }
        op.ok_or(RequestError::Request("the request has no operation, or one of another version"))
    }

    fn answer(&mut self, connection: &mut Connection, id: u64, answer: Answer, handles: Vec<OwnedFd>) -> Sent {
        if let Answer::Error(error) = &answer {
            self.broker.note_refusal(connection.client.peer.identity.uid, &error.reason);
        }
        let response = v1::ChannelResponse { id, result: Some(answer) };
        connection.reply(&response, handles, Vec::new, &mut self.scratch)
    }

    fn created(&mut self, connection: &mut Connection, id: u64, mut creation: Creation) -> Sent {
        let handles = std::mem::take(&mut creation.handles);
        let undo = creation.undo_later();
        let response = v1::ChannelResponse { id, result: Some(Answer::Create(creation.response)) };
        connection.reply(&response, handles, || undo.of(&response), &mut self.scratch)
    }

    fn refuse(&mut self, connection: &mut Connection, id: u64, error: &RequestError) -> Sent {
        let response = v1::ChannelResponse { id, result: Some(refusal(error, None)) };
        connection.reply(&response, Vec::new(), Vec::new, &mut self.scratch)
    }

    /// The broker's own word, then the end of the connection.
    fn turn_away(&mut self, connection: &mut Connection, error: &RequestError) -> Go {
        connection.reply(&of_broker(refusal(error, None)), Vec::new(), Vec::new, &mut self.scratch);
        Go::Away
    }
}

/// The broker's own word.
pub(super) fn of_broker(answer: Answer) -> v1::ChannelResponse {
    v1::ChannelResponse { id: 0, result: Some(answer) }
}
