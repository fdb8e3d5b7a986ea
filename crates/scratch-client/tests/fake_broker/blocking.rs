//! The blocking flavour: what it sends, and what it makes of the answers.

use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::sync::mpsc::channel;

use scratch_client::{AreaOptions, Client, ClientError, CreateMode, GrantOptions, Holder, Replace};
use scratch_proto::v1::PingResponse;
use scratch_proto::v1::channel_request::Op;
use scratch_proto::v1::channel_response::Result as Reply;

use crate::fake::{Act, Broker, broker, obliging, refused};

fn client(broker: &Broker, create: CreateMode) -> Client {
    Client::connect(&broker.options(create)).unwrap()
}

#[test]
fn a_file_in_our_own_lease_needs_no_broker() {
    let broker = broker(obliging);
    let client = client(&broker, CreateMode::Auto);
    let lease = client.grant(&GrantOptions::default()).unwrap();
    let file = lease.file(&AreaOptions::default()).unwrap();
    let path: PathBuf = file.path().unwrap().to_owned();
    assert!(path.is_file() && path.starts_with(lease.path().unwrap()));
    assert_eq!(path.file_name(), Some(file.name()));
    drop(file);
    assert!(!path.exists());
    let kept = lease.file(&AreaOptions { name: Some("kept".into()), ..AreaOptions::default() }).unwrap();
    let path = kept.path().unwrap().to_owned();
    drop(kept.keep());
    assert!(path.exists());
    let again = lease.file(&AreaOptions { name: Some("kept".into()), ..AreaOptions::default() });
    assert_eq!(std::io::Error::from(again.unwrap_err()).kind(), std::io::ErrorKind::AlreadyExists);
    lease.anonymous().unwrap();
    assert_eq!(broker.requests().len(), 1, "the grant");
    drop(lease);
    assert!(matches!(broker.requests()[..], [Op::Revoke(_)]));
}

#[test]
fn a_directory_is_released_by_the_broker() {
    let broker = broker(obliging);
    let client = client(&broker, CreateMode::Auto);
    let lease = client.grant(&GrantOptions::default()).unwrap();
    let directory = lease.directory(&AreaOptions::default()).unwrap();
    assert!(directory.path().unwrap().is_dir());
    directory.close().unwrap();
    lease.leave();
    assert!(matches!(broker.requests()[..], [Op::Grant(_), Op::Release(_)]));
}

#[test]
fn a_request_without_an_answer_is_sent_again_and_says_so() {
    let mut lost = false;
    let broker = broker(move |op, lease| match op {
        Op::Create(_) if !lost => {
            lost = true;
            Act::Drop(None)
        }
        _ => obliging(op, lease),
    });
    let client = client(&broker, CreateMode::Broker);
    let options = GrantOptions { holders: vec![Holder::Connection], ..GrantOptions::default() };
    let lease = client.grant(&options).unwrap();
    lease.file(&AreaOptions::default()).unwrap().close().unwrap();
    let requests = broker.requests();
    let [Op::Grant(_), Op::Create(first), Op::Attach(_), Op::Create(second), Op::Release(_)] = &requests[..] else {
        panic!("{requests:?}");
    };
    assert!(!first.resend && second.resend);
    assert_eq!((&first.name, first.name.len()), (&second.name, 11), "tmp and 8 random characters");
}

#[test]
fn a_name_that_is_taken_is_drawn_again_and_an_exact_one_is_not() {
    let mut clashes = 2;
    let broker = broker(move |op, lease| match op {
        Op::Create(create) if clashes > 0 || create.name == b"exact" => {
            clashes -= 1;
            Act::Answer(refused("NAME_EXISTS"))
        }
        _ => obliging(op, lease),
    });
    let client = client(&broker, CreateMode::Broker);
    let lease = client.grant(&GrantOptions::default()).unwrap();
    lease.file(&AreaOptions::default()).unwrap().close().unwrap();
    assert_eq!(broker.requests().len(), 1 + 3 + 1);
    let exact = AreaOptions { name: Some("exact".into()), ..AreaOptions::default() };
    assert!(lease.file(&exact).unwrap_err().is_refusal("NAME_EXISTS"));
    let outside = AreaOptions { prefix: "a/b".into(), ..AreaOptions::default() };
    assert!(matches!(lease.file(&outside), Err(ClientError::Name(_))));
}

#[test]
fn a_revoke_that_was_lost_on_the_way_back_is_a_success() {
    let mut revokes = 0;
    let broker = broker(move |op, lease| match op {
        Op::Revoke(_) => {
            revokes += 1;
            if revokes == 1 { Act::Drop(None) } else { Act::Answer(refused("LEASE_UNKNOWN")) }
        }
        _ => obliging(op, lease),
    });
    let client = client(&broker, CreateMode::Auto);
    client.grant(&GrantOptions::default()).unwrap().revoke().unwrap();
    let unknown = client.revoke("bbbbbbbbbbbbbbbb").unwrap_err();
    assert!(unknown.is_refusal("LEASE_UNKNOWN"), "said by a broker that heard it once");
}

#[test]
fn a_broker_that_is_gone_is_an_error() {
    let mut broker = broker(obliging);
    let client = client(&broker, CreateMode::Auto);
    let lease = client.grant(&GrantOptions::default()).unwrap();
    broker.seen = channel().1;
    std::fs::remove_file(broker.directory.path().join("handle.sock")).unwrap();
    // The first one ends the thread, which nobody listens to any more.
    assert!(matches!(lease.keep_alive(), Err(ClientError::NoBroker { .. })));
    lease.leave();
}

#[test]
fn a_file_is_moved_out_for_good_or_stays_under_guard() {
    let mut refuse = true;
    let broker = broker(move |op, lease| match op {
        Op::Persist(_) if std::mem::take(&mut refuse) => Act::Answer(refused("NAME_EXISTS")),
        _ => obliging(op, lease),
    });
    let client = client(&broker, CreateMode::Broker);
    let lease = client.grant(&GrantOptions::default()).unwrap();
    let place = std::fs::File::open(broker.directory.path()).unwrap();
    let file = lease.file(&AreaOptions::default()).unwrap();
    let failed = file.persist(&place, "name", Replace::Never).unwrap_err();
    assert!(failed.error.is_refusal("NAME_EXISTS"));
    let (_, copied) = failed.guard.persist(&place, "name", Replace::Always).unwrap();
    assert!(copied);
    let directory = lease.directory(&AreaOptions::default()).unwrap();
    assert!(directory.persist(&place, "other", Replace::Exchange).unwrap());
    client.detach(lease.id(), 7).unwrap();
    lease.leave();
    let [Op::Grant(_), Op::Create(_), Op::Persist(first), Op::Persist(second), Op::Create(_), Op::Persist(_), rest] =
        &broker.requests()[..]
    else {
        panic!("a guard that was given up was dropped");
    };
    assert_eq!((&*first.name, first.replace, second.replace), (&b"name"[..], 1, 2));
    assert!(matches!(rest, Op::Detach(detach) if detach.holder == 7));
}

#[test]
fn an_exact_name_that_was_never_sent_is_not_said_to_be_sent_again() {
    let broker = broker(|op, lease| match op {
        Op::Ping(_) => Act::Last(Reply::Ping(PingResponse {})),
        _ => obliging(op, lease),
    });
    let client = client(&broker, CreateMode::Broker);
    let lease = client.grant(&GrantOptions::default()).unwrap();
    client.ping().unwrap();
    broker.closed.recv().unwrap();
    lease.file(&AreaOptions { name: Some("exact".into()), ..AreaOptions::default() }).unwrap().close().unwrap();
    let resent = |op: &Op| matches!(op, Op::Create(create) if create.resend);
    assert!(!broker.requests().iter().any(resent));
}

#[test]
fn many_threads_share_a_connection_and_none_waits_for_another() {
    let mut pings = 0;
    let broker = broker(move |op, lease| match op {
        // The first three are answered only when the fourth is there.
        Op::Ping(_) if pings < 3 => {
            pings += 1;
            Act::Later(Reply::Ping(PingResponse {}))
        }
        _ => obliging(op, lease),
    });
    let client = client(&broker, CreateMode::Auto);
    std::thread::scope(|scope| (0..4).for_each(|_| drop(scope.spawn(|| client.ping().unwrap()))));
    assert_eq!(broker.accepted.load(Ordering::Relaxed), 1);
}
