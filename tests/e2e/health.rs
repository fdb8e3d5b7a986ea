//! Health as it is: what a pool that can't be written and a drain do to it, and that whoever watches is told.

use std::path::Path;
use std::process::Command;

use scratch_proto::v1::admin_client::AdminClient;
use scratch_proto::v1::{DrainRequest, UndrainRequest};
use scratch_tests::{Broker, DEADLINE, Filesystem, Options, Place, contained, installed, is_root, left_out, with_grpc};
use tonic::transport::Channel;
use tonic::{Code, Streaming};
use tonic_health::pb::health_check_response::ServingStatus::{self, NotServing, ServiceUnknown, Serving};
use tonic_health::pb::health_client::HealthClient;
use tonic_health::pb::{HealthCheckRequest, HealthCheckResponse};
use tonic_types::StatusExt;

const LEASES: &str = "scratchd.v1.Leases";
const AREAS: &str = "scratchd.v1.Areas";
const ADMIN: &str = "scratchd.v1.Admin";

fn of(service: &str) -> HealthCheckRequest {
    HealthCheckRequest { service: service.to_owned() }
}

/// What a watched service was said to be last.
struct Watched(Streaming<HealthCheckResponse>);

impl Watched {
    async fn start(grpc: &Channel, service: &str) -> Watched {
        let stream = HealthClient::new(grpc.clone()).watch(of(service)).await.expect("it can be watched");
        Watched(stream.into_inner())
    }

    /// The next that is told is this.
    async fn becomes(&mut self, expected: ServingStatus) {
        let told = tokio::time::timeout(DEADLINE, self.0.message()).await.expect("it is told in time");
        let told = told.expect("the stream goes on").expect("the stream has no end");
        assert_eq!(told.status(), expected);
    }
}

/// The whole, leases, areas, administration.
async fn asked(grpc: &Channel) -> [ServingStatus; 4] {
    let mut health = HealthClient::new(grpc.clone());
    let mut found = [ServiceUnknown; 4];
    for (found, service) in found.iter_mut().zip(["", LEASES, AREAS, ADMIN]) {
        *found = health.check(of(service)).await.expect("health answers").into_inner().status();
    }
    found
}

/// What depends on the pool changes with it, and back; administration goes on.
fn follows_the_pool(broker: &Broker, spoil: impl Fn(), mend: impl Fn()) {
    with_grpc(broker, async |grpc| {
        let mut watched = Vec::new();
        for service in ["", LEASES, AREAS] {
            watched.push(Watched::start(&grpc, service).await);
        }
        let mut admin = Watched::start(&grpc, ADMIN).await;
        admin.becomes(Serving).await;
        let mut all_become = async |expected| {
            for watched in &mut watched {
                watched.becomes(expected).await;
            }
        };
        all_become(Serving).await;
        assert_eq!(asked(&grpc).await, [Serving; 4]);
        spoil();
        all_become(NotServing).await;
        assert_eq!(asked(&grpc).await, [NotServing, NotServing, NotServing, Serving]);
        mend();
        all_become(Serving).await;
        assert_eq!(asked(&grpc).await, [Serving; 4]);
    });
}

fn succeeds(command: &mut Command) {
    assert!(command.status().is_ok_and(|status| status.success()), "{command:?}");
}

/// A subvolume of btrfs is what can turn read-only and back below open files; a remount is refused for the pool's lock.
#[test]
fn follows_a_pool_that_turns_read_only() {
    let test = "health::follows_a_pool_that_turns_read_only";
    contained(test, || {
        let Some(place) = Place::on(test, Filesystem::Btrfs) else { return };
        if !installed(test, "btrfs") {
            return;
        }
        let pool = place.path().join("pool");
        succeeds(Command::new("btrfs").args(["-q", "subvolume", "create"]).arg(&pool));
        let broker = Broker::start(Options { place: Some(place), ..Options::default() });
        let turn = |read_only: &str| {
            succeeds(Command::new("btrfs").args(["property", "set", "-ts"]).arg(&pool).args(["ro", read_only]));
        };
        follows_the_pool(&broker, || turn("true"), || turn("false"));
    });
}

#[test]
fn follows_a_pool_that_is_full() {
    let test = "health::follows_a_pool_that_is_full";
    contained(test, || {
        if !is_root() {
            return left_out(test, "mounting a tmpfs needs root");
        }
        let place = Place::new();
        let pool = place.path().join("pool");
        std::fs::create_dir(&pool).expect("a place is writable");
        succeeds(Command::new("mount").args(["-n", "-t", "tmpfs", "-o", "size=1m,mode=711", "tmpfs"]).arg(&pool));
        let broker = Broker::start(Options { place: Some(place), ..Options::default() });
        let filler = pool.join("filler");
        let fill = || {
            let written = std::fs::write(&filler, vec![0; 2 << 20]);
            assert_eq!(written.map_err(|error| error.kind()), Err(std::io::ErrorKind::StorageFull));
        };
        follows_the_pool(&broker, fill, || remove(&filler));
    });
}

fn remove(file: &Path) {
    std::fs::remove_file(file).expect("it was there");
}

#[test]
fn follows_a_drain() {
    contained("health::follows_a_drain", || {
        let broker = Broker::start(Options::default());
        let held = scratch_tests::Held::start(&broker);
        with_grpc(&broker, async |grpc| {
            let (mut leases, mut areas) = (Watched::start(&grpc, LEASES).await, Watched::start(&grpc, AREAS).await);
            leases.becomes(Serving).await;
            areas.becomes(Serving).await;
            let mut admin = AdminClient::new(grpc.clone());
            let deadline = Some(std::time::Duration::from_millis(1).try_into().expect("a short time"));
            let drained = admin.drain(DrainRequest { deadline }).await.expect("it answers").into_inner();
            assert!(!drained.drained && drained.leases == 1, "{drained:?}");
            leases.becomes(NotServing).await;
            assert_eq!(asked(&grpc).await, [NotServing, NotServing, Serving, Serving]);
            admin.undrain(UndrainRequest {}).await.expect("it answers");
            leases.becomes(Serving).await;
            assert_eq!(asked(&grpc).await, [Serving; 4]);
        });
        assert!(held.end().success());
    });
}

#[test]
fn knows_what_is_not_here() {
    contained("health::knows_what_is_not_here", || {
        let broker = Broker::start(Options::default());
        with_grpc(&broker, async |grpc| {
            let refused = HealthClient::new(grpc.clone()).check(of("scratchd.v9.Leases")).await;
            let status = refused.expect_err("there is no such service");
            let reason = status.get_details_error_info().expect("every error carries ErrorInfo").reason;
            assert_eq!((status.code(), reason.as_str()), (Code::NotFound, "SERVICE_UNKNOWN"));
            Watched::start(&grpc, "scratchd.v9.Leases").await.becomes(ServiceUnknown).await;
        });
    });
}
