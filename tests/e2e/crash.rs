//! Three hundred clients killed at random moments, beside twenty that live: what died leaves nothing, what lives loses
//! nothing. The seed is printed.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::process::{Child, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process, kill_process_group};
use scratch_tests::{Broker, Held, Options, Random, contained, eventually, names_in};

const KILLED: usize = 300;
const LIVING: usize = 20;
/// Late enough that on a busy machine some are killed before their grant, some in the middle of their work.
const LATEST: Duration = Duration::from_secs(3);
/// What the contract gives the broker to clean up after all of them.
const CLEAN: Duration = Duration::from_secs(10);
/// Work that makes names as fast as a shell can, then stays.
const WORK: &str = r#"i=0
while [ $i -lt 200 ]; do i=$((i+1)); mkdir -p "$TMPDIR/d$((i%7))/e$i"; echo $i >"$TMPDIR/d$((i%7))/f$i"; done
exec sleep 100000"#;

/// Who is killed first.
#[derive(Debug, Clone, Copy)]
enum Order {
    Together,
    WrapperFirst,
    CommandFirst,
}

#[test]
fn three_hundred_kills() {
    contained("crash::three_hundred_kills", || {
        let mut random = Random::new("crash::three_hundred_kills");
        let broker = Broker::start(Options::default());
        let mut living: Vec<Held> = (0..LIVING).map(|_| Held::start(&broker)).collect();
        let victims: Vec<(Duration, Order)> = (0..KILLED)
            .map(|_| {
                let order = [Order::Together, Order::WrapperFirst, Order::CommandFirst];
                (random.moment(LATEST), order[usize::try_from(random.below(3)).expect("below three")])
            })
            .collect();

        let over = AtomicBool::new(false);
        let lines = std::thread::scope(|scope| {
            let writer = scope.spawn(|| write_until(&mut living, &over));
            let kills: Vec<_> = victims.iter().map(|victim| scope.spawn(|| kill_one(&broker, victim))).collect();
            kills.into_iter().for_each(|kill| kill.join().expect("a victim could not be killed"));
            over.store(true, Ordering::Relaxed);
            writer.join().expect("a living command lost its area")
        });

        let expected: BTreeSet<OsString> =
            living.iter().map(|held| held.lease().into()).chain([".scratch".into()]).collect();
        let root = broker.pool_root();
        eventually(CLEAN, "the pool holds the living and nothing else", || {
            names_in(root).into_iter().collect::<BTreeSet<_>>() == expected
        });
        eventually(CLEAN, "the trash is empty", || names_in(&root.join(".scratch/trash")).is_empty());
        let everything: String = (1..=lines).map(|line| format!("{line}\n")).collect();
        for held in &living {
            assert!(held.log() == everything, "{} lost or gained something", held.path().display());
            assert_eq!(names_in(held.path()), ["log"]);
        }
        for held in living {
            assert!(held.end().success());
        }
        eventually(CLEAN, "nothing is left", || names_in(root) == [".scratch"]);
    });
}

/// Lets every living command write line after line, one of them at a time; returns how many lines each wrote.
fn write_until(living: &mut [Held], over: &AtomicBool) -> u64 {
    let mut line = 0;
    while !over.load(Ordering::Relaxed) {
        line += 1;
        living.iter_mut().for_each(|held| held.write_line(&line.to_string()));
    }
    line
}

fn kill_one(broker: &Broker, &(moment, order): &(Duration, Order)) {
    let mut command = broker.scratch(&["run", "--", "sh", "-c", WORK]);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).process_group(0);
    let mut wrapper = command.spawn().expect("the command line's program can be run");
    // The moment is what the test is about; nothing is waited for here.
    std::thread::sleep(moment);
    let group = Pid::from_child(&wrapper);
    match order {
        Order::Together => {}
        Order::WrapperFirst => wrapper.kill().expect("our own child can be killed"),
        // It may not have come to that yet. A wrapper that loses its command ends by itself, or with the group.
        Order::CommandFirst => children_of(&wrapper).into_iter().for_each(|child| {
            let _ = kill_process(child, Signal::KILL);
        }),
    }
    // The wrapper leads the group and was not waited for, so the number is still its own.
    kill_process_group(group, Signal::KILL).expect("our own process group can be killed");
    wrapper.wait().expect("our own child can be waited for");
}

fn children_of(wrapper: &Child) -> Vec<Pid> {
    let id = wrapper.id();
    let children = std::fs::read_to_string(format!("/proc/{id}/task/{id}/children")).unwrap_or_default();
    children.split_whitespace().filter_map(|pid| Pid::from_raw(pid.parse().ok()?)).collect()
}
