//! A process that holds many leases at once: `leaseholder HANDLE.SOCK NUMBER [TTL_MILLISECONDS]` grants them, held by itself
//! or for that time, says `granted` and the ids, one a line, and then does nothing until its input ends.

use std::io::{Write, stdin, stdout};
use std::path::Path;
use std::time::Duration;

use scratch_proto::v1::channel_request::Op;
use scratch_proto::v1::channel_response::Result as Reply;
use scratch_proto::v1::holder_spec::Kind;
use scratch_proto::v1::{GrantRequest, HolderSpec, TtlHolder};
use scratch_tests::Channel;

/// Requests that are under way.
const AHEAD: usize = 32;

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let (socket, number) = match arguments.as_slice() {
        [_, socket, number] | [_, socket, number, _] => (Path::new(socket), number.parse().expect("a number")),
        _ => panic!("usage: leaseholder HANDLE.SOCK NUMBER [TTL_MILLISECONDS]"),
    };
    let ttl = arguments.get(3).map(|ttl| Duration::from_millis(ttl.parse().expect("a number")));
    let ttl = ttl.map(|ttl| TtlHolder { ttl: Some(ttl.try_into().expect("a short time")) });
    let holders: Vec<_> = ttl.into_iter().map(|ttl| HolderSpec { kind: Some(Kind::Ttl(ttl)) }).collect();
    let request = Op::Grant(GrantRequest { holders, ..GrantRequest::default() });

    let mut channel = Channel::connect(socket);
    let mut out = stdout().lock();
    let mut sent = 0;
    let mut ids = Vec::new();
    while ids.len() < number {
        while sent < number && sent - ids.len() < AHEAD {
            channel.send(request.clone(), &[]).expect("the broker listens");
            sent += 1;
        }
        let (reply, _) = channel.receive().expect("the broker answers");
        let Some(Reply::Grant(granted)) = reply.result else { panic!("not granted: {reply:?}") };
        ids.push(granted.id);
    }
    ids.insert(0, "granted".to_owned());
    out.write_all((ids.join("\n") + "\n").as_bytes()).and_then(|()| out.flush()).expect("the test listens");
    stdin().lines().for_each(drop);
}
