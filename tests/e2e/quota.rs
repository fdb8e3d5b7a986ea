//! Limits of bytes and inodes that the file system holds a tenant to: subvolumes of btrfs here, project quotas in a machine
//! of their own.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

use scratch_proto::v1;
use scratch_proto::v1::channel_request::Op;
use scratch_proto::v1::channel_response::Result as Reply;
use scratch_proto::v1::leases_client::LeasesClient;
use scratch_tests::{
    Broker, Channel, DEADLINE, Filesystem, Held, Options, Place, contained, eventually, installed, left_out, names_in,
    shell, snapshot, source_tree, wait_gone, with_grpc,
};

use crate::trees::canary;

const TENANT: u32 = 1234;
const MIB: u64 = 1 << 20;
/// What btrfs may be off by.
const SLACK: u64 = 2 * MIB;
/// For a file system that is busy with its transactions.
const FREED: Duration = Duration::from_secs(60);
/// Fills a file until it can't, and says how long that has become.
const FILL: &str = "dd if=/dev/zero of=big bs=64k 2>/dev/null; sync -f . 2>/dev/null; stat -c %s big";

const POOL: &str = "[[pool]]\nname = \"default\"\nroot = \"@PLACE@/pool\"\nbackend = \"btrfs\"\n";

fn succeed(command: &mut Command) {
    let output = command.output().expect("the program is there");
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}

/// A broker of subvolumes with quotas; none where this machine can't have one.
fn broker(test: &str) -> Option<Broker> {
    if !installed(test, "btrfs") {
        return None;
    }
    let place = Place::on(test, Filesystem::Btrfs)?;
    succeed(Command::new("btrfs").args(["quota", "enable"]).arg(place.path()));
    // They count all that is there first.
    succeed(Command::new("btrfs").args(["quota", "rescan", "-w"]).arg(place.path()));
    Some(Broker::start(Options { config: Some(POOL.to_owned()), place: Some(place), ..Options::default() }))
}

fn run(broker: &Broker, options: &[&str], script: &str) -> Output {
    let mut command = broker.scratch_as(TENANT, &["run"]);
    let script = format!("cd \"$TMPDIR\" && {script}");
    command.args(options).args(["--", "sh", "-c", &script]).output().expect("the program can be run")
}

fn number(output: &Output) -> u64 {
    let said = String::from_utf8_lossy(&output.stdout);
    said.trim().parse().unwrap_or_else(|_| panic!("{said:?}: {}", String::from_utf8_lossy(&output.stderr)))
}

fn within(bytes: u64, limit: u64) {
    assert!(bytes <= limit && bytes + SLACK >= limit, "{bytes} of {limit}");
}

fn subvolumes(place: &Path) -> usize {
    let output = Command::new("btrfs").args(["subvolume", "list", "-o"]).arg(place).output();
    output.expect("btrfs is there").stdout.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()).count()
}

fn all_gone(broker: &Broker) {
    eventually(FREED, "the trash is empty", || names_in(&broker.pool_root().join(".scratch/trash")).is_empty());
    assert_eq!(broker.json(&["debt"]).as_array().map(Vec::len), Some(0));
    eventually(FREED, "no subvolume is left", || subvolumes(broker.pool_root()) == 0);
}

fn granted(channel: &mut Channel, request: v1::GrantRequest) -> v1::GrantResponse {
    match channel.ask(Op::Grant(request)) {
        Reply::Grant(granted) => granted,
        reply => panic!("not granted: {reply:?}"),
    }
}

fn limited(bytes: u64) -> v1::GrantRequest {
    v1::GrantRequest { limits: Some(v1::Limits { bytes, inodes: 0 }), ..v1::GrantRequest::default() }
}

fn reason(reply: Reply) -> String {
    match reply {
        Reply::Error(error) => error.reason,
        reply => panic!("not refused: {reply:?}"),
    }
}

#[test]
fn a_tenant_of_a_subvolume_writes_so_much_and_no_more() {
    let test = "quota::a_tenant_of_a_subvolume_writes_so_much_and_no_more";
    contained(test, || {
        let Some(broker) = broker(test) else { return };
        assert_eq!(broker.json(&["status"])["pools"][0]["firmness"], "cooperative");
        within(number(&run(&broker, &["--size", "16MiB"], FILL)), 16 * MIB);
        // What it had is free again, and the next one has as much.
        all_gone(&broker);
        within(number(&run(&broker, &["--size", "16MiB"], FILL)), 16 * MIB);
        all_gone(&broker);
        let refused = run(&broker, &["--inodes", "10"], "true");
        assert_eq!(refused.status.code(), Some(125), "{refused:?}");
        assert!(run(&broker, &["--inodes", "10", "--soft"], "true").status.success());
    });
}

#[test]
fn a_full_subvolume_is_emptied_with_all_that_its_tenant_nested_in_it() {
    let test = "quota::a_full_subvolume_is_emptied_with_all_that_its_tenant_nested_in_it";
    contained(test, || {
        let Some(broker) = broker(test) else { return };
        let precious = broker.place().join("canary");
        canary(&precious);
        let before = snapshot(&precious);
        let held = Held::with(broker.scratch_as(TENANT, &[]), &["--size", "16MiB"]);
        let script = "mkdir -p a/b && btrfs -q subvolume create a/b/nested && btrfs -q subvolume create a/b/nested/deep
            for i in $(seq 300); do echo x >a/b/nested/deep/$i; done
            btrfs property set a/b/nested/deep ro true
            mkdir -m 000 a/closed; ln -s \"$0\" a/link; ln -s \"$0\" a/b/nested/link
            for i in $(seq 2000); do head -c 9000 /dev/urandom >a/b/$i || break; done 2>/dev/null
            dd if=/dev/zero of=big bs=64k 2>/dev/null; sync -f .";
        let mut fill = shell(Some(TENANT), script);
        fill.arg(&precious).current_dir(held.path());
        let _ = fill.status().expect("a shell is there");
        assert!(
            names_in(&held.path().join("a/b/nested/deep")).len() == 300
                && names_in(&held.path().join("a/b")).len() > 1000
        );
        let path = held.path().to_owned();
        held.end();
        wait_gone(&path, DEADLINE);
        all_gone(&broker);
        assert_eq!(snapshot(&precious), before, "the canary was touched");
    });
}

#[test]
fn limits_of_subvolumes_change_and_are_shared_out() {
    let test = "quota::limits_of_subvolumes_change_and_are_shared_out";
    contained(test, || {
        let Some(broker) = broker(test) else { return };
        let mut channel = Channel::connect(&broker.handle_socket());
        let outer = granted(&mut channel, limited(64 * MIB));
        assert_eq!(outer.firmness(), v1::Firmness::Cooperative);
        let inner = granted(&mut channel, v1::GrantRequest { parent: outer.id.clone(), ..limited(48 * MIB) });
        let fill = |lease: &str| {
            let output = shell(None, FILL).current_dir(broker.pool_root().join(lease)).output().expect("a shell");
            let size = number(&output);
            fs::remove_file(broker.pool_root().join(lease).join("big")).expect("what is full can be emptied");
            size
        };
        within(fill(&outer.id), 16 * MIB);
        let more = v1::GrantRequest { parent: outer.id.clone(), ..limited(17 * MIB) };
        assert_eq!(reason(channel.ask(Op::Grant(more))), "LIMIT_BYTES");
        let resize = |lease: &str, bytes| {
            let limits = Some(v1::Limits { bytes, inodes: 0 });
            let request = v1::UpdateLeaseRequest { lease: lease.to_owned(), limits, ..Default::default() };
            with_grpc(&broker, async |grpc| LeasesClient::new(grpc).update(request).await)
        };
        let resized = resize(&inner.id, 8 * MIB).expect("less is always there").into_inner();
        assert_eq!(resized.limits.map(|limits| limits.bytes), Some(8 * MIB));
        within(fill(&inner.id), 8 * MIB);
        within(fill(&outer.id), 56 * MIB);
        assert!(resize(&outer.id, 4 * MIB).is_err(), "less than its child has");
        assert!(resize(&inner.id, 65 * MIB).is_err(), "more than there is");
        let no_limit = granted(&mut channel, v1::GrantRequest::default());
        assert!(resize(&no_limit.id, MIB).is_err(), "a limit that it does not have");
    });
}

#[test]
fn a_directory_in_a_subvolume_is_released_where_it_is() {
    let test = "quota::a_directory_in_a_subvolume_is_released_where_it_is";
    contained(test, || {
        let Some(broker) = broker(test) else { return };
        let mut channel = Channel::connect(&broker.handle_socket());
        let lease = granted(&mut channel, v1::GrantRequest::default()).id;
        let path = broker.pool_root().join(&lease);
        fs::create_dir_all(path.join("area/deep")).expect("an area is writable");
        fs::write(path.join("area/deep/file"), "content").expect("an area is writable");
        let request = v1::ReleaseRequest { lease, area: b"area".to_vec(), wait: v1::Wait::Freed.into() };
        let Reply::Release(released) = channel.ask(Op::Release(request)) else { panic!("not released") };
        assert!(released.freed && names_in(&path).is_empty(), "{released:?} {:?}", names_in(&path));
    });
}

fn metered(consequence: &str) -> Broker {
    let pool = "[[pool]]\nname = \"default\"\nroot = \"@PLACE@/pool\"\n";
    let config = format!("{pool}[meter]\ninterval = \"200ms\"\nconsequence = \"{consequence}\"\n");
    Broker::start(Options { config: Some(config), ..Options::default() })
}

#[test]
fn the_meter_refuses_until_there_is_no_more_than_there_may_be() {
    contained("quota::the_meter_refuses_until_there_is_no_more_than_there_may_be", || {
        let broker = metered("refuse");
        let mut channel = Channel::connect(&broker.handle_socket());
        let lease = granted(&mut channel, v1::GrantRequest { soft: true, ..limited(MIB) }).id;
        let big = broker.pool_root().join(&lease).join("big");
        let mut create = || {
            let kind = v1::Kind::Memory.into();
            let request = v1::CreateRequest { lease: lease.clone(), kind, ..v1::CreateRequest::default() };
            channel.ask(Op::Create(request))
        };
        assert!(matches!(create(), Reply::Create(_)));
        fs::write(&big, vec![1; 2 << 20]).expect("an area is writable");
        eventually(
            DEADLINE,
            "the meter refuses",
            || matches!(create(), Reply::Error(error) if error.reason == "LIMIT_BYTES"),
        );
        fs::remove_file(&big).expect("it is there");
        eventually(DEADLINE, "it does not any more", || matches!(create(), Reply::Create(_)));
        let shown = broker.json(&["lease", "show", &lease]);
        let told = |code: &str| {
            shown["events"].as_array().is_some_and(|all| all.iter().any(|one| one["event"]["code"] == code))
        };
        assert!(told("OVER_LIMIT") && told("WITHIN_LIMITS") && shown["limits"]["firmness"] == "soft", "{shown}");
    });
}

#[test]
fn the_meter_ends_what_has_too_much_and_nothing_else() {
    contained("quota::the_meter_ends_what_has_too_much_and_nothing_else", || {
        let broker = metered("end");
        let start = || Held::with(broker.scratch(&[]), &["--size", "1MiB", "--soft"]);
        let (mut good, bad) = (start(), start());
        let (path, lease) = (bad.path().to_owned(), bad.lease().to_owned());
        fs::write(path.join("big"), vec![1; 2 << 20]).expect("an area is writable");
        wait_gone(&path, DEADLINE);
        assert_eq!(broker.json(&["lease", "show", &lease])["reason"]["code"], "METER");
        good.write_line("still there");
    });
}

/// Not contained here, for it is in a machine of its own.
#[test]
fn projects_of_ext4_and_xfs() {
    let Some(machine) = std::env::var_os("SCRATCH_TEST_VM") else {
        return left_out("quota::projects_of_ext4_and_xfs", "SCRATCH_TEST_VM names no program that runs a machine");
    };
    let mut command = Command::new(machine);
    command.args(["run", "--timeout", "500", "--disk", "e:1G:ext4:quota,project", "--disk", "x:1G:xfs:project"]);
    command.args(["--disk", "n:1G:xfs"]);
    let copies: [(PathBuf, &str); 3] = [
        (scratch_tests::scratchd(), "/usr/bin/scratchd"),
        (scratch_tests::scratch(), "/usr/bin/scratch"),
        (source_tree().join("tests/vm"), "/opt/scratchd"),
    ];
    for (from, to) in copies {
        command.arg("--copy").arg(format!("{}:{to}", from.display()));
    }
    let status = command.args(["--", "sh", "/opt/scratchd/quota.sh"]).status().expect("the program can be run");
    assert!(status.success(), "{status}");
}
