//! Renewing a ttl: by a thread of one's own, and by a future; what ends it, and what a restart does to it.

use std::time::Duration;

use scratch_client::{ClientError, Holder, Lease};
use scratch_tests::{DEADLINE, eventually, wait_gone};

use super::{aio, both_ways, client, grant, held_by, path};

const TTL: Holder = Holder::Ttl(Duration::from_secs(2));

/// Each of these lasts a whole ttl.
fn outlast(lease: Lease) {
    wait_gone(&path(&lease), DEADLINE);
}

/// It has ended, or is about to.
fn is_of_an_end(error: &ClientError) -> bool {
    error.is_refusal("LEASE_UNKNOWN") || error.is_refusal("LEASE_ENDING")
}

#[test]
fn lasts_as_long_as_its_guard() {
    both_ways("sdk::renewal::lasts_as_long_as_its_guard", |broker, create| {
        let client = client(broker, create);
        let lease = held_by(&client, TTL);
        let renewal = lease.renew_in_background().expect("a thread can be started");
        let renewed = path(&lease);
        // Not the guard of the lease is what renews it.
        lease.leave();
        outlast(held_by(&client, TTL));
        outlast(held_by(&client, TTL));
        assert!(renewed.is_dir() && !renewal.is_over(), "{create:?}: {:?}", renewal.last_error());
        drop(renewal);
        wait_gone(&renewed, DEADLINE);
    });
}

#[test]
fn goes_on_with_the_next_broker() {
    both_ways("sdk::renewal::goes_on_with_the_next_broker", |broker, create| {
        let client = client(broker, create);
        let lease = held_by(&client, TTL);
        let renewal = lease.renew_in_background().expect("a thread can be started");
        eventually(DEADLINE, "it is renewed", || renewal.last_error().is_none());
        broker.kill();
        eventually(DEADLINE, "a renewal fails", || renewal.last_error().is_some());
        // Longer than the ttl, which starts anew with the next broker: nobody but that one knows whether the lease has ended.
        let missed = renewal.last_error();
        std::thread::sleep(Duration::from_secs(3));
        assert!(!renewal.is_over(), "{create:?}: given up: {missed:?}");
        broker.restart();
        eventually(DEADLINE, "it is renewed again", || renewal.last_error().is_none());
        outlast(held_by(&client, TTL));
        outlast(held_by(&client, TTL));
        assert!(path(&lease).is_dir() && !renewal.is_over(), "{create:?}: {:?}", renewal.last_error());
    });
}

#[test]
fn says_that_there_is_nothing_to_renew() {
    both_ways("sdk::renewal::says_that_there_is_nothing_to_renew", |broker, create| {
        let client = client(broker, create);
        let lease = held_by(&client, TTL);
        let renewal = lease.renew_in_background().expect("a thread can be started");
        client.revoke(lease.id()).expect("it lives");
        eventually(DEADLINE, "it is over", || renewal.is_over());
        assert!(renewal.last_error().is_some_and(|error| is_of_an_end(&error)), "{:?}", renewal.last_error());

        let held = grant(&client);
        let renewal = held.renew_in_background().expect("a thread can be started");
        eventually(DEADLINE, "it is over", || renewal.is_over());
        assert!(renewal.last_error().is_some_and(|error| error.is_refusal("NO_TTL")), "{:?}", renewal.last_error());
    });
}

#[test]
fn a_future_goes_on_with_the_next_broker() {
    both_ways("sdk::renewal::a_future_goes_on_with_the_next_broker", |broker, create| {
        aio::runtime().block_on(async {
            let client = aio::client(broker, create).await;
            let [renewed, ended] = [aio::held_by(&client, TTL).await, aio::held_by(&client, TTL).await];
            let outlast = async || wait_gone(&aio::path(&aio::held_by(&client, TTL).await), DEADLINE);
            let renewing = tokio::spawn(renewed.keep_renewing());
            let ending = tokio::spawn(ended.keep_renewing());
            broker.kill();
            // Renewals are due meanwhile, and the ttl would be over.
            tokio::time::sleep(Duration::from_secs(3)).await;
            broker.restart();
            outlast().await;
            outlast().await;
            let paths = [aio::path(&renewed), aio::path(&ended)];
            assert!(paths.iter().all(|path| path.is_dir()), "{create:?}: not renewed");
            ended.revoke().await.expect("it lives");
            let why = ending.await.expect("it says why it ends");
            assert!(is_of_an_end(&why), "{why}");
            assert!(!renewing.is_finished());
            renewing.abort();
            wait_gone(&paths[0], DEADLINE);
        });
    });
}
