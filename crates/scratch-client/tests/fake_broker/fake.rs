//! The broker: a thread for each connection, and one script for all.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex};

use prost::Message;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketAddrUnix, SocketFlags, SocketType};
use scratch_client::{ConnectOptions, CreateMode};
use scratch_proto::v1::channel_request::Op;
use scratch_proto::v1::channel_response::Result as Reply;
use scratch_proto::v1::{
    AttachResponse, ChannelRequest, ChannelResponse, CreateRequest, CreateResponse, Created, DetachResponse, Error,
    GrantResponse, PersistResponse, PingResponse, ReleaseResponse, RevokeResponse,
};

/// What the broker does with one request.
pub(crate) enum Act {
    Answer(Reply),
    AnswerWith(Reply, Vec<OwnedFd>),
    /// Answers when it answers another one, after that.
    Later(Reply),
    /// Answers, and closes the connection.
    Last(Reply),
    /// Closes the connection instead, after these words if there are any.
    Drop(Option<Reply>),
}

pub(crate) struct Broker {
    pub(crate) directory: tempfile::TempDir,
    pub(crate) seen: Receiver<Op>,
    /// How many connections it has had.
    pub(crate) accepted: Arc<AtomicUsize>,
    /// A word for each connection that is closed.
    pub(crate) closed: Receiver<()>,
}

/// Starts a broker that does `act` with every request.
pub(crate) fn broker(act: impl FnMut(&Op, &Path) -> Act + Send + 'static) -> Broker {
    let directory = tempfile::tempdir().unwrap();
    let listener =
        rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).unwrap();
    rustix::net::bind(&listener, &SocketAddrUnix::new(directory.path().join("handle.sock")).unwrap()).unwrap();
    rustix::net::listen(&listener, 4).unwrap();
    let (tell, seen) = channel();
    let (tell_closed, closed) = channel();
    let lease = directory.path().join("lease");
    std::fs::create_dir(&lease).unwrap();
    let act = Arc::new(Mutex::new(act));
    let accepted = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&accepted);
    std::thread::spawn(move || {
        while let Ok(connection) = rustix::net::accept_with(&listener, SocketFlags::CLOEXEC) {
            count.fetch_add(1, Ordering::Relaxed);
            let (act, tell, tell_closed, lease) = (Arc::clone(&act), tell.clone(), tell_closed.clone(), lease.clone());
            std::thread::spawn(move || {
                let mut later = Vec::new();
                while let Some((id, op)) = receive(&connection) {
                    let acted = (act.lock().unwrap())(&op, &lease);
                    if tell.send(op).is_err() {
                        return;
                    }
                    match acted {
                        Act::Answer(reply) => answer(&connection, id, reply, &[]),
                        Act::AnswerWith(reply, descriptors) => {
                            let descriptors: Vec<_> = descriptors.iter().map(AsFd::as_fd).collect();
                            answer(&connection, id, reply, &descriptors);
                        }
                        Act::Later(reply) => {
                            later.push((id, reply));
                            continue;
                        }
                        Act::Last(reply) => {
                            answer(&connection, id, reply, &[]);
                            break;
                        }
                        Act::Drop(words) => {
                            words.into_iter().for_each(|words| answer(&connection, 0, words, &[]));
                            break;
                        }
                    }
                    later.drain(..).rev().for_each(|(id, reply)| answer(&connection, id, reply, &[]));
                }
                drop(connection);
                // Ignoring: only some tests want to know.
                let _ = tell_closed.send(());
            });
        }
    });
    Broker { directory, seen, accepted, closed }
}

impl Broker {
    pub(crate) fn options(&self, create: CreateMode) -> ConnectOptions {
        let runtime_directory = Some(self.directory.path().to_owned());
        ConnectOptions { runtime_directory, create: Some(create), program: None }
    }

    pub(crate) fn requests(&self) -> Vec<Op> {
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
    // Ignoring: a client may have gone.
    let _ = scratch_sys::send_packet(connection.as_fd(), &packet, descriptors, SendFlags::empty());
}

pub(crate) fn granted(id: &str, lease: &Path) -> Reply {
    let path = lease.as_os_str().as_encoded_bytes().to_vec();
    Reply::Grant(GrantResponse { id: id.into(), path, generation: 1, ..GrantResponse::default() })
}

pub(crate) fn refused(reason: &str) -> Reply {
    Reply::Error(Error { code: 5, reason: reason.into(), message: reason.into(), ..Error::default() })
}

pub(crate) fn created(create: &CreateRequest, names: Vec<Vec<u8>>) -> Act {
    let descriptors: Vec<OwnedFd> =
        names.iter().filter(|_| create.want_handle).map(|_| tempfile::tempfile().unwrap().into()).collect();
    let areas = names.into_iter().map(|name| Created { name, fd: create.want_handle, ..Created::default() }).collect();
    Act::AnswerWith(Reply::Create(CreateResponse { areas, ..CreateResponse::default() }), descriptors)
}

/// Grants, attaches, makes, releases and revokes as a broker should.
pub(crate) fn obliging(op: &Op, lease: &Path) -> Act {
    Act::Answer(match op {
        Op::Grant(_) => granted("aaaaaaaaaaaaaaaa", lease),
        Op::Attach(_) => Reply::Attach(AttachResponse::default()),
        Op::Detach(_) => Reply::Detach(DetachResponse::default()),
        Op::Create(create) => return created(create, vec![create.name.clone()]),
        Op::Release(_) => Reply::Release(ReleaseResponse::default()),
        Op::Persist(_) => Reply::Persist(PersistResponse { copied: true }),
        Op::Ping(_) => Reply::Ping(PingResponse {}),
        _ => Reply::Revoke(RevokeResponse::default()),
    })
}
