//! A broker of few words in a thread: it answers by a script, and drops connections where the script says so.
#![allow(clippy::unwrap_used, reason = "helpers of tests, which may fail loudly")]

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, channel};

use prost::Message;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketAddrUnix, SocketFlags, SocketType};
use scratch_client::{AreaOptions, Client, ClientError, ConnectOptions, CreateMode, GrantOptions, Holder};
use scratch_proto::v1::channel_request::Op;
use scratch_proto::v1::channel_response::Result as Reply;
use scratch_proto::v1::{
    AttachResponse, ChannelRequest, ChannelResponse, CreateResponse, Created, Error, GrantResponse, ReleaseResponse,
    RevokeResponse,
};

/// What the broker does with one request.
enum Act {
    Answer(Reply),
    AnswerWith(Reply, OwnedFd),
    /// Closes the connection instead.
    Drop,
}

struct Broker {
    directory: tempfile::TempDir,
    seen: Receiver<Op>,
}

/// Starts a broker that does `act` with every request.
fn broker(mut act: impl FnMut(&Op, &Path) -> Act + Send + 'static) -> Broker {
    let directory = tempfile::tempdir().unwrap();
    let listener =
        rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).unwrap();
    rustix::net::bind(&listener, &SocketAddrUnix::new(directory.path().join("handle.sock")).unwrap()).unwrap();
    rustix::net::listen(&listener, 4).unwrap();
    let (tell, seen) = channel();
    let lease = directory.path().join("lease");
    std::fs::create_dir(&lease).unwrap();
    std::thread::spawn(move || {
        while let Ok(connection) = rustix::net::accept_with(&listener, SocketFlags::CLOEXEC) {
            while let Some((id, op)) = receive(&connection) {
                let acted = act(&op, &lease);
                if tell.send(op).is_err() {
                    return;
                }
                match acted {
                    Act::Answer(reply) => answer(&connection, id, reply, &[]),
                    Act::AnswerWith(reply, descriptor) => answer(&connection, id, reply, &[descriptor.as_fd()]),
                    Act::Drop => break,
                }
            }
        }
    });
    Broker { directory, seen }
}

impl Broker {
    fn client(&self, create: CreateMode) -> Client {
        let runtime_directory = Some(self.directory.path().to_owned());
        Client::connect(&ConnectOptions { runtime_directory, create: Some(create), program: None }).unwrap()
    }

    fn requests(&self) -> Vec<Op> {
        self.seen.try_iter().collect()
    }
}

fn receive(connection: &OwnedFd) -> Option<(u64, Op)> {
    let mut buffer = vec![0; 65536];
    let mut descriptors = Vec::new();
    let received =
        scratch_sys::receive_packet(connection.as_fd(), &mut buffer, &mut descriptors, RecvFlags::empty()).ok()?;
    let request = ChannelRequest::decode(&buffer[..received.length]).ok()?;
    Some((request.id, request.op?))
}

fn answer(connection: &OwnedFd, id: u64, reply: Reply, descriptors: &[BorrowedFd<'_>]) {
    let packet = ChannelResponse { id, result: Some(reply) }.encode_to_vec();
    scratch_sys::send_packet(connection.as_fd(), &packet, descriptors, SendFlags::empty()).unwrap();
}

fn granted(lease: &Path) -> Reply {
    let path = lease.as_os_str().as_encoded_bytes().to_vec();
    Reply::Grant(GrantResponse { id: "aaaaaaaaaaaaaaaa".into(), path, generation: 1, ..GrantResponse::default() })
}

fn refused(reason: &str) -> Reply {
    Reply::Error(Error { code: 5, reason: reason.into(), message: reason.into(), ..Error::default() })
}

/// Grants, attaches, makes, releases and revokes as a broker should.
fn obliging(op: &Op, lease: &Path) -> Act {
    match op {
        Op::Grant(_) => Act::Answer(granted(lease)),
        Op::Attach(_) => Act::Answer(Reply::Attach(AttachResponse::default())),
        Op::Create(create) => {
            let made = Reply::Create(CreateResponse {
                areas: vec![Created { name: create.name.clone(), fd: true }],
                ..CreateResponse::default()
            });
            Act::AnswerWith(made, tempfile::tempfile().unwrap().into())
        }
        Op::Release(_) => Act::Answer(Reply::Release(ReleaseResponse::default())),
        _ => Act::Answer(Reply::Revoke(RevokeResponse::default())),
    }
}

#[test]
fn a_file_in_our_own_lease_needs_no_broker() {
    let broker = broker(obliging);
    let client = broker.client(CreateMode::Auto);
    let lease = client.grant(&GrantOptions::default()).unwrap();
    let file = lease.file(&AreaOptions::default()).unwrap();
    let path: PathBuf = file.path().unwrap().to_owned();
    assert!(path.is_file() && path.starts_with(lease.path().unwrap()));
    assert_eq!(path.file_name(), Some(file.name()));
    drop(file);
    assert!(!path.exists());
    let kept = lease.file(&AreaOptions { name: Some("kept".into()), ..AreaOptions::default() }).unwrap();
    let path = kept.path().unwrap().to_owned();
    drop(kept.keep());
    assert!(path.exists());
    let again = lease.file(&AreaOptions { name: Some("kept".into()), ..AreaOptions::default() });
    assert_eq!(std::io::Error::from(again.unwrap_err()).kind(), std::io::ErrorKind::AlreadyExists);
    lease.anonymous().unwrap();
    assert_eq!(broker.requests().len(), 1, "the grant");
    drop(lease);
    assert!(matches!(broker.requests()[..], [Op::Revoke(_)]));
}

#[test]
fn a_directory_is_released_by_the_broker() {
    let broker = broker(obliging);
    let client = broker.client(CreateMode::Auto);
    let lease = client.grant(&GrantOptions::default()).unwrap();
    let directory = lease.directory(&AreaOptions::default()).unwrap();
    assert!(directory.path().unwrap().is_dir());
    directory.close().unwrap();
    lease.leave();
    assert!(matches!(broker.requests()[..], [Op::Grant(_), Op::Release(_)]));
}

#[test]
fn a_request_without_an_answer_is_sent_again_and_says_so() {
    let mut lost = false;
    let broker = broker(move |op, lease| match op {
        Op::Create(_) if !lost => {
            lost = true;
            Act::Drop
        }
        _ => obliging(op, lease),
    });
    let client = broker.client(CreateMode::Broker);
    let options = GrantOptions { holders: vec![Holder::Connection], ..GrantOptions::default() };
    let lease = client.grant(&options).unwrap();
    lease.file(&AreaOptions::default()).unwrap().close().unwrap();
    let requests = broker.requests();
    let [Op::Grant(_), Op::Create(first), Op::Attach(_), Op::Create(second), Op::Release(_)] = &requests[..] else {
        panic!("{requests:?}");
    };
    assert!(!first.resend && second.resend);
    assert_eq!((&first.name, first.name.len()), (&second.name, 11), "tmp and 8 random characters");
}

#[test]
fn a_name_that_is_taken_is_drawn_again_and_an_exact_one_is_not() {
    let mut clashes = 2;
    let broker = broker(move |op, lease| match op {
        Op::Create(create) if clashes > 0 || create.name == b"exact" => {
            clashes -= 1;
            Act::Answer(refused("NAME_EXISTS"))
        }
        _ => obliging(op, lease),
    });
    let client = broker.client(CreateMode::Broker);
    let lease = client.grant(&GrantOptions::default()).unwrap();
    lease.file(&AreaOptions::default()).unwrap().close().unwrap();
    assert_eq!(broker.requests().len(), 1 + 3 + 1);
    let exact = AreaOptions { name: Some("exact".into()), ..AreaOptions::default() };
    assert!(lease.file(&exact).unwrap_err().is_refusal("NAME_EXISTS"));
    let outside = AreaOptions { prefix: "a/b".into(), ..AreaOptions::default() };
    assert!(matches!(lease.file(&outside), Err(ClientError::Name(_))));
}

#[test]
fn a_revoke_that_was_lost_on_the_way_back_is_a_success() {
    let mut revokes = 0;
    let broker = broker(move |op, lease| match op {
        Op::Revoke(_) => {
            revokes += 1;
            if revokes == 1 { Act::Drop } else { Act::Answer(refused("LEASE_UNKNOWN")) }
        }
        _ => obliging(op, lease),
    });
    let client = broker.client(CreateMode::Auto);
    client.grant(&GrantOptions::default()).unwrap().revoke().unwrap();
    let unknown = client.revoke("bbbbbbbbbbbbbbbb").unwrap_err();
    assert!(unknown.is_refusal("LEASE_UNKNOWN"), "said by a broker that heard it once");
}

#[test]
fn a_broker_that_is_gone_is_an_error() {
    let mut broker = broker(obliging);
    let client = broker.client(CreateMode::Auto);
    let lease = client.grant(&GrantOptions::default()).unwrap();
    broker.seen = channel().1;
    std::fs::remove_file(broker.directory.path().join("handle.sock")).unwrap();
    // The first one ends the thread, which nobody listens to any more.
    assert!(matches!(lease.keep_alive(), Err(ClientError::NoBroker { .. })));
    lease.leave();
}
