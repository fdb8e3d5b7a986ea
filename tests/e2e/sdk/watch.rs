//! Events by the SDK: told in order, gone on with after a revision and with the next broker, and said to be lost where they may be.

use std::collections::HashSet;

use scratch_client::tokio::{Client, Event, Told, Watch, WatchOptions};
use scratch_client::{CreateMode, GrantOptions, Limits};
use scratch_tests::{Broker, DEADLINE, Options, contained};
use tokio::time::timeout;

use super::aio::{client, grant, runtime};
use super::kind;

async fn next(watch: &mut Watch) -> Event {
    timeout(DEADLINE, watch.next()).await.expect("it is told within the deadline").expect("it goes on")
}

/// What is told until this code.
async fn until(watch: &mut Watch, code: &str) -> Vec<Told> {
    let mut told: Vec<Told> = Vec::new();
    while told.last().is_none_or(|last| last.code != code) {
        let Event::Told(event) = next(watch).await else { panic!("lost after {told:?}") };
        told.push(event);
    }
    told
}

fn codes(told: &[Told]) -> Vec<&str> {
    told.iter().map(|told| &*told.code).collect()
}

fn since(told: &Told) -> WatchOptions {
    WatchOptions { since: told.revision.clone(), ..WatchOptions::default() }
}

#[test]
fn tells_what_happens_and_goes_on_after_a_revision() {
    contained("sdk::watch::tells_what_happens_and_goes_on_after_a_revision", || {
        let broker = Broker::start(Options::default());
        runtime().block_on(async {
            let client = client(&broker, CreateMode::Auto).await;
            let before = grant(&client).await;
            let mut watch = client.watch(&WatchOptions::default()).await.expect("it is watched");
            let [first, second] = [grant(&client).await, grant(&client).await];
            let of_one = WatchOptions { lease: second.id().to_owned(), ..WatchOptions::default() };
            let mut watch_one = client.watch(&of_one).await.expect("it is watched");
            let ids = [&first, &second].map(|lease| lease.id().to_owned());
            first.revoke().await.expect("it lives");
            second.revoke().await.expect("it lives");
            let mut told = until(&mut watch, "ENDED").await;
            told.extend(until(&mut watch, "ENDED").await);
            assert_eq!(told[0].code, "GRANTED");
            assert!(told[0].uid.is_some() && told[0].time.is_some() && !told[0].text.is_empty(), "{:?}", told[0]);
            let about: HashSet<_> = told.iter().map(|told| told.lease.clone()).collect();
            assert_eq!(about, ids.clone().into(), "what was before is not told");
            let ended = told.last().map(|told| &told.metadata["reason"]);
            assert_eq!(ended.map(String::as_str), Some("REVOKED"));
            let of_second = until(&mut watch_one, "ENDED").await;
            assert!(of_second.iter().all(|told| told.lease == ids[1]), "{of_second:?}");

            let mut again = client.watch(&since(&told[0])).await.expect("the revision is held");
            for expected in &told[1..] {
                let Event::Told(found) = next(&mut again).await else { panic!("lost before {expected:?}") };
                // Its time is the broker's reckoning anew, to the nanosecond.
                assert_eq!(Told { time: expected.time, ..found }, *expected);
            }
            let mut held =
                client.watch(&WatchOptions { held: true, ..WatchOptions::default() }).await.expect("watched");
            assert_eq!(codes(&until(&mut held, "GRANTED").await).last(), Some(&"GRANTED"));
            drop(before);
        });
    });
}

#[test]
fn goes_on_with_the_next_broker_and_says_what_may_be_lost() {
    contained("sdk::watch::goes_on_with_the_next_broker_and_says_what_may_be_lost", || {
        let mut broker = Broker::start(Options::default());
        runtime().block_on(async {
            let client = client(&broker, CreateMode::Auto).await;
            let mut watch = client.watch(&WatchOptions::default()).await.expect("it is watched");
            let lease = grant(&client).await;
            let granted = until(&mut watch, "GRANTED").await;
            // It waits while there is none.
            let waiting = tokio::spawn(async move { (next(&mut watch).await, watch) });
            broker.kill();
            assert!(client.ping().await.is_err());
            broker.restart();
            let (lost, mut watch) = waiting.await.expect("no task panics");
            assert_eq!(lost, Event::Lost);
            let told = until(&mut watch, "ADOPTED").await;
            assert_eq!(codes(&told), ["RESTARTED", "ADOPTED"]);
            assert_eq!((told[0].metadata["generation"].as_str(), told[1].lease.as_str()), ("2", lease.id()));
            let other = grant(&client).await;
            let told = until(&mut watch, "GRANTED").await;
            assert_eq!(told.last().map(|told| &*told.lease), Some(other.id()), "it goes on");

            let refused = client.watch(&since(&granted[0])).await.expect_err("it is another run's");
            assert!(refused.is_refusal("COMPACTED"), "{refused}");
        });
    });
}

#[test]
fn needs_more_than_a_delegated_channel() {
    contained("sdk::watch::needs_more_than_a_delegated_channel", || {
        let broker = Broker::start(Options::default());
        runtime().block_on(async {
            let client = client(&broker, CreateMode::Auto).await;
            let lease = client.grant(&GrantOptions::default()).await.expect("a lease is granted");
            let channel = lease.delegate(Limits::default()).await.expect("a channel is made");
            let sandbox = Client::delegated(channel).expect("a socket can be watched");
            let refused = sandbox.watch(&WatchOptions::default()).await.expect_err("there is only the channel");
            assert_eq!(kind(refused), std::io::ErrorKind::Unsupported);
        });
    });
}
