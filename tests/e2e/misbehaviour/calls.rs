//! Single calls that are not as they should be, each refused with its reason; and calls that nobody waits for any more.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;
use std::time::Duration;

use http_body_util::Full;
use scratch_proto::v1::areas_client::AreasClient;
use scratch_proto::v1::holder_spec::Kind as Holder;
use scratch_proto::v1::leases_client::LeasesClient;
use scratch_proto::v1::{
    ConnectionHolder, CreateRequest, GetLeaseRequest, GrantRequest, HolderSpec, KeepAliveRequest, Kind,
    ListAreasRequest, ListLeasesRequest, RevokeRequest, Wait,
};
use scratch_tests::{Broker, DEADLINE, Options, connect_grpc, contained, names_in, wait_gone, with_grpc};
use tonic::body::Body;
use tonic::codegen::http::{Request, Response};
use tonic::transport::Channel;
use tonic::{Code, Status};
use tonic_types::StatusExt;
use tower::ServiceExt;

use super::company::Company;
use super::http2::{CANCEL, KEEP_ALIVE, LIST, RST_STREAM, Raw, begin, frame, message, streams};
use crate::regressions::nothing_is_left;

/// Ends a lease.
pub(super) fn revoke(broker: &Broker, lease: &str) {
    let request = RevokeRequest { lease: lease.to_owned(), ..RevokeRequest::default() };
    with_grpc(broker, async |grpc| LeasesClient::new(grpc).revoke(request).await.expect("it revokes"));
}

/// A call with this as its body, as it stands.
async fn sent(grpc: Channel, path: &str, headers: &[(&str, &str)], body: Vec<u8>) -> Status {
    let mut request = Request::post(format!("http://localhost{path}")).header("te", "trailers");
    request = request.header("content-type", "application/grpc");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let request = request.body(Body::new(Full::new(body.into()))).expect("a request is made of plain text");
    let response: Response<Body> = grpc.oneshot(request).await.expect("it is answered");
    if let Some(status) = Status::from_header_map(response.headers()) {
        return status;
    }
    let body = http_body_util::BodyExt::collect(response.into_body()).await.expect("it is answered to the end");
    let trailers = body.trailers().expect("the answer has a status");
    Status::from_header_map(trailers).expect("the answer has a status")
}

fn refused_as(status: &Status, code: Code, reason: &str) {
    let info = status.get_details_error_info();
    let info = info.unwrap_or_else(|| panic!("every error carries ErrorInfo, not so {status:?}"));
    assert_eq!((status.code(), info.reason.as_str(), info.domain.as_str()), (code, reason, "scratchd"), "{status:?}");
}

#[test]
fn are_refused_with_a_reason() {
    contained("misbehaviour::calls::are_refused_with_a_reason", || {
        let broker = Broker::start(Options::default());
        let company = Company::start(&broker);
        with_grpc(&broker, async |grpc| {
            let call =
                async |path, headers: &[(&str, &str)], body: Vec<u8>| sent(grpc.clone(), path, headers, body).await;
            let empty = vec![0; 5];
            for path in ["/scratchd.v1.Leases/Steal", "/scratchd.v2.Leases/List", "/", "/scratchd.v1.Leases"] {
                refused_as(&call(path, &[], empty.clone()).await, Code::Unimplemented, "METHOD_UNKNOWN");
            }
            let compressed = vec![1, 0, 0, 0, 1, 0];
            let gzip = [("grpc-encoding", "gzip")];
            let status = call(LIST, &gzip, compressed.clone()).await;
            refused_as(&status, Code::Unimplemented, "METHOD_UNKNOWN");
            let status = call(LIST, &[], compressed).await;
            refused_as(&status, Code::InvalidArgument, "MESSAGE_GARBLED");
            let garbled = vec![0, 0, 0, 0, 2, 0xff, 0xff];
            refused_as(&call(LIST, &[], garbled).await, Code::InvalidArgument, "MESSAGE_GARBLED");
            let flag = vec![7, 0, 0, 0, 0];
            refused_as(&call(LIST, &[], flag).await, Code::InvalidArgument, "MESSAGE_GARBLED");
            // Said to be large, and large.
            let said = [&[0][..], &(2_u32 << 20).to_be_bytes(), &[0; 100]].concat();
            refused_as(&call(LIST, &[], said).await, Code::ResourceExhausted, "MESSAGE_TOO_LARGE");
            let page_token = "a".repeat(2 << 20);
            let request = ListLeasesRequest { page_size: 0, page_token };
            let status = LeasesClient::new(grpc.clone()).list(request).await.expect_err("it is too large");
            refused_as(&status, Code::ResourceExhausted, "MESSAGE_TOO_LARGE");
            // No message at all, and half of one.
            for body in [vec![], vec![0, 0, 0, 0, 9, 0]] {
                let status = call(LIST, &[], body).await;
                refused_as(&status, Code::InvalidArgument, "MESSAGE_GARBLED");
            }
        });
        company.leave();
    });
}

#[test]
fn with_too_many_header_fields_are_refused() {
    contained("misbehaviour::calls::with_too_many_header_fields_are_refused", || {
        let broker = Broker::start(Options::default());
        let company = Company::start(&broker);
        with_grpc(&broker, async |grpc| {
            let long = "a".repeat(20 << 10);
            let mut request = tonic::Request::new(ListLeasesRequest::default());
            request.metadata_mut().insert("x-long", long.parse().expect("plain text is a value"));
            let status = LeasesClient::new(grpc.clone()).list(request).await.expect_err("it is over 16 KiB");
            println!("over 16 KiB of header fields: {status:?}");
            // The same connection goes on.
            LeasesClient::new(grpc).list(ListLeasesRequest::default()).await.expect("this one is well");
        });
        company.leave();
    });
}

fn with_deadline<T>(message: T, time: Duration) -> tonic::Request<T> {
    let mut request = tonic::Request::new(message);
    request.set_timeout(time);
    request
}

async fn granted(grpc: &Channel, request: GrantRequest) -> (String, PathBuf) {
    let granted = LeasesClient::new(grpc.clone()).grant(request).await.expect("it grants").into_inner();
    (granted.id, PathBuf::from(OsString::from_vec(granted.path)))
}

async fn listed(grpc: &Channel, lease: &str) -> BTreeSet<OsString> {
    let request = ListAreasRequest { lease: lease.to_owned(), ..ListAreasRequest::default() };
    let page = AreasClient::new(grpc.clone()).list(request).await.expect("it lists").into_inner();
    assert!(page.next_page_token.is_empty(), "500 are one page");
    page.areas.into_iter().map(|area| OsString::from_vec(area.id)).collect()
}

#[test]
fn that_are_given_up_leave_nothing_unknown() {
    contained("misbehaviour::calls::that_are_given_up_leave_nothing_unknown", || {
        let broker = Broker::start(Options::default());
        let company = Company::start(&broker);
        with_grpc(&broker, async |grpc| {
            let (lease, path) = granted(&grpc, GrantRequest::default()).await;
            let request = CreateRequest { lease: lease.clone(), kind: Kind::File.into(), ..CreateRequest::default() };
            let mut given_up = 0;
            // Twenty-five at a time: those that come in time and those that do not.
            for _ in 0..20 {
                let mut calls = tokio::task::JoinSet::new();
                // On a connection of their own: it may be cut off for this, see the next test.
                let own = connect_grpc(&broker.grpc_socket()).await.expect("the broker listens on grpc.sock");
                for _ in 0..25 {
                    let (mut areas, request) = (AreasClient::new(own.clone()), request.clone());
                    calls.spawn(async move { areas.create(with_deadline(request, Duration::from_millis(1))).await });
                }
                given_up += calls.join_all().await.iter().filter(|answer| answer.is_err()).count();
            }
            assert!(given_up > 0, "nothing was tried: no call was too late");
            let counted = async || {
                let request = GetLeaseRequest { lease: lease.clone() };
                LeasesClient::new(grpc.clone()).get(request).await.expect("it is live").into_inner().areas
            };
            // Calls that were given up may be carried out still.
            let mut known = (counted().await, listed(&grpc, &lease).await);
            for _ in 0..100 {
                let again = (counted().await, listed(&grpc, &lease).await);
                if again == known {
                    break;
                }
                known = again;
            }
            let on_disk: BTreeSet<OsString> = names_in(&path).into_iter().collect();
            println!("{given_up} of 500 were given up, {} areas were made", known.0);
            assert_eq!((known.0, &known.1), (on_disk.len() as u64, &on_disk), "what is on disk is known, and counted");
            let request = RevokeRequest { lease, wait: Wait::Freed.into() };
            assert!(LeasesClient::new(grpc).revoke(request).await.expect("it revokes").into_inner().freed);
        });
        company.leave();
        nothing_is_left(&broker);
    });
}

/// Nothing live is ever removed: neither is what a stream holds whose client, as a program that is interrupted does, gives up
/// all else that it has under way on its connection.
#[test]
fn that_are_given_up_at_once_cost_no_lease() {
    contained("misbehaviour::calls::that_are_given_up_at_once_cost_no_lease", || {
        let broker = Broker::start(Options::default());
        let company = Company::start(&broker);
        let connection = HolderSpec { kind: Some(Holder::Connection(ConnectionHolder {})) };
        let request = GrantRequest { holders: vec![connection], ..GrantRequest::default() };
        let mut raw = Raw::connect(&broker);
        let (lease, path) = with_grpc(&broker, async |grpc| granted(&grpc, request).await);
        let named = message(1, 0, &KeepAliveRequest { lease });
        raw.send(&[begin(1, KEEP_ALIVE), named.clone()].concat()).expect("a stream is read");
        assert!(raw.answers_a_ping(0), "a stream is served");
        let given_up = |stream| [begin(stream, LIST), frame(RST_STREAM, 0, stream, &CANCEL)].concat();
        let mut streams = streams().skip(1);
        for number in 1..=10 {
            let calls: Vec<u8> = streams.by_ref().take(200).flat_map(given_up).collect();
            raw.send(&[calls, named.clone()].concat()).expect("it is not cut off");
            assert!(raw.answers_a_ping(number), "cut off, and its lease with it, for giving up calls");
            assert!(path.is_dir(), "what lives was taken away");
        }
        drop(raw);
        wait_gone(&path, DEADLINE);
        company.leave();
    });
}

#[test]
fn that_wait_and_are_given_up_have_revoked() {
    contained("misbehaviour::calls::that_wait_and_are_given_up_have_revoked", || {
        let broker = Broker::start(Options::default());
        let company = Company::start(&broker);
        with_grpc(&broker, async |grpc| {
            let (lease, path) = granted(&grpc, GrantRequest::default()).await;
            (0..20_000).for_each(|number| std::fs::write(path.join(number.to_string()), "").expect("it is writable"));
            let request = RevokeRequest { lease, wait: Wait::Freed.into() };
            let mut leases = LeasesClient::new(grpc);
            let gone = tokio::task::spawn_blocking(move || wait_gone(&path, DEADLINE));
            // Its name goes before its reply: the request has been read then, and waits.
            tokio::select! {
                answer = leases.revoke(request) => println!("not given up, it was answered before: {answer:?}"),
                gone = gone => gone.expect("it is revoked"),
            }
        });
        company.leave();
        nothing_is_left(&broker);
    });
}
