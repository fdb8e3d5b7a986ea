//! The containment itself, which every other test relies on.

use std::path::Path;

use scratch_tests::{Filesystem, Place, contained, is_root, shell, source_tree};

fn writable(directory: &Path) -> bool {
    let probe = directory.join(".containment-test");
    std::fs::write(&probe, "").and_then(|()| std::fs::remove_file(&probe)).is_ok()
}

#[test]
fn nothing_outside_can_be_written() {
    contained("containment::nothing_outside_can_be_written", || {
        let own_program = std::env::current_exe().expect("/proc names this program");
        let target = own_program.parent().expect("a program is in a directory");
        for place in ["/", "/etc", "/usr", "/var", "/root", "/home", "/opt", "/dev"].map(Path::new) {
            assert!(!writable(place), "{} can be written", place.display());
        }
        assert!(!writable(source_tree()) && !writable(target));
        for place in ["/tmp", "/var/tmp", "/dev/shm"].map(Path::new) {
            assert!(writable(place), "{} can't be written", place.display());
        }
    });
}

#[test]
fn the_user_is_the_one_outside() {
    let outside = rustix::process::getuid().as_raw();
    contained("containment::the_user_is_the_one_outside", || {
        assert_eq!(rustix::process::getuid().as_raw(), outside);
        assert_eq!(is_root(), outside == 0);
    });
}

#[test]
fn what_a_test_leaves_running_is_in_its_namespace() {
    contained("containment::what_a_test_leaves_running_is_in_its_namespace", || {
        // A shell leaves it behind, holding this test's output. That the outer side comes to the end of that output shows
        // that the namespace took it along.
        let left = shell(None, "sleep 100000 & test $! -lt 1000").status();
        assert!(left.is_ok_and(|status| status.success()), "not a PID namespace of our own");
    });
}

#[test]
fn loop_images() {
    contained("containment::loop_images", || {
        for filesystem in [Filesystem::Ext4, Filesystem::Xfs, Filesystem::Btrfs] {
            if let Some(place) = Place::on("containment::loop_images", filesystem) {
                assert!(writable(place.path()), "{filesystem:?}");
            }
        }
    });
}
