//! The broker killed, or failed by the kernel, at every call that it makes in a scripted workload. The seed is printed.

mod check;
mod clients;
mod faults;
mod ledger;
mod own;
mod points;
mod workload;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::path::Path;
use std::sync::Mutex;
use std::time::Instant;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use scratch_tests::{Broker, Random, Strace, contained, figures, installed, long_or_short, torture};

use clients::Clients;
use faults::Outcome;
use points::Point;

/// Points at once: each waits for its broker's grace most of the time.
const AT_ONCE: usize = 8;
/// Points of the short form.
const SOME: usize = 40;

/// What a kill at a point came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Hit {
    /// The broker was killed there.
    Killed,
    /// The run did not come to that call so often; the broker was killed at its end.
    Missed,
}

#[test]
fn killed_at_every_call() {
    let test = "sweep::killed_at_every_call";
    contained(test, || {
        if !installed(test, "strace") {
            return;
        }
        let mut random = Random::new(test);
        raise_descriptor_limit();
        let points = points_of(&mut random);
        let hits = at_once(points, |point| (point.clone(), kill_at(point)));
        tell(test, &hits, long_or_short(500, SOME / 2));
    });
}

#[test]
fn killed_at_every_call_in_a_directory_of_the_clients() {
    let test = "sweep::killed_at_every_call_in_a_directory_of_the_clients";
    contained(test, || {
        if !installed(test, "strace") {
            return;
        }
        let mut random = Random::new(test);
        raise_descriptor_limit();
        let all = own::points();
        println!("{} points", all.len());
        let chosen = if torture() { all } else { points::some(all, SOME / 2, &mut random) };
        let hits = at_once(chosen.into(), |(moment, point)| (point.clone(), kill_in_moment(*moment, point)));
        tell(test, &hits, long_or_short(100, SOME / 4));
    });
}

#[test]
fn failed_at_every_call() {
    let test = "sweep::failed_at_every_call";
    contained(test, || {
        if !installed(test, "strace") {
            return;
        }
        let mut random = Random::new(test);
        raise_descriptor_limit();
        let mut turn = usize::try_from(random.below(100)).expect("a small number");
        let mut points = points_of(&mut random);
        points.retain(|point| faults::error_of(point, 0).is_some());
        let outcomes = at_once(
            points
                .into_iter()
                .map(|point| {
                    turn += 1;
                    let error = faults::error_of(&point, turn).expect("only those were kept");
                    (point, error)
                })
                .collect(),
            |(point, error)| (point.clone(), *error, faults::fail_at(point, error)),
        );
        let mut counts: BTreeMap<Outcome, usize> = BTreeMap::new();
        outcomes.iter().for_each(|(.., outcome)| *counts.entry(*outcome).or_default() += 1);
        let ended = outcomes.iter().filter(|(.., outcome)| *outcome == Outcome::Ended);
        let ended: BTreeSet<_> =
            ended.map(|(point, error, _)| format!("{} {} {error}", point.role, point.call)).collect();
        figures(
            test,
            &format!("{} faults: {counts:?}; no leak, no hang; the broker ended itself at {ended:?}", outcomes.len()),
        );
    });
}

/// All of a long run, some of a short one.
fn points_of(random: &mut Random) -> VecDeque<Point> {
    let all = points::all(&points::count());
    println!("{} points", all.len());
    let chosen = if torture() { all } else { points::some(all, SOME, random) };
    chosen.into()
}

fn raise_descriptor_limit() {
    let maximum = getrlimit(Resource::Nofile).maximum;
    setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }).expect("up to the maximum, anybody may");
}

/// Strikes at many points at once, each with a broker of its own.
fn at_once<P: Send, T: Send>(points: VecDeque<P>, strike: impl Fn(&P) -> T + Sync) -> Vec<T> {
    let (queue, results) = (Mutex::new(points), Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        let work = || {
            loop {
                let next = queue.lock().expect("a panic ends the test").pop_front();
                let Some(point) = next else { return };
                let result = strike(&point);
                results.lock().expect("a panic ends the test").push(result);
            }
        };
        let workers: Vec<_> = (0..AT_ONCE).map(|_| scope.spawn(work)).collect();
        workers.into_iter().for_each(|worker| worker.join().expect("a strike went wrong"));
    });
    results.into_inner().expect("a panic ends the test")
}

fn kill_at(point: &Point) -> Hit {
    println!("strike: {point:?}");
    let hit = killed_in(|broker, clients, log| {
        let strace = point.strike(broker, "signal=KILL", log);
        (workload::run(clients), Some(strace))
    });
    println!("{hit:?}: {point:?}");
    hit
}

fn kill_in_moment(moment: usize, point: &Point) -> Hit {
    println!("strike: {moment}, {point:?}");
    let hit = killed_in(|broker, clients, log| {
        let mut strace = None;
        let went = own::run(clients, |now| {
            if now == moment {
                strace = Some(point.strike(broker, "signal=KILL", log));
            }
            None
        });
        (went, strace)
    });
    println!("{hit:?}: {moment}, {point:?}");
    hit
}

/// What was killed on its way is started again, and must have lost and left nothing. strace stays as long as there is somebody to
/// trace: one that lets go of a process that is just being killed waits for ever.
fn killed_in(run: impl FnOnce(&Broker, &mut Clients, &Path) -> (Result<(), clients::Gone>, Option<Strace>)) -> Hit {
    let mut broker = points::broker();
    let far = points::far_of(&broker);
    let mut clients = Clients::new(&broker, &far);
    let (went, strace) = run(&broker, &mut clients, &far.join("strace"));
    let hit = if went.is_err() {
        broker.wait();
        Hit::Killed
    } else {
        broker.kill();
        Hit::Missed
    };
    drop(strace);
    check::without_a_broker(&mut clients);
    let since = Instant::now();
    broker.restart();
    check::restarted(&mut clients, &broker, since);
    hit
}

fn tell(test: &str, hits: &[(Point, Hit)], at_least: usize) {
    let killed = hits.iter().filter(|(_, hit)| *hit == Hit::Killed);
    let mut roles: BTreeMap<&str, usize> = BTreeMap::new();
    killed.clone().for_each(|(point, _)| *roles.entry(&point.role).or_default() += 1);
    let killed = killed.count();
    let roles: Vec<String> = roles.iter().map(|(role, count)| format!("{role} {count}")).collect();
    let missed = hits.len() - killed;
    figures(test, &format!("{killed} points killed at ({}), {missed} not reached; no leak, no loss", roles.join(", ")));
    // Calls that depend on timing may be missed; most are not.
    assert!(killed * 2 > hits.len(), "{killed} of {} points were reached", hits.len());
    assert!(killed >= at_least, "only {killed} points");
}
