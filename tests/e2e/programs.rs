//! Ordinary programs under `scratch run`: their temporary files land in the lease's directory, and nothing remains.
//! strace shows it: not one file is created anywhere else.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use scratch_tests::{Broker, DEADLINE, Options, contained, eventually, installed, left_out, names_in};

const CALLS: &str = "trace=open,openat,openat2,creat,mkdir,mkdirat";

/// Runs a script under `scratch run` and strace, in a directory with `input`, and checks where it created what.
fn lands_in_its_area(test: &str, program: &str, input: &str, script: &str) {
    if !installed(test, program) || !installed(test, "strace") {
        return;
    }
    if !Command::new("strace")
        .args(["-o", "/dev/null", "true"])
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|s| s.success())
    {
        return left_out(test, "this machine does not let strace trace");
    }
    let broker = Broker::start(Options::default());
    let work = broker.place().join("work");
    std::fs::create_dir(&work).expect("a place is writable");
    std::fs::write(work.join("input.c"), input).expect("a place is writable");
    let trace = broker.place().join("trace");

    let script = format!("printf %s \"$TMPDIR\" >tmpdir\n{script}");
    let mut run = broker.scratch(&["run", "--", "strace", "-f", "-qq", "-s", "4096", "-e", CALLS, "-o"]);
    run.arg(&trace).args(["sh", "-e", "-c", &script]).current_dir(&work);
    assert!(run.status().expect("the command line's program can be run").success(), "{program} failed");

    let area = std::fs::read_to_string(work.join("tmpdir")).expect("the script wrote it");
    assert!(Path::new(&area).starts_with(broker.pool_root()), "TMPDIR is no area: {area:?}");
    let trace = std::fs::read_to_string(trace).expect("strace wrote it");
    let created: Vec<PathBuf> = trace.lines().filter_map(created).map(|path| work.join(path)).collect();
    let elsewhere =
        created.iter().find(|path| !path.starts_with(&area) && !path.starts_with(&work) && !path.starts_with("/dev"));
    assert_eq!(elsewhere, None, "{program} created something outside of its area");
    assert!(created.iter().any(|path| path.starts_with(&area)), "{program} made no temporary file:\n{trace}");
    eventually(DEADLINE, "nothing remains", || names_in(broker.pool_root()) == [".scratch"]);
}

/// The path that a traced call created, if it did.
fn created(line: &str) -> Option<&str> {
    let creates = ["O_CREAT", "O_TMPFILE", "creat(", "mkdir(", "mkdirat("].iter().any(|word| line.contains(word));
    let path = line.split('"').nth(1)?;
    (creates && !line.contains(" = -1 ")).then_some(path)
}

#[test]
fn gcc() {
    contained("programs::gcc", || {
        lands_in_its_area("programs::gcc", "gcc", "int answer(void) { return 42; }\n", "gcc -c input.c -o output.o");
    });
}

#[test]
fn sort() {
    contained("programs::sort", || {
        let lines: String = (0..200_000_u64).map(|n| format!("{}\n", n.wrapping_mul(0x9E37_79B9_7F4A_7C15))).collect();
        lands_in_its_area("programs::sort", "sort", &lines, "sort -S 200K -o output input.c; sort -c output");
    });
}

#[test]
fn python() {
    contained("programs::python", || {
        let script = r#"python3 -c '
import os, tempfile
area = os.environ["TMPDIR"]
assert tempfile.gettempdir() == area, tempfile.gettempdir()
with tempfile.NamedTemporaryFile() as named, tempfile.TemporaryDirectory() as directory, tempfile.TemporaryFile() as f:
    f.write(b"x")
    assert os.path.dirname(named.name) == os.path.dirname(directory) == area
tempfile.mkstemp()
tempfile.mkdtemp()
'"#;
        lands_in_its_area("programs::python", "python3", "", script);
    });
}

#[test]
fn sqlite() {
    contained("programs::sqlite", || {
        let script = r#"sqlite3 :memory: "
pragma temp_store = 1; pragma cache_size = 10;
create temp table numbers as
  with recursive n(i) as (select 1 union all select i + 1 from n where i < 200000)
  select i, hex(randomblob(32)) as x from n;
create temp table sorted as select x from numbers order by x;
select count(*) from sorted;""#;
        lands_in_its_area("programs::sqlite", "sqlite3", "", script);
    });
}
