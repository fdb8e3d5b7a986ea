//! `scratch lease` and `scratch drain`.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use rustix::process::{Signal, kill_process};
use scratch_tests::{
    Broker, DEADLINE, Dialogue, Held, Options, contained, eventually, is_root, left_out, names_in, scratch, shell,
    wait_gone,
};
use serde_json::{Value, json};

const USAGE: i32 = 64;
const UNAVAILABLE: i32 = 69;
const NOT_THERE: i32 = 73;
const TRY_LATER: i32 = 75;

/// Exit code, standard output without its last line's end, standard error.
fn lease(broker: &Broker, arguments: &[&str]) -> (i32, String, String) {
    outcome(broker.scratch(&[&["lease"], arguments].concat()))
}

fn outcome(mut command: Command) -> (i32, String, String) {
    let output = command.stdin(Stdio::null()).output().expect("the command line's program can be run");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim_end_matches('\n').to_owned();
    (output.status.code().expect("it is not killed"), text(&output.stdout), text(&output.stderr))
}

/// The output of one that must succeed without a word of complaint.
fn says(broker: &Broker, arguments: &[&str]) -> String {
    let (code, said, complaint) = lease(broker, arguments);
    assert_eq!((code, complaint.as_str()), (0, ""), "{arguments:?}");
    said
}

fn show(broker: &Broker, id: &str) -> Value {
    broker.json(&["lease", "show", id])
}

fn kinds(shown: &Value) -> Vec<&str> {
    let holders = shown["holders"].as_array().expect("holders is an array");
    holders.iter().map(|holder| holder["kind"].as_str().expect("a kind is a name")).collect()
}

#[test]
fn a_refusal_has_its_reason_in_words_and_as_json() {
    contained("lease::a_refusal_has_its_reason_in_words_and_as_json", || {
        let broker = Broker::start(Options::default());
        let unknown = "aaaaaaaaaaaaaaaa";
        // Over gRPC, and on the handle channel.
        for command in [["show", unknown], ["renew", unknown]] {
            let (code, said, complaint) = lease(&broker, &command);
            assert_eq!((code, said.as_str()), (NOT_THERE, ""), "{command:?}");
            assert!(complaint.ends_with("(LEASE_UNKNOWN)"), "{command:?}: {complaint}");
        }
        let (code, said, complaint) = lease(&broker, &["show", unknown, "--output", "json"]);
        assert_eq!((code, said.as_str()), (NOT_THERE, ""));
        let complaint: Value = serde_json::from_str(&complaint).expect("it is one object");
        assert_eq!(complaint["error"]["reason"], "LEASE_UNKNOWN");
        assert_eq!(complaint["error"]["code"], "NOT_FOUND");
    });
}

#[test]
fn granted_held_renewed_revoked() {
    contained("lease::granted_held_renewed_revoked", || {
        let broker = Broker::start(Options::default());
        let id = says(&broker, &["grant", "--ttl", "10m", "--label", "job=a=b", "--pool", "default"]);
        let shown = show(&broker, &id);
        assert_eq!(shown["labels"], json!({ "job": "a=b" }));
        assert_eq!((&shown["granted_ttl"], kinds(&shown)), (&json!("10m"), vec!["ttl"]));
        assert_eq!(says(&broker, &["renew", &id]), "10m");

        let own = broker.json(&["lease", "grant"]);
        let path = PathBuf::from(own["path"].as_str().expect("a lease has a path"));
        assert!(path.is_dir() && path.ends_with(own["id"].as_str().expect("an id is text")));
        let own = own["id"].as_str().expect("an id is text");
        assert_eq!(show(&broker, own)["holders"][0]["pid"], std::process::id(), "not held by its caller");
        let (code, _, said) = lease(&broker, &["renew", own]);
        assert_eq!(code, NOT_THERE, "there is no ttl to renew: {said}");

        let (code, _, said) = lease(&broker, &["revoke", "abcdefghijklm234", &id, own]);
        assert_eq!(code, NOT_THERE, "{said}");
        assert!(said.contains("abcdefghijklm234") && !said.contains(&id), "{said}");
        assert_eq!(broker.json(&["ls"]), json!([]), "one that is not there kept the others from ending");
        assert!(!path.exists());
    });
}

#[test]
fn the_calling_shell_or_a_time_holds_it() {
    contained("lease::the_calling_shell_or_a_time_holds_it", || {
        let broker = Broker::start(Options::default());
        let text = r#"id=$("$SCRATCH" lease grant); echo "$id"; read -r line"#;
        let mut command = shell(None, text);
        command.env("SCRATCH", scratch()).env("SCRATCHD_RUNTIME_DIR", broker.runtime_dir());
        let mut run = Dialogue::start(command);
        let path = broker.pool_root().join(run.line());
        assert!(path.is_dir());
        kill_process(run.process(), Signal::KILL).expect("our own child can be killed");
        wait_gone(&path, DEADLINE);

        let short = says(&broker, &["grant", "--ttl", "1s"]);
        let long = says(&broker, &["grant", "--ttl", "1h", "--lifetime", "1s"]);
        let below = says(&broker, &["grant", "--ttl", "1h", "--parent", &short]);
        for id in [short, long, below] {
            wait_gone(&broker.pool_root().join(id), DEADLINE);
        }
    });
}

#[test]
fn what_is_attached_holds_it_and_what_is_detached_does_not() {
    contained("lease::what_is_attached_holds_it_and_what_is_detached_does_not", || {
        let broker = Broker::start(Options::default());
        let holder = Dialogue::start(shell(None, "read -r line"));
        let process = holder.process().as_raw_nonzero().to_string();
        let id = says(&broker, &["grant", "--ttl", "1h"]);
        let path = broker.pool_root().join(&id);
        let by_process = says(&broker, &["attach", &id, "--pid", &process]);
        let by_time = says(&broker, &["attach", &id, "--ttl", "2h"]);
        let shown = show(&broker, &id);
        assert_eq!(kinds(&shown), ["ttl", "process", "ttl"]);
        let of = |id: &str| id.parse::<u32>().expect("a holder's id is a number");
        assert_eq!(
            (&shown["holders"][1]["id"], &shown["holders"][2]["id"]),
            (&json!(of(&by_process)), &json!(of(&by_time)))
        );

        let (code, _, said) = lease(&broker, &["detach", &id, "77"]);
        assert_eq!(code, NOT_THERE, "{said}");
        let first = shown["holders"][0]["id"].to_string();
        for gone in [&first, &by_time] {
            says(&broker, &["detach", &id, gone]);
        }
        assert_eq!(kinds(&show(&broker, &id)), ["process"]);
        assert!(path.is_dir());
        kill_process(holder.process(), Signal::KILL).expect("our own child can be killed");
        wait_gone(&path, DEADLINE);

        let last = says(&broker, &["grant", "--ttl", "1h"]);
        says(&broker, &["detach", &last, "1"]);
        wait_gone(&broker.pool_root().join(last), DEADLINE);
    });
}

#[test]
fn shown_with_its_areas_and_why_it_went() {
    contained("lease::shown_with_its_areas_and_why_it_went", || {
        let broker = Broker::start(Options::default());
        let held = Held::start(&broker);
        std::fs::create_dir(held.path().join("directory")).expect("the area is ours");
        std::fs::write(held.path().join("file"), "12345").expect("the area is ours");
        let shown = show(&broker, held.lease());
        assert_eq!((&shown["state"], &shown["reason"]["code"]), (&json!("live"), &json!("HELD")));
        let areas = shown["areas"].as_array().expect("areas is an array");
        let seen: Vec<_> = areas.iter().map(|area| (&area["id"], &area["kind"], &area["path"])).collect();
        let path = |name: &str| json!(held.path().join(name));
        assert_eq!(seen.len(), 2);
        assert_eq!(seen[0], (&json!("directory"), &json!("directory"), &path("directory")));
        assert_eq!(seen[1], (&json!("file"), &json!("file"), &path("file")));
        assert!(areas.iter().all(|area| area["bytes"].is_u64()), "{areas:?}");
        let text = says(&broker, &["show", held.lease()]);
        assert!(text.contains(held.lease()) && text.contains("file") && text.contains("pid "), "{text}");

        let id = held.lease().to_owned();
        assert!(held.end().success());
        let shown = show(&broker, &id);
        assert_eq!((&shown["state"], &shown["reason"]["code"]), (&json!("ended"), &json!("REVOKED")));
        assert_eq!(shown["areas"], json!([]));
        assert_eq!(lease(&broker, &["show", "abcdefghijklm234"]).0, NOT_THERE);
    });
}

#[test]
fn revoked_and_freed() {
    contained("lease::revoked_and_freed", || {
        let broker = Broker::start(Options::default());
        let id = says(&broker, &["grant", "--ttl", "1h"]);
        for name in 0..500 {
            std::fs::write(broker.pool_root().join(&id).join(name.to_string()), "x").expect("the lease is ours");
        }
        says(&broker, &["revoke", "--wait", &id]);
        assert!(names_in(&broker.pool_root().join(".scratch/trash")).is_empty(), "it was not freed");
        if !is_root() {
            return left_out("lease::revoked_and_freed", "mounting in the broker's name space needs root");
        }
        let id = says(&broker, &["grant", "--ttl", "1h"]);
        let point = broker.pool_root().join(&id).join("mount");
        std::fs::create_dir(&point).expect("the lease is ours");
        let mut mount = Command::new("mount");
        assert!(mount.args(["-n", "-t", "tmpfs", "tmpfs"]).arg(&point).status().is_ok_and(|status| status.success()));
        let (code, _, said) = lease(&broker, &["revoke", "--wait", &id]);
        assert_eq!(code, TRY_LATER, "{said}");
        assert!(said.contains("(mount)"), "does not say what is in the way: {said}");
        assert!(!point.exists(), "it is in the name space still");
    });
}

#[test]
fn what_makes_no_sense_is_refused() {
    contained("lease::what_makes_no_sense_is_refused", || {
        let broker = Broker::start(Options::default());
        let cases: [&[&str]; 9] = [
            &["keep", "abcdefghijklm234"],
            &["keep", "abcdefghijklm234", "--for", "1h", "--bytes", "0"],
            &["unknown"],
            &[],
            &["grant", "--ttl", "0s"],
            &["grant", "--label", "=x"],
            &["attach", "abcdefghijklm234"],
            &["attach", "abcdefghijklm234", "--pid", "1", "--ttl", "1h"],
            &["revoke"],
        ];
        for arguments in cases {
            let (code, said, complaint) = lease(&broker, arguments);
            assert_eq!((code, said.as_str()), (USAGE, ""), "{arguments:?}: {complaint}");
            assert!(!complaint.is_empty());
        }
        assert_eq!(lease(&broker, &["grant", "--pool", "none"]).0, NOT_THERE);
        assert_eq!(lease(&broker, &["grant", "--parent", "abcdefghijklm234"]).0, NOT_THERE);
        assert_eq!(names_in(broker.pool_root()), [".scratch"], "something was granted");
    });
}

#[test]
fn without_a_broker_none_is_started_to_look() {
    contained("lease::without_a_broker_none_is_started_to_look", || {
        let mut broker = Broker::start(Options::default());
        broker.kill();
        for arguments in
            [&["show", "abcdefghijklm234"][..], &["renew", "x"], &["revoke", "x"], &["revoke", "--wait", "x"]]
        {
            assert_eq!(lease(&broker, arguments).0, UNAVAILABLE, "{arguments:?}");
        }
        assert_eq!(outcome(broker.scratch(&["drain"])).0, UNAVAILABLE);
    });
}

#[test]
fn drained_and_called_off() {
    contained("lease::drained_and_called_off", || {
        let mut broker = Broker::start(Options::default());
        let held = Held::start(&broker);
        let (code, said, complaint) = outcome(broker.scratch(&["drain", "--deadline", "1s"]));
        assert_eq!((code, said.as_str()), (TRY_LATER, ""), "{complaint}");
        // Nothing but the result where nobody looks.
        assert_eq!(complaint.lines().count(), 1, "{complaint}");
        assert_eq!(lease(&broker, &["grant", "--ttl", "1h"]).0, UNAVAILABLE, "a draining broker grants");
        let undone = outcome(broker.scratch(&["drain", "--undo"]));
        assert_eq!((undone.0, undone.2.as_str()), (0, ""));
        let id = says(&broker, &["grant", "--ttl", "1h"]);
        says(&broker, &["revoke", &id]);

        let drain = Dialogue::start(broker.scratch(&["drain"]));
        eventually(DEADLINE, "the broker drains", || broker.json(&["status"])["draining"] == true);
        assert!(outcome(broker.scratch(&["drain", "--undo"])).0 == 0);
        assert_eq!(drain.wait().code(), Some(TRY_LATER), "it was called off");

        let mut drain = Dialogue::start(broker.scratch(&["drain"]));
        eventually(DEADLINE, "the broker drains", || broker.json(&["status"])["draining"] == true);
        let path = held.path().to_path_buf();
        assert!(held.end().success());
        assert!(drain.line().starts_with("drained"));
        assert_eq!(drain.wait().code(), Some(0));
        assert!(!Path::new(&path).exists());
        broker.kill();
    });
}
