//! A client that takes what it can get and gives nothing back, from a single thread: connections that say nothing, requests
//! whose replies it never reads, packets that are none, descriptors that take long to close, leases, tickets, watches.
//!
//! `flooding-client HANDLE.SOCK GRPC.SOCK` says `flooding` after each round of all of them, and goes on until it is killed.

use std::io::{ErrorKind, Write, stdout};
use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

use prost::Message;
use rustix::io::Errno;
use rustix::net::sockopt::set_socket_linger;
use rustix::net::{AddressFamily, SendFlags, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with};
use scratch_proto::v1::areas_client::AreasClient;
use scratch_proto::v1::channel_request::Op;
use scratch_proto::v1::channel_response::Result as Reply;
use scratch_proto::v1::leases_client::LeasesClient;
use scratch_proto::v1::{
    ChannelRequest, CreateRequest, GrantRequest, Kind, PingRequest, ReleaseRequest, RevokeRequest, WatchRequest,
    WatchResponse,
};
use scratch_sys::send_packet;
use scratch_tests::{Channel, connect_grpc};
use tonic::Streaming;
use tonic::transport::Channel as GrpcChannel;

/// Of each kind and round, so that a round is over soon.
const AT_ONCE: usize = 16;
const SILENT_MAX: usize = 400;
const UNREAD_MAX: usize = 8;
const LINGER: Duration = Duration::from_secs(2);

struct Flood {
    handle: PathBuf,
    silent: Vec<OwnedFd>,
    unread: Vec<OwnedFd>,
    channel: Channel,
    leases: Vec<String>,
    /// What the lingering sockets' data goes to, and nobody reads.
    sink: TcpListener,
    sunk: Vec<TcpStream>,
    watches: Vec<Streaming<WatchResponse>>,
}

fn create(lease: &str, kind: Kind, count: u32) -> CreateRequest {
    CreateRequest { lease: lease.to_owned(), kind: kind.into(), count, ..CreateRequest::default() }
}

fn send(socket: &OwnedFd, packet: &[u8], descriptors: &[BorrowedFd<'_>]) -> Result<(), Errno> {
    send_packet(socket.as_fd(), packet, descriptors, SendFlags::DONTWAIT | SendFlags::NOSIGNAL).map(|_| ())
}

impl Flood {
    fn new(handle: &Path) -> Flood {
        let mut channel = Channel::connect(handle);
        channel.ping();
        Flood {
            handle: handle.to_owned(),
            silent: Vec::new(),
            unread: Vec::new(),
            channel,
            leases: Vec::new(),
            sink: TcpListener::bind("127.0.0.1:0").expect("there is a loopback"),
            sunk: Vec::new(),
            watches: Vec::new(),
        }
    }

    /// Refused or not: it is the broker's to say so.
    fn connect(&self) -> OwnedFd {
        let socket = socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None);
        let socket = socket.expect("the kernel has Unix sockets");
        let address = SocketAddrUnix::new(&*self.handle).expect("a test's paths are short");
        connect(&socket, &address).expect("the broker listens");
        socket
    }

    fn be_silent(&mut self) {
        let room = SILENT_MAX.saturating_sub(self.silent.len()).min(AT_ONCE);
        let more: Vec<_> = (0..room).map(|_| self.connect()).collect();
        self.silent.extend(more);
    }

    fn read_nothing(&mut self) {
        if self.unread.len() < UNREAD_MAX {
            self.unread.push(self.connect());
        }
        for number in 0..self.unread.len() {
            let op = Some(Op::Create(create("", Kind::Anonymous, 200)));
            let request = |id| ChannelRequest { id, op: op.clone(), ..ChannelRequest::default() }.encode_to_vec();
            let sent = (1..100).try_for_each(|id| send(&self.unread[number], &request(id), &[]));
            if sent.is_err_and(|errno| errno != Errno::AGAIN) {
                self.unread[number] = self.connect();
            }
        }
    }

    fn talk_nonsense(&self) {
        for _ in 0..AT_ONCE {
            // It is cut off for it, at the latest at the end of this.
            let _ = send(&self.connect(), &[0xff; 4096], &[]);
        }
    }

    fn pass_what_lingers(&mut self) {
        let socket = self.connect();
        for id in 1..4 {
            let mut one = TcpStream::connect(self.sink.local_addr().expect("it is bound")).expect("it listens");
            self.sunk.push(self.sink.accept().expect("somebody has connected").0);
            one.set_nonblocking(true).expect("a socket of our own");
            while one.write(&[0; 65536]).is_ok() {}
            set_socket_linger(&one, Some(LINGER)).expect("a socket of our own");
            // No field of it says that a descriptor comes.
            let ping = ChannelRequest { id, op: Some(Op::Ping(PingRequest {})), ..ChannelRequest::default() };
            if send(&socket, &ping.encode_to_vec(), &[one.as_fd()]).is_err() {
                break;
            }
        }
        let old = self.sunk.len().saturating_sub(AT_ONCE);
        self.sunk.drain(..old);
    }

    /// As many leases as it may have, with something in each; then the oldest go, all at once.
    fn take_leases(&mut self) {
        while let Ok(Reply::Grant(lease)) = self.channel.try_ask(Op::Grant(GrantRequest::default())) {
            self.channel.ask(Op::Create(create(&lease.id, Kind::Directory, 100)));
            self.leases.push(lease.id);
        }
        let old = self.leases.len().min(AT_ONCE);
        for lease in self.leases.drain(..old) {
            self.channel.ask(Op::Revoke(RevokeRequest { lease, ..RevokeRequest::default() }));
        }
        self.channel.ask(Op::Release(ReleaseRequest { area: b"nothing".into(), ..ReleaseRequest::default() }));
    }

    async fn take_tickets_and_watch(&mut self, grpc: &GrpcChannel) {
        let mut areas = AreasClient::new(grpc.clone());
        while areas.create(create("", Kind::Anonymous, 200)).await.is_ok() {}
        while let Ok(watch) = LeasesClient::new(grpc.clone()).watch(WatchRequest::default()).await {
            self.watches.push(watch.into_inner());
        }
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let [_, handle, grpc] = arguments.as_slice() else { panic!("usage: flooding-client HANDLE.SOCK GRPC.SOCK") };
    let mut flood = Flood::new(Path::new(handle));
    let grpc = connect_grpc(Path::new(grpc)).await.expect("the broker listens on grpc.sock");
    loop {
        flood.be_silent();
        flood.read_nothing();
        flood.talk_nonsense();
        flood.pass_what_lingers();
        flood.take_leases();
        flood.take_tickets_and_watch(&grpc).await;
        match writeln!(stdout(), "flooding") {
            Err(error) if error.kind() == ErrorKind::BrokenPipe => return,
            _ => {}
        }
    }
}
