//! The async flavour: many tasks on one connection, and calls that are given up at every point.

use std::future::poll_fn;
use std::pin::pin;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{channel, sync_channel};
use std::task::Poll;
use std::time::Duration;

use scratch_client::tokio::Client;
use scratch_client::{AreaOptions, ClientError, CreateMode, GrantOptions, Holder, Replace};
use scratch_proto::v1::channel_request::Op;
use scratch_proto::v1::channel_response::Result as Reply;
use scratch_proto::v1::{Closing, KeepAliveResponse, PingResponse, Restarted};
use tokio::task::JoinSet;

use crate::books::{Books, accountable};
use crate::fake::{Act, Broker, broker, obliging, refused};

async fn client(broker: &Broker, create: CreateMode) -> Client {
    Client::connect(&broker.options(create)).await.unwrap()
}

/// Polls so often at most, and drops what has not come to an end then. Tells each time that it has to wait.
async fn polled<T>(times: usize, future: impl Future<Output = T>, mut waits: impl FnMut()) -> Option<T> {
    let mut future = pin!(future);
    let mut left = times;
    poll_fn(|context| {
        left -= 1;
        match future.as_mut().poll(context) {
            Poll::Ready(done) => Poll::Ready(Some(done)),
            Poll::Pending if left == 0 => Poll::Ready(None),
            Poll::Pending => {
                waits();
                Poll::Pending
            }
        }
    })
    .await
}

#[tokio::test]
async fn answers_find_their_tasks_in_any_order() {
    let mut asked = 0;
    let broker = broker(move |op, lease| match op {
        Op::KeepAlive(renew) => {
            asked += 1;
            let seconds = renew.lease.parse().unwrap();
            let granted_ttl = Some(prost_types::Duration { seconds, nanos: 0 });
            let reply = Reply::KeepAlive(KeepAliveResponse { granted_ttl, ..KeepAliveResponse::default() });
            if asked % 10 == 0 { Act::Answer(reply) } else { Act::Later(reply) }
        }
        _ => obliging(op, lease),
    });
    let client = client(&broker, CreateMode::Auto).await;
    let mut tasks = JoinSet::new();
    for seconds in 1..=100 {
        let client = client.clone();
        tasks.spawn(async move {
            let renewed = client.keep_alive(&seconds.to_string()).await.unwrap();
            assert_eq!(renewed, Duration::from_secs(seconds));
        });
    }
    while let Some(task) = tasks.join_next().await {
        task.unwrap();
    }
}

#[tokio::test]
async fn the_one_that_reads_can_give_up() {
    let (release, wait) = channel::<()>();
    let mut pings = 0;
    let broker = broker(move |op, lease| match op {
        Op::Ping(_) => {
            pings += 1;
            if pings == 2 {
                wait.recv().unwrap();
            }
            Act::Answer(Reply::Ping(PingResponse {}))
        }
        _ => obliging(op, lease),
    });
    let client = client(&broker, CreateMode::Auto).await;
    client.ping().await.unwrap();
    let mut first = Box::pin(client.ping());
    let mut second = Box::pin(client.ping());
    // The first one reads, the second one sleeps.
    assert!(polled(1, &mut first, || ()).await.is_none());
    assert!(polled(1, &mut second, || ()).await.is_none());
    let second = async {
        release.send(()).unwrap();
        second.await
    };
    let (second, ()) = tokio::join!(second, async { drop(first) });
    second.unwrap();
}

/// One of everything that a client can make and end.
async fn everything(client: Client) {
    let lease = client.grant(&GrantOptions::default()).await.unwrap();
    let files = lease.files(&AreaOptions::default(), 450).await.unwrap();
    let file = lease.file(&AreaOptions::default()).await.unwrap();
    let directory = lease.directory(&AreaOptions::default()).await.unwrap();
    lease.anonymous_files(250).await.unwrap();
    drop(files);
    file.close().await.unwrap();
    directory.close().await.unwrap();
    lease.revoke().await.unwrap();
}

#[tokio::test]
async fn what_is_given_up_at_any_point_leaves_nothing_behind() {
    for polls in 1.. {
        let (tell, waits) = sync_channel(1);
        let (broker, books) = accountable(move |op| {
            // Answers when it is waited for, so that each of these is a point to give up at.
            if matches!(op, Op::Grant(_) | Op::Create(_)) {
                // Ignoring: from now on nothing is given up any more.
                let _ = waits.recv();
            }
            None
        });
        let client = client(&broker, CreateMode::Broker).await;
        // Ignoring: it has been told already.
        let told = || tell.try_send(()).unwrap_or_default();
        let kept = polled(usize::MAX, client.grant(&GrantOptions::default()), told).await.unwrap().unwrap();
        let done = polled(polls, everything(client.clone()), told).await;
        drop(tell);
        // The first one reads the answer of what was given up, the second one follows what is said on account of it.
        client.ping().await.unwrap();
        client.ping().await.unwrap();
        assert_eq!(*books.lock().unwrap(), Books::of(kept.id()), "given up after {polls} polls");
        kept.revoke().await.unwrap();
        assert_eq!(*books.lock().unwrap(), Books::default());
        if done.is_some() {
            assert!(polls > 4, "of nine requests every other one has to be waited for");
            return;
        }
    }
}

#[tokio::test]
async fn a_lost_connection_is_made_again_whoever_gives_up_meanwhile() {
    for polls in 1.. {
        let mut lost = false;
        let (broker, _) = accountable(move |op| {
            let loses = matches!(op, Op::Create(_)) && !std::mem::replace(&mut lost, true);
            loses.then_some(Act::Drop(None))
        });
        let client = client(&broker, CreateMode::Broker).await;
        let options = GrantOptions { holders: vec![Holder::Connection], ..GrantOptions::default() };
        let lease = client.grant(&options).await.unwrap();
        let name = AreaOptions { name: Some("exact".into()), ..AreaOptions::default() };
        let done = polled(polls, lease.file(&name), || ()).await.map(Result::unwrap);
        client.ping().await.unwrap();
        drop(lease.file(&AreaOptions::default()).await.unwrap());
        let requests = broker.requests();
        let attached = requests.iter().filter(|op| matches!(op, Op::Attach(_))).count();
        assert!(attached >= 1, "given up after {polls} polls: {requests:?}");
        if done.is_some() {
            let resent = requests.iter().any(|op| matches!(op, Op::Create(create) if create.resend));
            assert!(resent, "{requests:?}");
            return;
        }
    }
}

#[tokio::test]
async fn a_connection_in_the_making_is_gone_on_with() {
    let mut last = true;
    let broker = broker(move |op, lease| match op {
        Op::Ping(_) if std::mem::take(&mut last) => Act::Last(Reply::Ping(PingResponse {})),
        _ => obliging(op, lease),
    });
    let client = client(&broker, CreateMode::Broker).await;
    client.ping().await.unwrap();
    broker.closed.recv().unwrap();
    for _ in 0..20 {
        // Begins to connect, or finds that this is under way or done.
        polled(1, client.ping(), || ()).await;
    }
    let mut tasks = JoinSet::new();
    for _ in 0..20 {
        let client = client.clone();
        tasks.spawn(async move { client.ping().await });
    }
    while let Some(done) = tasks.join_next().await {
        done.unwrap().unwrap();
    }
    assert_eq!(broker.accepted.load(Ordering::Relaxed), 2);
}

#[tokio::test]
async fn what_a_dropped_guard_said_is_said_again_on_the_next_connection() {
    let mut lost = false;
    let (broker, books) = accountable(move |op| {
        let loses = matches!(op, Op::Release(_)) && !std::mem::replace(&mut lost, true);
        loses.then_some(Act::Drop(None))
    });
    let client = client(&broker, CreateMode::Broker).await;
    let lease = client.grant(&GrantOptions::default()).await.unwrap();
    drop(lease.file(&AreaOptions::default()).await.unwrap());
    broker.closed.recv().unwrap();
    client.ping().await.unwrap();
    client.ping().await.unwrap();
    assert_eq!(*books.lock().unwrap(), Books::of(lease.id()));
}

#[tokio::test]
async fn the_brokers_own_words_are_heard() {
    let mut closes = true;
    let broker = broker(move |op, lease| match op {
        Op::Ping(_) if std::mem::take(&mut closes) => {
            Act::Drop(Some(Reply::Closing(Closing { reason: "too slow".into() })))
        }
        Op::KeepAlive(_) => Act::Drop(Some(Reply::Closing(Closing { reason: "too slow".into() }))),
        Op::Detach(_) => Act::Drop(Some(Reply::Restarted(Restarted { generation: 2 }))),
        Op::Attach(_) => Act::Drop(Some(Reply::Ping(PingResponse {}))),
        _ => obliging(op, lease),
    });
    let client = client(&broker, CreateMode::Broker).await;
    // Both were under way when the first was answered so; both are sent again.
    let (first, second) = tokio::join!(client.ping(), client.ping());
    first.and(second).unwrap();
    let closed = client.keep_alive("aaaaaaaaaaaaaaaa").await;
    assert!(matches!(closed, Err(ClientError::Closed { reason }) if reason == "too slow"), "said twice");
    let error = client.detach("aaaaaaaaaaaaaaaa", 1).await.unwrap_err();
    assert!(matches!(error, ClientError::Io { .. }), "news, and then the end of the connection: {error:?}");
    let nonsense = client.attach("aaaaaaaaaaaaaaaa", &Holder::Process).await;
    assert!(matches!(nonsense, Err(ClientError::Protocol(_))), "{nonsense:?}");
    client.ping().await.unwrap();
}

#[tokio::test]
async fn a_full_socket_is_waited_for_and_a_dropped_guard_does_not_wait() {
    let (resume, wait) = channel::<()>();
    let mut stops = true;
    let (broker, books) = accountable(move |op| {
        if matches!(op, Op::Ping(_)) && std::mem::take(&mut stops) {
            wait.recv().unwrap();
        }
        None
    });
    let client = client(&broker, CreateMode::Broker).await;
    let lease = client.grant(&GrantOptions::default()).await.unwrap();
    let files = lease.files(&AreaOptions::default(), 100).await.unwrap();
    let mut calls: Vec<_> = (0..1000).map(|_| Box::pin(client.ping())).collect();
    for call in &mut calls {
        assert!(polled(1, call, || ()).await.is_none());
    }
    drop(files);
    resume.send(()).unwrap();
    for call in calls {
        call.await.unwrap();
    }
    // Says what was left, and comes after it.
    client.ping().await.unwrap();
    assert_eq!(*books.lock().unwrap(), Books::of(lease.id()));
    let released = broker.requests().iter().filter(|op| matches!(op, Op::Release(_))).count();
    assert_eq!(released, 100);
}

#[tokio::test]
async fn guards_that_are_dropped_by_the_thousand_block_nothing() {
    let (resume, wait) = channel::<()>();
    let mut stops = true;
    let (broker, books) = accountable(move |op| {
        if matches!(op, Op::Ping(_)) && std::mem::take(&mut stops) {
            wait.recv().unwrap();
        }
        None
    });
    let client = client(&broker, CreateMode::Broker).await;
    let lease = client.grant(&GrantOptions::default()).await.unwrap();
    let files = lease.files(&AreaOptions::default(), 3000).await.unwrap();
    assert!(polled(1, client.ping(), || ()).await.is_none());
    drop(files);
    resume.send(()).unwrap();
    // Each says more of it, and the broker answers all of it.
    while *books.lock().unwrap() != Books::of(lease.id()) {
        client.ping().await.unwrap();
    }
}

#[test]
fn guards_are_dropped_outside_of_a_runtime_and_clients_outlive_theirs() {
    let (broker, books) = accountable(|_| None);
    let runtime = || tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let first = runtime();
    let (client, lease, files) = first.block_on(async {
        let client = client(&broker, CreateMode::Broker).await;
        let lease = client.grant(&GrantOptions::default()).await.unwrap();
        let files = lease.files(&AreaOptions::default(), 3).await.unwrap();
        (client, lease, files)
    });
    let mut files = files.into_iter();
    drop(files.next());
    drop(first);
    drop(files.next());
    let second = runtime();
    second.block_on(async {
        client.ping().await.unwrap();
        let (_, area) = books.lock().unwrap().areas.first().cloned().unwrap();
        assert_eq!(books.lock().unwrap().areas.len(), 1, "the last one is guarded");
        let last = files.next().unwrap();
        assert_eq!(last.name().as_encoded_bytes(), area);
        last.close().await.unwrap();
        assert_eq!(*books.lock().unwrap(), Books::of(lease.id()));
    });
    drop(second);
    drop(lease);
    while !books.lock().unwrap().leases.is_empty() {
        broker.seen.recv_timeout(Duration::from_secs(30)).unwrap();
    }
}

#[tokio::test]
async fn an_area_is_moved_out_for_good_or_stays_under_guard() {
    let mut refuse = true;
    let broker = broker(move |op, lease| match op {
        Op::Persist(_) if std::mem::take(&mut refuse) => Act::Answer(refused("NAME_EXISTS")),
        _ => obliging(op, lease),
    });
    let client = client(&broker, CreateMode::Broker).await;
    let lease = client.grant(&GrantOptions::default()).await.unwrap();
    let place = std::fs::File::open(broker.directory.path()).unwrap();
    let file = lease.file(&AreaOptions::default()).await.unwrap();
    let failed = file.persist(&place, "name", Replace::Never).await.unwrap_err();
    assert!(failed.error.is_refusal("NAME_EXISTS"));
    assert!(failed.guard.persist(&place, "name", Replace::Always).await.unwrap().1);
    lease.leave();
    client.ping().await.unwrap();
    assert!(!broker.requests().iter().any(|op| matches!(op, Op::Release(_))));
}

#[tokio::test]
async fn a_ttl_is_renewed_until_it_can_not_be() {
    let mut times = 3;
    let broker = broker(move |op, lease| match op {
        Op::KeepAlive(_) if times == 0 => Act::Answer(refused("LEASE_UNKNOWN")),
        Op::KeepAlive(_) => {
            times -= 1;
            let granted_ttl = Some(prost_types::Duration { seconds: 0, nanos: 1_000_000 });
            Act::Answer(Reply::KeepAlive(KeepAliveResponse { granted_ttl, ..KeepAliveResponse::default() }))
        }
        _ => obliging(op, lease),
    });
    let client = client(&broker, CreateMode::Auto).await;
    let lease = client.grant(&GrantOptions::default()).await.unwrap();
    assert!(lease.keep_renewing().await.is_refusal("LEASE_UNKNOWN"));
    assert_eq!(broker.requests().len(), 1 + 3 + 1);
}
