//! `scratch verify`: right while leases come and go, and naming everything that is not as it should be.

use std::fs;
use std::path::{Path, PathBuf};

use scratch_proto::v1::areas_client::AreasClient;
use scratch_proto::v1::{CreateRequest, Kind};
use scratch_tests::{Broker, Held, Options, contained, is_root, snapshot, with_grpc};

use crate::tamper::findings;

const NOBODYS: &str = "aaaaaaaaaaaaaaaa";

#[test]
fn finds_nothing_while_leases_come_and_go() {
    contained("verify::finds_nothing_while_leases_come_and_go", || {
        let broker = Broker::start(Options::default());
        let run = || {
            for _ in 0..40 {
                let command = "mkdir \"$TMPDIR/d\"; : >\"$TMPDIR/d/f\"";
                let ran = broker.scratch(&["run", "--", "sh", "-c", command]).status();
                assert!(ran.is_ok_and(|status| status.success()));
            }
        };
        std::thread::scope(|scope| {
            let runs = [scope.spawn(run), scope.spawn(run)];
            while !runs.iter().all(std::thread::ScopedJoinHandle::is_finished) {
                assert_eq!(findings(&broker), []);
            }
        });
        assert_eq!(findings(&broker), []);
    });
}

fn file(path: PathBuf) -> PathBuf {
    fs::write(&path, "").expect("a pool's directories are writable");
    path
}

fn directory(path: PathBuf) -> PathBuf {
    fs::create_dir(&path).expect("a pool's directories are writable");
    path
}

#[test]
fn names_all_that_is_nobodys() {
    contained("verify::names_all_that_is_nobodys", || {
        let broker = Broker::start(Options::default());
        let held = Held::start(&broker);
        let root = broker.pool_root().to_path_buf();
        let inside = |name: &str| root.join(".scratch").join(name);
        let other = |letter: &str| letter.repeat(16);
        let mut expected = vec![
            ("stray", file(root.join("notes"))),
            ("stray", file(inside("notes"))),
            ("stray", file(inside("leases/notes"))),
            ("stray", directory(inside("trash/notes"))),
            ("trash", directory(inside(&format!("trash/999.0.{NOBODYS}")))),
            ("unfinished", directory(inside(&format!("new/{NOBODYS}")))),
            ("no record", directory(root.join(other("b")))),
            ("torn record", file(inside(&format!("leases/{}", other("c"))))),
            ("no directory", inside(&format!("leases/{}", other("d")))),
            ("other directory", directory(root.join(other("e")))),
        ];
        directory(root.join(other("c")));
        for copy in [other("d"), other("e")] {
            fs::copy(inside("leases").join(held.lease()), inside("leases").join(copy)).expect("a record can be copied");
        }
        let before = snapshot(&root);
        let mut found = findings(&broker);
        assert_eq!(snapshot(&root), before, "looking changes nothing");
        found.sort();
        expected.sort();
        let expected: Vec<_> = expected.into_iter().map(|(kind, path)| (kind.to_owned(), path)).collect();
        assert_eq!(found, expected);
        if is_root() {
            let said = broker.scratch_as(1234, &["verify", "--output", "json"]).output().expect("it can be run");
            assert_eq!(
                (said.status.code(), said.stdout.as_slice()),
                (Some(0), &b"[]\n"[..]),
                "others are told nothing"
            );
        }
    });
}

#[test]
fn an_area_that_its_tenant_unlinks_is_no_fault() {
    contained("verify::an_area_that_its_tenant_unlinks_is_no_fault", || {
        let broker = Broker::start(Options::default());
        let held = Held::start(&broker);
        let (lease, kind) = (held.lease().to_owned(), Kind::File.into());
        let made = with_grpc(&broker, async |grpc| {
            let request = CreateRequest { lease, kind, ..CreateRequest::default() };
            AreasClient::new(grpc).create(request).await.expect("it is made").into_inner()
        });
        let name = String::from_utf8(made.areas[0].name.clone()).expect("a name is text");
        let path = held.path().join(Path::new(&name));
        assert_eq!(findings(&broker), []);
        fs::remove_file(&path).expect("it is there");
        assert_eq!(findings(&broker), [("area".to_owned(), path)]);
    });
}
