//! Handles of directories: a client that was locked in stays in, and where the broker can't see to that it says so.

use std::fs::File;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Stdio};

use scratch_proto::v1::channel_request::Op;
use scratch_proto::v1::channel_response::Result as Reply;
use scratch_proto::v1::{CreateRequest, GrantRequest, Kind};
use scratch_tests::{Broker, Channel, Options, contained, is_root, left_out, python};

/// Locks itself into an empty directory and then climbs from a directory that it has open.
const CLIMB: &str = r#"
import os, sys
def same(one, other): return (one.st_dev, one.st_ino) == (other.st_dev, other.st_ino)
os.chroot(sys.argv[1])
own = os.fstat(3)
os.fchdir(3)
for _ in range(16): os.chdir("..")
walked = same(os.stat("."), own)
opened = same(os.fstat(os.open("../" * 16, os.O_RDONLY | os.O_DIRECTORY, dir_fd=3)), own)
print("stays" if walked and opened else "leaves")
"#;

/// Whether who has nothing but this directory gets out of it.
fn leaves(test: &str, broker: &Broker, handle: OwnedFd) -> Option<bool> {
    let cell = broker.place().join("cell");
    std::fs::create_dir_all(&cell).expect("a place is writable");
    let mut climb = Command::new("sh");
    // Python wants no directory as its standard input.
    climb.args(["-c", "exec \"$@\" 3<&0 0</dev/null", "sh"]).arg(python(test)?);
    climb.args(["-c", CLIMB]).arg(&cell).stdin(Stdio::from(handle)).stderr(Stdio::inherit());
    let said = climb.output().expect("python was there a moment ago").stdout;
    match said.as_slice() {
        b"leaves\n" => Some(true),
        b"stays\n" => Some(false),
        said => panic!("{}", String::from_utf8_lossy(said)),
    }
}

/// A handle of a new lease's directory, and of a directory below it; or why not.
fn handles(broker: &Broker) -> [Result<OwnedFd, String>; 2] {
    let mut channel = Channel::connect(&broker.handle_socket());
    let grant = Op::Grant(GrantRequest { want_handle: true, ..GrantRequest::default() });
    let create = CreateRequest { kind: Kind::Directory.into(), want_handle: true, ..CreateRequest::default() };
    [grant, Op::Create(create)].map(|op| {
        let (reply, mut handles) = channel.try_ask_with(op, &[]).expect("the broker answers");
        match reply {
            Reply::Error(error) => Err(error.reason),
            _ => Ok(handles.pop().expect("a handle was asked for")),
        }
    })
}

/// A broker of root without CAP_SYS_ADMIN.
fn without_rights(config: &str) -> Broker {
    let config = Some(format!("[[pool]]\nname = \"default\"\nroot = \"@PLACE@/pool\"\n{config}"));
    let under = ["setpriv", "--bounding-set=-sys_admin", "--inh-caps=-sys_admin"].map(str::to_owned).to_vec();
    Broker::start(Options { config, under, ..Options::default() })
}

#[test]
fn who_is_locked_in_stays_in() {
    let test = "handles::who_is_locked_in_stays_in";
    contained(test, || {
        if !is_root() {
            return left_out(test, "a broker that can contain is root's");
        }
        let broker = Broker::start(Options::default());
        for handle in handles(&broker) {
            let Some(leaves) = leaves(test, &broker, handle.expect("root's broker gives one")) else { return };
            assert!(!leaves, "a chrooted client got out");
        }
        let plain = File::open(broker.pool_root()).expect("it is ours");
        assert_eq!(leaves(test, &broker, plain.into()), Some(true), "the test can't tell");
    });
}

#[test]
fn where_it_can_not_be_contained_none_is_given() {
    let test = "handles::where_it_can_not_be_contained_none_is_given";
    contained(test, || {
        if !is_root() {
            return left_out(test, "taking a capability away needs root");
        }
        let broker = without_rights("");
        for handle in handles(&broker) {
            assert_eq!(handle.expect_err("given"), "HANDLE_UNCONTAINED");
        }
        let broker = without_rights("[handles]\nuncontained = \"plain\"\n");
        for handle in handles(&broker) {
            let Some(leaves) = leaves(test, &broker, handle.expect("it was configured")) else { return };
            assert!(leaves, "it was contained after all");
        }
    });
}

#[test]
fn nothing_is_executed_through_one_without_leave() {
    let test = "handles::nothing_is_executed_through_one_without_leave";
    contained(test, || {
        if !is_root() {
            return left_out(test, "a broker that can contain is root's");
        }
        for (noexec, runs) in [("false", true), ("true", false)] {
            let config =
                format!("[[pool]]\nname = \"default\"\nroot = \"@PLACE@/pool\"\n[handles]\nnoexec = {noexec}\n");
            let broker = Broker::start(Options { config: Some(config), ..Options::default() });
            let [handle, _] = handles(&broker);
            let handle = handle.expect("root's broker gives one");
            let program = format!("/proc/self/fd/{}/true", handle.as_raw_fd());
            std::fs::copy("/bin/true", &program).expect("root may");
            std::fs::set_permissions(&program, PermissionsExt::from_mode(0o755)).expect("root may");
            let run = Command::new("sh").args(["-c", "exec /proc/self/fd/0/true"]).stdin(Stdio::from(handle)).status();
            assert_eq!(run.expect("sh is there").success(), runs, "noexec = {noexec}");
        }
    });
}
