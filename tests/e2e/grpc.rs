//! gRPC: health, reflection, what this version has not, settings that change while the broker runs, and what went wrong once.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;

use rustix::process::{Signal, kill_process};
use scratch_proto::v1::admin_client::AdminClient;
use scratch_proto::v1::areas_client::AreasClient;
use scratch_proto::v1::channel_request::Op;
use scratch_proto::v1::channel_response::Result as Reply;
use scratch_proto::v1::leases_client::LeasesClient;
use scratch_proto::v1::{
    CreateRequest, DrainRequest, GrantRequest, KeepRequest, Kind, ListAreasRequest, ListLeasesRequest, StatusRequest,
    UndrainRequest, UpdateLeaseRequest,
};
use scratch_tests::{Broker, Channel, DEADLINE, Options, connect_grpc, contained, eventually, names_in, with_grpc};
use tonic::transport::Channel as Grpc;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;
use tonic_reflection::pb::v1::ServerReflectionRequest;
use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
use tonic_reflection::pb::v1::server_reflection_response::MessageResponse;
use tonic_types::StatusExt;

use crate::regressions::python_case;

const SERVICES: [&str; 3] = ["scratchd.v1.Admin", "scratchd.v1.Areas", "scratchd.v1.Leases"];

#[test]
fn health_and_reflection() {
    contained("grpc::health_and_reflection", || {
        let broker = Broker::start(Options::default());
        with_grpc(&broker, async |grpc| {
            for service in SERVICES {
                let request = HealthCheckRequest { service: service.to_owned() };
                let answer = HealthClient::new(grpc.clone()).check(request).await.expect("health answers").into_inner();
                assert_eq!(answer.status(), ServingStatus::Serving, "{service}");
            }
            let listed = services(grpc).await;
            for service in SERVICES {
                assert!(listed.iter().any(|name| name == service), "{service} is not in {listed:?}");
            }
        });
    });
}

async fn services(grpc: Grpc) -> Vec<String> {
    let list = MessageRequest::ListServices(String::new());
    let request = ServerReflectionRequest { host: String::new(), message_request: Some(list) };
    let mut client = ServerReflectionClient::new(grpc);
    let answers = client.server_reflection_info(tokio_stream::once(request)).await.expect("reflection answers");
    let answer = answers.into_inner().message().await.expect("an answer").expect("one answer");
    match answer.message_response.expect("it says something") {
        MessageResponse::ListServicesResponse(list) => list.service.into_iter().map(|service| service.name).collect(),
        other => panic!("not a list: {other:?}"),
    }
}

#[test]
fn errors_carry_their_reason() {
    contained("grpc::errors_carry_their_reason", || {
        let broker = Broker::start(Options::default());
        with_grpc(&broker, async |grpc| {
            let mut leases = LeasesClient::new(grpc.clone());
            let unknown = leases.keep(KeepRequest::default()).await.expect_err("there is no such lease");
            assert_eq!(unknown.code(), tonic::Code::NotFound);
            let page = ListLeasesRequest { page_size: 0, page_token: "no id".to_owned() };
            let refused = leases.list(page).await.expect_err("a token is a lease's id");
            assert_eq!(refused.code(), tonic::Code::InvalidArgument);
            for (status, reason) in [(unknown, "LEASE_UNKNOWN"), (refused, "REQUEST_INVALID")] {
                let info = status.get_details_error_info().expect("every error carries ErrorInfo");
                assert_eq!((info.reason.as_str(), info.domain.as_str()), (reason, "scratchd"), "{status}");
                assert!(!status.message().is_empty());
            }
            let status =
                AdminClient::new(grpc).status(StatusRequest::default()).await.expect("status answers").into_inner();
            assert_eq!(status.pools.len(), 1);
        });
    });
}

#[test]
fn settings_change_with_the_file_and_on_sighup() {
    contained("grpc::settings_change_with_the_file_and_on_sighup", || {
        let config =
            |leases: &str| format!("[[pool]]\nname = \"p\"\nroot = \"@PLACE@/pool\"\n[limits]\nleases = {leases}\n");
        let broker = Broker::start(Options { config: Some(config("1")), ..Options::default() });
        let mut channel = Channel::connect(&broker.handle_socket());
        let mut grant = || match channel.ask(Op::Grant(GrantRequest::default())) {
            Reply::Grant(_) => Ok(()),
            Reply::Error(error) => Err(error.reason),
            other => panic!("neither granted nor refused: {other:?}"),
        };
        assert_eq!(grant(), Ok(()));
        assert_eq!(grant(), Err("LIMIT_LEASES".to_owned()));
        let file = broker.config_file();
        let text = std::fs::read_to_string(&file).expect("the harness wrote it");

        std::fs::write(&file, text.replace("leases = 1", "leases = 2")).expect("a place is writable");
        eventually(DEADLINE, "the new limit is in force", || grant().is_ok());

        // What can't be used changes nothing; the one after it counts again.
        std::fs::write(&file, "nonsense").expect("a place is writable");
        kill_process(broker.pid(), Signal::HUP).expect("the broker lives");
        assert_eq!(grant(), Err("LIMIT_LEASES".to_owned()));
        std::fs::write(&file, text.replace("leases = 1", "leases = 3")).expect("a place is writable");
        kill_process(broker.pid(), Signal::HUP).expect("the broker lives");
        eventually(DEADLINE, "the newest limit is in force", || grant().is_ok());
    });
}

/// The names of a lease's areas, of all pages; a page is full by their number, not by their size.
async fn listed(areas: &mut AreasClient<Grpc>, lease: &str) -> Vec<OsString> {
    let mut request = ListAreasRequest { lease: lease.to_owned(), page_size: 100, ..ListAreasRequest::default() };
    let mut names = Vec::new();
    loop {
        let page = areas.list(request.clone()).await.expect("it lists").into_inner();
        names.extend(page.areas.into_iter().map(|area| OsString::from_vec(area.id)));
        if page.next_page_token.is_empty() {
            names.sort();
            return names;
        }
        request.page_token = page.next_page_token;
    }
}

#[test]
fn pages_are_whole_without_what_a_client_unlinked() {
    contained("grpc::pages_are_whole_without_what_a_client_unlinked", || {
        let broker = Broker::start(Options::default());
        with_grpc(&broker, async |grpc| {
            let granted = LeasesClient::new(grpc.clone()).grant(GrantRequest::default()).await.expect("it grants");
            let (lease, mut areas) = (granted.into_inner().id, AreasClient::new(grpc));
            let kind = Kind::File.into();
            let create = CreateRequest { lease: lease.clone(), kind, count: 150, ..CreateRequest::default() };
            for _ in 0..10 {
                areas.create(create.clone()).await.expect("it creates");
            }
            let path = broker.pool_root().join(&lease);
            // In the first page, and the last of all.
            for number in [5, 1498] {
                std::fs::remove_file(path.join(&names_in(&path)[number])).expect("an area is its tenant's");
                let (listed, there) = (listed(&mut areas, &lease).await, names_in(&path));
                assert!(listed == there, "{} of {} are listed", listed.len(), there.len());
            }
        });
    });
}

#[test]
fn labels_to_take_away_are_limited() {
    contained("grpc::labels_to_take_away_are_limited", || {
        let broker = Broker::start(Options::default());
        with_grpc(&broker, async |grpc| {
            let mut leases = LeasesClient::new(grpc);
            let lease = leases.grant(GrantRequest::default()).await.expect("it grants").into_inner().id;
            for (count, expected) in [(15_000, "LIMIT_LABELS"), (120_000, "MESSAGE_TOO_LARGE")] {
                let remove_labels = (0..count).map(|number: u32| number.to_string()).collect();
                let request =
                    UpdateLeaseRequest { lease: lease.clone(), remove_labels, ..UpdateLeaseRequest::default() };
                let refused = leases.update(request).await.expect_err("it is too much");
                let info = refused.get_details_error_info().expect("every error carries ErrorInfo");
                assert_eq!(info.reason, expected, "{count} labels");
            }
        });
    });
}

/// Which of both comes first is chance, so several times.
#[test]
fn what_is_drained_is_not_called_back() {
    contained("grpc::what_is_drained_is_not_called_back", || {
        for _ in 0..10 {
            let broker = Broker::start(Options::default());
            with_grpc(&broker, async |grpc| {
                let other = connect_grpc(&broker.grpc_socket()).await.expect("the broker listens on grpc.sock");
                let mut other = AdminClient::new(other);
                other.status(StatusRequest::default()).await.expect("status answers");
                let drained =
                    AdminClient::new(grpc).drain(DrainRequest::default()).await.expect("it drains").into_inner();
                assert!(drained.drained, "there was nothing to wait for");
                let refused = other.undrain(UndrainRequest {}).await.expect_err("the broker exits");
                // Of a connection that is closed nothing else can be said.
                let reason = refused.get_details_error_info().map(|info| info.reason);
                assert!(reason.is_none_or(|reason| reason == "STOPPING"), "{refused:?}");
            });
            let socket = broker.grpc_socket();
            eventually(DEADLINE, "it has exited", || std::os::unix::net::UnixStream::connect(&socket).is_err());
        }
    });
}

#[test]
fn errors_about_long_paths_arrive_whole() {
    let test = "grpc::errors_about_long_paths_arrive_whole";
    contained(test, || {
        let broker = Broker::start(Options::default());
        let Some(mut case) = python_case(test, &broker, "errors_about_long_paths") else { return };
        assert!(case.status().expect("python was there a moment ago").success());
    });
}
