//! gRPC: a Create against an empty unary call, each on a Unix socket, from one client thread.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};

use scratch_proto::v1;
use scratch_proto::v1::areas_client::AreasClient;
use scratch_proto::v1::areas_server::{Areas, AreasServer};
use scratch_proto::v1::leases_client::LeasesClient;
use scratch_tests::{DEADLINE, connect_grpc};
use tokio::net::UnixListener;
use tokio::runtime::Runtime;
use tokio_stream::wrappers::UnixListenerStream;
use tonic::transport::{Channel, Server};
use tonic::{Request, Response, Status};

use crate::Site;
use crate::measure::{Row, side_by_side};

/// A service whose Create does nothing.
struct Empty;

#[tonic::async_trait]
impl Areas for Empty {
    async fn create(&self, _: Request<v1::CreateRequest>) -> Result<Response<v1::CreateResponse>, Status> {
        Ok(Response::new(v1::CreateResponse::default()))
    }

    async fn release(&self, _: Request<v1::ReleaseRequest>) -> Result<Response<v1::ReleaseResponse>, Status> {
        Err(Status::unimplemented("only Create is measured"))
    }

    async fn persist(&self, _: Request<v1::PersistRequest>) -> Result<Response<v1::PersistResponse>, Status> {
        Err(Status::unimplemented("only Create is measured"))
    }

    async fn get(&self, _: Request<v1::GetAreaRequest>) -> Result<Response<v1::Area>, Status> {
        Err(Status::unimplemented("only Create is measured"))
    }

    async fn list(&self, _: Request<v1::ListAreasRequest>) -> Result<Response<v1::ListAreasResponse>, Status> {
        Err(Status::unimplemented("only Create is measured"))
    }
}

/// The peer's process: as many worker threads as the broker has for gRPC.
pub(crate) fn serve() -> ExitCode {
    let socket = std::env::var_os("BENCH_SOCKET").map(PathBuf::from).expect("the bench says where");
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    runtime.expect("threads can be made").block_on(async {
        let listener = UnixListener::bind(socket).expect("the place is new");
        let serving = Server::builder().add_service(AreasServer::new(Empty));
        serving.serve_with_incoming(UnixListenerStream::new(listener)).await.expect("it serves until it is killed");
    });
    ExitCode::SUCCESS
}

struct Peer {
    process: Child,
    socket: PathBuf,
}

impl Peer {
    fn start(directory: &Path) -> Self {
        let socket = directory.join("empty.sock");
        let program = std::env::current_exe().expect("/proc names this program");
        let mut command = Command::new(program);
        command.args(["--part", "grpc"]).env("BENCH_SOCKET", &socket).stdout(Stdio::null());
        let process = command.spawn().expect("this program can be run");
        scratch_tests::eventually(DEADLINE, "the peer listens", || {
            std::os::unix::net::UnixStream::connect(&socket).is_ok()
        });
        Self { process, socket }
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        self.process.kill().and_then(|()| self.process.wait()).expect("our own child can be killed");
        std::fs::remove_file(&self.socket).expect("it was bound here");
    }
}

async fn connect(socket: &Path) -> Channel {
    connect_grpc(socket).await.expect("it listens")
}

pub(crate) fn create(site: &Site) -> Row {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime can be made");
    let peer = Peer::start(&site.beside);
    let (ours, theirs, samples) = measured(&runtime, site, &peer);
    Row {
        case: "grpc-create",
        peer: Some("an empty tonic unary call"),
        file_system: site.file_system,
        unit: "us",
        ours,
        theirs: Some(theirs),
        goal: 1.3,
        samples,
    }
}

fn measured(runtime: &Runtime, site: &Site, peer: &Peer) -> (f64, f64, usize) {
    let channel = runtime.block_on(connect(&site.broker.grpc_socket()));
    let mut leases = LeasesClient::new(channel.clone());
    let lease = runtime.block_on(leases.grant(v1::GrantRequest::default())).expect("it grants").into_inner().id;
    let mut areas = AreasClient::new(channel);
    let mut empty = AreasClient::new(runtime.block_on(connect(&peer.socket)));
    let request =
        v1::CreateRequest { lease: lease.clone(), kind: v1::Kind::File.into(), ..v1::CreateRequest::default() };
    side_by_side(
        500,
        |watch| {
            let made = watch.time(|| runtime.block_on(areas.create(request.clone())).expect("it creates"));
            let area = made.into_inner().areas.remove(0).name;
            let release = v1::ReleaseRequest { lease: lease.clone(), area, ..v1::ReleaseRequest::default() };
            runtime.block_on(areas.release(release)).expect("it releases");
        },
        |watch| {
            watch.time(|| runtime.block_on(empty.create(request.clone())).expect("it answers"));
            // As much traffic beside what is measured as ours has.
            runtime.block_on(empty.create(request.clone())).expect("it answers");
        },
    )
}
