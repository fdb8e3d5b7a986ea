//! Output that nobody takes: results end quietly, the log is done without, and nothing else changes.

use std::fs::{self, OpenOptions};
use std::io::pipe;
use std::os::unix::process::ExitStatusExt;
use std::process::{Output, Stdio};

use scratch_tests::{Broker, Held, Options, contained};

/// 128 + SIGPIPE: what a shell says of a program that wrote to nobody.
const UNREAD: i32 = 141;

/// Runs a command whose standard output is a pipe that nobody reads.
fn unread(broker: &Broker, arguments: &[&str]) -> Output {
    let (reader, writer) = pipe().expect("a pipe can be had");
    drop(reader);
    let command = broker.scratch(arguments).stdin(Stdio::null()).stdout(writer).stderr(Stdio::piped()).spawn();
    command.and_then(|child| child.wait_with_output()).expect("the command line's program can be run")
}

#[test]
fn results_end_quietly() {
    contained("unread::results_end_quietly", || {
        let broker = Broker::start(Options::default());
        let held = Held::start(&broker);
        let config = broker.place().join("fine.toml");
        let text = format!("[[pool]]\nname = \"default\"\nroot = \"{}\"\n", broker.pool_root().display());
        fs::write(&config, text).expect("a place is writable");
        let config = config.to_str().expect("a place has an ordinary name");
        for arguments in [
            &["ls"][..],
            &["ls", "--output", "json"],
            &["status"],
            &["status", "--tenants"],
            &["status", "--output=json"],
            &["debt"],
            &["verify"],
            &["reap"],
            &["reap", "--dry-run"],
            &["doctor"],
            &["check", config],
            &["completions", "bash"],
        ] {
            let output = unread(&broker, arguments);
            assert_eq!(output.status.code(), Some(UNREAD), "{arguments:?}: {:?}", output.status.signal());
            assert_eq!(String::from_utf8_lossy(&output.stderr), "", "{arguments:?}");
        }
        // Complaints that nobody hears change no exit code.
        let nowhere = || OpenOptions::new().write(true).open("/dev/full").expect("every Linux has it");
        for (arguments, code) in [(&["lease", "revoke", "aaaaaaaaaaaaaaaa"][..], 73), (&["top"], 64)] {
            let status = broker.scratch(arguments).stdout(nowhere()).stderr(nowhere()).status();
            assert_eq!(status.expect("the command line's program can be run").code(), Some(code), "{arguments:?}");
        }
        assert!(held.end().success());
    });
}

#[test]
fn a_broker_goes_on_without_its_log() {
    contained("unread::a_broker_goes_on_without_its_log", || {
        let mut broker = Broker::start(Options::default());
        assert!(broker.terminate().success());
        let without_log = ["sh", "-c", "exec \"$0\" \"$@\" 2>/dev/full"].map(str::to_owned).to_vec();
        broker.try_restart_under(without_log).expect("it needs no log to start");
        let held = Held::start(&broker);
        assert_eq!(broker.json(&["ls"]).as_array().map(Vec::len), Some(1));
        assert!(held.end().success());
        assert!(broker.terminate().success());
    });
}
