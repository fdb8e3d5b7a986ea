//! Another process that uses the SDK: this program again, in a role. It is killed, or is another user.

use std::io::{BufRead, stdin};
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::process::{Signal, kill_process};
use scratch_client::{AreaOptions, Client, ConnectOptions};
use scratch_tests::{Broker, DEADLINE, Dialogue, Options, as_user, contained, eventually, names_in, wait_gone};

use super::{grant, modes, path};

const ROLE: &str = "SCRATCH_SDK_ROLE";
/// What the role says stands between libtest's own words.
const SAYS: &str = "sdk: ";

/// What the other process is to do.
#[derive(Debug, Clone, Copy)]
pub(super) enum Role {
    /// Checks modes and owners.
    Modes,
    /// Says where its areas are, and waits.
    Holds,
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
        _ => panic!("no such role: {role}"),
    });
}

fn hold() {
    let client = Client::connect(&ConnectOptions::default()).expect("the broker listens");
    let lease = grant(&client);
    let own = client.file(&AreaOptions::default()).expect("a file is made under the own lease");
    let own = own.path().and_then(Path::parent).expect("it has a path");
    println!("\n{SAYS}{}\n{SAYS}{}", path(&lease).display(), own.display());
    let line = stdin().lock().lines().next();
    // As if it ended without a word to the broker.
    assert!(line.is_none(), "{line:?}");
    lease.leave();
}

fn says(process: &mut Dialogue) -> String {
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
        for create in ["auto", "broker"] {
            let mut command = process(&broker, Role::Holds, None);
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
