//! Big files: holes stay holes, and what can be shared is shared.

use std::fs::{self, File};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::process::Command;

use scratch_fs::Replace;

use crate::contain::contained;
use crate::fixture::{Fixture, mount_again, mount_image};

const GIB: u64 = 1 << 30;

#[test]
fn a_sparse_gibibyte_stays_sparse() {
    if !contained(a_sparse_gibibyte_stays_sparse) {
        return;
    }
    stays_sparse(&Fixture::on_two());
    if let Some(ext4) = mount_image("ext4") {
        stays_sparse(&Fixture::below(Path::new("/tmp"), &ext4));
        stays_sparse(&Fixture::below(&ext4, Path::new("/tmp")));
        stays_sparse(&Fixture::below(&ext4, &mount_again(&ext4)));
    }
}

fn stays_sparse(fixture: &Fixture) {
    let islands = [0, 5 << 20, GIB / 2 + 12_345];
    // With and without a hole at the end.
    for size in [GIB, GIB / 2 + 12_345 + 300_000] {
        let file = File::create(fixture.from.join("area")).unwrap();
        for (number, at) in (1..).zip(islands) {
            file.write_all_at(&[number; 300_000], at).unwrap();
        }
        file.set_len(size).unwrap();
        assert!(fixture.persist("area", "new", Replace::Always).unwrap().copied);
        let copy = File::open(fixture.to.join("new")).unwrap();
        let found = copy.metadata().unwrap();
        assert_eq!(found.size(), size);
        assert!((900_000..4 << 20).contains(&(found.blocks() * 512)), "{} blocks", found.blocks());
        for (number, at) in (1..).zip(islands) {
            let mut content = vec![0; 300_001.min(usize::try_from(size - at).unwrap())];
            copy.read_exact_at(&mut content, at).unwrap();
            assert!(content[..300_000].iter().all(|byte| *byte == number));
            assert!(content[300_000..].iter().all(|byte| *byte == 0));
        }
    }
}

#[test]
fn content_is_the_same_at_every_size() {
    if !contained(content_is_the_same_at_every_size) {
        return;
    }
    let mut fixtures = vec![Fixture::on_two()];
    for kind in ["ext4", "btrfs", "xfs"] {
        if let Some(image) = mount_image(kind) {
            fixtures.push(Fixture::below(Path::new("/tmp"), &image));
            fixtures.push(Fixture::below(&image, &mount_again(&image)));
        }
    }
    for fixture in fixtures {
        for size in [0, 1, 4095, 4096, 4097, 128 << 10, (128 << 10) + 1, 3_000_000] {
            let content: Vec<u8> = (0..size).map(|at: u32| (at % 251) as u8).collect();
            fs::write(fixture.from.join("area"), &content).unwrap();
            assert!(fixture.persist("area", "new", Replace::Always).unwrap().copied);
            assert!(fs::read(fixture.to.join("new")).unwrap() == content, "{size} bytes to {:?}", fixture.to);
        }
    }
}

#[test]
fn blocks_are_shared_on_btrfs() {
    if contained(blocks_are_shared_on_btrfs) {
        blocks_are_shared_on("btrfs");
    }
}

#[test]
fn blocks_are_shared_on_xfs() {
    if contained(blocks_are_shared_on_xfs) {
        blocks_are_shared_on("xfs");
    }
}

fn blocks_are_shared_on(kind: &str) {
    let Some(image) = mount_image(kind) else { return };
    let fixture = Fixture::below(&image, &mount_again(&image));
    fs::write(fixture.from.join("area"), vec![7; 8 << 20]).unwrap();
    // Keeps the original when it is unlinked.
    fs::hard_link(fixture.from.join("area"), fixture.from.join("kept")).unwrap();
    assert!(fixture.persist("area", "new", Replace::Never).unwrap().copied);
    let extents = Command::new("filefrag").arg("-v").arg(fixture.to.join("new")).output().unwrap();
    let extents = String::from_utf8_lossy(&extents.stdout).into_owned();
    assert!(extents.contains("shared"), "{extents}");
}
