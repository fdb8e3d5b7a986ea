//! The conformance table, run by the SDK: both flavours, areas made by this process and by the broker.

mod answers;
mod area;
mod client;
mod connection;
mod files;
mod flavour;
mod look;
mod observer;
mod requests;
mod steps;
mod table;
mod values;
mod without;

use std::collections::HashSet;
use std::fmt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use scratch_client::CreateMode;
use scratch_tests::{Broker, Options, contained, is_root, left_out};
use tempfile::TempDir;

use crate::conformance::{started, tables};
pub(super) use client::serve;
use flavour::Way;
use observer::Observer;
use steps::Run;
use table::{Case, cases};
use values::Stop;
use without::{DIFFERS, Differs, WITHOUT, Without};

/// Where another file system than the pool's may be found.
const PLACES: [&str; 3] = ["/dev/shm", "/var/tmp", "/tmp"];

#[test]
fn blocking_auto() {
    run("sdk::conformance::blocking_auto", Way { is_async: false, create: CreateMode::Auto });
}

#[test]
fn blocking_broker() {
    run("sdk::conformance::blocking_broker", Way { is_async: false, create: CreateMode::Broker });
}

#[test]
fn async_auto() {
    run("sdk::conformance::async_auto", Way { is_async: true, create: CreateMode::Auto });
}

#[test]
fn async_broker() {
    run("sdk::conformance::async_broker", Way { is_async: true, create: CreateMode::Broker });
}

#[test]
fn what_is_left_out_is_in_the_table() {
    let names: HashSet<_> = tables().iter().flat_map(|table| cases(&table.path)).map(|case| case.name).collect();
    let named = WITHOUT.iter().map(|entry| entry.0).chain(DIFFERS.iter().map(|entry| entry.0));
    let unknown: Vec<_> = named.filter(|name| !names.contains(*name)).collect();
    assert!(unknown.is_empty(), "no such cases: {unknown:?}");
}

/// How the cases went.
#[derive(Default)]
struct Figures {
    whole: usize,
    in_part: usize,
    steps_left_out: usize,
    left_out: usize,
    wrong: Vec<String>,
}

/// Runs all of it.
fn run(test: &str, way: Way) {
    contained(test, || {
        let mut figures = Figures::default();
        let any = Broker::start(Options::default());
        for table in tables() {
            let cases = cases(&table.path);
            let own = match &table.broker {
                Some(_) if cases.is_empty() => continue,
                Some(wanted) => match started(test, wanted) {
                    Some(own) => Some(own),
                    None => continue,
                },
                None => None,
            };
            let broker = own.as_ref().unwrap_or(&any);
            cases.iter().for_each(|case| run_case(test, way, broker, case, &mut figures));
        }
        println!("\n{test}: {figures}");
        assert!(figures.wrong.is_empty(), "\n{}", figures.wrong.join("\n"));
    });
}

fn run_case(test: &str, way: Way, broker: &Broker, case: &Case, figures: &mut Figures) {
    let elsewhere = elsewhere(broker.pool_root());
    let missing = match &*case.needs {
        [need] if need == "root" && !is_root() => "needs root",
        [need] if need == "another file system" && elsewhere.is_none() => "needs another file system than the pool's",
        _ => "",
    };
    if !missing.is_empty() {
        return left_out(test, &format!("{}: {missing}", case.name));
    }
    let went = go(way, broker, case, elsewhere.as_ref().map(TempDir::path));
    Observer::end_all(broker);
    match went {
        Ok(Went { is_cut: true, .. }) => figures.left_out += 1,
        Ok(Went { skipped: 0, .. }) => figures.whole += 1,
        Ok(Went { skipped, .. }) => {
            figures.in_part += 1;
            figures.steps_left_out += skipped;
        }
        Err(wrong) => figures.wrong.push(format!("{}: {wrong}", case.name)),
    }
}

/// How far a case came.
struct Went {
    is_cut: bool,
    skipped: usize,
}

/// Runs a case, but for what it is named for in the lists. What is named there and need not be is wrong, too.
fn go(way: Way, broker: &Broker, case: &Case, elsewhere: Option<&Path>) -> Result<Went, String> {
    let without = WITHOUT.iter().find(|Without(name, ..)| *name == case.name);
    let (skips, why) = without.map_or((&[][..], ""), |Without(_, steps, why)| (*steps, *why));
    let is_cut = without.is_some() && skips.is_empty();
    let mut run = Run::new(way, broker, case, elsewhere);
    let mut skipped = 0;
    for (at, (number, step)) in case.steps.iter().enumerate() {
        let said = format!("step {number}, {} {}", step.verb, step.object());
        let differs = DIFFERS
            .iter()
            .find(|Differs(name, step, ways, ..)| *name == case.name && step == number && ways.contains(&way.create));
        let instead = differs.map(|Differs(_, _, _, answer, _)| serde_json::from_str(answer).expect("it is JSON"));
        match run.step(at, instead.as_ref()) {
            Ok(()) if skips.contains(number) => return Err(format!("{said}: could be run, but is named: {why}")),
            // It should have made nothing.
            Ok(()) if differs.is_some() => run.unmake(),
            Ok(()) => {}
            Err(Stop::NoWord(_)) if skips.contains(number) => skipped += 1,
            Err(Stop::NoWord(_)) if is_cut => return Ok(Went { is_cut, skipped }),
            Err(Stop::NoWord(why)) => return Err(format!("{said}: {why}; name it in without.rs")),
            Err(Stop::Wrong(wrong)) => {
                let why = differs.map(|Differs(.., why)| format!("; it is named: {why}"));
                return Err(format!("{said}: {wrong}{}", why.unwrap_or_default()));
            }
        }
    }
    if is_cut { Err(format!("could be run, but is named: {why}")) } else { Ok(Went { is_cut, skipped }) }
}

/// A directory that is not on the pool's file system.
fn elsewhere(pool: &Path) -> Option<TempDir> {
    let device = |path: &Path| path.metadata().ok().map(|about| about.dev());
    let other = PLACES.iter().find(|place| device(Path::new(place)).is_some_and(|of| Some(of) != device(pool)));
    other.and_then(|place| TempDir::new_in(place).ok())
}

impl fmt::Display for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { whole, in_part, steps_left_out, left_out, wrong } = self;
        write!(
            f,
            "{} cases ran: {whole} whole, {in_part} but for {steps_left_out} steps; {left_out} left out, {} wrong",
            whole + in_part,
            wrong.len()
        )
    }
}
