//! `cargo xtask bench`: the cases of the design's table, each side by side with its peer, interleaved in one run, in the
//! same directory. It prints medians and their ratio; nothing here asserts a time.

mod areas;
mod channel;
mod echo;
mod grpc;
mod measure;
mod neighbours;
mod python;
mod trees;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Parser;
use scratch_client::{Client, ConnectOptions, CreateMode};
use scratch_tests::{Broker, Filesystem, Options, Place, contained_program};

use measure::Row;

/// Measures the cases of the design's table.
#[derive(Debug, Parser)]
struct Arguments {
    /// Also write the rows as JSON to this file
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// A directory on the file system to measure on beside tmpfs; without it an ext4 image in memory
    #[arg(long, value_name = "DIR")]
    disk: Option<PathBuf>,
    /// Only these cases
    cases: Vec<String>,
    /// A part of a case that is a process of its own
    #[arg(long, hide = true, value_name = "PART")]
    part: Option<String>,
}

/// One pool with its broker, on one file system.
struct Site {
    broker: Broker,
    file_system: &'static str,
    /// Where the peer works: beside the pool.
    beside: PathBuf,
}

impl Site {
    fn new(directory: &Path, file_system: &'static str) -> std::io::Result<Self> {
        let pool = directory.join("pool");
        let beside = directory.join("beside");
        std::fs::create_dir_all(&beside)?;
        Ok(Self {
            broker: Broker::start(Options {
                pool: Some(pool),
                environment: vec![("SCRATCHD_LOG".into(), "warn".into())],
                ..Options::default()
            }),
            file_system,
            beside,
        })
    }

    fn client(&self, create: CreateMode) -> Client {
        let options = ConnectOptions {
            runtime_directory: Some(self.broker.runtime_dir()),
            create: Some(create),
            ..ConnectOptions::default()
        };
        Client::connect(&options).expect("the broker was started a moment ago")
    }
}

/// The rows of a case, or of several that are measured together.
type Case = (&'static [&'static str], fn(&Site) -> Vec<Row>);

const CASES: &[Case] = &[
    (&["file-direct"], |site| vec![areas::file_direct(site)]),
    (&["anonymous-direct"], |site| vec![areas::anonymous_direct(site)]),
    (&["dir-empty"], |site| vec![areas::dir_empty(site)]),
    (&["dir-100"], |site| vec![areas::dir_100(site)]),
    (&["anonymous-broker"], |site| vec![areas::anonymous_broker(site)]),
    (&["anonymous-stock"], |site| vec![areas::anonymous_stock(site)]),
    (&["named-broker"], |site| vec![areas::named_broker(site)]),
    (&["channel-empty"], |site| vec![channel::channel_empty(site)]),
    (&["grpc-create"], |site| vec![grpc::create(site)]),
    (&["release-tree", "reap-tree-wall", "reap-tree-cpu"], trees::trees),
    (&["sigkill-gone-p99"], |site| vec![channel::sigkill_gone(site)]),
    (&["neighbour-p99"], neighbours::neighbour),
    (&["python-mkstemp", "python-named", "python-directory", "python-import"], python::rows),
];

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match arguments.part.as_deref() {
        Some("echo") => return echo::serve(),
        Some("hold") => return channel::hold(),
        Some("grpc") => return grpc::serve(),
        _ => {}
    }
    let kept = arguments.disk.clone().unwrap_or_else(|| "target/bench".into());
    let kept = match std::fs::create_dir_all(&kept).and_then(|()| kept.canonicalize()) {
        Ok(kept) => kept,
        Err(error) => {
            eprintln!("bench: {}: {error}", kept.display());
            return ExitCode::FAILURE;
        }
    };
    // What the contained part leaves here is the benchmark's own; JSON goes through it too, the rest being read-only.
    if let Some(status) = contained_program(&kept) {
        if let Some(file) = &arguments.json
            && let Err(error) = std::fs::copy(kept.join("rows.json"), file)
        {
            eprintln!("bench: {}: {error}", file.display());
            return ExitCode::FAILURE;
        }
        return if status.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE };
    }
    match run(&arguments, &kept) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments, kept: &Path) -> std::io::Result<()> {
    let mut rows = Vec::new();
    measure::print_head();
    let image = if arguments.disk.is_some() { None } else { Place::on("bench", Filesystem::Ext4) };
    let disk = match (&arguments.disk, &image) {
        (Some(_), _) => Some(kept),
        (None, image) => image.as_ref().map(Place::path),
    };
    let disk = disk.map(|path| (path, measure::file_system_of(path)));
    for (directory, file_system) in disk.into_iter().chain([(Path::new("/dev/shm"), "tmpfs")]) {
        let directory = directory.join(format!("bench-{}", std::process::id()));
        std::fs::create_dir(&directory)?;
        let site = Site::new(&directory, file_system)?;
        for (names, case) in CASES {
            if arguments.cases.is_empty() || arguments.cases.iter().any(|wanted| names.contains(&wanted.as_str())) {
                for row in case(&site) {
                    row.print();
                    rows.push(row.to_json());
                }
            }
        }
        drop(site);
        measure::clean(&directory)?;
    }
    std::fs::write(kept.join("rows.json"), serde_json::Value::Array(rows).to_string())
}
