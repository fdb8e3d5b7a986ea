//! A client's directory on a server of FUSE that falls silent: its tenant waits, and nobody else; what is in it is owed until
//! it answers. Who has taken a request and does not answer it keeps a process from ending, whatever that process does.

use std::fs;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use rustix::process::{Signal, kill_process};
use scratch_proto::v1::channel_request::Op;
use scratch_proto::v1::channel_response::Result as Reply;
use scratch_proto::v1::{CreateRequest, Error, GrantRequest, Kind, PersistRequest, RevokeRequest};
use scratch_tests::{
    Broker, Channel, DEADLINE, Dialogue, Held, Options, contained, eventually, is_root, left_out, names_in, program,
    scratchd, threads,
};
use serde_json::json;

use super::{TENANT, ask, connect_as, create, debts, directory, nothing_but_others, passed, reason, release, request};
use crate::regressions::{granted, nothing_is_left};

const OTHER: u32 = 4321;
/// Of one tenant, in `config`.
const THREADS: usize = 2;
/// Requests of one tenant that are under way; not configurable.
const UNDER_WAY: usize = 64;
/// EX_UNAVAILABLE: another broker has the pool.
const UNAVAILABLE: i32 = 69;

fn broker() -> Broker {
    let foreign = format!("[foreign]\ndeadline = \"1s\"\nthreads = {THREADS}\n");
    let config = format!("[[pool]]\nname = \"default\"\nroot = \"@PLACE@/pool\"\n{foreign}");
    Broker::start(Options { config: Some(config), ..Options::default() })
}

/// A file system and its server. When that ends, all who wait for it are let go; it has to end before what waits does.
struct Server {
    path: PathBuf,
    dialogue: Dialogue,
}

impl Server {
    /// None where there is no FUSE, or no right to use it.
    fn start(test: &str, broker: &Broker) -> Option<Server> {
        if !is_root() || !Path::new("/dev/fuse").exists() {
            left_out(test, "needs root and /dev/fuse");
            return None;
        }
        let path = broker.place().join("silent");
        fs::create_dir_all(&path).expect("a place is writable");
        let mut command = Command::new(program("silent-fs"));
        command.arg(&path);
        let mut dialogue = Dialogue::start(command);
        assert_eq!(dialogue.line(), "mounted");
        let mut server = Server { path, dialogue };
        // So that nothing is in it that a test did not put there.
        server.become_("answer");
        fs::write(server.path.join("other"), "").expect("everybody may write there");
        Some(server)
    }

    fn become_(&mut self, mood: &str) {
        self.dialogue.say(mood);
        assert_eq!(self.dialogue.line(), mood);
    }

    /// All that it has, and that it answers.
    fn holds(&self, wanted: &[&str]) {
        eventually(DEADLINE, "what is dead is gone", || names_in(&self.path) == wanted);
    }
}

fn foreign_threads(broker: &Broker) -> usize {
    threads(broker.pid()).iter().filter(|(_, role)| role == "foreign").count()
}

fn refusal(reply: Reply) -> Error {
    match reply {
        Reply::Error(error) => error,
        other => panic!("not refused: {other:?}"),
    }
}

/// A lease of the test's own user, with an area in the pool, which goes at once.
fn serves(broker: &Broker, channel: &mut Channel, directory: &Path) {
    let lease = granted(channel, GrantRequest::default()).id;
    let (area, _) = create(channel, request(&lease, Kind::File, "served"), directory);
    assert!(release(channel, &lease, &area).freed);
    serves_in_its_pool(broker, channel);
    let reply = channel.ask(Op::Revoke(RevokeRequest { lease, ..RevokeRequest::default() }));
    assert!(matches!(reply, Reply::Revoke(_)), "{reply:?}");
}

fn serves_in_its_pool(broker: &Broker, channel: &mut Channel) {
    channel.ping();
    let lease = granted(channel, GrantRequest::default()).id;
    let plain = CreateRequest { r#where: None, ..request(&lease, Kind::Directory, "plain") };
    let reply = channel.ask(Op::Create(plain));
    assert!(matches!(reply, Reply::Create(_)), "{reply:?}");
    assert!(broker.pool_root().join(&lease).join("plain").is_dir());
    let reply = channel.ask(Op::Revoke(RevokeRequest { lease, ..RevokeRequest::default() }));
    assert!(matches!(reply, Reply::Revoke(_)), "{reply:?}");
}

#[test]
fn who_passes_a_silent_directory_waits_alone() {
    let test = "foreign::silent::who_passes_a_silent_directory_waits_alone";
    contained(test, || {
        let broker = broker();
        let Some(mut server) = Server::start(test, &broker) else { return };
        let path = directory(&broker);
        let held = Held::start_as(&broker, Some(TENANT));
        let (mut channel, mut other) = (connect_as(&broker, TENANT), connect_as(&broker, OTHER));
        create(&mut channel, request(held.lease(), Kind::File, "file"), &server.path);
        create(&mut channel, request(held.lease(), Kind::Directory, "tree"), &server.path);
        fs::create_dir_all(server.path.join("tree/inner/most")).expect("everybody may write there");
        let (area, _) = create(&mut channel, request(held.lease(), Kind::Directory, "released"), &server.path);
        assert!(release(&mut channel, held.lease(), &area).freed);
        server.holds(&["file", "other", "tree"]);

        server.become_("silent");
        let ask_there = |channel: &mut Channel, name: &str| {
            refusal(ask(channel, request(held.lease(), Kind::File, name), &server.path).0)
        };
        for thread in 1..=THREADS {
            assert_eq!(ask_there(&mut channel, "late").reason, "FOREIGN_TIMEOUT");
            assert_eq!(foreign_threads(&broker), thread);
        }
        // All that it has for such directories wait: those that answer can't be told from those that do not.
        let none_free = refusal(ask(&mut channel, request(held.lease(), Kind::File, "file"), &path).0);
        assert_eq!((&*none_free.reason, &*none_free.metadata["limit"]), ("LIMIT_FOREIGN", "2"), "{none_free:?}");
        assert!(none_free.message.contains("threads"), "{none_free:?}");
        assert_eq!(foreign_threads(&broker), THREADS);

        serves_in_its_pool(&broker, &mut channel);
        serves(&broker, &mut other, &path);
        assert_eq!(broker.json(&["lease", "show", held.lease()])["areas"].as_array().map(Vec::len), Some(2));
        assert!(broker.scratch(&["verify"]).status().expect("the command line's program can be run").success());

        // The end of a lease does not wait for it, and what is left is told.
        let lease = held.path().to_owned();
        held.kill();
        eventually(DEADLINE, "the lease is gone", || !lease.exists());
        eventually(DEADLINE, "what does not answer is owed", || {
            let owed = |name| (json!("foreign directory"), json!(server.path.join(name)));
            let debts = debts(&broker);
            let found: Vec<_> = debts.iter().map(|debt| (debt["blocker"].clone(), debt["path"].clone())).collect();
            found.contains(&owed("file")) && found.contains(&owed("tree"))
        });
        serves(&broker, &mut other, &path);

        server.become_("answer");
        server.holds(&["other"]);
        eventually(DEADLINE, "its threads are gone", || foreign_threads(&broker) == 0);
        serves(&broker, &mut channel, &path);
        nothing_but_others(&broker, &path);
        drop(server);
        nothing_is_left(&broker);
    });
}

/// Descriptors of a directory that the broker has: one for each request that waits.
fn under_way(broker: &Broker, directory: &Path) -> usize {
    let held = fs::read_dir(format!("/proc/{}/fd", broker.pid())).expect("the broker is there");
    held.filter(|held| held.as_ref().is_ok_and(|held| fs::read_link(held.path()).is_ok_and(|to| to == directory)))
        .count()
}

#[test]
fn requests_that_wait_are_limited_and_make_nothing_later() {
    let test = "foreign::silent::requests_that_wait_are_limited_and_make_nothing_later";
    contained(test, || {
        let broker = broker();
        let Some(mut server) = Server::start(test, &broker) else { return };
        let path = directory(&broker);
        let mut channel = Channel::connect(&broker.handle_socket());
        let lease = granted(&mut channel, GrantRequest::default()).id;
        server.become_("silent");
        let held = passed(&server.path);
        // On two connections: one has a limit of its own.
        let mut waiting = [(); 2].map(|()| Channel::connect(&broker.handle_socket()));
        for number in 0..UNDER_WAY {
            let request = request(&lease, Kind::File, &format!("late-{number}"));
            waiting[number % 2].send(Op::Create(request), &[held.as_fd()]).expect("the broker reads");
        }
        eventually(DEADLINE, "all are under way", || under_way(&broker, &server.path) >= UNDER_WAY);
        let too_many = refusal(ask(&mut channel, request(&lease, Kind::File, "late"), &server.path).0);
        let replies: Vec<_> = (0..UNDER_WAY)
            .map(|number| waiting[number % 2].receive().expect("the broker answers").0)
            .map(|reply| refusal(reply.result.expect("a reply has a result")))
            .collect();
        assert_eq!((&*too_many.reason, &*too_many.metadata["limit"]), ("LIMIT_FOREIGN", "64"), "{too_many:?}");
        let of = |wanted: &str| replies.iter().filter(|error| error.reason == wanted).count();
        assert_eq!((of("FOREIGN_TIMEOUT"), of("LIMIT_FOREIGN")), (THREADS, UNDER_WAY - THREADS), "{replies:?}");
        serves_in_its_pool(&broker, &mut channel);

        server.become_("answer");
        eventually(DEADLINE, "its threads are gone", || foreign_threads(&broker) == 0);
        server.holds(&["other"]);
        serves(&broker, &mut channel, &path);
        drop(server);
        nothing_but_others(&broker, &path);
        channel.ask(Op::Revoke(RevokeRequest { lease, ..RevokeRequest::default() }));
        nothing_is_left(&broker);
    });
}

/// A Persist into a directory that falls silent waits; nothing else does.
#[test]
fn persist_waits_alone_too() {
    let test = "foreign::silent::persist_waits_alone_too";
    contained(test, || {
        let broker = broker();
        let Some(mut server) = Server::start(test, &broker) else { return };
        let path = directory(&broker);
        let mut waits = connect_as(&broker, TENANT);
        let lease = granted(&mut waits, GrantRequest::default()).id;
        let plain = CreateRequest { r#where: None, ..request(&lease, Kind::File, "result") };
        let reply = waits.ask(Op::Create(plain));
        assert!(matches!(reply, Reply::Create(_)), "{reply:?}");
        server.become_("silent");
        let (lease_id, name) = (lease.clone(), b"result".to_vec());
        let persist =
            PersistRequest { lease: lease_id, area: name.clone(), name, fd: true, ..PersistRequest::default() };
        let held = passed(&server.path);
        waits.send(Op::Persist(persist), &[held.as_fd()]).expect("the broker reads");
        eventually(DEADLINE, "it is under way", || threads(broker.pid()).iter().any(|(_, role)| role == "persist"));
        let mut same = connect_as(&broker, TENANT);
        serves(&broker, &mut same, &path);
        serves(&broker, &mut connect_as(&broker, OTHER), &path);
        server.become_("answer");
        let (reply, _) = waits.receive().expect("the broker answers");
        assert!(matches!(reply.result, Some(Reply::Persist(_))), "{:?}", reply.result);
        server.holds(&["other", "result"]);
        waits.ask(Op::Revoke(RevokeRequest { lease, ..RevokeRequest::default() }));
        drop(server);
        nothing_is_left(&broker);
    });
}

#[test]
fn a_server_that_dies_lets_all_go_on() {
    let test = "foreign::silent::a_server_that_dies_lets_all_go_on";
    contained(test, || {
        let broker = broker();
        let Some(mut server) = Server::start(test, &broker) else { return };
        let path = directory(&broker);
        let mut channel = connect_as(&broker, TENANT);
        let lease = granted(&mut channel, GrantRequest::default()).id;
        let (area, _) = create(&mut channel, request(&lease, Kind::File, "file"), &server.path);
        server.become_("silent");
        let end = release(&mut channel, &lease, &area);
        assert!(end.existed && !end.freed && !end.debt.is_empty(), "{end:?}");
        let late = ask(&mut channel, request(&lease, Kind::File, "late"), &server.path).0;
        assert_eq!(reason(late), "FOREIGN_TIMEOUT");
        assert_eq!(foreign_threads(&broker), THREADS);
        let silent = server.path.clone();
        drop(server);
        eventually(DEADLINE, "its threads are gone", || foreign_threads(&broker) == 0);
        serves(&broker, &mut channel, &path);
        // Nobody knows what is there: it is owed, and not forgotten.
        assert_eq!(reason(ask(&mut channel, request(&lease, Kind::File, "f"), &silent).0), "FILE_SYSTEM");
        eventually(DEADLINE, "what is there is owed", || {
            let unserved = (json!("foreign directory"), json!("ENOTCONN"), json!(silent.join("file")));
            let debts = debts(&broker);
            debts.iter().any(|debt| (debt["blocker"].clone(), debt["errno"].clone(), debt["path"].clone()) == unserved)
        });
        channel.ask(Op::Revoke(RevokeRequest { lease, ..RevokeRequest::default() }));
        eventually(DEADLINE, "the pool is empty", || names_in(broker.pool_root()) == [".scratch"]);
    });
}

/// What has not been taken by its server is let go of by who is killed.
#[test]
fn a_restart_waits_for_no_directory() {
    let test = "foreign::silent::a_restart_waits_for_no_directory";
    contained(test, || {
        let mut broker = broker();
        let Some(mut server) = Server::start(test, &broker) else { return };
        let path = directory(&broker);
        let (held, short) = (Held::start_as(&broker, Some(TENANT)), Held::start_as(&broker, Some(TENANT)));
        let mut channel = connect_as(&broker, TENANT);
        create(&mut channel, request(held.lease(), Kind::File, "held"), &server.path);
        create(&mut channel, request(short.lease(), Kind::Directory, "short"), &server.path);
        server.become_("deaf");
        for name in ["one", "two"] {
            let late = ask(&mut channel, request(held.lease(), Kind::File, name), &server.path).0;
            assert_eq!(reason(late), "FOREIGN_TIMEOUT");
        }
        broker.kill();
        short.kill();
        broker.restart();
        let mut channel = connect_as(&broker, TENANT);
        eventually(DEADLINE, "what died meanwhile is owed", || {
            debts(&broker).iter().any(|debt| debt["path"] == json!(server.path.join("short")))
        });
        serves(&broker, &mut channel, &path);
        assert!(foreign_threads(&broker) > 0);
        drop(channel);
        assert!(broker.terminate().success());
        broker.restart();
        server.become_("answer");
        server.holds(&["held", "other"]);
        assert_eq!(broker.json(&["lease", "show", held.lease()])["areas"].as_array().map(Vec::len), Some(1));
        held.kill();
        server.holds(&["other"]);
        nothing_but_others(&broker, &path);
        drop(server);
        nothing_is_left(&broker);
    });
}

/// Whether another broker gets this one's pool; its exit code where not.
fn another_start(broker: &Broker) -> Option<i32> {
    let runtime = broker.place().join("another");
    fs::create_dir_all(&runtime).expect("a place is writable");
    let mut another = Command::new(scratchd());
    another.arg("--pool").arg(broker.pool_root()).arg("--runtime-dir").arg(runtime);
    another.stdin(Stdio::null()).output().expect("the broker's program can be run").status.code()
}

/// A request that its server has taken is waited for by the kernel, through SIGKILL, too: until then the broker is not gone, and
/// no other one is let in.
#[test]
fn a_taken_request_keeps_the_pool_until_it_is_answered() {
    let test = "foreign::silent::a_taken_request_keeps_the_pool_until_it_is_answered";
    contained(test, || {
        let mut broker = broker();
        let Some(mut server) = Server::start(test, &broker) else { return };
        let held = Held::start_as(&broker, Some(TENANT));
        for (signal, name) in [(Signal::KILL, "one"), (Signal::TERM, "two")] {
            let mut channel = connect_as(&broker, TENANT);
            create(&mut channel, request(held.lease(), Kind::File, name), &server.path);
            server.become_("silent");
            let late = ask(&mut channel, request(held.lease(), Kind::Directory, "late"), &server.path).0;
            assert_eq!(reason(late), "FOREIGN_TIMEOUT");
            kill_process(broker.pid(), signal).expect("our own child can be killed");
            eventually(DEADLINE, "nobody is served", || {
                threads(broker.pid()).iter().all(|(_, role)| role != "channel")
            });
            assert_eq!(another_start(&broker), Some(UNAVAILABLE));
            server.become_("answer");
            broker.wait();
            broker.restart();
            server.holds(if name == "one" { &["one", "other"] } else { &["one", "other", "two"] });
        }
        assert!(held.end().success());
        server.holds(&["other"]);
        drop(server);
        nothing_is_left(&broker);
    });
}
