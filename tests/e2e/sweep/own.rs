//! Areas in a directory of the clients' own: what is swept of them one request at a time, since the threads that work on them
//! are begun anew for each.

use std::fs::{self, File};
use std::os::fd::AsFd;
use std::path::PathBuf;

use scratch_proto::v1::channel_request::Op;
use scratch_proto::v1::channel_response::Result as Reply;
use scratch_proto::v1::{CreateRequest, ForeignDirectory, GrantRequest, Kind, ReleaseRequest, Wait, Where, r#where};
use scratch_tests::{Strace, counted};

use super::clients::{Clients, Gone};
use super::ledger::Fate;
use super::points::{self, Point};
use super::workload::{content, ends, exact, holding, of_other, revoke, write};

/// Requests and ends that are swept: two kinds, made and released; a lease that is revoked, one whose holder dies.
pub(crate) const MOMENTS: usize = 6;

/// The role of the threads that do it.
const ROLE: &str = "foreign";

/// An area in the clients' own directory with something in it.
fn make(clients: &mut Clients, lease: &str, kind: Kind, name: &str) -> Result<(PathBuf, Vec<u8>), Gone> {
    let path = clients.own.join(name);
    let inside = if kind == Kind::Directory { path.join("inner/file") } else { path.clone() };
    let content = content(&path);
    clients.ledger.own(&path, lease, &inside, &content);
    let directory = File::open(&clients.own).expect("a directory of the test's own");
    let foreign = Where { kind: Some(r#where::Kind::Foreign(ForeignDirectory { fd: true })) };
    let create = CreateRequest { r#where: Some(foreign), ..exact(lease, kind, name) };
    let (reply, handles) = clients.ask(Op::Create(create), &[directory.as_fd()])?;
    let Reply::Create(created) = reply else { panic!("not created: {reply:?}") };
    if kind == Kind::Directory {
        fs::create_dir_all(path.join("inner/deeper")).expect("an area is writable");
        fs::write(&inside, &content).expect("an area is writable");
    } else {
        write(handles, &content);
    }
    clients.ledger.own_is(&path, Fate::Live);
    Ok((path, created.areas[0].id.clone()))
}

/// The step of the workload.
pub(crate) fn step(clients: &mut Clients) -> Result<(), Gone> {
    run(clients, |_| None)
}

/// `begin` is told which moment comes; what it returns lives as long.
pub(crate) fn run(clients: &mut Clients, mut begin: impl FnMut(usize) -> Option<Strace>) -> Result<(), Gone> {
    let lease = clients.grant(GrantRequest::default(), &[])?;
    make(clients, &lease, Kind::File, "file")?;
    make(clients, &lease, Kind::Directory, "tree")?;
    for (moment, kind, name) in [(0, Kind::File, "released"), (2, Kind::Directory, "released-tree")] {
        let strace = begin(moment);
        let (path, area) = make(clients, &lease, kind, name)?;
        drop(strace);
        clients.ledger.own_is(&path, Fate::Open);
        let release = ReleaseRequest { lease: lease.clone(), area, wait: Wait::Freed.into() };
        let strace = begin(moment + 1);
        let (reply, _) = clients.ask(Op::Release(release), &[])?;
        drop(strace);
        // One that can't be ended at once is owed, and answered as that.
        if matches!(&reply, Reply::Release(released) if released.debt.is_empty()) {
            clients.ledger.own_is(&path, Fate::Dead);
        } else {
            assert!(clients.faults.is_some(), "{reply:?}");
        }
    }
    let pidfd = clients.process("ends with areas elsewhere", None);
    let revoked = clients.grant(GrantRequest::default(), &[])?;
    let dies = clients.grant(holding(of_other()), &[pidfd.as_fd()])?;
    let in_revoked = make(clients, &revoked, Kind::Directory, "revoked")?.0;
    let in_dead = make(clients, &dies, Kind::Directory, "dead")?.0;
    let strace = begin(4);
    let reply = revoke(clients, &revoked, Wait::Freed)?;
    drop(strace);
    assert!(!in_revoked.exists() || clients.faults.is_some(), "revoked, answered, and still there: {reply:?}");
    let _strace = begin(5);
    clients.end_process("ends with areas elsewhere");
    ends(clients, &dies)?;
    if clients.faults.is_none() {
        clients.until("what is elsewhere goes, too", || !in_dead.exists())?;
    }
    Ok(())
}

/// What those threads call in each moment.
pub(crate) fn points() -> Vec<(usize, Point)> {
    let broker = points::broker();
    let far = points::far_of(&broker);
    let log = |moment: usize| far.join(format!("strace-{moment}"));
    let mut clients = Clients::new(&broker, &far);
    let went = run(&mut clients, |moment| Some(points::watch(&broker, &log(moment))));
    went.expect("nobody kills this broker");
    let of = |moment| {
        let points = points::all(&counted(&log(moment)));
        points.into_iter().filter(|point| point.role == ROLE).map(move |point| (moment, point))
    };
    (0..MOMENTS).flat_map(of).collect()
}
