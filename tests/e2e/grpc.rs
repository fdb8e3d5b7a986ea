//! gRPC: health, reflection, what this version has not, and settings that change while the broker runs.

use rustix::process::{Signal, kill_process};
use scratch_proto::v1::admin_client::AdminClient;
use scratch_proto::v1::channel_request::Op;
use scratch_proto::v1::channel_response::Result as Reply;
use scratch_proto::v1::leases_client::LeasesClient;
use scratch_proto::v1::{GrantRequest, KeepRequest, ListLeasesRequest, StatusRequest};
use scratch_tests::{Broker, Channel, DEADLINE, Options, contained, eventually, with_grpc};
use tonic::transport::Channel as Grpc;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;
use tonic_reflection::pb::v1::ServerReflectionRequest;
use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
use tonic_reflection::pb::v1::server_reflection_response::MessageResponse;
use tonic_types::StatusExt;

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
            let later = leases.keep(KeepRequest::default()).await.expect_err("Keep is a later version's");
            assert_eq!(later.code(), tonic::Code::Unimplemented);
            let page = ListLeasesRequest { page_size: 0, page_token: "no id".to_owned() };
            let refused = leases.list(page).await.expect_err("a token is a lease's id");
            assert_eq!(refused.code(), tonic::Code::InvalidArgument);
            for (status, reason) in [(later, "UNIMPLEMENTED"), (refused, "REQUEST_INVALID")] {
                let info = status.get_details_error_info().expect("every error carries ErrorInfo");
                assert_eq!((info.reason.as_str(), info.domain.as_str()), (reason, "scratchd"), "{status}");
                assert!(!status.message().is_empty());
            }
            let status = AdminClient::new(grpc).status(StatusRequest {}).await.expect("status answers").into_inner();
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
