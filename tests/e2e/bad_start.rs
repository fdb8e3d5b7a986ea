//! What a broker must refuse to start on: with an exit code, a word on what to do, and nothing created or removed.

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use scratch_tests::{Broker, Channel, Options, Place, Refusal, contained, is_root, left_out, names_in, snapshot};

const UNAVAILABLE: i32 = 69;
const CANNOT_CREATE: i32 = 73;
const CONFIG: i32 = 78;

/// A new directory with exactly this mode.
fn directory(path: PathBuf, mode: u32) -> PathBuf {
    fs::create_dir(&path).expect("a place is writable");
    fs::set_permissions(&path, PermissionsExt::from_mode(mode)).expect("a directory just made is ours");
    path
}

fn refusal(what: &str, options: Options) -> Refusal {
    match Broker::try_start(options) {
        Ok(_) => panic!("a broker started with {what}"),
        Err(refusal) => refusal,
    }
}

/// The broker must refuse that root, name it, and leave all at and beside it as it was.
fn refuses_root(what: &str, root: &Path) {
    refuses_root_with(what, root, Options::default());
}

fn refuses_root_with(what: &str, root: &Path, options: Options) {
    let ground = root.parent().expect("not for /");
    let before = snapshot(ground);
    let refused = refusal(what, Options { pool: Some(root.to_path_buf()), ..options });
    assert!(matches!(refused.code, Some(CONFIG | CANNOT_CREATE)), "{what}: {refused:?}");
    assert!(refused.stderr.contains(&root.display().to_string()), "{what}: does not say where: {refused:?}");
    assert!(!refused.stderr.contains("panicked"), "{what}: {refused:?}");
    assert_eq!(snapshot(ground), before, "{what}: something changed");
}

#[test]
fn the_root_directory() {
    contained("bad_start::the_root_directory", || {
        let before = names_in(Path::new("/"));
        let refused = refusal("/", Options { pool: Some("/".into()), ..Options::default() });
        assert!(matches!(refused.code, Some(CONFIG | CANNOT_CREATE)), "{refused:?}");
        assert!(!refused.stderr.is_empty());
        assert_eq!(names_in(Path::new("/")), before);
    });
}

#[test]
fn a_home() {
    contained("bad_start::a_home", || {
        let ground = Place::new();
        let home = directory(ground.path().join("home"), 0o700);
        let environment = vec![("HOME".to_owned(), home.display().to_string())];
        refuses_root_with("an empty home", &home, Options { environment, ..Options::default() });
    });
}

#[test]
fn a_symbolic_link() {
    contained("bad_start::a_symbolic_link", || {
        let ground = Place::new();
        directory(ground.path().join("real"), 0o711);
        let link = ground.path().join("link");
        symlink("real", &link).expect("a place is writable");
        refuses_root("a symbolic link to an empty directory", &link);
    });
}

#[test]
fn what_is_not_a_directory() {
    contained("bad_start::what_is_not_a_directory", || {
        let ground = Place::new();
        let file = ground.path().join("file");
        fs::write(&file, "precious").expect("a place is writable");
        refuses_root("a regular file", &file);
    });
}

#[test]
fn somebody_elses_files() {
    contained("bad_start::somebody_elses_files", || {
        let ground = Place::new();
        let root = directory(ground.path().join("root"), 0o711);
        fs::write(root.join("precious"), "content").expect("a place is writable");
        refuses_root("a directory that is not empty", &root);

        // Not even where everything looks like our own: there is no marker.
        let root = directory(ground.path().join("alike"), 0o711);
        directory(root.join("abcdefghijklmnop"), 0o700);
        fs::write(root.join("abcdefghijklmnop/precious"), "content").expect("a place is writable");
        directory(root.join(".scratch"), 0o700);
        refuses_root("a directory that only looks like a pool", &root);
    });
}

#[test]
fn lost_and_found_alone_is_empty_enough() {
    contained("bad_start::lost_and_found_alone_is_empty_enough", || {
        let ground = Place::new();
        let root = directory(ground.path().join("root"), 0o711);
        directory(root.join("lost+found"), 0o700);
        let mut broker = Broker::start(Options { pool: Some(root.clone()), ..Options::default() });
        assert!(broker.terminate().success());
        assert_eq!(names_in(&root), [".scratch", "lost+found"]);
    });
}

#[test]
fn a_copied_pool() {
    contained("bad_start::a_copied_pool", || {
        let ground = Place::new();
        let root = directory(ground.path().join("pool"), 0o711);
        let mut broker = Broker::start(Options { pool: Some(root.clone()), ..Options::default() });
        assert!(broker.terminate().success());
        let copy = ground.path().join("copy");
        let copied = Command::new("cp").arg("-a").args([&root, &copy]).status().expect("cp is there");
        assert!(copied.success());
        refuses_root("a copied pool", &copy);
        // The original is as good as before.
        broker.restart();
    });
}

#[test]
fn another_users_directory() {
    contained("bad_start::another_users_directory", || {
        if !is_root() {
            return left_out("bad_start::another_users_directory", "giving a directory away needs root");
        }
        let ground = Place::new();
        let root = directory(ground.path().join("root"), 0o711);
        chown(&root, Some(1234), Some(1234)).expect("root gives directories away");
        refuses_root("another user's directory", &root);
    });
}

#[test]
fn where_others_may_write() {
    contained("bad_start::where_others_may_write", || {
        let ground = Place::new();
        for mode in [0o770, 0o777, 0o1777] {
            let root = directory(ground.path().join(format!("root-{mode:o}")), mode);
            refuses_root(&format!("mode {mode:o}"), &root);
        }
    });
}

#[test]
fn where_others_may_rename() {
    contained("bad_start::where_others_may_rename", || {
        let ground = Place::new();
        let open = directory(ground.path().join("open"), 0o777);
        let root = directory(open.join("root"), 0o711);
        refuses_root("a parent that others may rename in", &root);
        let below = directory(directory(open.join("between"), 0o755).join("root"), 0o711);
        refuses_root("a grandparent that others may rename in", &below);
    });
}

#[test]
fn a_second_broker() {
    contained("bad_start::a_second_broker", || {
        let first = Broker::start(Options::default());
        let mut channel = Channel::connect(&first.handle_socket());
        channel.ping();
        let second = refusal("a locked pool", Options { pool: Some(first.pool_root().into()), ..Options::default() });
        assert_eq!(second.code, Some(UNAVAILABLE), "{second:?}");
        assert!(!second.stderr.is_empty());
        channel.ping();
    });
}

#[test]
fn bad_configurations() {
    contained("bad_start::bad_configurations", || {
        let pool = "[[pool]]\nname = \"default\"\nroot = \"@PLACE@/pool\"\n";
        let cases = [
            ("no pool", "[restart]\ngrace = \"30s\"\n".to_owned()),
            ("nothing at all", String::new()),
            ("an unknown key", format!("{pool}colour = \"blue\"\n")),
            ("an unknown table", format!("{pool}[colours]\n")),
            ("an unknown backend", format!("{pool}backend = \"stone\"\n")),
            ("a bad duration", format!("{pool}[restart]\ngrace = \"soon\"\n")),
            ("a duration without a unit", format!("{pool}[restart]\ngrace = 30\n")),
            ("a number for a name", "[[pool]]\nname = 1\nroot = \"@PLACE@/pool\"\n".to_owned()),
            ("a pool without a root", "[[pool]]\nname = \"default\"\n".to_owned()),
            ("a relative root", "[[pool]]\nname = \"default\"\nroot = \"pool\"\n".to_owned()),
            ("two pools of one name", format!("{pool}{pool}")),
            ("no TOML", "this is not TOML".to_owned()),
        ];
        for (what, config) in cases {
            let refused = refusal(what, Options { config: Some(config), ..Options::default() });
            assert_eq!(refused.code, Some(CONFIG), "{what}: {refused:?}");
            assert!(refused.stderr.contains("scratchd.toml"), "{what}: does not say where: {refused:?}");
        }
    });
}
