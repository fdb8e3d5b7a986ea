//! Cgroups as holders: their ends, what is no end, restarts, what is refused, and the one that `scratch run` makes.

use std::fs;
use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::process::{Pid, Signal, kill_process};
use scratch_client::{CgroupDirectory, Client, ClientError, ConnectOptions, GrantOptions, Holder, Lease};
use scratch_tests::{Broker, Cgroup, DEADLINE, Dialogue, Options, contained, enter, eventually, wait_gone};
use serde_json::Value;

const TENANT: u32 = 1234;

fn client(broker: &Broker) -> Client {
    let options = ConnectOptions { runtime_directory: Some(broker.runtime_dir()), ..ConnectOptions::default() };
    Client::connect(&options).expect("the broker listens")
}

fn try_holding(broker: &Broker, cgroup: &Path) -> Result<Lease, ClientError> {
    let holders = vec![Holder::Cgroup(CgroupDirectory::open(cgroup)?)];
    client(broker).grant(&GrantOptions { holders, ..GrantOptions::default() })
}

/// The directory of a lease that this cgroup alone holds.
fn held_by(broker: &Broker, cgroup: &Path) -> PathBuf {
    let lease = try_holding(broker, cgroup).expect("a cgroup may hold a lease");
    let path = lease.path().expect("a directory pool's leases have paths").to_path_buf();
    lease.leave();
    path
}

fn id(area: &Path) -> &str {
    area.file_name().and_then(|name| name.to_str()).expect("a lease's directory has its id as name")
}

fn shown(broker: &Broker, area: &Path) -> Value {
    broker.json(&["lease", "show", id(area)])
}

fn why(broker: &Broker, area: &Path) -> String {
    let lease = shown(broker, area);
    assert_eq!((&lease["state"], &lease["reason"]["code"]), (&"ended".into(), &"HOLDERS_GONE".into()), "{lease}");
    why_alone(lease["reason"]["text"].as_str().expect("a reason has a text"))
}

/// Without what has become of its directory since.
pub(crate) fn why_alone(text: &str) -> String {
    let remains = ["; it is freed", "; it is out of sight and waits to be freed", "; it is about to go out of sight"];
    let why = remains.iter().find_map(|remains| text.strip_suffix(remains));
    why.unwrap_or_else(|| panic!("{text:?} does not say what is left")).to_owned()
}

/// A process that ends when it is dropped or told to, and is waited for.
fn process_in(cgroup: &Path) -> Dialogue {
    let process = Dialogue::start(Command::new("cat"));
    enter(cgroup, process.process());
    process
}

/// The watcher takes events in their order: what was told before the end of a cgroup has been looked at after it.
fn let_the_watcher_look(broker: &Broker, cgroups: &Cgroup, name: &str) {
    let cgroup = cgroups.child(name);
    let area = held_by(broker, &cgroup);
    assert!(process_in(&cgroup).end().success());
    wait_gone(&area, DEADLINE);
}

#[test]
fn a_cgroup_holds_a_lease_until_its_last_process_has_gone() {
    let test = "cgroup::a_cgroup_holds_a_lease_until_its_last_process_has_gone";
    contained(test, || {
        let Some(cgroups) = Cgroup::new(test) else { return };
        let broker = Broker::start(Options::default());
        let (cgroup, below) = (cgroups.child("a"), cgroups.path().join("a/below"));
        fs::create_dir(&below).expect("root may make cgroups");
        let area = held_by(&broker, &cgroup);
        let holders = shown(&broker, &area)["holders"].clone();
        assert_eq!(holders, serde_json::json!([{ "id": 1, "kind": "cgroup", "path": cgroup.to_str() }]));

        // It never had a process: frozen and thawed it tells of changes, and none of them is an end.
        for frozen in ["1", "0"] {
            fs::write(cgroup.join("cgroup.freeze"), frozen).expect("root may freeze");
        }
        let_the_watcher_look(&broker, &cgroups, "b");
        assert!(area.is_dir(), "ended before its first process");

        let (one, two) = (process_in(&cgroup), process_in(&below));
        assert!(one.end().success());
        let_the_watcher_look(&broker, &cgroups, "c");
        assert!(area.is_dir(), "ended with a process in it");
        assert!(two.end().success());
        wait_gone(&area, DEADLINE);
        assert_eq!(why(&broker, &area), "its last holder, a cgroup, has no process left");
        fs::remove_dir(below).expect("it is empty");
    });
}

#[test]
fn a_cgroup_that_is_removed_before_its_first_process_ends_the_lease() {
    let test = "cgroup::a_cgroup_that_is_removed_before_its_first_process_ends_the_lease";
    contained(test, || {
        let Some(cgroups) = Cgroup::new(test) else { return };
        let broker = Broker::start(Options::default());
        let (removed, other) = (cgroups.child("removed"), cgroups.child("other"));
        let (area, kept) = (held_by(&broker, &removed), held_by(&broker, &other));
        fs::remove_dir(removed).expect("it is empty");
        wait_gone(&area, DEADLINE);
        assert_eq!(why(&broker, &area), "its last holder, a cgroup, was removed");
        assert!(kept.is_dir(), "another's removal ended it");
    });
}

#[test]
fn a_restart_finds_cgroups_again_and_ends_what_has_ended() {
    let test = "cgroup::a_restart_finds_cgroups_again_and_ends_what_has_ended";
    contained(test, || {
        let Some(cgroups) = Cgroup::new(test) else { return };
        let mut broker = Broker::start(Options::default());
        let names = ["lives", "waits", "emptied", "ran", "removed", "replaced"];
        let paths = names.map(|name| cgroups.child(name));
        let [lives, waits, emptied, ran, removed, replaced] = &paths;
        let (living, ending) = (process_in(lives), process_in(emptied));
        let areas = [lives, waits, emptied, ran, removed, replaced].map(|cgroup| held_by(&broker, cgroup));
        let running = process_in(ran);
        broker.kill();

        for process in [ending, running] {
            assert!(process.end().success());
        }
        for cgroup in [removed, replaced] {
            fs::remove_dir(cgroup).expect("it is empty");
        }
        fs::create_dir(replaced).expect("root may make cgroups");
        let newcomer = process_in(replaced);
        broker.restart();

        let [lives_area, waits_area, ended @ ..] = &areas;
        let reasons = ["has no process left", "has no process left", "was removed", "was removed"];
        for (area, reason) in ended.iter().zip(reasons) {
            wait_gone(area, DEADLINE);
            assert_eq!(why(&broker, area), format!("its last holder, a cgroup, {reason}"), "{}", area.display());
        }
        assert!(lives_area.is_dir() && waits_area.is_dir());
        assert_eq!(shown(&broker, waits_area)["holders"][0]["kind"], "cgroup");
        assert!(process_in(waits).end().success() && living.end().success());
        wait_gone(lives_area, DEADLINE);
        wait_gone(waits_area, DEADLINE);
        assert!(newcomer.end().success());
    });
}

#[test]
fn what_is_no_cgroup_that_can_end_is_refused() {
    let test = "cgroup::what_is_no_cgroup_that_can_end_is_refused";
    contained(test, || {
        let Some(cgroups) = Cgroup::new(test) else { return };
        let broker = Broker::start(Options::default());
        let version_1 = Path::new("/sys/fs/cgroup/cpu");
        let removed = cgroups.child("removed");
        let open = CgroupDirectory::open(&removed).expect("it is there");
        fs::remove_dir(&removed).expect("it is empty");
        let gone = GrantOptions { holders: vec![Holder::Cgroup(open)], ..GrantOptions::default() };
        let refusals = [
            (Some("the root of the cgroup hierarchy"), try_holding(&broker, cgroups.root())),
            (Some("must be a cgroup's directory"), try_holding(&broker, broker.place())),
            (Some("is removed"), client(&broker).grant(&gone)),
            (version_1.exists().then_some("version 1"), try_holding(&broker, version_1)),
        ];
        for (expected, refused) in refusals {
            let Some(expected) = expected else { continue };
            match refused {
                Err(ClientError::Refused { reason, message, .. }) => {
                    assert!(reason == "HOLDER_INVALID" && message.contains(expected), "{reason} {message}");
                }
                other => panic!("{expected}: {other:?}"),
            }
        }
    });
}

#[test]
fn the_command_line_names_cgroups_by_path() {
    let test = "cgroup::the_command_line_names_cgroups_by_path";
    contained(test, || {
        let Some(cgroups) = Cgroup::new(test) else { return };
        let broker = Broker::start(Options::default());
        let (first, second) = (cgroups.child("first"), cgroups.child("second"));
        let processes = [process_in(&first), process_in(&second)];
        let path = |path: &Path| path.to_str().expect("it is of letters").to_owned();
        let granted = broker.json(&["lease", "grant", "--cgroup", &path(&first)]);
        let area = PathBuf::from(granted["path"].as_str().expect("a lease has a path"));
        let attached = broker.json(&["lease", "attach", id(&area), "--cgroup", &path(&second)]);
        assert_eq!(attached["holder"], 2);
        let again = broker.json(&["lease", "attach", id(&area), "--cgroup", &path(&second)]);
        assert_eq!(again["holder"], 2, "one cgroup holds a lease once");
        let listed = broker.scratch(&["ls"]).output().expect("the command line's program can be run");
        let listed = String::from_utf8_lossy(&listed.stdout).into_owned();
        assert!(listed.contains("cgroup first, cgroup second"), "{listed}");
        let [one, two] = processes;
        assert!(one.end().success());
        eventually(DEADLINE, "the first has gone", || shown(&broker, &area)["holders"][0]["id"] == 2);
        assert!(two.end().success());
        wait_gone(&area, DEADLINE);
    });
}

/// Runs a command in a cgroup from its start.
fn inside(cgroup: &Path, command: &Command) -> Command {
    let mut inner = Command::new("sh");
    inner.args(["-c", r#"echo $$ >"$1/cgroup.procs" && shift && exec "$@""#, "sh"]).arg(cgroup);
    inner.arg(command.get_program()).args(command.get_args());
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => inner.env(name, value),
            None => inner.env_remove(name),
        };
    }
    inner
}

/// A cgroup that is a tenant's to divide.
fn delegated(cgroups: &Cgroup) -> PathBuf {
    let cgroup = cgroups.child("delegated");
    for name in ["", "cgroup.procs", "cgroup.subtree_control", "cgroup.threads"] {
        chown(cgroup.join(name), Some(TENANT), Some(TENANT)).expect("giving away needs root");
    }
    cgroup
}

fn cgroups_in(cgroup: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(cgroup).expect("a cgroup can be listed");
    entries.map(|entry| entry.expect("a cgroup can be listed").path()).filter(|path| path.is_dir()).collect()
}

#[test]
fn a_daemon_without_environment_keeps_its_area_by_the_cgroup_of_run() {
    let test = "cgroup::a_daemon_without_environment_keeps_its_area_by_the_cgroup_of_run";
    contained(test, || {
        let Some(cgroups) = Cgroup::new(test) else { return };
        let mut broker = Broker::start(Options::default());
        let own = delegated(&cgroups);
        let script = r#"echo "$TMPDIR"; env -i "PATH=$PATH" setsid sh -c 'echo $$; exec sleep 1000' & read -r line"#;
        let command = broker.scratch_as(TENANT, &["run", "--", "sh", "-c", script]);
        let mut run = Dialogue::start(inside(&own, &command));
        let area = PathBuf::from(run.line());
        let daemon: i32 = run.line().parse().expect("a process has a number");
        fs::write(area.join("precious"), "content").expect("root may write");
        let [child] = cgroups_in(&own).try_into().expect("run made one cgroup");
        assert_eq!(child.file_name().and_then(|name| name.to_str()), Some(&*format!("scratch-{}", id(&area))));

        // Wrapper and command killed, and the broker that had the socket's end: only the cgroup is left.
        drop(run);
        broker.kill();
        broker.restart();
        let holders = shown(&broker, &area)["holders"].clone();
        let kinds: Vec<_> = holders.as_array().expect("holders is an array").iter().map(|one| &one["kind"]).collect();
        assert_eq!(kinds, ["cgroup"], "{holders}");
        assert_eq!(fs::read_to_string(area.join("precious")).expect("what lives is never taken away"), "content");

        let daemon = Pid::from_raw(daemon).expect("a process has a number");
        kill_process(daemon, Signal::KILL).expect("root may kill it");
        wait_gone(&area, DEADLINE);
        eventually(DEADLINE, "an empty cgroup can be removed", || fs::remove_dir(&child).is_ok());
    });
}

#[test]
fn run_removes_the_cgroup_that_it_made_and_makes_none_where_it_may_not() {
    let test = "cgroup::run_removes_the_cgroup_that_it_made_and_makes_none_where_it_may_not";
    contained(test, || {
        let Some(cgroups) = Cgroup::new(test) else { return };
        let broker = Broker::start(Options::default());
        let (own, foreign) = (delegated(&cgroups), cgroups.child("foreign"));
        // Where its own cgroup is, below the delegated one or not.
        let script = r#"grep ^0:: /proc/self/cgroup; exit 7"#;
        let run = ["run", "--", "sh", "-c", script];
        let cases = [
            (&own, broker.scratch_as(TENANT, &run), true),
            (&foreign, broker.scratch_as(TENANT, &run), false),
            // To root all is writable; that alone makes nothing its to divide.
            (&own, broker.scratch(&run), false),
        ];
        for (cgroup, command, makes_one) in cases {
            let mut run = Dialogue::start(inside(cgroup, &command));
            let found = run.line();
            let innermost = found.rsplit('/').next().unwrap_or_default();
            assert_eq!(innermost.starts_with("scratch-"), makes_one, "{found}");
            assert_eq!(run.end().code(), Some(7));
            assert_eq!(cgroups_in(cgroup), [] as [PathBuf; 0], "left behind");
        }
    });
}
