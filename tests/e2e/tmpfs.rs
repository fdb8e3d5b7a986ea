//! Leases in memory: what their tenants find, what they may take, and what becomes of them.

use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::process::{Command, Stdio};

use rustix::fs::{Mode, OFlags, openat};
use rustix::io::Errno;
use scratch_proto::v1::channel_request::Op;
use scratch_proto::v1::channel_response::Result as Reply;
use scratch_proto::v1::leases_client::LeasesClient;
use scratch_proto::v1::{
    CreateRequest, GrantRequest, GrantResponse, Kind, Limits, ReleaseRequest, RevokeRequest, UpdateLeaseRequest, Wait,
};
use scratch_tests::{
    Broker, Channel, DEADLINE, Dialogue, Options, contained, eventually, is_root, left_out, names_in, shell, wait_gone,
    with_grpc,
};

use crate::regressions::nothing_is_left;

const TENANT: u32 = 1234;
const POOL: &str = "[[pool]]\nname = \"default\"\nroot = \"@PLACE@/pool\"\nbackend = \"tmpfs\"\nsize = \"4MiB\"\n\
                    lease_bytes = \"1MiB\"\nlease_inodes = 10\n";

/// Fills its directory, and says how much went in, bytes first.
const FILL: &str = r#"cd "$TMPDIR" || exit 1
dd if=/dev/zero of=big bs=1000 2>/dev/null; stat -c %s big
count=1; while true >"file$count"; do count=$((count + 1)); done 2>/dev/null; echo $count"#;

/// Writes, says where it is, and answers each line with what it finds.
const STAY: &str = r#"cd "$TMPDIR" && echo content >file && printf '%s\n' "$SCRATCHD_LEASE" "$TMPDIR"
while read -r line; do (echo more >"$line") 2>/dev/null && echo "made $line" || echo "refused"; done
cat file"#;

fn start(test: &str, service: bool) -> Option<Broker> {
    if !is_root() {
        left_out(test, "leases in memory are root's broker's");
        return None;
    }
    Some(Broker::start(Options { config: Some(POOL.to_owned()), service, ..Options::default() }))
}

/// Whether the machine lets a user attach one; if not, that part is left out.
fn users(test: &str) -> Vec<Option<u32>> {
    let probe = shell(Some(TENANT), "unshare --user --mount true").stderr(Stdio::null()).status();
    if probe.is_ok_and(|status| status.success()) {
        return vec![None, Some(TENANT)];
    }
    left_out(test, "needs user namespaces for every user");
    vec![None]
}

fn run(broker: &Broker, user: Option<u32>, options: &[&str], script: &str) -> Command {
    let arguments = [&["run"], options, &["--", "sh", "-c", script]].concat();
    user.map_or_else(|| broker.scratch(&arguments), |user| broker.scratch_as(user, &arguments))
}

fn staying(broker: &Broker, user: Option<u32>) -> (Dialogue, String, PathBuf) {
    let mut run = Dialogue::start(run(broker, user, &[], STAY));
    let (lease, path) = (run.line(), PathBuf::from(run.line()));
    assert_eq!(path, broker.pool_root().join(&lease), "the command's path is that of the pool");
    (run, lease, path)
}

fn answer(run: &mut Dialogue, line: &str) -> String {
    run.say(line);
    run.line()
}

fn grant(broker: &Broker, request: GrantRequest) -> (Channel, Result<(GrantResponse, Option<OwnedFd>), String>) {
    let mut channel = Channel::connect(&broker.handle_socket());
    let (reply, mut handles) = channel.try_ask_with(Op::Grant(request), &[]).expect("the broker answers");
    let granted = match reply {
        Reply::Grant(granted) => Ok((granted, handles.pop())),
        Reply::Error(error) => Err(error.reason),
        other => panic!("{other:?}"),
    };
    (channel, granted)
}

fn write(directory: &OwnedFd, name: &str) -> Result<OwnedFd, Errno> {
    openat(directory, name, OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC, Mode::RUSR | Mode::WUSR)
}

#[test]
fn limits_are_met_to_the_byte_and_the_inode() {
    let test = "tmpfs::limits_are_met_to_the_byte_and_the_inode";
    contained(test, || {
        let Some(broker) = start(test, false) else { return };
        for user in users(test) {
            for options in [&[][..], &["--private-tmp"]] {
                let output = run(&broker, user, options, FILL).stderr(Stdio::inherit()).output();
                let output = output.expect("the program can be run");
                assert_eq!(String::from_utf8_lossy(&output.stdout), "1048576\n10\n", "{user:?} {options:?}");
                assert!(output.status.success());
            }
        }
        nothing_is_left(&broker);
    });
}

#[test]
fn a_lease_below_is_carved_out_of_the_one_above() {
    let test = "tmpfs::a_lease_below_is_carved_out_of_the_one_above";
    contained(test, || {
        let Some(broker) = start(test, false) else { return };
        let (_channel, granted) = grant(&broker, GrantRequest { want_mount: true, ..GrantRequest::default() });
        let (parent, mount) = granted.expect("there is room");
        let mount = mount.expect("it has no path");
        let bytes = || rustix::fs::fstatvfs(&mount).map(|figures| figures.f_blocks * figures.f_frsize);
        let limits = |bytes| Some(Limits { bytes, inodes: 4 });
        let below =
            |bytes| GrantRequest { parent: parent.id.clone(), limits: limits(bytes), ..GrantRequest::default() };
        let (_channel, child) = grant(&broker, below(256 << 10));
        assert_eq!(bytes(), Ok(768 << 10));
        assert_eq!(grant(&broker, below(800 << 10)).1.expect_err("more than is left"), "LIMIT_BYTES");
        let full = write(&mount, "full").expect("it is the client's");
        assert_eq!(rustix::io::write(&full, &vec![0; 700 << 10]), Ok(700 << 10));
        assert_eq!(grant(&broker, below(200 << 10)).1.expect_err("it is in use"), "NO_SPACE");
        assert_eq!(bytes(), Ok(768 << 10));
        let child = child.expect("there was room").0.id;
        let revoked = broker.scratch(&["lease", "revoke", &child]).status().expect("the program can be run");
        assert!(revoked.success());
        assert_eq!(bytes(), Ok(1 << 20), "it is not given back");
    });
}

#[test]
fn only_the_command_finds_what_is_in_it() {
    let test = "tmpfs::only_the_command_finds_what_is_in_it";
    contained(test, || {
        let Some(broker) = start(test, false) else { return };
        for user in users(test) {
            let (mut run, lease, path) = staying(&broker, user);
            assert!(names_in(&path).is_empty(), "{user:?}: it is everybody's");
            let mine = user.map(|user| shell(Some(user), &format!("touch '{}/x'", path.display())));
            let taken = mine.is_some_and(|mut touch| touch.stderr(Stdio::null()).status().is_ok_and(|it| it.success()));
            assert!(!taken, "{user:?}: the tenant may write beside its limit");
            let shown = broker.json(&["lease", "show", &lease]);
            assert_eq!(shown["areas"][0]["id"], "file", "{user:?}: {shown}");
            assert_eq!(answer(&mut run, "again"), "made again");
            assert!(run.end().success());
            assert!(!path.exists(), "{user:?}: still there when the wrapper had returned");
        }
        nothing_is_left(&broker);
    });
}

#[test]
fn a_lease_that_ends_takes_its_content_from_a_command_that_lives() {
    let test = "tmpfs::a_lease_that_ends_takes_its_content_from_a_command_that_lives";
    contained(test, || {
        let Some(broker) = start(test, false) else { return };
        let (mut run, lease, path) = staying(&broker, None);
        let mut channel = Channel::connect(&broker.handle_socket());
        let revoke = RevokeRequest { lease, wait: Wait::Freed.into() };
        assert!(matches!(channel.ask(Op::Revoke(revoke)), Reply::Revoke(revoked) if revoked.freed));
        assert!(!path.exists());
        assert_eq!(answer(&mut run, "after"), "refused");
        assert_eq!(run.end().code(), Some(1), "its file is there still");
        nothing_is_left(&broker);
    });
}

#[test]
fn what_the_pool_may_take_is_given_back() {
    let test = "tmpfs::what_the_pool_may_take_is_given_back";
    contained(test, || {
        let Some(broker) = start(test, false) else { return };
        let of = |bytes| GrantRequest { limits: Some(Limits { bytes, inodes: 10 }), ..GrantRequest::default() };
        let (_, granted) = grant(&broker, of(5 << 20));
        assert_eq!(granted.expect_err("over the pool's memory"), "NO_SPACE");
        for _ in 0..3 {
            // Each has to wait for the memory of the one before.
            let mut channel = None;
            eventually(DEADLINE, "there is room again", || {
                let (connection, granted) = grant(&broker, of(3 << 20));
                channel = granted.is_ok().then_some((connection, granted));
                channel.is_some()
            });
            let (mut channel, granted) = channel.expect("there was room");
            let (granted, _) = granted.expect("it was granted");
            let (_, second) = grant(&broker, of(2 << 20));
            assert_eq!(second.expect_err("both would be over the pool's memory"), "NO_SPACE");
            let revoke = RevokeRequest { lease: granted.id, wait: Wait::Unspecified.into() };
            assert!(matches!(channel.ask(Op::Revoke(revoke)), Reply::Revoke(_)));
        }
        nothing_is_left(&broker);
    });
}

#[test]
fn the_broker_works_in_it_for_others() {
    let test = "tmpfs::the_broker_works_in_it_for_others";
    contained(test, || {
        let Some(broker) = start(test, false) else { return };
        let wanted = GrantRequest { want_mount: true, nonce: vec![7; 16], ..GrantRequest::default() };
        let (mut channel, granted) = grant(&broker, wanted.clone());
        let (granted, mount) = granted.expect("there is room");
        let mount = mount.expect("it has no path");
        assert!(granted.path.is_empty() && granted.mount_at.ends_with(granted.id.as_bytes()), "{granted:?}");
        assert_eq!(granted.firmness, scratch_proto::v1::Firmness::Hard as i32);
        let create = |kind: Kind, name: &[u8], place| {
            let (kind, name) = (kind.into(), name.to_vec());
            Op::Create(CreateRequest {
                lease: granted.id.clone(),
                kind,
                name,
                r#where: place,
                ..CreateRequest::default()
            })
        };
        for (kind, name) in [(Kind::File, b"one"), (Kind::Directory, b"dir")] {
            let reply = channel.ask(create(kind, name, None));
            assert!(matches!(reply, Reply::Create(_)), "{reply:?}");
        }
        write(&mount, "dir/inside").expect("it is the client's");
        // A second mount of the same, and the broker's rename between them.
        let (_, again) = grant(&broker, wanted);
        let again = again.expect("the same lease").1.expect("a mount each time");
        write(&again, "two").expect("it is the client's");
        assert_eq!(write(&mount, "two").expect_err("both are one"), Errno::EXIST);
        let release = ReleaseRequest { lease: granted.id.clone(), area: b"dir".to_vec(), wait: Wait::Freed.into() };
        let reply = channel.ask(Op::Release(release));
        assert!(matches!(&reply, Reply::Release(released) if released.existed && released.freed), "{reply:?}");
        assert_eq!(write(&again, "dir/inside").expect_err("it was released"), Errno::NOENT);
        drop(channel);
        let revoked = broker.scratch(&["lease", "revoke", &granted.id]).status().expect("the program can be run");
        assert!(revoked.success());
        nothing_is_left(&broker);
        eventually(DEADLINE, "nothing is in it any more", || write(&mount, "late").is_err());
        assert!(rustix::fs::fstatvfs(mount.as_fd()).is_ok_and(|left| left.f_bfree == left.f_blocks));
    });
}

#[test]
fn an_orderly_restart_takes_it_along() {
    let test = "tmpfs::an_orderly_restart_takes_it_along";
    contained(test, || {
        let Some(mut broker) = start(test, true) else { return };
        let (mut run, lease, path) = staying(&broker, None);
        assert!(broker.terminate().success());
        assert_eq!(answer(&mut run, "meanwhile"), "made meanwhile");
        broker.restart();
        let shown = broker.json(&["lease", "show", &lease]);
        assert_eq!((&shown["state"], shown["areas"].as_array().map(Vec::len)), (&"live".into(), Some(2)), "{shown}");
        assert_eq!(answer(&mut run, "after"), "made after");
        let (_, second) = grant(
            &broker,
            GrantRequest { limits: Some(Limits { bytes: 3 << 20, inodes: 900 }), ..GrantRequest::default() },
        );
        assert_eq!(second.expect_err("what it takes was forgotten"), "NO_SPACE");
        assert!(run.end().success());
        wait_gone(&path, DEADLINE);
        nothing_is_left(&broker);
    });
}

#[test]
fn a_place_that_was_taken_away_ends_nothing() {
    let test = "tmpfs::a_place_that_was_taken_away_ends_nothing";
    contained(test, || {
        let Some(mut broker) = start(test, true) else { return };
        let (mut run, lease, path) = staying(&broker, None);
        assert!(broker.terminate().success());
        std::fs::remove_dir(&path).expect("it is empty to all but the command");
        broker.restart();
        assert_eq!(broker.json(&["debt"])[0]["lease"], lease.as_str(), "it is unknown, and told");
        assert_eq!(answer(&mut run, "after"), "made after");
    });
}

#[test]
fn a_restart_that_ends_it_frees_it() {
    let test = "tmpfs::a_restart_that_ends_it_frees_it";
    contained(test, || {
        if !is_root() {
            return left_out(test, "leases in memory are root's broker's");
        }
        let config = Some(format!("{POOL}[restart]\ngrace = \"0s\"\n"));
        let mut broker = Broker::start(Options { config, service: true, ..Options::default() });
        let (mut run, _, path) = staying(&broker, None);
        assert!(broker.terminate().success());
        broker.restart();
        assert!(!path.exists());
        nothing_is_left(&broker);
        assert_eq!(answer(&mut run, "after"), "refused");
        assert_eq!(run.end().code(), Some(1), "its file is there still");
    });
}

#[test]
fn a_killed_broker_takes_nothing_from_the_command() {
    let test = "tmpfs::a_killed_broker_takes_nothing_from_the_command";
    contained(test, || {
        let Some(mut broker) = start(test, false) else { return };
        let (mut run, lease, path) = staying(&broker, None);
        broker.kill();
        broker.restart();
        assert_eq!(broker.json(&["lease", "show", &lease])["state"], "live");
        assert_eq!(answer(&mut run, "after"), "made after");
        let mut channel = Channel::connect(&broker.handle_socket());
        let create = CreateRequest { lease, kind: Kind::File.into(), ..CreateRequest::default() };
        match channel.ask(Op::Create(create)) {
            Reply::Error(error) => assert_eq!(error.reason, "MEMORY_LOST"),
            other => panic!("made where nobody can see it: {other:?}"),
        }
        assert!(run.end().success(), "its file was taken away");
        wait_gone(&path, DEADLINE);
        nothing_is_left(&broker);
    });
}

#[test]
fn who_can_not_make_one_does_not_start() {
    let test = "tmpfs::who_can_not_make_one_does_not_start";
    contained(test, || {
        let user = is_root().then_some(TENANT);
        let config = Some(POOL.to_owned());
        let refusal =
            Broker::try_start(Options { config, user, ..Options::default() }).expect_err("it has no right to");
        assert!(refusal.stderr.contains("tmpfs"), "{}", refusal.stderr);
    });
}

#[test]
fn a_lease_grows_as_far_as_the_pool_goes() {
    let test = "tmpfs::a_lease_grows_as_far_as_the_pool_goes";
    contained(test, || {
        let Some(broker) = start(test, false) else { return };
        let (_channel, granted) = grant(&broker, GrantRequest::default());
        let (lease, _) = granted.expect("there is room");
        let resize = |bytes, inodes| {
            let limits = Some(Limits { bytes, inodes });
            let request = UpdateLeaseRequest { lease: lease.id.clone(), limits, ..UpdateLeaseRequest::default() };
            with_grpc(&broker, async |grpc| LeasesClient::new(grpc).update(request).await).is_ok()
        };
        assert!(resize(3 << 20, 10) && resize(2 << 20, 20), "more, and less");
        for (bytes, inodes) in [(5 << 20, 20), (2 << 20, 1 << 50), (1 << 60, 20)] {
            assert!(!resize(bytes, inodes), "more than the pool may take: {bytes} bytes, {inodes} inodes");
        }
        let (_other, granted) = grant(&broker, GrantRequest::default());
        assert!(granted.is_ok(), "what was refused is charged to nobody");
        assert!(resize(1 << 20, 10));
    });
}
