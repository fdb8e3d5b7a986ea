//! gRPC on `grpc.sock`, with health, reflection and ErrorInfo. Only translates: each call is one into the broker.

mod admin;
mod areas;
mod authority;
mod calls;
mod connection;
mod health;
mod leases;
mod streams;
mod watch;

use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use nix::unistd::{Uid, User};
use scratch_proto::v1::admin_server::AdminServer;
use scratch_proto::v1::areas_server::AreasServer;
use scratch_proto::v1::leases_server::LeasesServer;
use tokio::net::UnixListener;
use tokio::sync::OwnedSemaphorePermit;
use tonic::transport::Server;
use tonic::{Request, Response, Status};
use tonic_health::pb::health_server::HealthServer;

use crate::broker::Broker;
use crate::channel::lease_key;
use crate::load::PAGES_MAX;
use crate::reaper::WhenFreed;
use crate::reason::RequestError;
use connection::Shared;
pub(crate) use streams::Streams;

/// Most bytes of one message.
const MESSAGE_BYTES_MAX: usize = 128 * 1024;
/// Most bytes of one call's headers.
const HEADER_BYTES_MAX: u32 = 16 * 1024;
/// Calls under way on one connection.
const STREAMS_MAX: u32 = 256;
/// Most things of one page, and about how many bytes: what a client does not read, the broker keeps.
const PAGE_MAX: usize = 1000;
const PAGE_BYTES_MAX: usize = 64 * 1024;

/// How long a list waits for others to be read.
const UNREAD_FOR_MAX: Duration = Duration::from_secs(10);

/// A place for a list that was not read.
#[derive(Clone)]
struct Unread(#[expect(dead_code, reason = "held, not looked at")] Arc<OwnedSemaphorePermit>);

/// Serves until `stop` is done.
///
/// # Errors
/// When the socket can't be used.
pub(crate) fn serve(
    broker: Arc<Broker>,
    socket: OwnedFd,
    stop: impl Future<Output = ()> + Send + 'static,
) -> std::io::Result<impl Future<Output = ()> + Send + 'static> {
    let refuses_descriptors = match scratch_sys::refuse_descriptors(&socket) {
        Ok(()) => true,
        Err(errno) => {
            // Before Linux 6.16.
            tracing::debug!(%errno, "grpc.sock can't be told to refuse descriptors; they are received and closed");
            false
        }
    };
    let listener = UnixListener::from_std(std::os::unix::net::UnixListener::from(socket))?;
    let reflected = || {
        tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(scratch_proto::DESCRIPTORS)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
    };
    let reflection = reflected().build_v1().map_err(std::io::Error::other)?;
    // Asked for by tools that are older than v1.
    let reflection_alpha = reflected().build_v1alpha().map_err(std::io::Error::other)?;
    Ok(async move {
        let leases = LeasesServer::new(leases::Service(Arc::clone(&broker)));
        let areas = AreasServer::new(areas::Service(Arc::clone(&broker)));
        let admin = AdminServer::new(admin::Service(Arc::clone(&broker)));
        let served = Server::builder()
            .max_concurrent_streams(STREAMS_MAX)
            .http2_max_header_list_size(HEADER_BYTES_MAX)
            // A program that gives up all its calls at once is not to be cut off, and its leases with it.
            .http2_max_pending_accept_reset_streams(Some(2 * STREAMS_MAX as usize))
            .layer(calls::CallsLayer(Arc::clone(&broker)))
            .add_service(HealthServer::new(health::Service::new(Arc::clone(&broker))))
            .add_service(reflection)
            .add_service(reflection_alpha)
            .add_service(leases.max_decoding_message_size(MESSAGE_BYTES_MAX))
            .add_service(areas.max_decoding_message_size(MESSAGE_BYTES_MAX))
            .add_service(admin.max_decoding_message_size(MESSAGE_BYTES_MAX))
            .serve_with_incoming_shutdown(connection::admitted(broker, listener, refuses_descriptors), stop)
            .await;
        if let Err(error) = served {
            tracing::error!(%error, "gRPC ended");
        }
    })
}

/// Who calls, by the kernel's word on the call's connection.
fn shared<T>(request: &Request<T>) -> Result<Arc<Shared>, Status> {
    let shared = request.extensions().get::<Arc<Shared>>().cloned();
    shared.ok_or_else(|| Status::unauthenticated("the kernel names no peer"))
}

fn refused(error: RequestError) -> Status {
    error.to_status(None)
}

/// Looks at trees where that may block; few at once for each tenant.
async fn blocking<T: Send + 'static>(shared: &Shared, work: impl FnOnce() -> T + Send + 'static) -> Result<T, Status> {
    let place = shared.outgoing.slow().acquire_owned().await.map_err(|_| refused(RequestError::Stopping))?;
    let work = move || {
        let done = work();
        // Given up with the work, not with a call that its client has cancelled.
        drop(place);
        done
    };
    tokio::task::spawn_blocking(work).await.map_err(|_| refused(RequestError::Stopping))
}

/// A reply with a list in it. Until its client has read it, it is the broker's memory: so there are few at once for each
/// tenant, and whoever reads none waits for a place in vain.
async fn list<T>(shared: &Shared, make: impl Future<Output = Result<T, Status>>) -> Result<Response<T>, Status> {
    let place = tokio::time::timeout(UNREAD_FOR_MAX, shared.outgoing.pages().acquire_owned()).await;
    let place =
        place.ok().and_then(Result::ok).ok_or_else(|| refused(RequestError::LimitCalls { limit: PAGES_MAX }))?;
    let mut response = Response::new(make.await?);
    // Given up with the last of the reply.
    response.extensions_mut().insert(Unread(Arc::new(place)));
    Ok(response)
}

/// Writes a lease's record: on the thread that does so for this lease, in the order of the requests.
async fn on_side<T: Send + 'static>(
    broker: &Broker,
    shared: &Shared,
    lease: &str,
    work: impl FnOnce() -> Result<T, RequestError> + Send + 'static,
) -> Result<T, Status> {
    let place = shared.outgoing.records().acquire_owned().await.map_err(|_| refused(RequestError::Stopping))?;
    let (done, wait) = tokio::sync::oneshot::channel();
    broker.side.run(shared.caller().tenant.0, lease_key(lease), move || {
        // The caller may have gone; it was done all the same.
        let _ = done.send(work());
        drop(place);
    });
    wait.await.map_err(|_| refused(RequestError::Stopping))?.map_err(refused)
}

/// What to call when trees are freed, and how to wait for that: for the ids of what became debt.
fn freed(broker: &Broker) -> (WhenFreed, impl Future<Output = Result<Vec<String>, Status>> + Send + 'static) {
    let (freed, wait) = tokio::sync::oneshot::channel();
    let mut stopping = broker.stopping.subscribe();
    let when_freed = Box::new(move |debt| {
        // The caller may have gone; the trees have too.
        let _ = freed.send(debt);
    });
    let wait = async move {
        tokio::select! {
            debt = wait => debt.map_err(|_| refused(RequestError::Stopping)),
            _ = stopping.wait_for(|stopping| *stopping) => Err(refused(RequestError::Stopping)),
        }
    };
    (when_freed, wait)
}

fn page_size(wanted: u32) -> usize {
    match usize::try_from(wanted).unwrap_or(PAGE_MAX) {
        0 => PAGE_MAX,
        size => size.min(PAGE_MAX),
    }
}

/// Users' names, looked up where that may block.
async fn user_names(mut uids: Vec<u32>) -> HashMap<u32, String> {
    uids.sort_unstable();
    uids.dedup();
    let name = |uid: u32| Some((uid, User::from_uid(Uid::from_raw(uid)).ok()??.name));
    let look_up = move || uids.into_iter().filter_map(name).collect();
    tokio::task::spawn_blocking(look_up).await.unwrap_or_default()
}

/// See [`crate::fuzz::word`].
pub(crate) fn fuzz_tokens(text: &str) {
    let _ = (areas::from_token(text), watch::parse(text), text.parse().ok().map(|header| calls::deadline(&header)));
}

/// See [`crate::fuzz::connection`].
pub(crate) fn fuzz_authority(bytes: &[u8]) {
    let Some((first, bytes)) = bytes.split_first() else { return };
    let (mut whole, mut cut) = (bytes.to_vec(), bytes.to_vec());
    authority::Authority::default().mend(&mut whole);
    let mut in_pieces = authority::Authority::default();
    cut.chunks_mut(usize::from(*first) + 1).for_each(|piece| in_pieces.mend(piece));
    assert_eq!(whole, cut);
}
