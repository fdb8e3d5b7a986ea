//! A crash between any two steps: what the next broker finds in book and directory is ended whole, and nothing else is.

use std::fs;
use std::os::fd::AsFd;
use std::os::unix::fs::lchown;

use rustix::io::Errno;
use scratch_fs::{ForeignEntry, Node};

use crate::contain::contained;
use crate::fixture::Fixture;

/// What a crash leaves, in the order of the steps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    Written,
    Made,
    Known,
    HasName,
    Told,
    Ending,
    Aside,
}

const STEPS: [Step; 7] = [Step::Written, Step::Made, Step::Known, Step::HasName, Step::Told, Step::Ending, Step::Aside];

/// Does what the broker would have done up to this step.
fn do_up_to(fixture: &Fixture, step: Step, is_directory: bool) -> ForeignEntry {
    let (mut entry, _) = fixture.entry(1, is_directory);
    let aside = fixture.directory().join(std::str::from_utf8(&entry.aside).unwrap());
    let reached = |wanted| STEPS.iter().position(|one| *one == wanted) <= STEPS.iter().position(|one| *one == step);
    if reached(Step::Made) {
        if is_directory {
            fs::create_dir(&aside).unwrap();
        } else {
            fs::write(&aside, "").unwrap();
        }
        lchown(&aside, Some(Fixture::uid()), Some(Fixture::uid())).unwrap();
    }
    if reached(Step::Known) {
        entry.child = Some(Node::of(fs::File::open(&aside).unwrap().as_fd()).unwrap());
        entry.name = b"area".to_vec();
    }
    let area = fixture.directory().join("area");
    if reached(Step::HasName) {
        fs::rename(&aside, &area).unwrap();
    }
    entry.is_named = reached(Step::Told);
    entry.has_ended = reached(Step::Ending);
    if reached(Step::Aside) {
        fs::rename(&area, &aside).unwrap();
        if is_directory {
            // As far as a removal has come that was cut short.
            fs::create_dir_all(aside.join("0.5.abcdefghijklmnop/sub")).unwrap();
            fs::write(aside.join("file"), "").unwrap();
            for path in ["0.5.abcdefghijklmnop", "0.5.abcdefghijklmnop/sub", "file"] {
                lchown(aside.join(path), Some(Fixture::uid()), None).unwrap();
            }
        }
    }
    fixture.book.write(&entry).unwrap();
    entry
}

#[test]
fn after_a_crash_at_any_step_nothing_is_left() {
    if !contained(after_a_crash_at_any_step_nothing_is_left) {
        return;
    }
    for is_directory in [false, true] {
        for step in STEPS {
            for same_boot in [true, false] {
                let fixture = Fixture::new();
                do_up_to(&fixture, step, is_directory);
                let mut entry = fixture.entries().remove(0).2.unwrap();
                fixture.book.end(fixture.passed().as_fd(), &mut entry, same_boot).unwrap();
                fixture.assert_gone();
            }
        }
    }
}

#[test]
fn after_a_crash_what_others_put_there_stays() {
    if !contained(after_a_crash_what_others_put_there_stays) {
        return;
    }
    for is_directory in [false, true] {
        for step in [Step::Written, Step::Known, Step::HasName, Step::Told, Step::Ending, Step::Aside] {
            let fixture = Fixture::new();
            let entry = do_up_to(&fixture, step, is_directory);
            // Whatever has its names now is another's: the area itself was renamed by its client.
            for (number, name) in [&entry.name, &entry.aside].into_iter().filter(|name| !name.is_empty()).enumerate() {
                let path = fixture.directory().join(std::str::from_utf8(name).unwrap());
                if path.exists() {
                    fs::rename(&path, fixture.directory().join(format!("moved-{number}"))).unwrap();
                }
                fs::write(&path, "precious").unwrap();
            }
            let before = fixture.names();
            let mut entry = fixture.entries().remove(0).2.unwrap();
            let ended = fixture.end(&mut entry);
            if step == Step::Written {
                // It has the name that only the broker knew, and is not empty: whose it is can't be told.
                assert_eq!(ended.unwrap_err().error.errno, Errno::STALE);
            } else {
                assert_eq!((ended, fixture.entries()), (Ok(()), vec![]));
            }
            assert_eq!(fixture.names(), before, "{step:?} {is_directory}");
            fixture.assert_others();
        }
    }
}

#[test]
fn a_file_that_has_the_inode_of_one_that_is_gone_is_not_it() {
    if !contained(a_file_that_has_the_inode_of_one_that_is_gone_is_not_it) {
        return;
    }
    let fixture = Fixture::new();
    let mut entry = fixture.make(false).entry;
    let path = fixture.path(&entry);
    fs::remove_file(&path).unwrap();
    fs::write(&path, "precious").unwrap();
    let child = entry.child.clone().unwrap();
    let now = Node::of(fs::File::open(&path).unwrap().as_fd()).unwrap();
    if child.handle.is_empty() && child.born == 0 {
        return println!("left out: this file system tells files by their inodes alone");
    }
    // The worst case, whichever inode it got.
    entry.child = Some(Node { inode: now.inode, ..child });
    fixture.end(&mut entry).unwrap();
    assert_eq!(fs::read(&path).unwrap(), b"precious");
    assert_eq!(fixture.entries(), []);
}
