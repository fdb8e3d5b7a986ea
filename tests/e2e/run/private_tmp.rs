//! `--private-tmp`: the lease's directory is the command's /tmp and /var/tmp, and nobody else's; all else is as without.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use rustix::fs::{CWD, FileType, Mode, mknodat};
use rustix::process::{Signal, kill_process};
use scratch_tests::{
    Broker, DEADLINE, Dialogue, Held, Options, contained, eventually, installed, is_root, left_out, names_in, scratch,
    shell, wait_gone,
};
use serde_json::Value;

use super::{TENANT, outcome};

/// Writes to its /tmp, says where it is and waits for a line.
const WRITE: &str = r#"echo one >/tmp/file && echo two >/var/tmp/other && cat "$TMPDIR/file" "$TMPDIR/other" &&
printf '%s\n' "$SCRATCHD_LEASE" "$TMPDIR" && read -r line && exit 7"#;

/// Leaves a process that has closed all it inherited and ends with a line in the pipe $1.
const LEAVE: &str = r#"printf '%s\n' "$SCRATCHD_LEASE"
( setsid bash -c 'for fd in /proc/$$/fd/*; do eval "exec ${fd##*/}>&-"; done; read -r line <"$1"' left "$1" & )
read -r line; exit 3"#;

/// Whether the machine lets a user make a user namespace; if not, the test is left out.
fn allowed(test: &str, user: u32) -> bool {
    let probe = shell(Some(user), "unshare --user --mount true").stderr(Stdio::null()).status();
    let allowed = probe.is_ok_and(|status| status.success());
    if !allowed {
        left_out(test, "needs user namespaces for every user");
    }
    allowed
}

/// The users that a test goes through: its own, and where that is root another one.
fn users(test: &str) -> Vec<Option<u32>> {
    let other = (is_root() && allowed(test, TENANT)).then_some(Some(TENANT));
    [None].into_iter().chain(other).collect()
}

fn command(broker: &Broker, user: Option<u32>, arguments: &[&str]) -> Command {
    user.map_or_else(|| broker.scratch(arguments), |user| broker.scratch_as(user, arguments))
}

fn writes_to_its_own(broker: &Broker, user: Option<u32>) -> PathBuf {
    let mut run = Dialogue::start(command(broker, user, &["run", "--private-tmp", "--", "sh", "-c", WRITE]));
    let [one, two, id, seen] = [(); 4].map(|()| run.line());
    assert_eq!((one.as_str(), two.as_str()), ("one", "two"), "{user:?}");
    let area = broker.pool_root().join(id);
    assert_eq!(names_in(&area), ["file", "other"], "{user:?}: not in the lease's directory");
    for place in ["/tmp/file", "/tmp/other", "/var/tmp/file", "/var/tmp/other"] {
        assert!(!Path::new(place).exists(), "{user:?}: {place} is there for everybody");
    }
    run.say("end");
    assert_eq!(run.wait().code(), Some(7), "{user:?}");
    assert!(!area.exists(), "{user:?}: still there when the wrapper had returned");
    seen.into()
}

#[test]
fn what_is_written_to_tmp_is_in_the_lease() {
    let test = "run::private_tmp::what_is_written_to_tmp_is_in_the_lease";
    contained(test, || {
        let below = Broker::start(Options::default());
        let elsewhere = Path::new("/dev/shm/pool");
        fs::create_dir(elsewhere).expect("the containment's /dev/shm is our own");
        let beside = Broker::start(Options { pool: Some(elsewhere.to_owned()), ..Options::default() });
        for user in users(test) {
            assert_eq!(writes_to_its_own(&below, user), Path::new("/tmp"), "its own path is covered");
            assert!(writes_to_its_own(&beside, user).starts_with(elsewhere), "its own path is everybody's");
        }
    });
}

#[test]
fn exit_codes_and_signals_are_the_commands() {
    let test = "run::private_tmp::exit_codes_and_signals_are_the_commands";
    contained(test, || {
        let broker = Broker::start(Options::default());
        for user in users(test) {
            let run = |arguments: &[&str]| {
                outcome(command(&broker, user, &[&["run", "--private-tmp", "--"][..], arguments].concat()))
            };
            for code in [0, 3, 125, 126, 127] {
                assert_eq!(run(&["sh", "-c", &format!("exit {code}")]), (code, String::new()), "{user:?}");
            }
            assert_eq!(run(&["sh", "-c", "kill -KILL $$"]), (137, String::new()), "{user:?}");
            assert_eq!(run(&["/no/such/program"]).0, 127, "{user:?}");
            assert_eq!(run(&["/etc"]).0, 126, "{user:?}");
            let held = Held::with(command(&broker, user, &[]), &["--private-tmp"]);
            kill_process(held.wrapper(), Signal::TERM).expect("root may, and it is our own");
            assert_eq!(held.wait().code(), Some(128 + Signal::TERM.as_raw()), "{user:?}");
        }
        assert_eq!(names_in(broker.pool_root()), [".scratch"]);
    });
}

#[test]
fn the_command_is_who_it_was() {
    let test = "run::private_tmp::the_command_is_who_it_was";
    contained(test, || {
        let broker = Broker::start(Options::default());
        for user in users(test) {
            let print = "id -u; id -g; pwd; grep CapEff /proc/self/status";
            let said = |options: &[&str]| {
                let mut run = command(&broker, user, &[&["run"], options, &["--", "sh", "-c", print]].concat());
                String::from_utf8(run.output().expect("the program can be run").stdout).expect("it prints text")
            };
            assert_eq!(said(&["--private-tmp"]), said(&[]), "{user:?}");
        }
    });
}

/// Whatever broker it is that looks for what was left: root's into a user's namespace, a user's into its own.
fn what_was_left_holds(broker: &Broker, user: Option<u32>, killed: bool) {
    let pipe = Path::new("/dev/shm/pipe");
    let _ = fs::remove_file(pipe); // of the time before
    mknodat(CWD, pipe, FileType::Fifo, Mode::empty(), 0).expect("the containment's /dev/shm is our own");
    fs::set_permissions(pipe, PermissionsExt::from_mode(0o666)).expect("it is ours");
    let run = command(broker, user, &["run", "--private-tmp", "--", "bash", "-c", LEAVE, "command", "/dev/shm/pipe"]);
    let mut run = Dialogue::start(run);
    let id = run.line();
    let area = broker.pool_root().join(&id);
    // A pipe can be written to without waiting once its reader has closed what it inherited and opened it.
    let mut writer = None;
    eventually(DEADLINE, "what is left reads", || {
        let flags = rustix::fs::OFlags::WRONLY | rustix::fs::OFlags::NONBLOCK;
        writer = rustix::fs::open(pipe, flags, Mode::empty()).ok();
        writer.is_some()
    });
    if killed {
        kill_process(run.process(), Signal::KILL).expect("root may, and it is our own");
    }
    run.say("end");
    assert_eq!(run.wait().code(), (!killed).then_some(3), "{user:?}");
    // The wrapper and the command are gone; one process holds it.
    eventually(DEADLINE, "what was left holds the lease", || {
        let mut show = command(broker, user, &["lease", "show", &id, "--output", "json"]);
        let shown = show.stderr(Stdio::inherit()).output().expect("the program can be run").stdout;
        let shown: Value = serde_json::from_slice(&shown).expect("it prints JSON");
        assert_eq!(shown["state"], "live", "{user:?}, {killed}: it went before what was left");
        let holders = shown["holders"].as_array().expect("holders is an array");
        holders.len() == 1 && holders[0]["kind"] == "process"
    });
    assert!(area.is_dir());
    drop(writer);
    wait_gone(&area, DEADLINE);
}

#[test]
fn what_is_left_running_keeps_it() {
    let test = "run::private_tmp::what_is_left_running_keeps_it";
    contained(test, || {
        if !installed(test, "bash") || !installed(test, "setsid") {
            return;
        }
        for user in users(test) {
            let broker = Broker::start(Options::default());
            let session = user.map(|_| Broker::start(Options { user, ..Options::default() }));
            for broker in [Some(&broker), session.as_ref()].into_iter().flatten() {
                what_was_left_holds(broker, user, false);
                what_was_left_holds(broker, user, true);
            }
        }
    });
}

#[test]
fn without_the_right_to_it_the_command_does_not_run() {
    let test = "run::private_tmp::without_the_right_to_it_the_command_does_not_run";
    contained(test, || {
        let broker = Broker::start(Options::default());
        let marker = broker.place().join("ran");
        // A user namespace in which there is neither a capability nor another user namespace to be had.
        let script =
            r#"echo 0 >/proc/sys/user/max_user_namespaces && exec setpriv --bounding-set=-all --inh-caps=-all "$@""#;
        let mut run = Command::new("unshare");
        run.args(["--user", "--map-root-user", "sh", "-c", script, "sh"]).arg(scratch());
        run.args(["run", "--private-tmp", "--", "touch"])
            .arg(&marker)
            .env("SCRATCHD_RUNTIME_DIR", broker.runtime_dir());
        let (code, said) = outcome(run);
        assert_eq!(code, super::OWN_FAILURE, "{said}");
        assert!(said.contains("user.max_user_namespaces"), "no remedy: {said}");
        assert!(!marker.exists(), "ran the command all the same");
        assert_eq!(names_in(broker.pool_root()), [".scratch"]);
    });
}
