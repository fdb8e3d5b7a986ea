//! gRPC with a broker, over its socket.

use std::path::Path;

use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tonic::transport::{Channel, Endpoint, Error};

use crate::broker::Broker;

/// Connects. Not again by itself when the broker has gone: a client of a test is to know.
///
/// # Errors
/// When nobody listens.
pub async fn connect_grpc(socket: &Path) -> Result<Channel, Error> {
    let socket = socket.to_owned();
    let connector = tower::service_fn(move |_| {
        let socket = socket.clone();
        async move { UnixStream::connect(socket).await.map(TokioIo::new) }
    });
    // The address is not used; a URI is wanted.
    Endpoint::from_static("http://localhost").connect_with_connector(connector).await
}

/// Talks with a broker on a runtime of its own.
///
/// # Panics
/// When it does not listen.
pub fn with_grpc<T>(broker: &Broker, talk: impl AsyncFnOnce(Channel) -> T) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("tokio runs");
    runtime.block_on(async {
        let channel = connect_grpc(&broker.grpc_socket()).await.expect("the broker listens on grpc.sock");
        talk(channel).await
    })
}
