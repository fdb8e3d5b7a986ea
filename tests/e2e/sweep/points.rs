//! Where a sweep strikes: every call that a thread role makes in the workload, one by one.

use std::path::Path;

use scratch_tests::{Broker, Counts, Options, Random, Strace, counted, threads};

use super::check::GRACE;
use super::clients::Clients;
use super::workload;

/// Calls on files, directories, sockets and what watches them.
pub(crate) const CALLS: &[&str] = &[
    "open",
    "openat",
    "openat2",
    "mkdirat",
    "renameat",
    "renameat2",
    "linkat",
    "unlinkat",
    "symlinkat",
    "read",
    "write",
    "writev",
    "fchmod",
    "fchmodat",
    "fchmodat2",
    "fchown",
    "fchownat",
    "ftruncate",
    "fallocate",
    "fsync",
    "copy_file_range",
    "statx",
    "fstat",
    "newfstatat",
    "fstatfs",
    "getdents64",
    "recvmsg",
    "sendmsg",
    "recvfrom",
    "sendto",
    "accept4",
    "epoll_ctl",
    "timerfd_settime",
    "memfd_create",
    "name_to_handle_at",
    "pidfd_open",
    "fcntl",
    "flock",
    "close",
];

/// Roles whose threads are there when the broker is ready; others are begun for a request.
const STANDING: &[&str] = &["scratchd", "channel", "tokio-rt-worker", "watch", "reap", "side", "close"];

/// One call of one role.
#[derive(Debug, Clone)]
pub(crate) struct Point {
    pub(crate) role: String,
    pub(crate) call: String,
    pub(crate) number: u32,
}

impl Point {
    /// Lets it go wrong there: strace acts before the call.
    pub(crate) fn strike(&self, broker: &Broker, what: &str, log: &Path) -> Strace {
        let standing = STANDING.contains(&self.role.as_str());
        let threads: Vec<u32> = if standing {
            let of_role = |(number, role): (u32, String)| (role == self.role).then_some(number);
            threads(broker.pid()).into_iter().filter_map(of_role).collect()
        } else {
            vec![number_of(broker)]
        };
        let inject = format!("inject={}:{what}:when={}", self.call, self.number);
        let arguments = ["-e".to_owned(), format!("trace={}", self.call), "-e".to_owned(), inject];
        // A thread that is begun for a request counts for itself, as does whoever begins it: who comes there first is struck.
        Strace::attach(&threads, !standing, &arguments, log)
    }
}

fn number_of(broker: &Broker) -> u32 {
    u32::try_from(broker.pid().as_raw_nonzero().get()).expect("a process has a positive number")
}

/// A broker to be swept, with a place of its own.
pub(crate) fn broker() -> Broker {
    Broker::start(Options { grace: Some(GRACE), ..Options::default() })
}

/// Runs the workload once and counts. The ledger is checked as after any run.
pub(crate) fn count() -> Counts {
    let broker = broker();
    let far = far_of(&broker);
    let log = far.join("strace");
    let strace = watch(&broker, &log);
    let mut clients = Clients::new(&broker, &far);
    workload::run(&mut clients).expect("nobody kills this broker");
    drop(strace);
    clients.ledger.check(&clients.pool);
    counted(&log)
}

/// Writes down all that a broker calls from now on.
pub(crate) fn watch(broker: &Broker, log: &Path) -> Strace {
    // With a question mark: not every machine and every strace knows all of them.
    let trace = ["-e".to_owned(), format!("trace=?{}", CALLS.join(",?"))];
    Strace::attach(&[number_of(broker)], true, &trace, log)
}

/// A directory on another file system than the broker's place.
pub(crate) fn far_of(broker: &Broker) -> std::path::PathBuf {
    let name = broker.place().file_name().expect("a place has a name");
    let far = Path::new("/dev/shm").join(name);
    std::fs::create_dir_all(&far).expect("the containment's /dev/shm is our own");
    far
}

/// All points, in the order of roles and calls.
pub(crate) fn all(counts: &Counts) -> Vec<Point> {
    let of = |((role, call), count): (&(String, String), &u32)| {
        let (role, call) = (role.clone(), call.clone());
        (1..=*count).map(move |number| Point { role: role.clone(), call: call.clone(), number })
    };
    counts.iter().flat_map(of).collect()
}

/// So many of them, from every part of the list alike.
pub(crate) fn some<P>(points: Vec<P>, number: usize, random: &mut Random) -> Vec<P> {
    let stride = points.len().div_ceil(number).max(1);
    let first = usize::try_from(random.below(stride as u64)).expect("a small number");
    points.into_iter().skip(first).step_by(stride).collect()
}
