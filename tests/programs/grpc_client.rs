//! A client of gRPC as a process of its own: one lease with a file and a directory, and a KeepAlive stream that names it.
//!
//! `grpc-client SOCKET connection|process|ttl` says its lease's id and path, then answers each line with `there`, or with what
//! is wrong: its areas are looked at, and its stream has to answer. It ends with its input. When its broker goes it connects
//! again and names its lease, for as long as that takes, and says `back`.

use std::error::Error;
use std::ffi::OsString;
use std::io::{Write, stdin, stdout};
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use scratch_proto::v1::areas_client::AreasClient;
use scratch_proto::v1::holder_spec::Kind as Holder;
use scratch_proto::v1::leases_client::LeasesClient;
use scratch_proto::v1::{
    ConnectionHolder, CreateRequest, GrantRequest, HolderSpec, KeepAliveRequest, KeepAliveResponse, Kind, TtlHolder,
};
use scratch_tests::connect_grpc;
use tokio::sync::mpsc;
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::transport::Channel;
use tonic::{Code, Status, Streaming};

const TTL: Duration = Duration::from_secs(5);
const RENEW_EVERY: Duration = Duration::from_secs(1);
const CONNECT_EVERY: Duration = Duration::from_millis(20);

/// A KeepAlive stream that names the lease.
struct Stream<'a> {
    lease: &'a Lease,
    requests: mpsc::UnboundedSender<KeepAliveRequest>,
    replies: Streaming<KeepAliveResponse>,
}

/// What this process has.
struct Lease {
    id: String,
    path: PathBuf,
    /// It has no ttl, and is not held by the stream: there is nothing to renew, and the stream has to say so.
    by_process: bool,
}

impl<'a> Stream<'a> {
    async fn open(channel: Channel, lease: &'a Lease) -> Result<Stream<'a>, Status> {
        let (requests, stream) = mpsc::unbounded_channel();
        // Before the call: it is answered with the first reply.
        let named = requests.send(KeepAliveRequest { lease: lease.id.clone() });
        named.map_err(|_| Status::internal("the other half is here"))?;
        let replies = LeasesClient::new(channel).keep_alive(UnboundedReceiverStream::new(stream)).await?.into_inner();
        let mut stream = Stream { lease, requests, replies };
        stream.reply().await?;
        Ok(stream)
    }

    async fn renew(&mut self) -> Result<(), Status> {
        let ended = |_| Status::unavailable("the stream has ended");
        self.requests.send(KeepAliveRequest { lease: self.lease.id.clone() }).map_err(ended)?;
        self.reply().await
    }

    /// What the next reply says of the lease. No reply is no FAILED_PRECONDITION.
    async fn reply(&mut self) -> Result<(), Status> {
        let reply = self.replies.message().await?;
        match reply.ok_or_else(|| Status::unavailable("the broker ended the stream"))?.error {
            None if !self.lease.by_process => Ok(()),
            Some(error) if self.lease.by_process && error.reason == "NO_TTL" => Ok(()),
            error => Err(Status::failed_precondition(format!("{error:?}"))),
        }
    }
}

impl Lease {
    /// `there`, or what is missing.
    fn look(&self) -> String {
        let (file, directory) = (std::fs::read_to_string(self.path.join("file")), self.path.join("directory").is_dir());
        match file {
            Ok(content) if content == self.id && directory => "there".to_owned(),
            file => format!("not as it was: the file is {file:?}, the directory is there: {directory}"),
        }
    }
}

fn holders(wanted: &str) -> Vec<HolderSpec> {
    let kind = match wanted {
        "connection" => Holder::Connection(ConnectionHolder {}),
        "ttl" => Holder::Ttl(TtlHolder { ttl: TTL.try_into().ok() }),
        _ => return Vec::new(),
    };
    vec![HolderSpec { kind: Some(kind) }]
}

/// Grants the lease and creates in it, all over gRPC.
async fn settle(channel: Channel, holder: &str) -> Result<Lease, Box<dyn Error>> {
    let request = GrantRequest { holders: holders(holder), ..GrantRequest::default() };
    let granted = LeasesClient::new(channel.clone()).grant(request).await?.into_inner();
    let mut areas = AreasClient::new(channel);
    for (kind, name) in [(Kind::File, "file"), (Kind::Directory, "directory")] {
        let (kind, name) = (kind.into(), name.into());
        areas.create(CreateRequest { lease: granted.id.clone(), kind, name, ..CreateRequest::default() }).await?;
    }
    let path = PathBuf::from(OsString::from_vec(granted.path));
    std::fs::write(path.join("file"), &granted.id)?;
    Ok(Lease { id: granted.id, path, by_process: holder == "process" })
}

/// As soon as there is a broker again. What that one says of the lease is final.
async fn again<'a>(socket: &Path, lease: &'a Lease) -> Result<Stream<'a>, Status> {
    loop {
        if let Ok(channel) = connect_grpc(socket).await {
            match Stream::open(channel, lease).await {
                // This one was about to go as well.
                Err(status) if status.code() != Code::FailedPrecondition => {}
                answered => return answered,
            }
        }
        tokio::time::sleep(CONNECT_EVERY).await;
    }
}

fn say(line: &str) -> std::io::Result<()> {
    let mut stdout = stdout().lock();
    writeln!(stdout, "{line}").and_then(|()| stdout.flush())
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().collect();
    let [_, socket, holder] = arguments.as_slice() else { return Err("usage: grpc-client SOCKET HOLDER".into()) };
    let (told, mut lines) = mpsc::unbounded_channel();
    std::thread::spawn(move || stdin().lines().map_while(Result::ok).try_for_each(|line| told.send(line)));

    let socket = Path::new(socket);
    let channel = connect_grpc(socket).await?;
    let lease = settle(channel.clone(), holder).await?;
    let mut stream = Stream::open(channel, &lease).await?;
    say(&format!("{}\n{}", lease.id, lease.path.display()))?;
    loop {
        let answered = tokio::select! {
            line = lines.recv() => match line {
                Some(_) => match stream.renew().await {
                    Ok(()) => Ok(say(&lease.look())?),
                    Err(status) => return Err(status.into()),
                },
                None => return Ok(()),
            },
            () = tokio::time::sleep(RENEW_EVERY), if holder == "ttl" => stream.renew().await,
            // Nothing was asked: this is its end.
            ended = stream.reply() => ended,
        };
        match answered {
            Ok(()) => {}
            Err(status) if status.code() == Code::FailedPrecondition => return Err(status.into()),
            Err(_) => {
                stream = again(socket, &lease).await?;
                say("back")?;
            }
        }
    }
}
