//! Who a holder is: that process, whatever it runs, however many threads it has, whoever else gets its number.

use std::fs;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::process::{Pid, PidfdFlags, Signal, kill_process, pidfd_open, test_kill_process};
use scratch_proto::v1::channel_request::Op;
use scratch_proto::v1::channel_response::Result as Reply;
use scratch_proto::v1::holder::Kind as Has;
use scratch_proto::v1::holder_spec::Kind;
use scratch_proto::v1::{GrantRequest, HolderSpec, ProcessHolder};
use scratch_tests::{
    Broker, Channel, DEADLINE, Dialogue, Held, Options, contained, eventually, installed, is_root, left_out, scratch,
    shell, wait_gone,
};

/// Where a number may be asked for: the next process gets the one behind it.
const LAST_NUMBER: &str = "/proc/sys/kernel/ns_last_pid";
/// Another process may come in between.
const TRIES: usize = 1000;
/// The main thread ends for itself; another one answers, until it ends the process.
const WITHOUT_MAIN_THREAD: &str = r#"
import ctypes, os, sys, threading
def live():
    while sys.stdin.readline():
        print(threading.active_count(), flush=True)
    os._exit(0)
threading.Thread(target=live).start()
brief = threading.Thread(target=lambda: None)
brief.start()
brief.join()
exit_thread = {"x86_64": 60, "aarch64": 93}[os.uname().machine]
ctypes.CDLL(None).syscall(exit_thread, 0)
"#;

/// A lease held by this process alone, with something precious in it.
fn held_by(broker: &Broker, process: Pid) -> PathBuf {
    let pidfd: OwnedFd = pidfd_open(process, PidfdFlags::empty()).expect("a child that was not waited for has a pidfd");
    let holder = HolderSpec { kind: Some(Kind::Process(ProcessHolder { fd: true })) };
    let request = GrantRequest { holders: vec![holder], ..GrantRequest::default() };
    let mut channel = Channel::connect(&broker.handle_socket());
    let asked = channel.try_ask_with(Op::Grant(request), &[pidfd.as_fd()]);
    let (Reply::Grant(granted), _) = asked.expect("the broker answers") else { panic!("not granted") };
    let path = broker.pool_root().join(granted.id);
    fs::write(path.join("precious"), "content").expect("an area is writable");
    path
}

/// All that was readable has been read, and what was decided on it is done.
fn still_there(broker: &Broker, path: &Path) {
    let mut channel = Channel::connect(&broker.handle_socket());
    channel.ping();
    assert_eq!(broker.json(&["ls"]).as_array().expect("scratch ls prints an array").len(), 1);
    assert_eq!(fs::read_to_string(path.join("precious")).expect("what lives is never taken away"), "content");
}

/// A process that has this number, if the system gives it to somebody.
fn with_number(number: Pid) -> Option<Dialogue> {
    (0..TRIES).find_map(|_| {
        let before = number.as_raw_nonzero().get() - 1;
        fs::write(LAST_NUMBER, before.to_string()).ok()?;
        let next = Dialogue::start(shell(None, "read line"));
        (next.process() == number).then_some(next)
    })
}

#[test]
fn who_gets_a_dead_holders_number_holds_nothing() {
    let test = "identity::who_gets_a_dead_holders_number_holds_nothing";
    contained(test, || {
        let mut broker = Broker::start(Options::default());
        let holder = Dialogue::start(shell(None, "read line"));
        let number = holder.process();
        let path = held_by(&broker, number);
        let survivor = Dialogue::start(shell(None, "read line"));
        let other = held_by(&broker, survivor.process());
        broker.kill();
        assert!(!holder.end().success());
        let Some(heir) = with_number(number) else {
            return left_out(test, "no process can be given a number of one's choice");
        };
        broker.restart();
        wait_gone(&path, DEADLINE);
        still_there(&broker, &other);
        assert!(test_kill_process(number).is_ok(), "the number is in use all the time");
        drop((heir, survivor));
        wait_gone(&other, DEADLINE);
    });
}

/// Grants over a connection of this process, by default or with a holder.
fn grant(channel: &mut Channel, holder: Option<Kind>, passed: &[BorrowedFd<'_>]) -> Reply {
    let holders = holder.map(|kind| HolderSpec { kind: Some(kind) }).into_iter().collect();
    let op = Op::Grant(GrantRequest { holders, ..GrantRequest::default() });
    channel.try_ask_with(op, passed).expect("the broker answers").0
}

#[test]
fn who_has_no_number_for_the_broker_holds_by_connection_alone() {
    let test = "identity::who_has_no_number_for_the_broker_holds_by_connection_alone";
    contained(test, || {
        if !is_root() {
            return left_out(test, "needs root");
        }
        let under = ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc"].map(str::to_owned).to_vec();
        let broker = Broker::start(Options { under, ..Options::default() });
        let mut channel = Channel::connect(&broker.handle_socket());
        let mut paths = Vec::new();
        for asked in [None, Some(Kind::Process(ProcessHolder { fd: false }))] {
            let Reply::Grant(granted) = grant(&mut channel, asked, &[]) else { panic!("{asked:?} was not granted") };
            let holders: Vec<_> = granted.holders.iter().map(|holder| holder.kind.as_ref()).collect();
            assert!(matches!(holders[..], [Some(Has::Connection(_))]), "{asked:?}: {holders:?}");
            assert!(granted.note.contains("connection"), "{asked:?}: {:?}", granted.note);
            paths.push(broker.pool_root().join(granted.id));
        }
        // One that is named outright can't be watched: it is refused, and nothing else takes its place.
        let own = pidfd_open(rustix::process::getpid(), PidfdFlags::empty()).expect("a process has a pidfd");
        let passed = Some(Kind::Process(ProcessHolder { fd: true }));
        match grant(&mut channel, passed, &[own.as_fd()]) {
            Reply::Error(error) => assert_eq!(error.reason, "PROCESS_GONE"),
            other => panic!("not refused: {other:?}"),
        }
        channel.ping();
        assert!(paths.iter().all(|path| path.is_dir()));
        drop(channel);
        paths.iter().for_each(|path| wait_gone(path, DEADLINE));
    });
}

/// A broker that has no number there is a broker all the same, and its client one of the processes that it sees.
#[test]
fn a_client_in_a_pid_name_space_of_its_own_holds_as_any_other() {
    let test = "identity::a_client_in_a_pid_name_space_of_its_own_holds_as_any_other";
    contained(test, || {
        if !is_root() {
            return left_out(test, "needs root");
        }
        let mut broker = Broker::start(Options::default());
        let mut command = Command::new("unshare");
        command.args(["--pid", "--fork", "--kill-child", "--mount-proc"]).arg(scratch());
        command.env("SCRATCHD_RUNTIME_DIR", broker.runtime_dir()).env_remove("TMPDIR");
        let mut held = Held::under(command);
        let shown = broker.json(&["lease", "show", held.lease()]);
        let holders = shown["holders"].as_array().expect("a lease has holders");
        assert!(holders.iter().any(|holder| holder["kind"] == "process"), "{shown}");
        held.write_line("before");
        broker.kill();
        broker.restart();
        held.write_line("after");
        let path = held.path().to_owned();
        assert!(held.end().success());
        wait_gone(&path, DEADLINE);
    });
}

#[test]
fn a_holder_may_become_another_program() {
    contained("identity::a_holder_may_become_another_program", || {
        let mut broker = Broker::start(Options::default());
        let mut holder = Dialogue::start(shell(None, "read line; exec cat"));
        let path = held_by(&broker, holder.process());
        holder.say("become another");
        holder.say("are you?");
        assert_eq!(holder.line(), "are you?");
        still_there(&broker, &path);
        broker.kill();
        broker.restart();
        still_there(&broker, &path);
        assert!(holder.end().success());
        wait_gone(&path, DEADLINE);
    });
}

#[test]
fn a_holders_child_holds_nothing() {
    contained("identity::a_holders_child_holds_nothing", || {
        let broker = Broker::start(Options::default());
        // The subshell is a fork that runs no other program.
        let script = "mkfifo fifo; ( read line <fifo ) & echo $!; read line";
        let mut command = shell(None, script);
        command.current_dir(broker.place());
        let mut holder = Dialogue::start(command);
        let child: i32 = holder.line().parse().expect("a process is named by its number");
        let path = held_by(&broker, holder.process());
        still_there(&broker, &path);
        holder.say("end");
        assert!(holder.end().success());
        wait_gone(&path, DEADLINE);
        let child = Pid::from_raw(child).expect("a process has a number");
        assert!(test_kill_process(child).is_ok(), "the child lives on");
        kill_process(child, Signal::KILL).expect("it is our own user's");
    });
}

#[test]
fn threads_may_end_the_main_one_too() {
    let test = "identity::threads_may_end_the_main_one_too";
    contained(test, || {
        if !installed(test, "python3") {
            return;
        }
        let mut broker = Broker::start(Options::default());
        let mut command = Command::new("python3");
        command.args(["-c", WITHOUT_MAIN_THREAD]);
        let mut holder = Dialogue::start(command);
        let process = holder.process();
        let path = held_by(&broker, process);
        eventually(DEADLINE, "the main thread is gone", || {
            fs::read_to_string(format!("/proc/{process}/stat")).is_ok_and(|stat| stat.contains(") Z "))
        });
        still_there(&broker, &path);
        broker.kill();
        broker.restart();
        still_there(&broker, &path);
        holder.say("are you there?");
        assert_ne!(holder.line(), "");
        assert!(holder.end().success());
        wait_gone(&path, DEADLINE);
    });
}
