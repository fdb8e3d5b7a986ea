//! Watchers that do not read what they asked for.

use hyper_util::rt::TokioIo;
use scratch_proto::v1::leases_client::LeasesClient;
use scratch_proto::v1::{GrantRequest, RevokeRequest, WatchRequest};
use scratch_tests::{Broker, Options, contained, with_grpc};
use tokio::net::UnixStream;
use tonic::transport::{Channel, Endpoint};
use tonic_types::StatusExt;

use super::company::{Company, resident};

/// As many as are held up at once.
const WATCHERS: usize = 16;
/// Four events each.
const LEASES: usize = 5_000;
/// What they may cost together, in KiB: a window, some frames and a chunk each; and the log.
const UNREAD_MAX: u64 = 16 << 10;

/// A connection that takes 64 KiB without being read, as HTTP/2 has it; the library's own clients take more.
async fn narrow(broker: &Broker) -> Channel {
    let socket = broker.grpc_socket();
    let connector = tower::service_fn(move |_| {
        let socket = socket.clone();
        async move { UnixStream::connect(socket).await.map(TokioIo::new) }
    });
    let endpoint = Endpoint::from_static("http://localhost");
    let endpoint = endpoint.initial_stream_window_size(65_535).initial_connection_window_size(65_535);
    endpoint.connect_with_connector(connector).await.expect("the broker listens on grpc.sock")
}

#[test]
fn that_do_not_read_are_cut_off() {
    contained("misbehaviour::watches::that_do_not_read_are_cut_off", || {
        let broker = Broker::start(Options::default());
        let mut company = Company::start(&broker);
        with_grpc(&broker, async |grpc| {
            let mut watchers = Vec::new();
            for _ in 0..WATCHERS {
                let narrow = narrow(&broker).await;
                let watched = LeasesClient::new(narrow).watch(WatchRequest::default()).await.expect("it is watched");
                watchers.push(watched.into_inner());
            }
            let mut leases = LeasesClient::new(grpc);
            let before = resident(&broker);
            for _ in 0..LEASES {
                let lease = leases.grant(GrantRequest::default()).await.expect("it grants").into_inner().id;
                let request = RevokeRequest { lease, ..RevokeRequest::default() };
                leases.revoke(request).await.expect("it revokes");
            }
            company.is_well();
            let after = resident(&broker);
            println!("resident: {before} KiB before, {after} KiB after");
            assert!(after < before + UNREAD_MAX, "{before} KiB before, {after} KiB after");
            for mut watched in watchers {
                let mut read = 0;
                let ended = loop {
                    match watched.message().await {
                        Ok(Some(_)) => read += 1,
                        Ok(None) => panic!("cut off without a word"),
                        Err(status) => break status,
                    }
                };
                let reason = ended.get_details_error_info().expect("every error carries ErrorInfo").reason;
                assert_eq!((ended.code(), reason.as_str()), (tonic::Code::Aborted, "SLOW_READER"));
                assert!(read < 3 * LEASES, "{read} events were kept for who does not read");
            }
        });
        company.leave();
    });
}
