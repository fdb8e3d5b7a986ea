//! A file system without a block or an inode left: what dies goes all the same.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::fs::{FileType, Mode, mknodat};
use scratch_tests::{
    Broker, Dialogue, Held, Options, Place, as_user, contained, eventually, installed, is_root, left_out, names_in,
};

use super::canaries::Canaries;
use super::{TENANT, as_tenant, debts, reaped, succeeds, trash};

/// So many directories are renamed into the trash at once that it needs blocks of its own.
const LEASES: usize = 200;

/// Fills all that is left, where a directory has nothing but what was in it: 40 levels of it closed.
fn fill(tree: &Path) {
    let mut made = vec![tree.join("closed")];
    for level in 0..40 {
        fs::create_dir(&made[level]).expect("there is room yet");
        made.push(made[level].join("d"));
    }
    for path in made[..40].iter().rev() {
        fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(0o000)).expect("it is the tenant's");
    }
    let held = File::open(tree).expect("it is the tenant's");
    let mut file = File::create(tree.join("large")).expect("there is room yet");
    let mut size = 1 << 20;
    while size > 0 {
        // Down to the last byte.
        if file.write_all(&vec![7; size]).is_err() {
            size /= 2;
        }
    }
    let full = (0..).find(|number| {
        mknodat(&held, format!("file-with-a-longer-name-{number}"), FileType::RegularFile, Mode::empty(), 0).is_err()
    });
    println!("full after {full:?} more names");
}

fn filled(test: &str, mount: impl FnOnce(&Path) -> bool) {
    contained(test, || {
        if !is_root() {
            return left_out(test, "mounting needs root");
        }
        let place = Place::new();
        let root: PathBuf = place.path().join("pool");
        fs::create_dir(&root).expect("a place is writable");
        if !mount(&root) {
            return;
        }
        let broker = Broker::start(Options { place: Some(place), pool: Some(root), ..Options::default() });
        let canaries = Canaries::new(broker.place());
        let mut holder = as_user(TENANT, Path::new(env!("CARGO_BIN_EXE_leaseholder")));
        let mut holder = {
            holder.arg(broker.handle_socket()).arg(LEASES.to_string());
            Dialogue::start(holder)
        };
        while holder.line() != "granted" {}
        let held = Held::start_as(&broker, Some(TENANT));
        let held_path = held.path().to_path_buf();
        as_tenant(|| fill(&held_path));
        assert!(holder.end().success());
        assert!(held.end().success());
        // btrfs finds no room for a rename then, however small the directory: it is emptied in its place.
        eventually(reaped(), "all is gone", || {
            let owed = debts(&broker);
            let is_of_the_pool = |name: &OsString| name == ".scratch" || name == "lost+found";
            let none_to_end = names_in(broker.pool_root()).iter().all(is_of_the_pool);
            none_to_end && owed.is_empty() && names_in(&trash(&broker)).is_empty()
        });
        canaries.are_untouched();
        assert!(Held::start_as(&broker, Some(TENANT)).end().success());
    });
}

/// A new file system of so many MiB.
fn image(at: &Path, program: &str, options: &[&str], size: u64) -> bool {
    let image = "/dev/shm/full";
    File::create(image).and_then(|file| file.set_len(size << 20)).expect("/dev/shm is our own");
    succeeds(Command::new(program).args(options).arg(image));
    succeeds(Command::new("mount").args(["-n", "-o", "loop", image]).arg(at));
    true
}

#[test]
fn on_tmpfs() {
    filled("hostile::full::on_tmpfs", |at| {
        succeeds(
            Command::new("mount").args(["-n", "-t", "tmpfs", "-o", "mode=711,size=8m,nr_inodes=2000", "full"]).arg(at),
        );
        true
    });
}

#[test]
fn on_ext4() {
    let test = "hostile::full::on_ext4";
    // Without what is kept back for root.
    let options = ["-q", "-F", "-m", "0", "-N", "2000"];
    filled(test, |at| installed(test, "mkfs.ext4") && image(at, "mkfs.ext4", &options, 16));
}

#[test]
fn on_btrfs() {
    let test = "hostile::full::on_btrfs";
    filled(test, |at| installed(test, "mkfs.btrfs") && image(at, "mkfs.btrfs", &["-q", "-f", "-M"], 120));
}
