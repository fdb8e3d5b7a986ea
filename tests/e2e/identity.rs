//! Who a holder is: that process, whatever it runs, however many threads it has, whoever else gets its number.

use std::fs;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::process::{Pid, PidfdFlags, Signal, kill_process, pidfd_open, test_kill_process};
use scratch_proto::v1::channel_request::Op;
use scratch_proto::v1::channel_response::Result as Reply;
use scratch_proto::v1::holder_spec::Kind;
use scratch_proto::v1::{GrantRequest, HolderSpec, ProcessHolder};
use scratch_tests::{
    Broker, Channel, DEADLINE, Dialogue, Options, contained, eventually, installed, left_out, shell, wait_gone,
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
