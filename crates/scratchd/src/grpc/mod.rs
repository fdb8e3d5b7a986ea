//! gRPC on `grpc.sock`, with health, reflection and ErrorInfo. Only translates: each call is one into the broker.

mod admin;
mod areas;
mod connection;
mod leases;

use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use nix::unistd::{Uid, User};
use scratch_proto::v1::admin_server::AdminServer;
use scratch_proto::v1::areas_server::AreasServer;
use scratch_proto::v1::leases_server::LeasesServer;
use tokio::net::UnixListener;
use tonic::transport::Server;

use crate::broker::Broker;
use crate::peer::Peer;
use crate::reason::RequestError;

/// Most bytes of one message.
const MESSAGE_BYTES_MAX: usize = 1024 * 1024;
/// Calls under way on one connection.
const STREAMS_MAX: u32 = 256;

/// Serves until `stop` is done.
///
/// # Errors
/// When the socket can't be used.
pub(crate) fn serve(
    broker: Arc<Broker>,
    socket: OwnedFd,
    stop: impl Future<Output = ()> + Send + 'static,
) -> std::io::Result<impl Future<Output = ()> + Send + 'static> {
    if let Err(errno) = scratch_sys::refuse_descriptors(&socket) {
        // Before Linux 6.16 a sender's descriptors are closed by the kernel when the bytes with them are read.
        tracing::debug!(%errno, "grpc.sock can't be told to refuse descriptors");
    }
    let listener = UnixListener::from_std(std::os::unix::net::UnixListener::from(socket))?;
    let reflection = tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(scratch_proto::DESCRIPTORS)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        .build_v1()
        .map_err(std::io::Error::other)?;
    Ok(async move {
        let (health, health_service) = tonic_health::server::health_reporter();
        health.set_serving::<LeasesServer<leases::Service>>().await;
        health.set_serving::<AreasServer<areas::Service>>().await;
        health.set_serving::<AdminServer<admin::Service>>().await;
        let leases = LeasesServer::new(leases::Service(Arc::clone(&broker)));
        let admin = AdminServer::new(admin::Service(Arc::clone(&broker)));
        let served = Server::builder()
            .max_concurrent_streams(STREAMS_MAX)
            .add_service(health_service)
            .add_service(reflection)
            .add_service(leases.max_decoding_message_size(MESSAGE_BYTES_MAX))
            .add_service(AreasServer::new(areas::Service).max_decoding_message_size(MESSAGE_BYTES_MAX))
            .add_service(admin.max_decoding_message_size(MESSAGE_BYTES_MAX))
            .serve_with_incoming_shutdown(connection::admitted(Arc::clone(&broker), listener), stop)
            .await;
        if let Err(error) = served {
            tracing::error!(%error, "gRPC ended");
        }
    })
}

/// Who calls, by the kernel's word on the call's connection.
fn peer<T>(request: &tonic::Request<T>) -> Result<Arc<Peer>, tonic::Status> {
    let peer = request.extensions().get::<Arc<Peer>>().cloned();
    peer.ok_or_else(|| tonic::Status::unauthenticated("the kernel names no peer"))
}

/// What a later version has.
fn unimplemented<T>(what: &'static str) -> Result<tonic::Response<T>, tonic::Status> {
    Err(RequestError::Unimplemented(what).to_status())
}

/// Users' names, looked up where that may block.
async fn user_names(mut uids: Vec<u32>) -> HashMap<u32, String> {
    uids.sort_unstable();
    uids.dedup();
    let name = |uid: u32| Some((uid, User::from_uid(Uid::from_raw(uid)).ok()??.name));
    let look_up = move || uids.into_iter().filter_map(name).collect();
    tokio::task::spawn_blocking(look_up).await.unwrap_or_default()
}
