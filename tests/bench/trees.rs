//! Whole trees: how long the client waits for a release, and what freeing costs, against `rm -rf`.

use std::fs::File;
use std::mem::MaybeUninit;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use rustix::fs::inotify;
use scratch_client::{AreaOptions, CreateMode, GrantOptions, Lease};

use crate::Site;
use crate::measure::{Row, median};

const DIRECTORIES: usize = 100;
const FILES: usize = 1000;
const ROUNDS: usize = 3;

fn grow(root: &Path) {
    for directory in 0..DIRECTORIES {
        let directory = root.join(directory.to_string());
        std::fs::create_dir(&directory).expect("a new tree is empty");
        for file in 0..FILES {
            File::create_new(directory.join(file.to_string())).expect("a new tree is empty");
        }
    }
}

/// `rm -rf` of the same tree: wall time, and processor time.
fn rm(site: &Site) -> (f64, f64) {
    let tree = site.beside.join("tree");
    std::fs::create_dir(&tree).expect("the peer's place can be written");
    grow(&tree);
    let before = children_cpu();
    let start = Instant::now();
    let status = Command::new("rm").arg("-rf").arg(&tree).status().expect("rm can be run");
    let wall = start.elapsed();
    assert!(status.success());
    (wall.as_secs_f64() * 1e6, (children_cpu() - before).as_secs_f64() * 1e6)
}

/// Release as the client waits, then the wall and processor time until everything under it is freed.
fn release_and_reap(site: &Site, lease: &Lease) -> [f64; 3] {
    let directory = lease.directory(&AreaOptions::default()).expect("a directory is made");
    grow(directory.path().expect("it has a path"));
    let trash = site.broker.pool_root().join(".scratch/trash");
    let watch = inotify::init(inotify::CreateFlags::CLOEXEC).expect("the kernel has inotify");
    inotify::add_watch(&watch, &trash, inotify::WatchFlags::DELETE).expect("trash can be watched");
    let before = broker_cpu(site);
    let start = Instant::now();
    drop(directory);
    let released = start.elapsed();
    let mut space = [MaybeUninit::uninit(); 4096];
    while trash.read_dir().expect("trash can be listed").next().is_some() {
        rustix::io::read(&watch, &mut space).expect("trash is watched");
    }
    let freed = start.elapsed();
    [released, freed, broker_cpu(site) - before].map(|time| time.as_secs_f64() * 1e6)
}

pub(crate) fn trees(site: &Site) -> Vec<Row> {
    let lease = site.client(CreateMode::Auto).grant(&GrantOptions::default()).expect("the broker grants");
    let mut times: [Vec<f64>; 5] = Default::default();
    for _ in 0..ROUNDS {
        let [released, freed, cpu] = release_and_reap(site, &lease);
        let (rm_wall, rm_cpu) = rm(site);
        for (times, time) in times.iter_mut().zip([released, freed, cpu, rm_wall, rm_cpu]) {
            times.push(time);
        }
    }
    let [released, freed, cpu, rm_wall, rm_cpu] = times.each_mut().map(|times| median(times));
    let row = |case, goal, ours, theirs| Row {
        case,
        peer: Some("rm -rf, 100 000 files"),
        file_system: site.file_system,
        unit: "us",
        ours,
        theirs: Some(theirs),
        goal,
        samples: ROUNDS,
    };
    vec![
        row("release-tree", 0.0002, released, rm_wall),
        row("reap-tree-wall", 0.7, freed, rm_wall),
        row("reap-tree-cpu", 1.1, cpu, rm_cpu),
    ]
}

/// User and system time of the broker, from fields 14 and 15 of its stat.
fn broker_cpu(site: &Site) -> Duration {
    let pid = site.broker.pid().as_raw_nonzero();
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).expect("the broker lives");
    let fields = stat.rsplit_once(')').expect("a stat has a name").1.split_ascii_whitespace();
    let ticks: u64 = fields.skip(11).take(2).map(|field| field.parse::<u64>().expect("a number")).sum();
    Duration::from_millis(ticks * 1000 / rustix::param::clock_ticks_per_second())
}

/// Of children that were waited for.
fn children_cpu() -> Duration {
    let stat = std::fs::read_to_string("/proc/self/stat").expect("/proc knows this process");
    let fields = stat.rsplit_once(')').expect("a stat has a name").1.split_ascii_whitespace();
    let ticks: u64 = fields.skip(13).take(2).map(|field| field.parse::<u64>().expect("a number")).sum();
    Duration::from_millis(ticks * 1000 / rustix::param::clock_ticks_per_second())
}
