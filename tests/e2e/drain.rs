//! Draining: nothing new, what lives comes to its end, and then the broker goes and leaves nothing.

use std::fs;
use std::time::Duration;

use scratch_proto::v1::admin_client::AdminClient;
use scratch_proto::v1::channel_request::Op;
use scratch_proto::v1::channel_response::Result as Reply;
use scratch_proto::v1::{
    CreateRequest, DrainRequest, DrainResponse, GrantRequest, Kind, StatusRequest, UndrainRequest,
};
use scratch_tests::{Broker, Channel, DEADLINE, Held, Options, contained, eventually, names_in, wait_gone, with_grpc};

use crate::regressions::{granted, trash};

/// Longer than anything here waits, so that a failure does not wait for ever.
const LONG: Duration = Duration::from_secs(60);

/// A drain, and its answer.
fn drain(broker: &Broker, deadline: Option<Duration>) -> DrainResponse {
    let deadline = deadline.map(|time| time.try_into().expect("a short time"));
    let request = DrainRequest { deadline };
    with_grpc(broker, async |grpc| AdminClient::new(grpc).drain(request).await.expect("it answers").into_inner())
}

fn undrain(broker: &Broker) {
    let request = UndrainRequest {};
    with_grpc(broker, async |grpc| AdminClient::new(grpc).undrain(request).await.expect("it answers"));
}

fn is_draining(broker: &Broker) -> bool {
    let status =
        async |grpc| AdminClient::new(grpc).status(StatusRequest::default()).await.expect("it answers").into_inner();
    with_grpc(broker, status).draining
}

fn refused(channel: &mut Channel) -> bool {
    match channel.ask(Op::Grant(GrantRequest::default())) {
        Reply::Error(error) if error.reason == "DRAINING" => true,
        Reply::Grant(_) => false,
        other => panic!("neither granted nor refused for draining: {other:?}"),
    }
}

fn nothing_but_its_own(broker: &Broker) {
    assert_eq!(names_in(broker.pool_root()), [".scratch"]);
    assert!(names_in(&trash(broker)).is_empty(), "what was to be freed is there");
    assert!(names_in(&broker.pool_root().join(".scratch/leases")).is_empty(), "a lease that ended has its record");
    assert!(names_in(&broker.pool_root().join(".scratch/new")).is_empty(), "something was begun");
}

#[test]
fn waits_for_what_lives_and_leaves_nothing() {
    contained("drain::waits_for_what_lives_and_leaves_nothing", || {
        let mut broker = Broker::start(Options::default());
        let mut held = Held::start(&broker);
        (0..5000).for_each(|number| fs::write(held.path().join(number.to_string()), "").expect("it is writable"));
        let mut channel = Channel::connect(&broker.handle_socket());
        let drained = std::thread::scope(|scope| {
            let drained = scope.spawn(|| drain(&broker, Some(LONG)));
            eventually(DEADLINE, "it drains", || is_draining(&broker));
            assert!(refused(&mut channel));
            let parent = held.lease().to_owned();
            let child = granted(&mut channel, GrantRequest { parent, ..GrantRequest::default() });
            let request =
                CreateRequest { lease: child.id.clone(), kind: Kind::File.into(), ..CreateRequest::default() };
            let created = channel.ask(Op::Create(request));
            assert!(matches!(created, Reply::Create(_)), "{created:?}");
            held.write_line("while it drains");
            assert!(!drained.is_finished(), "a lease lives");
            let child = broker.pool_root().join(child.id);
            assert!(child.is_dir());
            assert!(held.end().success());
            wait_gone(&child, DEADLINE);
            drained.join().expect("the drain answers")
        });
        assert!(drained.drained && drained.leases == 0, "{drained:?}");
        assert!(broker.wait().success());
        nothing_but_its_own(&broker);
        assert!(!broker.grpc_socket().exists() && !broker.handle_socket().exists(), "its sockets are left");
        broker.restart();
        assert!(!refused(&mut Channel::connect(&broker.handle_socket())), "the next one does not drain");
    });
}

#[test]
fn is_called_off() {
    contained("drain::is_called_off", || {
        let broker = Broker::start(Options::default());
        let held = Held::start(&broker);
        let mut channel = Channel::connect(&broker.handle_socket());
        std::thread::scope(|scope| {
            let drains = [(); 2].map(|()| scope.spawn(|| drain(&broker, Some(LONG))));
            eventually(DEADLINE, "it drains", || is_draining(&broker));
            assert!(refused(&mut channel));
            // A drain that is read only after this begins anew.
            eventually(DEADLINE, "all are called off", || {
                undrain(&broker);
                drains.iter().all(std::thread::ScopedJoinHandle::is_finished)
            });
            for drained in drains {
                let drained = drained.join().expect("the drain answers");
                assert!(!drained.drained && drained.leases == 1, "{drained:?}");
            }
        });
        assert!(!is_draining(&broker) && !refused(&mut channel));
        // The end of the last lease ends nothing else now.
        assert!(held.end().success());
        channel.ping();
        assert!(!is_draining(&broker));
    });
}

#[test]
fn goes_on_after_its_deadline() {
    contained("drain::goes_on_after_its_deadline", || {
        let mut broker = Broker::start(Options::default());
        let held = Held::start(&broker);
        let mut channel = Channel::connect(&broker.handle_socket());
        for _ in 0..2 {
            let drained = drain(&broker, Some(Duration::from_millis(20)));
            assert!(!drained.drained && drained.leases == 1, "{drained:?}");
            assert!(is_draining(&broker) && refused(&mut channel));
        }
        let path = held.path().to_owned();
        assert!(held.end().success());
        wait_gone(&path, DEADLINE);
        // Nobody waits: it stays until somebody does.
        channel.ping();
        assert!(drain(&broker, Some(DEADLINE)).drained);
        assert!(broker.wait().success());
        nothing_but_its_own(&broker);
    });
}

#[test]
fn a_broker_without_leases_goes_at_once() {
    contained("drain::a_broker_without_leases_goes_at_once", || {
        let mut broker = Broker::start(Options::default());
        assert!(drain(&broker, None).drained);
        assert!(broker.wait().success());
        nothing_but_its_own(&broker);
    });
}
