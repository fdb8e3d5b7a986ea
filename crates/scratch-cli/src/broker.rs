//! gRPC with the broker that the search finds; its user was checked on the handle channel beside it.

use std::path::Path;

use hyper_util::rt::TokioIo;
use scratch_client::{Client, ConnectOptions};
use tokio::net::UnixStream;
use tonic::transport::{Channel, Endpoint};

use crate::failure::Failure;

/// How a command finds the broker. Never by SCRATCHD_CHANNEL: what a delegated channel gives has no paths, and paths are what
/// commands are for.
pub(crate) fn options() -> ConnectOptions {
    let found = ConnectOptions::default().find_runtime_directory();
    ConnectOptions {
        runtime_directory: Some(found),
        program: Some("/proc/self/exe".into()),
        ..ConnectOptions::default()
    }
}

/// Runs one exchange with the broker. None is started: what there is to look at is where one runs.
pub(crate) fn with_broker<T>(exchange: impl AsyncFnOnce(Channel) -> Result<T, Failure>) -> Result<T, Failure> {
    let client = Client::connect(&options())?;
    let socket = client.runtime_directory().join("grpc.sock");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let channel = connect(&socket).await.map_err(|error| Failure::Transport(error, socket))?;
        exchange(channel).await
    })
}

/// A channel over this socket.
pub(crate) async fn connect(socket: &Path) -> Result<Channel, tonic::transport::Error> {
    let socket = socket.to_owned();
    let connector = tower::service_fn(move |_| {
        let socket = socket.clone();
        async move { UnixStream::connect(socket).await.map(TokioIo::new) }
    });
    // The address is not used; a URI is wanted.
    Endpoint::from_static("http://localhost").connect_with_connector(connector).await
}
