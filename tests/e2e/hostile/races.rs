//! A tenant that exchanges directories with links, files and each other while the broker creates, releases, persists and
//! removes among them. A few hundred rounds of each, or 10 000.

use std::fs;
use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use scratch_tests::{
    Broker, Options, as_user, contained, eventually, figures, is_root, left_out, long_or_short, names_in,
};

use super::canaries::Canaries;
use super::{TENANT, reaped, trash};

/// A directory that is the tenant's.
fn of_tenant(path: &Path) -> &Path {
    fs::create_dir(path).expect("a place is writable");
    if is_root() {
        chown(path, Some(TENANT), Some(TENANT)).expect("root may");
    }
    path
}

/// One kind of race, under a system broker, then under one that is the tenant's own and has nothing to take over with.
fn raced(test: &str, case: &str) {
    contained(test, || {
        race(test, case, None);
        if is_root() {
            race(test, case, Some(TENANT));
        } else {
            left_out(test, "another user's broker needs root");
        }
    });
}

fn race(test: &str, case: &str, user: Option<u32>) {
    let broker = Broker::start(Options { user, ..Options::default() });
    let canaries = Canaries::new(broker.place());
    let outside = broker.place().join("outside");
    let far = PathBuf::from(format!("/dev/shm/far-{}", user.unwrap_or_default()));
    let rounds = long_or_short(10_000, 200).to_string();
    let program = Path::new(env!("CARGO_BIN_EXE_racer"));
    let mut racer = if is_root() { as_user(TENANT, program) } else { Command::new(program) };
    racer.arg(broker.handle_socket()).args([case, &rounds]).arg(canaries.of("tenant"));
    racer.arg(of_tenant(&outside)).arg(of_tenant(&far)).stderr(Stdio::inherit());
    let output = racer.output().expect("the program is built");
    assert!(output.status.success(), "{case}: {}", output.status);
    let whose = if user.is_some() { "its own broker" } else { "the system's" };
    figures(test, &format!("{whose}: {}", String::from_utf8_lossy(&output.stdout).trim()));
    // Whoever is not shut out can keep a directory filled for a while.
    eventually(reaped(), "the trash is empty", || names_in(&trash(&broker)).is_empty());
    canaries.are_untouched();
}

#[test]
fn while_areas_are_made() {
    raced("hostile::races::while_areas_are_made", "create");
}

#[test]
fn while_areas_are_released() {
    raced("hostile::races::while_areas_are_released", "release");
}

#[test]
fn while_areas_are_persisted() {
    raced("hostile::races::while_areas_are_persisted", "persist");
}

#[test]
fn while_areas_are_copied_to_another_file_system() {
    raced("hostile::races::while_areas_are_copied_to_another_file_system", "persist-copy");
}

#[test]
fn while_a_tree_is_walked() {
    raced("hostile::races::while_a_tree_is_walked", "walk");
}

#[test]
fn while_directories_are_lifted() {
    raced("hostile::races::while_directories_are_lifted", "lift");
}

#[test]
fn while_modes_are_repaired() {
    raced("hostile::races::while_modes_are_repaired", "repair");
}

#[test]
fn while_directories_move_out_and_in() {
    let test = "hostile::races::while_directories_move_out_and_in";
    contained(test, || {
        // What another broker has entered may be moved out while it is emptied: nothing keeps its own user from that.
        if is_root() { race(test, "move", None) } else { left_out(test, "needs a system broker") }
    });
}
