//! A process that forks with guards in hand: its child ends nothing of what is its parent's, however it ends.

use std::fs;
use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use scratch_tests::{Broker, DEADLINE, Options, contained, eventually, left_out, names_in};

/// To a program that is started with it getppid(2) is fork(2): Rust has none that is safe.
const FORK: &str = "#include <unistd.h>\npid_t getppid(void) { return fork(); }\n";

#[test]
fn a_child_ends_nothing_of_its_parents() {
    let test = "sdk::forked::a_child_ends_nothing_of_its_parents";
    contained(test, || {
        let broker = Broker::start(Options::default());
        let Some(library) = library(&broker) else { return left_out(test, "there is no C compiler") };
        let [there, temporary] = ["there", "tmp"].map(|name| broker.place().join(name));
        for (what, create) in ["drop", "exit", "use"].into_iter().flat_map(|what| [(what, "auto"), (what, "broker")]) {
            for path in [&there, &temporary] {
                fs::create_dir_all(path).expect("a place is writable");
            }
            let mut command = Command::new(env!("CARGO_BIN_EXE_forking-client"));
            command.arg(&there).arg(what).env("LD_PRELOAD", &library).env("TMPDIR", &temporary);
            command.env("SCRATCHD_RUNTIME_DIR", broker.runtime_dir()).env("SCRATCHD_CREATE", create);
            let status = command.status().expect("the program can be run");
            assert!(status.success(), "{what}, SCRATCHD_CREATE={create}: {status}");
            eventually(DEADLINE, "nothing is left", || {
                names_in(broker.pool_root()) == [".scratch"] && names_in(&there).is_empty()
            });
            assert!(names_in(&temporary).is_empty());
        }
    });
}

fn library(broker: &Broker) -> Option<PathBuf> {
    let library = broker.place().join("fork.so");
    let mut compiler = Command::new("cc");
    compiler.args(["-shared", "-fPIC", "-x", "c", "-", "-o"]).arg(&library).stdin(Stdio::piped());
    let mut compiler = compiler.spawn().ok()?;
    let mut source = compiler.stdin.take().expect("it was asked for");
    source.write_all(FORK.as_bytes()).expect("it reads its source");
    drop(source);
    assert!(compiler.wait().expect("our own child can be waited for").success());
    Some(library)
}
