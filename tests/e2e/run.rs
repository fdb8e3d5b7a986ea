//! `scratch run`: its exit codes, what the command finds, options, signals, leases inside of leases, other users, restarts.

mod json;
mod private_tmp;
mod remains;

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use rustix::process::{Signal, kill_process};
use scratch_client::{Client, ConnectOptions};
use scratch_tests::{
    Broker, DEADLINE, Dialogue, Held, Options, Place, contained, eventually, is_root, left_out, names_in, scratch,
    shell, wait_gone,
};
use serde_json::{Value, json};

const TENANT: u32 = 1234;
const OWN_FAILURE: i32 = 125;
/// A lease inside of a lease: each says where it is and waits for a line, the inner one first.
const NESTED: &str = r#"printf '%s\n%s\n' "$SCRATCHD_LEASE" "$TMPDIR"
"$SCRATCH" run -- sh -c 'printf "%s\n%s\n" "$SCRATCHD_LEASE" "$TMPDIR"; read -r line'
echo "inner $?"
read -r line"#;

/// What `scratch ls` shows of a lease, if it is there.
fn lease(broker: &Broker, id: &str) -> Option<Value> {
    let leases = broker.json(&["ls"]);
    leases.as_array().expect("scratch ls prints an array").iter().find(|lease| lease["id"] == id).cloned()
}

/// The processes that hold a lease.
fn holding(lease: &Value) -> Vec<i64> {
    lease["holders"]
        .as_array()
        .expect("holders is an array")
        .iter()
        .filter_map(|holder| holder["pid"].as_i64())
        .collect()
}

fn client(broker: &Broker) -> Client {
    let options = ConnectOptions { runtime_directory: Some(broker.runtime_dir()), ..ConnectOptions::default() };
    Client::connect(&options).expect("the broker listens")
}

/// The exit code and standard error of a command that is not killed.
fn outcome(mut command: Command) -> (i32, String) {
    let output = command.stdin(Stdio::null()).output().expect("the command line's program can be run");
    (output.status.code().expect("the wrapper is not killed"), String::from_utf8_lossy(&output.stderr).into_owned())
}

#[test]
fn the_commands_own_exit_code() {
    contained("run::the_commands_own_exit_code", || {
        let broker = Broker::start(Options::default());
        for code in [0, 1, 3, 125, 126, 127, 255] {
            let script = format!("exit {code}");
            assert_eq!(outcome(broker.scratch(&["run", "--", "sh", "-c", &script])), (code, String::new()));
        }
        for (name, number) in [("KILL", 9), ("TERM", 15), ("HUP", 1), ("PIPE", 13), ("USR1", 10)] {
            let script = format!("kill -{name} $$");
            assert_eq!(outcome(broker.scratch(&["run", "sh", "-c", &script])), (128 + number, String::new()), "{name}");
        }
        assert_eq!(names_in(broker.pool_root()), [".scratch"], "an area was left when the wrapper had returned");
    });
}

#[test]
fn what_can_not_be_executed() {
    contained("run::what_can_not_be_executed", || {
        let broker = Broker::start(Options::default());
        let file = broker.place().join("file");
        fs::write(&file, "no program").expect("a place is writable");
        fs::set_permissions(&file, PermissionsExt::from_mode(0o644)).expect("the file is ours");
        let directory = broker.place().display().to_string();
        let file = file.display().to_string();
        let cases = [("no-such-program", 127), ("/no/such/program", 127), (&*directory, 126), (&*file, 126)];
        for (command, expected) in cases {
            let (code, said) = outcome(broker.scratch(&["run", "--", command]));
            assert_eq!(code, expected, "{command}: {said}");
            assert!(said.contains(command), "does not say what: {said}");
        }
        assert_eq!(names_in(broker.pool_root()), [".scratch"], "an area was left of a command that never ran");
    });
}

/// The wrapper must fail by itself, say so, and not have run the command.
fn fails(what: &str, command: Command, marker: &Path) {
    let (code, said) = outcome(command);
    assert_eq!(code, OWN_FAILURE, "{what}: {said}");
    assert!(!said.is_empty() && !said.contains("panicked"), "{what}: {said:?}");
    assert!(!marker.exists(), "{what}: ran the command all the same");
}

#[test]
fn its_own_failure() {
    contained("run::its_own_failure", || {
        let broker = Broker::start(Options::default());
        let marker = broker.place().join("ran");
        let touch = ["--", "touch", marker.to_str().expect("a place's path is plain")];
        let refused: [&[&str]; 11] = [
            &["--size", "1G"],
            &["--inodes", "5"],
            &["--soft"],
            &["--keep-on-failure=soon"],
            &["--unknown"],
            &["--ttl", "soon"],
            &["--ttl", "0s"],
            &["--label", "nothing"],
            &["--label", "=value"],
            &["--pool", "nope"],
            &["--pool"],
        ];
        for options in refused {
            fails(&format!("{options:?}"), broker.scratch(&[&["run"], options, &touch].concat()), &marker);
        }
        for none in [&["run"][..], &["run", "--"]] {
            fails("no command", broker.scratch(none), &marker);
        }
        assert_eq!(names_in(broker.pool_root()), [".scratch"]);
    });
}

#[test]
fn where_no_broker_may_be() {
    contained("run::where_no_broker_may_be", || {
        let place = Place::new();
        let marker = place.path().join("ran");
        let open = place.path().join("open");
        fs::create_dir(&open).expect("a place is writable");
        fs::set_permissions(&open, PermissionsExt::from_mode(0o777)).expect("a directory just made is ours");
        for directory in [Path::new("/proc/none"), Path::new("/etc/scratchd-none"), &open] {
            let mut command = Command::new(scratch());
            command.args(["run", "--", "touch"]).arg(&marker).env("SCRATCHD_RUNTIME_DIR", directory);
            fails(&directory.display().to_string(), command, &marker);
        }
        assert!(names_in(&open).is_empty(), "something was left where no broker may be");
    });
}

#[test]
fn what_the_command_finds() {
    contained("run::what_the_command_finds", || {
        let broker = Broker::start(Options::default());
        let script = r#"printf '%s\n' "$TMPDIR" "$TMP" "$TEMP" "$SCRATCHD_LEASE" "$OTHER"
            mkdir -p "$TMPDIR/a/b" && echo x >"$TMPDIR/a/b/c" && chmod 0 "$TMPDIR/a/b""#;
        let mut run = broker.scratch(&["run", "--", "sh", "-c", script]);
        run.env("TMPDIR", "/nowhere").env("TMP", "/nowhere").env("TEMP", "/nowhere").env("OTHER", "stays");
        let output = run.output().expect("the command line's program can be run");
        assert!(output.status.success(), "{output:?}");
        let said = String::from_utf8(output.stdout).expect("a pool's paths are plain");
        let [tmpdir, tmp, temp, lease, other] = said.lines().collect::<Vec<_>>()[..] else { panic!("{said:?}") };
        assert_eq!((tmp, temp, other), (tmpdir, tmpdir, "stays"));
        assert_eq!(PathBuf::from(tmpdir), broker.pool_root().join(lease));
        assert_eq!(names_in(broker.pool_root()), [".scratch"], "still there when the wrapper had returned");
    });
}

#[test]
fn a_lease_that_is_not_there_is_done_without() {
    contained("run::a_lease_that_is_not_there_is_done_without", || {
        let broker = Broker::start(Options::default());
        for stale in ["abcdefghijklm234", "x", "../../etc"] {
            let mut run =
                broker.scratch(&["run", "--", "sh", "-c", r#"test -d "$TMPDIR" && test "$SCRATCHD_LEASE" != "$0""#]);
            run.arg(stale).env("SCRATCHD_LEASE", stale);
            let (code, said) = outcome(run);
            assert_eq!(code, 0, "{stale}: {said}");
            assert_eq!(said.lines().count(), 1, "{stale} is told once: {said}");
        }
    });
}

#[test]
fn labels() {
    contained("run::labels", || {
        let broker = Broker::start(Options::default());
        let held = Held::with(broker.scratch(&[]), &["--label", "job=nightly", "--label=a=b=c", "--pool", "default"]);
        let shown = lease(&broker, held.lease()).expect("a live lease is listed");
        assert_eq!(shown["labels"], json!({ "job": "nightly", "a": "b=c" }));
        assert_eq!(shown["pool"], "default");
    });
}

#[test]
fn a_ttl_ends_the_lease_and_not_the_command() {
    contained("run::a_ttl_ends_the_lease_and_not_the_command", || {
        let broker = Broker::start(Options::default());
        let script = r#"echo "$TMPDIR"; read -r line; test ! -e "$TMPDIR" && exit 7"#;
        let mut run = Dialogue::start(broker.scratch(&["run", "--ttl", "1s", "--", "sh", "-c", script]));
        wait_gone(Path::new(&run.line()), DEADLINE);
        run.say("go on");
        assert_eq!(run.wait().code(), Some(7));
    });
}

#[test]
fn signals_reach_the_command() {
    contained("run::signals_reach_the_command", || {
        let broker = Broker::start(Options::default());
        for signal in [Signal::TERM, Signal::INT, Signal::HUP, Signal::USR1, Signal::USR2] {
            let held = Held::start(&broker);
            let path = held.path().to_path_buf();
            kill_process(held.wrapper(), signal).expect("our own child can be signalled");
            assert_eq!(held.wait().code(), Some(128 + signal.as_raw()), "{signal:?}");
            assert!(!path.exists(), "{signal:?}: still there when the wrapper had returned");
        }
        // A shell looks for signals between two commands, so it is given no chance to miss one.
        let script = r#"trap 'echo caught; exit 9' TERM; echo ready; while :; do :; done"#;
        let mut run = Dialogue::start(broker.scratch(&["run", "--", "sh", "-c", script]));
        assert_eq!(run.line(), "ready");
        kill_process(run.process(), Signal::TERM).expect("our own child can be signalled");
        assert_eq!((run.line(), run.wait().code()), ("caught".to_owned(), Some(9)));
    });
}

#[test]
fn a_killed_wrapper_takes_nothing_along() {
    contained("run::a_killed_wrapper_takes_nothing_along", || {
        let broker = Broker::start(Options::default());
        let mut held = Held::start(&broker);
        held.write_line("before");
        let wrapper = held.wrapper();
        kill_process(wrapper, Signal::KILL).expect("our own child can be killed");
        eventually(DEADLINE, "the broker knows of the wrapper's end", || {
            let shown = lease(&broker, held.lease()).expect("a lease is listed as long as its command lives");
            !holding(&shown).contains(&i64::from(wrapper.as_raw_nonzero().get()))
        });
        held.write_line("after");
        assert_eq!(held.log(), "before\nafter\n");
        let path = held.path().to_path_buf();
        assert_eq!(held.end().code(), None, "the wrapper was killed");
        wait_gone(&path, DEADLINE);
    });
}

fn nested(broker: &Broker) -> (Dialogue, [String; 2], [PathBuf; 2]) {
    let mut command = broker.scratch(&["run", "--", "sh", "-c", NESTED]);
    command.env("SCRATCH", scratch());
    let mut run = Dialogue::start(command);
    let [outer, outer_path, inner, inner_path] = [(); 4].map(|()| run.line());
    assert!(outer != inner && outer_path != inner_path);
    (run, [outer, inner], [outer_path.into(), inner_path.into()])
}

#[test]
fn an_inner_run_has_a_lease_of_its_own() {
    contained("run::an_inner_run_has_a_lease_of_its_own", || {
        let broker = Broker::start(Options::default());
        let (mut run, leases, [outer, inner]) = nested(&broker);
        for id in &leases {
            assert_eq!(lease(&broker, id).expect("both are listed")["state"], "live");
        }
        run.say("end the inner one");
        assert_eq!(run.line(), "inner 0");
        assert!(!inner.exists() && outer.is_dir());
        assert_eq!(lease(&broker, &leases[1]), None);
        run.say("end the outer one");
        assert!(run.wait().success());
        assert!(!outer.exists());
    });
}

#[test]
fn a_lease_takes_those_inside_of_it_along() {
    contained("run::a_lease_takes_those_inside_of_it_along", || {
        let broker = Broker::start(Options::default());
        let (mut run, [outer, _], paths) = nested(&broker);
        client(&broker).revoke(&outer).expect("an own lease can be revoked");
        assert!(paths.iter().all(|path| !path.exists()), "still there after Revoke has answered");
        assert_eq!(broker.json(&["ls"]), json!([]));
        // What runs under them was not touched.
        run.say("");
        assert_eq!(run.line(), "inner 0");
        run.say("");
        assert!(run.wait().success());
    });
}

#[test]
fn an_area_belongs_to_who_runs_the_command() {
    contained("run::an_area_belongs_to_who_runs_the_command", || {
        if !is_root() {
            return left_out("run::an_area_belongs_to_who_runs_the_command", "another user's command needs root");
        }
        let broker = Broker::start(Options::default());
        let mut held = Held::start_as(&broker, Some(TENANT));
        held.write_line("works");
        let path = held.path().to_path_buf();
        let about = path.symlink_metadata().expect("the area is there");
        assert_eq!((about.uid(), about.gid(), about.mode() & 0o7777), (TENANT, TENANT, 0o700));
        assert_eq!(path.join("log").symlink_metadata().expect("it was written").uid(), TENANT);
        let shown = lease(&broker, held.lease()).expect("root sees every lease");
        assert_eq!(shown["tenant"], json!({ "uid": TENANT, "name": null }));
        let mut look = shell(Some(TENANT + 1), &format!("ls '{}'", path.display()));
        assert!(!look.stderr(Stdio::null()).status().is_ok_and(|status| status.success()), "others can look inside");
        let other =
            broker.scratch_as(TENANT + 1, &["ls", "--output", "json"]).output().expect("the program can be run");
        assert_eq!(serde_json::from_slice::<Value>(&other.stdout).expect("it prints JSON"), json!([]));
        assert!(held.end().success());
        assert!(!path.exists());
    });
}

#[test]
fn a_killed_broker_is_done_without() {
    contained("run::a_killed_broker_is_done_without", || {
        let mut broker = Broker::start(Options::default());
        let mut held = Held::start(&broker);
        held.write_line("before");
        broker.kill();
        held.write_line("without");
        broker.restart();
        held.write_line("after");
        assert_eq!(lease(&broker, held.lease()).expect("an adopted lease is listed")["state"], "live");
        assert_eq!(held.log(), "before\nwithout\nafter\n");
        let path = held.path().to_path_buf();
        assert!(held.end().success());
        assert!(!path.exists(), "still there when the wrapper had returned");
    });
}
