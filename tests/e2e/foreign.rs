//! Areas in directories that clients pass: they go with their lease, whatever becomes of client and broker, and take nothing
//! of others along.

mod silent;

use std::fs::{self, File};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};
use rustix::thread::set_thread_res_uid;
use scratch_fs::ForeignBook;
use scratch_proto::v1::channel_request::Op;
use scratch_proto::v1::channel_response::Result as Reply;
use scratch_proto::v1::{
    CreateRequest, Created, ForeignDirectory, GrantRequest, Kind, ReleaseRequest, ReleaseResponse, RevokeRequest, Wait,
    Where, r#where,
};
use scratch_tests::{
    Broker, Channel, DEADLINE, Filesystem, Held, Options, Place, contained, eventually, is_root, left_out, names_in,
};
use serde_json::{Value, json};

use crate::floods::Frozen;
use crate::regressions::{granted, nothing_is_left, reason};

const TENANT: u32 = 1234;

/// A directory outside of the pool that everybody may write, with something of somebody's in it.
pub(crate) fn directory(broker: &Broker) -> PathBuf {
    let path = broker.place().join("directory");
    fs::create_dir(&path).expect("a place is writable");
    fs::set_permissions(&path, PermissionsExt::from_mode(0o1777)).expect("it is ours");
    fs::write(path.join("other"), "alive").expect("it is ours");
    path
}

fn passed(path: &Path) -> OwnedFd {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::open(path, flags, Mode::empty()).expect("the directory is there")
}

pub(crate) fn request(lease: &str, kind: Kind, name: &str) -> CreateRequest {
    CreateRequest {
        lease: lease.to_owned(),
        kind: kind.into(),
        name: name.into(),
        want_handle: true,
        r#where: Some(Where { kind: Some(r#where::Kind::Foreign(ForeignDirectory { fd: true })) }),
        ..CreateRequest::default()
    }
}

fn ask(channel: &mut Channel, request: CreateRequest, path: &Path) -> (Reply, Vec<OwnedFd>) {
    channel.try_ask_with(Op::Create(request), &[passed(path).as_fd()]).expect("the broker answers")
}

pub(crate) fn create(channel: &mut Channel, request: CreateRequest, path: &Path) -> (Created, File) {
    match ask(channel, request, path) {
        (Reply::Create(created), mut descriptors) => (created.areas[0].clone(), descriptors.remove(0).into()),
        (other, _) => panic!("not made: {other:?}"),
    }
}

fn release(channel: &mut Channel, lease: &str, area: &Created) -> ReleaseResponse {
    let request = ReleaseRequest { lease: lease.to_owned(), area: area.id.clone(), wait: Wait::Freed.into() };
    match channel.ask(Op::Release(request)) {
        Reply::Release(released) => released,
        other => panic!("not released: {other:?}"),
    }
}

fn book(broker: &Broker) -> PathBuf {
    broker.pool_root().join(".scratch/foreign")
}

fn nothing_but_others(broker: &Broker, path: &Path) {
    eventually(DEADLINE, "the areas are gone", || names_in(path) == ["other"]);
    eventually(DEADLINE, "and forgotten", || names_in(&book(broker)).is_empty());
    assert_eq!(fs::read(path.join("other")).expect("it was there"), b"alive");
}

#[test]
fn areas_go_when_they_are_released_or_their_lease_ends() {
    contained("foreign::areas_go_when_they_are_released_or_their_lease_ends", || {
        let broker = Broker::start(Options::default());
        let path = directory(&broker);
        let mut channel = Channel::connect(&broker.handle_socket());
        let lease = granted(&mut channel, GrantRequest::default()).id;
        let (file, _) = create(&mut channel, request(&lease, Kind::File, "file"), &path);
        assert_eq!((&*file.name, &*file.id), (&b"file"[..], &b"#1"[..]));
        let (tree, _) = create(&mut channel, request(&lease, Kind::Directory, "tree"), &path);
        let random = CreateRequest { prefix: Some(b"a-".to_vec()), ..request(&lease, Kind::File, "") };
        let (random, _) = create(&mut channel, random, &path);
        assert!(random.name.starts_with(b"a-") && random.name.len() == 10, "{random:?}");
        let (nameless, _) = create(&mut channel, request(&lease, Kind::Anonymous, ""), &path);
        assert_eq!((&*nameless.name, nameless.id.is_empty()), (&b"#4"[..], true));
        fs::create_dir(path.join("tree/inner")).expect("it is ours");
        fs::write(path.join("tree/inner/file"), "content").expect("it is ours");
        assert_eq!(names_in(&path).len(), 4);

        let shown = broker.json(&["lease", "show", &lease]);
        let areas = shown["areas"].as_array().expect("areas are an array");
        let of = |id: &str| areas.iter().find(|area| area["id"] == id).expect("it is shown");
        assert_eq!((&of("#1")["kind"], &of("#1")["path"]), (&json!("file"), &json!(path.join("file"))));
        assert_eq!((&of("#2")["kind"], &of("#2")["path"]), (&json!("directory"), &json!(path.join("tree"))));

        assert_eq!(reason(ask(&mut channel, request(&lease, Kind::File, "other"), &path).0), "NAME_EXISTS");
        assert_eq!(reason(ask(&mut channel, request(&lease, Kind::File, "file"), &path).0), "NAME_EXISTS");
        let released = release(&mut channel, &lease, &tree);
        assert!(released.existed && released.freed, "{released:?}");
        assert!(!path.join("tree").exists() && path.join("file").exists());
        assert!(!release(&mut channel, &lease, &tree).existed);

        // What was renamed is its client's.
        fs::rename(path.join(String::from_utf8(random.name).expect("it is ASCII")), path.join("mine")).expect("ours");
        channel.ask(Op::Revoke(RevokeRequest { lease, ..RevokeRequest::default() }));
        assert_eq!(names_in(&path), ["mine", "other"], "gone before the reply");
        fs::remove_file(path.join("mine")).expect("it is ours");
        nothing_but_others(&broker, &path);
        nothing_is_left(&broker);
    });
}

#[test]
fn a_request_that_is_sent_again_gives_the_same_area() {
    contained("foreign::a_request_that_is_sent_again_gives_the_same_area", || {
        let broker = Broker::start(Options::default());
        let path = directory(&broker);
        let mut channel = Channel::connect(&broker.handle_socket());
        let lease = granted(&mut channel, GrantRequest::default()).id;
        let again = |kind, name| CreateRequest { resend: true, ..request(&lease, kind, name) };
        for kind in [Kind::File, Kind::Directory] {
            let (first, _) = create(&mut channel, again(kind, "area"), &path);
            let (second, _) = create(&mut channel, again(kind, "area"), &path);
            assert_eq!(first, second);
            assert!(release(&mut channel, &lease, &first).freed);
        }
        assert_eq!(reason(ask(&mut channel, again(Kind::File, "other"), &path).0), "NAME_EXISTS");
        // As the SDKs' first request: the connection's own lease, of which the first reply tells.
        let mut other = Channel::connect(&broker.handle_socket());
        let (Reply::Create(created), _) = ask(&mut other, request("", Kind::File, "own"), &path) else {
            panic!("it was made")
        };
        let own = created.lease.expect("this call granted it");
        assert!(!own.id.is_empty() && !own.path.is_empty(), "{own:?}");
        other.ask(Op::Revoke(RevokeRequest { lease: own.id, ..RevokeRequest::default() }));
        channel.ask(Op::Revoke(RevokeRequest { lease, ..RevokeRequest::default() }));
        nothing_but_others(&broker, &path);
        nothing_is_left(&broker);
    });
}

/// A connection of another user of this very process.
pub(crate) fn connect_as(broker: &Broker, user: u32) -> Channel {
    let socket = broker.handle_socket();
    let connect = move || {
        let id = rustix::process::Uid::from_raw(user);
        set_thread_res_uid(Some(id), Some(id), Some(id)).expect("root may");
        Channel::connect(&socket)
    };
    std::thread::spawn(connect).join().expect("the broker listens")
}

#[test]
fn the_kernel_decides_by_the_tenants_rights() {
    let test = "foreign::the_kernel_decides_by_the_tenants_rights";
    contained(test, || {
        if !is_root() {
            return left_out(test, "needs root");
        }
        let broker = Broker::start(Options::default());
        let path = directory(&broker);
        let (held, other) = (Held::start_as(&broker, Some(TENANT)), Held::start_as(&broker, Some(TENANT + 1)));
        let mut channel = connect_as(&broker, TENANT);
        create(&mut channel, request(held.lease(), Kind::File, "file"), &path);
        assert_eq!(std::os::unix::fs::MetadataExt::uid(&fs::metadata(path.join("file")).expect("made")), TENANT);
        for (name, owner, mode) in [("roots", 0, 0o755), ("closed", TENANT + 1, 0o700), ("read", TENANT, 0o555)] {
            let path = broker.place().join(name);
            fs::create_dir(&path).expect("a place is writable");
            fs::set_permissions(&path, PermissionsExt::from_mode(mode)).expect("it is ours");
            chown(&path, Some(owner), Some(owner)).expect("root may");
            assert_eq!(
                reason(ask(&mut channel, request(held.lease(), Kind::File, "f"), &path).0),
                "PERMISSION",
                "{name}"
            );
            assert!(names_in(&path).is_empty());
        }
        assert_eq!(reason(ask(&mut channel, request(other.lease(), Kind::File, "f"), &path).0), "LEASE_UNKNOWN");
        let memory = request(held.lease(), Kind::Memory, "");
        assert_eq!(reason(ask(&mut channel, memory, &path).0), "KIND_INVALID");
        let many = CreateRequest { count: 2, ..request(held.lease(), Kind::File, "") };
        assert_eq!(reason(ask(&mut channel, many, &path).0), "KIND_INVALID");
        let file = File::open(path.join("other")).expect("it is there");
        let op = Op::Create(request(held.lease(), Kind::File, "f"));
        let (refused, _) = channel.try_ask_with(op, &[file.as_fd()]).expect("the broker answers");
        assert_eq!(reason(refused), "PATH_UNKNOWN", "it is no directory");
        held.kill();
        nothing_but_others(&broker, &path);
        assert!(other.end().success());
        nothing_is_left(&broker);
    });
}

#[test]
fn they_live_and_die_with_their_lease_through_a_crash_of_the_broker() {
    contained("foreign::they_live_and_die_with_their_lease_through_a_crash_of_the_broker", || {
        let mut broker = Broker::start(Options::default());
        let path = directory(&broker);
        let (held, short) = (Held::start(&broker), Held::start(&broker));
        let mut channel = Channel::connect(&broker.handle_socket());
        let (file, _) = create(&mut channel, request(held.lease(), Kind::File, "file"), &path);
        create(&mut channel, request(held.lease(), Kind::Directory, "tree"), &path);
        create(&mut channel, request(short.lease(), Kind::Directory, "short"), &path);
        fs::write(path.join("short/file"), "content").expect("it is ours");
        broker.kill();
        short.kill();
        broker.restart();
        eventually(DEADLINE, "what died meanwhile is gone", || names_in(&path) == ["file", "other", "tree"]);
        let mut channel = Channel::connect(&broker.handle_socket());
        let (next, _) = create(&mut channel, request(held.lease(), Kind::File, "next"), &path);
        assert_eq!(next.id, b"#3", "a number that is in use is not given away");
        assert!(release(&mut channel, held.lease(), &file).freed);
        assert_eq!(names_in(&path), ["next", "other", "tree"]);
        // Moved, and found again by its handle after a restart.
        let moved = broker.place().join("moved");
        fs::rename(&path, &moved).expect("it is ours");
        broker.kill();
        broker.restart();
        held.kill();
        nothing_but_others(&broker, &moved);
        nothing_is_left(&broker);
    });
}

#[test]
fn a_new_boot_ends_them_all_whatever_devices_are_called() {
    let test = "foreign::a_new_boot_ends_them_all_whatever_devices_are_called";
    contained(test, || {
        // What is in memory has no next boot.
        let Some(disk) = Place::on(test, Filesystem::Ext4) else { return };
        let mut broker = Broker::start(Options::default());
        let path = disk.path().join("directory");
        fs::create_dir(&path).expect("a place is writable");
        fs::write(path.join("other"), "alive").expect("it is ours");
        let held = Held::start(&broker);
        let mut channel = Channel::connect(&broker.handle_socket());
        for (kind, name) in [(Kind::File, "file"), (Kind::Directory, "tree"), (Kind::File, "swapped")] {
            create(&mut channel, request(held.lease(), kind, name), &path);
        }
        fs::write(path.join("tree/file"), "content").expect("it is ours");
        fs::remove_file(path.join("swapped")).expect("it is ours");
        fs::write(path.join("swapped"), "alive").expect("it is ours");
        drop(channel);
        broker.kill();

        let other = "00000000-0000-0000-0000-000000000000";
        let own = broker.pool_root().join(".scratch");
        let boot = fs::read_to_string(own.join("boot")).expect("the pool knows the boot");
        let (_, rest) = boot.split_once('\n').expect("the boot's id is a line");
        fs::write(own.join("boot"), format!("{other}\n{rest}")).expect("a place is writable");
        let scratch = File::open(&own).expect("it is there");
        let book = ForeignBook::open(scratch.as_fd(), &own.join("foreign")).expect("it is there");
        for (_, _, entry) in book.entries().expect("they can be read") {
            let mut entry = entry.expect("it is whole");
            entry.boot = other.to_owned();
            for node in [&mut entry.parent, &mut entry.child].into_iter().flatten() {
                node.device += 1;
            }
            book.write(&entry).expect("it can be written");
        }
        broker.restart();
        eventually(DEADLINE, "the areas are gone", || {
            names_in(&path) == ["lost+found", "other", "swapped"] || names_in(&path) == ["other", "swapped"]
        });
        assert_eq!(fs::read(path.join("swapped")).expect("it was there"), b"alive");
        fs::remove_file(path.join("swapped")).expect("it is ours");
        nothing_but_others(&broker, &path);
        held.kill();
        nothing_is_left(&broker);
    });
}

const DEADLINE_OF_A_SECOND: &str =
    "[[pool]]\nname = \"default\"\nroot = \"@PLACE@/pool\"\n[foreign]\ndeadline = \"1s\"\ndirectories = 2\nareas = 3\n";

pub(crate) fn debts(broker: &Broker) -> Vec<Value> {
    broker.json(&["debt"]).as_array().expect("scratch debt prints an array").clone()
}

#[test]
fn a_directory_that_does_not_answer_stalls_nobody_and_keeps_nothing() {
    let test = "foreign::a_directory_that_does_not_answer_stalls_nobody_and_keeps_nothing";
    contained(test, || {
        let Some(disk) = Place::on(test, Filesystem::Ext4) else { return };
        let broker = Broker::start(Options { config: Some(DEADLINE_OF_A_SECOND.into()), ..Options::default() });
        let path = directory(&broker);
        let stuck = disk.path().join("directory");
        fs::create_dir(&stuck).expect("a place is writable");
        fs::write(stuck.join("other"), "alive").expect("it is ours");
        let held = Held::start(&broker);
        let mut channel = Channel::connect(&broker.handle_socket());
        create(&mut channel, request(held.lease(), Kind::File, "before"), &stuck);
        let frozen = Frozen::new(disk.path());
        assert_eq!(reason(ask(&mut channel, request(held.lease(), Kind::File, "late"), &stuck).0), "FOREIGN_TIMEOUT");
        // The same tenant goes on elsewhere.
        let (area, _) = create(&mut channel, request(held.lease(), Kind::File, "file"), &path);
        assert!(release(&mut channel, held.lease(), &area).freed);
        // The end of a lease does not wait for it, and what is left is told.
        held.kill();
        eventually(DEADLINE, "what does not answer is owed", || {
            let debts = debts(&broker);
            debts
                .iter()
                .any(|debt| debt["blocker"] == "foreign directory" && debt["path"] == json!(stuck.join("before")))
        });
        assert_eq!(names_in(broker.pool_root()), [".scratch"]);
        drop(frozen);
        nothing_but_others(&broker, &path);
        nothing_but_others(&broker, &stuck);
        nothing_is_left(&broker);
    });
}

#[test]
fn a_tenant_has_so_many_and_no_more() {
    contained("foreign::a_tenant_has_so_many_and_no_more", || {
        let broker = Broker::start(Options { config: Some(DEADLINE_OF_A_SECOND.into()), ..Options::default() });
        let path = directory(&broker);
        let others = ["one", "two"].map(|name| broker.place().join(name));
        others.iter().for_each(|other| fs::create_dir(other).expect("a place is writable"));
        let mut channel = Channel::connect(&broker.handle_socket());
        let lease = granted(&mut channel, GrantRequest::default()).id;
        let (first, _) = create(&mut channel, request(&lease, Kind::File, "file"), &path);
        create(&mut channel, request(&lease, Kind::File, "file"), &others[0]);
        let third = ask(&mut channel, request(&lease, Kind::File, "file"), &others[1]).0;
        assert_eq!(reason(third), "LIMIT_FOREIGN", "a third directory");
        create(&mut channel, request(&lease, Kind::File, "more"), &path);
        assert_eq!(reason(ask(&mut channel, request(&lease, Kind::File, "most"), &path).0), "LIMIT_FOREIGN");
        assert!(release(&mut channel, &lease, &first).freed);
        create(&mut channel, request(&lease, Kind::File, "most"), &path);
        channel.ask(Op::Revoke(RevokeRequest { lease, ..RevokeRequest::default() }));
        nothing_but_others(&broker, &path);
        assert!(others.iter().all(|other| names_in(other).is_empty()));
        nothing_is_left(&broker);
    });
}
