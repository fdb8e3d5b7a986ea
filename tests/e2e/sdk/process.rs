//! Another process that uses the SDK: this program again, in a role. It is killed, or is another user.

use std::io::{BufRead, stdin};
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::process::{Signal, kill_process};
use scratch_client::{AreaOptions, Client, ClientError, ConnectOptions, GrantOptions};
use scratch_tests::{Broker, DEADLINE, Dialogue, Options, as_user, contained, eventually, names_in, wait_gone};

use super::{behaviours, conformance, grant, modes};

const ROLE: &str = "SCRATCH_SDK_ROLE";
/// What the role says stands between libtest's own words.
pub(super) const SAYS: &str = "sdk: ";

/// What the other process is to do.
#[derive(Debug, Clone, Copy)]
pub(super) enum Role {
    /// Checks modes and owners.
    Modes,
    /// Says where its areas are, and waits.
    Holds,
    /// The same, by the async flavour.
    HoldsAsync,
    /// Makes a file by the channel that it was started with, says so, and waits.
    Delegated,
    /// Does what users of the tempfile crate do.
    Behaviours,
    /// Looks where the two are not the same.
    Differences,
    /// Makes the calls of a conformance case that it is told.
    Conformance,
}

/// This program in a role, talking to that broker.
pub(super) fn process(broker: &Broker, role: Role, user: Option<u32>) -> Command {
    let own = std::env::current_exe().expect("/proc names this program");
    let mut command = user.map_or_else(|| Command::new(&own), |user| as_user(user, &own));
    command.args(["sdk::process::in_a_role", "--exact", "--nocapture", "--test-threads=1"]);
    command.env(ROLE, format!("{role:?}")).env("SCRATCHD_RUNTIME_DIR", broker.runtime_dir());
    command
}

#[test]
fn in_a_role() {
    let Ok(role) = std::env::var(ROLE) else { return };
    contained("sdk::process::in_a_role", || match &*role {
        "Modes" => modes::check(),
        "Holds" => hold(),
        "HoldsAsync" => hold_async(),
        "Delegated" => delegated(),
        "Behaviours" => behaviours::check(),
        "Differences" => behaviours::check_differences(),
        "Conformance" => conformance::serve(),
        _ => panic!("no such role: {role}"),
    });
}

fn hold() {
    let client = Client::connect(&ConnectOptions::default()).expect("the broker listens");
    let lease = grant(&client);
    let own = client.file(&AreaOptions::default()).expect("a file is made under the own lease");
    say_and_wait(lease.path(), own.path());
    lease.leave();
}

fn hold_async() {
    let runtime = tokio::runtime::Runtime::new().expect("threads can be started");
    let (lease, own) = runtime.block_on(async {
        let options = ConnectOptions::default();
        let client = scratch_client::tokio::Client::connect(&options).await.expect("the broker listens");
        let lease = client.grant(&GrantOptions::default()).await.expect("a lease is granted");
        let own = client.file(&AreaOptions::default()).await.expect("a file is made under the own lease");
        (lease, own)
    });
    say_and_wait(lease.path(), own.path());
    lease.leave();
}

fn delegated() {
    let options = ConnectOptions::default();
    let client = Client::connect(&options).expect("the channel is open");
    let second = Client::connect(&options).expect_err("there is one, and it was taken");
    assert!(matches!(second, ClientError::NoChannel { .. }), "{second}");
    let file = client.file(&AreaOptions::default()).expect("a file is made under the channel's lease");
    assert_eq!(file.path(), None);
    println!("\n{SAYS}made");
    let line = stdin().lock().lines().next();
    assert!(line.is_none(), "{line:?}");
    drop(file.keep());
}

/// Says where the leases are. What follows is as if it ended without a word to the broker.
fn say_and_wait(lease: Option<&Path>, area_of_own: Option<&Path>) {
    let lease = lease.expect("it has a path");
    let own = area_of_own.and_then(Path::parent).expect("it has a path");
    println!("\n{SAYS}{}\n{SAYS}{}", lease.display(), own.display());
    let line = stdin().lock().lines().next();
    assert!(line.is_none(), "{line:?}");
}

pub(super) fn says(process: &mut Dialogue) -> String {
    loop {
        if let Some(said) = process.line().strip_prefix(SAYS) {
            return said.to_owned();
        }
    }
}

/// Its leases must be gone after this end of it.
fn ends(test: &str, end: impl Fn(Dialogue)) {
    contained(test, || {
        let broker = Broker::start(Options::default());
        for (role, create) in
            [Role::Holds, Role::HoldsAsync].into_iter().flat_map(|role| [(role, "auto"), (role, "broker")])
        {
            let mut command = process(&broker, role, None);
            command.env("SCRATCHD_CREATE", create);
            let mut holder = Dialogue::start(command);
            let paths = [(); 2].map(|()| PathBuf::from(says(&mut holder)));
            assert!(paths[0] != paths[1] && paths.iter().all(|path| path.is_dir()));
            end(holder);
            paths.iter().for_each(|path| wait_gone(path, DEADLINE));
        }
        eventually(DEADLINE, "nothing is left", || names_in(broker.pool_root()) == [".scratch"]);
    });
}

#[test]
fn its_leases_end_when_it_is_killed() {
    ends("sdk::process::its_leases_end_when_it_is_killed", |holder| {
        kill_process(holder.process(), Signal::KILL).expect("our own child can be killed");
        assert_eq!(holder.wait().code(), None);
    });
}

#[test]
fn its_leases_end_when_it_ends() {
    ends("sdk::process::its_leases_end_when_it_ends", |holder| assert!(holder.end().success()));
}
