//! `scratch mktemp`: what it makes and where, what it refuses, and whose end is the end of it. Which shell holds it in which
//! construct: see `shells`.

mod shells;

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use rustix::process::{Signal, kill_process};
use scratch_client::{Client, ConnectOptions};
use scratch_tests::{
    Broker, DEADLINE, Dialogue, Options, Place, contained, eventually, is_root, left_out, names_in, scratch, shell,
    wait_gone,
};
use serde_json::json;

const TENANT: u32 = 1234;
const USAGE: i32 = 64;
const CANNOT_CREATE: i32 = 73;
const WRITE: i32 = 74;

/// A shell script that finds the program as `$SCRATCH`, and the broker.
fn script(broker: &Broker, text: &str) -> Command {
    let mut command = shell(None, text);
    command.env("SCRATCH", scratch()).env("SCRATCHD_RUNTIME_DIR", broker.runtime_dir());
    for name in ["SCRATCHD_LEASE", "TMPDIR", "TMP", "TEMP"] {
        command.env_remove(name);
    }
    command
}

/// Called by the test itself, which holds what is made.
fn mktemp(broker: &Broker, options: &[&str]) -> Output {
    let mut command = broker.scratch(&["mktemp"]);
    command.args(options).stdin(Stdio::null()).output().expect("the command line's program can be run")
}

fn made(broker: &Broker, options: &[&str]) -> PathBuf {
    let output = mktemp(broker, options);
    assert!(output.status.success() && output.stderr.is_empty(), "{options:?}: {output:?}");
    let path = String::from_utf8(output.stdout).expect("a pool's paths are plain");
    PathBuf::from(path.strip_suffix('\n').expect("it prints a line"))
}

fn lease_of(path: &Path) -> &str {
    let directory = path.parent().and_then(Path::file_name).and_then(|name| name.to_str());
    directory.expect("what is made is in a lease's directory")
}

fn refused(broker: &Broker, options: &[&str]) -> (i32, String) {
    let output = mktemp(broker, options);
    assert!(output.stdout.is_empty(), "{options:?} printed {:?}", output.stdout);
    (output.status.code().expect("it is not killed"), String::from_utf8_lossy(&output.stderr).into_owned())
}

#[test]
fn names_kinds_and_modes() {
    contained("mktemp::names_kinds_and_modes", || {
        let broker = Broker::start(Options::default());
        let cases: [(&[&str], &str, usize, &str); 8] = [
            (&[], "tmp.", 10, ""),
            (&["--suffix=.c"], "tmp.", 10, ".c"),
            (&["-t", "build.XXXXXX"], "build.", 6, ""),
            (&["-t", "aXXXbXXX.log"], "aXXXb", 3, ".log"),
            (&["-t", "--suffix", "-x", "aXXXX"], "a", 4, "-x"),
            (&["--tmpdir", "aXXXX"], "a", 4, ""),
            (&["-t", "-p", "/ignored", "aXXXX"], "a", 4, ""),
            (&["-q", "-t", "XXX"], "", 3, ""),
        ];
        for (options, prefix, random_chars, suffix) in cases {
            for kind in [&[][..], &["-d"]] {
                let path = made(&broker, &[kind, options].concat());
                assert_eq!(path.parent().and_then(Path::parent), Some(broker.pool_root()), "{options:?}");
                let name = path.file_name().and_then(|name| name.to_str()).expect("it has a name");
                let random = name.strip_prefix(prefix).and_then(|rest| rest.strip_suffix(suffix));
                assert_eq!(random.map(str::len), Some(random_chars), "{options:?}: {name}");
                let about = path.symlink_metadata().expect("it was made");
                let expected = if kind.is_empty() { (true, 0o600) } else { (false, 0o700) };
                assert_eq!((about.is_file(), about.mode() & 0o7777), expected, "{options:?}");
            }
        }
        let leases = names_in(broker.pool_root());
        assert_eq!(leases.len(), 2, "one caller has more than one lease: {leases:?}");
    });
}

#[test]
fn what_is_refused_makes_nothing() {
    contained("mktemp::what_is_refused_makes_nothing", || {
        let broker = Broker::start(Options::default());
        let cases: [(&[&str], &str); 11] = [
            (&["-u"], "taken by somebody else"),
            (&[""], "too few X's"),
            (&["foo"], "too few X's"),
            (&["-t", "aXX"], "too few X's"),
            (&["-t", "aXXX/b"], "directory separator"),
            (&["-t", "a/XXX"], "directory separator"),
            (&["--tmpdir", "/aXXX"], "absolute"),
            (&["--suffix=b", "-t", "aXXXb"], "must end in X"),
            (&["--suffix=/b"], "directory separator"),
            (&["aXXX", "bXXX"], "unexpected argument"),
            (&["--unknown"], "unexpected argument"),
        ];
        for (options, reason) in cases {
            let (code, said) = refused(&broker, options);
            assert_eq!(code, USAGE, "{options:?}: {said}");
            assert!(said.contains(reason), "{options:?}: {said}");
        }
        assert_eq!(refused(&broker, &["-p", "/no/such/directory"]).0, CANNOT_CREATE);
        assert_eq!(refused(&broker, &["-q", "-p", "/no/such/directory"]), (CANNOT_CREATE, String::new()));
        assert_eq!(names_in(broker.pool_root()), [".scratch"], "something was made");
    });
}

#[test]
fn below_the_leases_directory_or_anywhere_else() {
    contained("mktemp::below_the_leases_directory_or_anywhere_else", || {
        let broker = Broker::start(Options::default());
        let directory = made(&broker, &["-d"]);
        let shown = directory.display().to_string();
        let template = format!("{shown}/aXXXX.c");
        let file = made(&broker, &["-p", &shown]);
        assert_eq!(file.parent(), Some(&*directory));
        assert_eq!(made(&broker, &[&template]).parent(), Some(&*directory));
        let inner = made(&broker, &["-d", "-p", &shown, "XXXXX"]);
        assert_eq!(inner.symlink_metadata().expect("it was made").mode() & 0o7777, 0o700);
        let mut here = broker.scratch(&["mktemp", "aXXXX"]);
        let output = here.current_dir(&inner).output().expect("the command line's program can be run");
        assert!(output.status.success(), "{output:?}");
        assert_eq!(names_in(&inner).len(), 1);

        let elsewhere = broker.place().join("elsewhere");
        fs::create_dir(&elsewhere).expect("a place is writable");
        std::os::unix::fs::symlink(&elsewhere, directory.join("link")).expect("the directory is ours");
        let up = format!("{shown}/..");
        // The lease's directory itself.
        assert_eq!(lease_of(&made(&broker, &["-p", &up])), lease_of(&directory));
        // What is made elsewhere goes with its shell, too.
        let (link, template) = (format!("{shown}/link"), elsewhere.join("bXXXX").display().to_string());
        let text = format!(
            r#""$SCRATCH" mktemp -p '{link}' && "$SCRATCH" mktemp -d '{template}' && cd '{}' && "$SCRATCH" mktemp cXXX
            while read -r line; do :; done"#,
            elsewhere.display()
        );
        let mut shell = Dialogue::start(script(&broker, &text));
        let file = PathBuf::from(shell.line());
        assert_eq!(file.parent(), Some(Path::new(&link)));
        let (directory, here) = (PathBuf::from(shell.line()), PathBuf::from(shell.line()));
        assert!(directory.is_dir() && here.is_file() && here.is_absolute(), "{directory:?} {here:?}");
        assert_eq!(names_in(&elsewhere).len(), 3);
        fs::write(directory.join("file"), "content").expect("it is ours");
        assert!(shell.end().success());
        eventually(DEADLINE, "what was made elsewhere is gone", || names_in(&elsewhere).is_empty());
    });
}

#[test]
fn one_lease_for_all_calls_of_a_shell() {
    contained("mktemp::one_lease_for_all_calls_of_a_shell", || {
        let mut broker = Broker::start(Options::default());
        // The first eight at once: one of them grants, the others wait for it.
        let text = r#"for i in 1 2 3 4 5 6 7 8; do "$SCRATCH" mktemp & done; wait; echo done
            while read -r line; do "$SCRATCH" mktemp; done"#;
        let mut run = Dialogue::start(script(&broker, text));
        let first: Vec<PathBuf> = (0..8).map(|_| run.line().into()).collect();
        assert_eq!(run.line(), "done");
        assert!(first.iter().all(|path| lease_of(path) == lease_of(&first[0])), "more than one lease: {first:?}");
        assert_eq!(names_in(first[0].parent().expect("it is in a directory")).len(), 8);

        broker.kill();
        broker.restart();
        run.say("another");
        assert_eq!(lease_of(Path::new(&run.line())), lease_of(&first[0]), "another lease after a restart");

        let revoked = broker.scratch(&["lease", "revoke", lease_of(&first[0])]).status();
        assert!(revoked.is_ok_and(|status| status.success()));
        run.say("another");
        let anew = PathBuf::from(run.line());
        assert!(anew.is_file() && lease_of(&anew) != lease_of(&first[0]), "nothing new after a revoke");
        assert!(run.end().success());
        wait_gone(anew.parent().expect("it is in a directory"), DEADLINE);
    });
}

#[test]
fn another_process_holds_it_if_named() {
    contained("mktemp::another_process_holds_it_if_named", || {
        let broker = Broker::start(Options::default());
        let holder = Dialogue::start(shell(None, "read -r line"));
        let id = holder.process().as_raw_nonzero().to_string();
        let path = made(&broker, &["--holder-pid", &id]);
        assert_ne!(lease_of(&path), lease_of(&made(&broker, &[])));
        kill_process(holder.process(), Signal::KILL).expect("our own child can be killed");
        wait_gone(path.parent().expect("it is in a directory"), DEADLINE);
        drop(holder);
        let (code, said) = refused(&broker, &["--holder-pid", &id]);
        assert_eq!(code, CANNOT_CREATE, "{said}");
    });
}

#[test]
fn inside_scratch_run_it_ends_with_the_run() {
    contained("mktemp::inside_scratch_run_it_ends_with_the_run", || {
        let broker = Broker::start(Options::default());
        let text = r#"echo "$SCRATCHD_LEASE"; file=$("$SCRATCH" mktemp); echo "$file"; read -r line; test -e "$file""#;
        let mut command = broker.scratch(&["run", "--", "sh", "-c", text]);
        command.env("SCRATCH", scratch());
        let mut run = Dialogue::start(command);
        let (outer, file) = (run.line(), PathBuf::from(run.line()));
        assert!(file.is_file() && lease_of(&file) != outer);
        let options = ConnectOptions { runtime_directory: Some(broker.runtime_dir()), ..ConnectOptions::default() };
        let client = Client::connect(&options).expect("the broker listens");
        client.revoke(&outer).expect("an own lease can be revoked");
        assert!(!file.exists(), "it outlived the lease around it");
        run.say("");
        assert_eq!(run.wait().code(), Some(1), "the script was touched");
    });
}

#[test]
fn a_surrounding_lease_that_is_not_there_is_done_without() {
    contained("mktemp::a_surrounding_lease_that_is_not_there_is_done_without", || {
        let broker = Broker::start(Options::default());
        for (options, lines) in [(&["mktemp"][..], 1), (&["mktemp", "-q"], 0)] {
            let mut command = broker.scratch(options);
            let output = command.env("SCRATCHD_LEASE", "abcdefghijklm234").output().expect("the program can be run");
            assert!(output.status.success());
            // The second call finds the lease of the first, whatever is around it.
            assert!(String::from_utf8_lossy(&output.stderr).lines().count() <= lines, "{output:?}");
        }
    });
}

#[test]
fn another_users_shell_holds_its_own() {
    contained("mktemp::another_users_shell_holds_its_own", || {
        const TEST: &str = "mktemp::another_users_shell_holds_its_own";
        if !is_root() {
            return left_out(TEST, "another user's command needs root");
        }
        let broker = Broker::start(Options::default());
        // No process of this user called it: the shell is root's.
        let output = broker.scratch_as(TENANT, &["mktemp"]).output().expect("the program can be run");
        assert_eq!(output.status.code(), Some(CANNOT_CREATE), "{output:?}");
        assert!(String::from_utf8_lossy(&output.stderr).contains("--holder-pid"), "{output:?}");
        assert_eq!(names_in(broker.pool_root()), [".scratch"]);

        let own = broker.scratch_as(TENANT, &[]);
        let program = own.get_args().last().expect("it runs a program").to_owned();
        let mut command = shell(Some(TENANT), r#"file=$("$SCRATCH" mktemp); echo "$file"; read -r line"#);
        command.env("SCRATCH", program).env("SCRATCHD_RUNTIME_DIR", broker.runtime_dir());
        let mut run = Dialogue::start(command);
        let file = PathBuf::from(run.line());
        let about = file.symlink_metadata().expect("it was made");
        assert_eq!((about.uid(), about.gid(), about.mode() & 0o7777), (TENANT, TENANT, 0o600));
        let shown = broker.json(&["lease", "show", lease_of(&file)]);
        assert_eq!(shown["tenant"], json!({ "uid": TENANT, "name": null }));
        kill_process(run.process(), Signal::KILL).expect("our own child can be killed");
        wait_gone(file.parent().expect("it is in a directory"), DEADLINE);
    });
}

#[test]
fn what_nobody_learns_of_is_not_left() {
    contained("mktemp::what_nobody_learns_of_is_not_left", || {
        let broker = Broker::start(Options::default());
        let kept = made(&broker, &[]);
        let directory = kept.parent().expect("it is in a directory");
        let full = || fs::OpenOptions::new().write(true).open("/dev/full").expect("every Linux has it");
        for options in [&["mktemp"][..], &["mktemp", "-d"]] {
            let mut command = broker.scratch(options);
            let status = command.stdout(full()).stderr(Stdio::null()).status().expect("the program can be run");
            assert_eq!(status.code(), Some(WRITE));
            eventually(DEADLINE, "the one before is alone", || names_in(directory).len() == 1);
        }
    });
}

#[test]
fn without_a_broker_one_is_started() {
    contained("mktemp::without_a_broker_one_is_started", || {
        let place = Place::new();
        let runtime = place.path().join("runtime");
        fs::create_dir(&runtime).expect("a place is writable");
        fs::set_permissions(&runtime, PermissionsExt::from_mode(0o700)).expect("a directory just made is ours");
        let mut command = shell(None, r#""$SCRATCH" mktemp; read -r line; true"#);
        command.env("SCRATCH", scratch()).env("XDG_RUNTIME_DIR", &runtime).env_remove("SCRATCHD_RUNTIME_DIR");
        let mut run = Dialogue::start(command);
        let file = PathBuf::from(run.line());
        assert!(file.is_file());
        assert!(run.end().success());
        wait_gone(file.parent().expect("it is in a directory"), DEADLINE);
    });
}
