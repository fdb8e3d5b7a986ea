//! What a broker of root can't do without one of its capabilities, which is why it keeps it.

use std::fs::{self, File, Permissions};
use std::os::fd::AsFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rustix::mount::{MountFlags, mount};
use scratch_proto::v1::channel_request::Op;
use scratch_proto::v1::channel_response::Result as Reply;
use scratch_proto::v1::{CreateRequest, GrantRequest, Kind, PersistRequest, RevokeRequest};
use scratch_tests::{
    Broker, Channel, DEADLINE, Dialogue, Filesystem, Held, Options, Place, contained, eventually, is_root, left_out,
    names_in, shell,
};
use serde_json::json;

use crate::foreign::{connect_as, create, debts, directory, request};
use crate::regressions::{granted, reason, trash};

const TENANT: u32 = 1234;
const GROUP: u32 = 4321;

/// What is tried: whether it works, or what is seen instead.
type Try = fn(&mut Broker) -> Result<(), String>;

/// Each capability, what needs it, and what is seen without.
const NEEDED: &[(&str, Try, &str)] = &[
    ("chown", grant_to_a_tenant, "PERMISSION"),
    ("dac_override", grant_to_a_tenant, "PERMISSION"),
    ("dac_read_search", find_a_directory_that_was_moved, "foreign directory"),
    ("fowner", remove_what_is_immutable, "owed: immutable"),
    ("fsetid", copy_a_set_group_id_file, "755"),
    ("linux_immutable", remove_what_is_immutable, "owed: immutable"),
    ("setgid", grant_to_a_tenant, "OTHER_USER"),
    ("setuid", grant_to_a_tenant, "OTHER_USER"),
    ("sys_admin", give_a_handle, "HANDLE_UNCONTAINED"),
    ("sys_ptrace", name_who_is_in_the_way, "in use by null"),
];

fn grant_to_a_tenant(broker: &mut Broker) -> Result<(), String> {
    let mut channel = connect_as(broker, TENANT);
    match channel.ask(Op::Grant(GrantRequest::default())) {
        Reply::Grant(_) => Ok(()),
        other => Err(reason(other)),
    }
}

fn give_a_handle(broker: &mut Broker) -> Result<(), String> {
    let mut channel = Channel::connect(&broker.handle_socket());
    match channel.ask(Op::Grant(GrantRequest { want_handle: true, ..GrantRequest::default() })) {
        Reply::Grant(_) => Ok(()),
        other => Err(reason(other)),
    }
}

/// Until it is gone, or owed.
fn gone_or_owed(broker: &Broker, path: &Path) -> Result<(), String> {
    let end = Instant::now() + DEADLINE;
    loop {
        if let Some(debt) = debts(broker).first() {
            return Err(format!("owed: {}", debt["blocker"].as_str().expect("a blocker is a word")));
        }
        if !path.exists() && names_in(&trash(broker)).is_empty() {
            return Ok(());
        }
        assert!(Instant::now() < end, "neither gone nor owed: {}", path.display());
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// A tenant's file in its lease that only root could have made so.
fn remove_what_is_immutable(broker: &mut Broker) -> Result<(), String> {
    let held = Held::start_as(broker, Some(TENANT));
    let (path, file) = (held.path().to_owned(), held.path().join("file"));
    fs::write(&file, "content").expect("root may");
    chown(&file, Some(TENANT), Some(TENANT)).expect("root may");
    let made = Command::new("chattr").arg("+i").arg(&file).status();
    assert!(made.is_ok_and(|status| status.success()), "an attribute of ext4");
    held.kill();
    let ended = gone_or_owed(broker, &path);
    // What is left is left with the place.
    let _ = Command::new("chattr").args(["-R", "-i"]).arg(trash(broker)).stderr(Stdio::null()).status();
    ended
}

/// By its handle, after a restart.
fn find_a_directory_that_was_moved(broker: &mut Broker) -> Result<(), String> {
    let path = directory(broker);
    let held = Held::start(broker);
    let mut channel = Channel::connect(&broker.handle_socket());
    create(&mut channel, request(held.lease(), Kind::File, "file"), &path);
    let moved = broker.place().join("moved");
    fs::rename(&path, &moved).expect("it is ours");
    broker.kill();
    broker.restart();
    held.kill();
    gone_or_owed(broker, &moved.join("file"))
}

/// By Persist, to another file system, for root, which is in no group there: into a directory that gives the file its group.
fn copy_a_set_group_id_file(broker: &mut Broker) -> Result<(), String> {
    let mut channel = Channel::connect(&broker.handle_socket());
    let lease = granted(&mut channel, GrantRequest::default()).id;
    let (area, name) = (b"file".to_vec(), b"copy".to_vec());
    let request =
        CreateRequest { lease: lease.clone(), kind: Kind::File.into(), name: area.clone(), ..CreateRequest::default() };
    assert!(matches!(channel.ask(Op::Create(request)), Reply::Create(_)));
    let path = broker.pool_root().join(&lease).join("file");
    chown(&path, None, Some(GROUP)).expect("root may");
    fs::set_permissions(&path, Permissions::from_mode(0o2755)).expect("root may");
    let to = Path::new("/dev/shm/group");
    fs::create_dir_all(to).and_then(|()| chown(to, None, Some(GROUP))).expect("root may");
    fs::set_permissions(to, Permissions::from_mode(0o2755)).expect("root may");
    let persist = PersistRequest { lease: lease.clone(), area, name, fd: true, ..PersistRequest::default() };
    let directory = File::open(to).expect("it was made");
    let (reply, _) = channel.try_ask_with(Op::Persist(persist), &[directory.as_fd()]).expect("the broker answers");
    assert!(matches!(&reply, Reply::Persist(persisted) if persisted.copied), "{reply:?}");
    let copy = to.join("copy");
    let mode = fs::metadata(&copy).expect("it is there").mode() & 0o7777;
    fs::remove_file(&copy).expect("it is ours");
    channel.ask(Op::Revoke(RevokeRequest { lease, ..RevokeRequest::default() }));
    if mode == 0o2755 { Ok(()) } else { Err(format!("{mode:o}")) }
}

/// A tenant's process in what can't be removed. The search of environments asks for the same right; newer kernels, 6.18
/// among them, take CAP_SYS_ADMIN for it there, too.
fn name_who_is_in_the_way(broker: &mut Broker) -> Result<(), String> {
    let held = Held::start_as(broker, Some(TENANT));
    let point = held.path().join("mount");
    fs::create_dir(&point).expect("root may");
    mount("test", &point, "tmpfs", MountFlags::empty(), None).expect("a containment has mounts of its own");
    let mut command = shell(Some(TENANT), "cd \"$POINT\" && echo there; read line");
    command.env("POINT", &point);
    let mut inside = Dialogue::start(command);
    assert_eq!(inside.line(), "there");
    held.kill();
    eventually(DEADLINE, "it is owed", || debts(broker).iter().any(|debt| debt["blocker"] == "mount"));
    let (debt, number) = (debts(broker).remove(0), inside.process().as_raw_nonzero().get());
    if debt["pids"] == json!([number]) { Ok(()) } else { Err(format!("in use by {}", debt["pids"])) }
}

fn broker_without(test: &str, capability: Option<&str>) -> Option<Broker> {
    let place = Place::on(test, Filesystem::Ext4)?;
    let under = capability.map(|name| vec!["setpriv".to_owned(), format!("--bounding-set=-{name}")]);
    Some(Broker::start(Options { place: Some(place), under: under.unwrap_or_default(), ..Options::default() }))
}

#[test]
fn each_is_needed() {
    let test = "capabilities::each_is_needed";
    contained(test, || {
        if !is_root() {
            return left_out(test, "needs root");
        }
        for (capability, attempt, seen) in NEEDED {
            let Some(mut with_all) = broker_without(test, None) else { return };
            assert_eq!(attempt(&mut with_all), Ok(()), "with {capability}");
            drop(with_all);
            let Some(mut without) = broker_without(test, Some(capability)) else { return };
            let tried = attempt(&mut without);
            println!("without {capability}: {tried:?}");
            assert!(tried.as_ref().is_err_and(|said| said.contains(seen)), "without {capability}: {tried:?}");
        }
    });
}
