//! The channel itself, and how fast the dead go.

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::Instant;

use rustix::fs::inotify;
use scratch_client::{Client, ConnectOptions, CreateMode, GrantOptions};

use crate::Site;
use crate::echo::Echo;
use crate::measure::{Row, quantile, side_by_side};

pub(crate) fn channel_empty(site: &Site) -> Row {
    let client = site.client(CreateMode::Broker);
    let echo = Echo::start();
    let mut packet = vec![0; 64 * 1024];
    let (ours, theirs, samples) = side_by_side(
        2000,
        |watch| watch.time(|| client.ping().expect("the broker answers")),
        |watch| watch.time(|| echo.call(&mut packet, 4)),
    );
    Row {
        case: "channel-empty",
        peer: Some("a bare SEQPACKET echo"),
        file_system: site.file_system,
        unit: "us",
        ours,
        theirs: Some(theirs),
        goal: 1.3,
        samples,
    }
}

/// A client that has a lease and waits to be killed.
pub(crate) fn hold() -> ExitCode {
    let client = Client::connect(&ConnectOptions::default()).expect("the broker is there");
    let lease = client.grant(&GrantOptions::default()).expect("the broker grants");
    let path = lease.path().expect("it has a path");
    std::fs::write(path.join("file"), b"live").expect("a lease's directory can be written");
    println!("{}", path.display());
    let _ = std::io::stdout().flush();
    loop {
        std::thread::park();
    }
}

/// From SIGKILL to the lease's path being gone, in milliseconds.
pub(crate) fn sigkill_gone(site: &Site) -> Row {
    const KILLS: usize = 200;
    let mut times: Vec<f64> = (0..KILLS).map(|_| one_kill(site)).collect();
    Row {
        case: "sigkill-gone-p99",
        peer: None,
        file_system: site.file_system,
        unit: "ms",
        ours: quantile(&mut times, 0.99),
        theirs: None,
        goal: 5.0,
        samples: KILLS,
    }
}

fn one_kill(site: &Site) -> f64 {
    let program = std::env::current_exe().expect("/proc names this program");
    let mut child = Command::new(program)
        .args(["--part", "hold"])
        .env("SCRATCHD_RUNTIME_DIR", site.broker.runtime_dir())
        .stdout(Stdio::piped())
        .spawn()
        .expect("this program can be run");
    let mut line = String::new();
    let mut said = BufReader::new(child.stdout.take().expect("stdout is piped"));
    said.read_line(&mut line).expect("it says its path");
    let path = PathBuf::from(line.trim_end());
    let watch = watch(path.parent().expect("a lease is in a pool"));
    let start = Instant::now();
    child.kill().expect("our own child can be killed");
    let mut space = [std::mem::MaybeUninit::uninit(); 4096];
    while path.exists() {
        rustix::io::read(&watch, &mut space).expect("the pool is watched");
    }
    let gone = start.elapsed().as_secs_f64() * 1e3;
    child.wait().expect("our own child can be waited for");
    gone
}

fn watch(pool: &Path) -> std::os::fd::OwnedFd {
    let watch = inotify::init(inotify::CreateFlags::CLOEXEC).expect("the kernel has inotify");
    inotify::add_watch(&watch, pool, inotify::WatchFlags::MOVED_FROM).expect("the pool can be watched");
    watch
}
