//! Trees too deep for a stack of descriptors and too wide for one listing.

use std::fs;

use scratch_fs::{Rights, remove, usage};
use std::os::fd::AsFd;

use crate::contain::contained;
use crate::fixture::{Fixture, TENANT, TWO, make_chain, own};

#[test]
fn twenty_thousand_levels_go() {
    if !contained(twenty_thousand_levels_go) {
        return;
    }
    let fixture = Fixture::new();
    make_chain(&fixture.lease(), 20_000);
    let lease = fs::File::open(fixture.lease()).unwrap();
    assert_eq!(usage(lease.as_fd()).inodes, 20_001);
    rustix::process::setrlimit(
        rustix::process::Resource::Nofile,
        rustix::process::Rlimit { current: Some(64), maximum: Some(64) },
    )
    .unwrap();
    assert_eq!(fixture.remove_all(Rights::Own), 20_001);
}

#[test]
fn descriptors_that_run_out_make_it_slower_only() {
    if !contained(descriptors_that_run_out_make_it_slower_only) {
        return;
    }
    let fixture = Fixture::new();
    make_chain(&fixture.lease(), 300);
    let entry = fixture.take();
    let limit = rustix::process::Rlimit { current: Some(12), maximum: Some(12) };
    rustix::process::setrlimit(rustix::process::Resource::Nofile, limit).unwrap();
    let removal = remove(&fixture.trash, entry, Rights::Own, TWO);
    assert_eq!((removal.names_removed, removal.left), (301, vec![]));
}

#[test]
fn wide_and_deep_goes_with_two_workers() {
    if !contained(wide_and_deep_goes_with_two_workers) {
        return;
    }
    for rights in [Rights::Own, Rights::TakeOver] {
        let fixture = Fixture::new();
        let mut made = 1;
        for wide in 0..40 {
            let directory = fixture.lease().join(wide.to_string());
            fs::create_dir(&directory).unwrap();
            make_chain(&directory, wide * 5);
            // More names than one listing holds.
            for file in 0..if wide == 7 { 10_000 } else { 100 } {
                fs::write(directory.join(format!("a-file-with-a-longer-name-{file}")), b"").unwrap();
            }
            made += 1 + wide as u64 * 5 + if wide == 7 { 10_000 } else { 100 };
            if rights == Rights::TakeOver && crate::contain::has_all_ids() {
                own(&directory, TENANT);
            }
        }
        let removal = remove(&fixture.trash, fixture.take(), rights, TWO);
        assert_eq!((removal.names_removed, removal.left), (made, vec![]));
        fixture.assert_gone();
    }
}

#[test]
fn what_is_not_there_is_removed() {
    if !contained(what_is_not_there_is_removed) {
        return;
    }
    let fixture = Fixture::new();
    let entry = fixture.take();
    for expected in [1, 0] {
        let removal = remove(&fixture.trash, entry, Rights::Own, TWO);
        assert_eq!((removal.names_removed, removal.left), (expected, vec![]));
    }
}
