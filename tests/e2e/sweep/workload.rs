//! The scripted workload of the sweeps: every verb, every kind of holder, every way in which a lease ends. A new verb or
//! holder gets a step of its own here, and is swept with the rest.

use std::fs::{self, File};
use std::io::Write;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};
use scratch_proto::v1::admin_client::AdminClient;
use scratch_proto::v1::areas_client::AreasClient;
use scratch_proto::v1::channel_request::Op;
use scratch_proto::v1::channel_response::Result as Reply;
use scratch_proto::v1::holder::Kind as Has;
use scratch_proto::v1::holder_spec::Kind as Holder;
use scratch_proto::v1::leases_client::LeasesClient;
use scratch_proto::v1::{
    AttachRequest, ClaimRequest, ConnectionHolder, CreateRequest, DescriptorHolder, DetachRequest, GrantRequest,
    HolderSpec, KeepAliveRequest, Kind, PersistRequest, ProcessHolder, ReapRequest, ReleaseRequest, RevokeRequest,
    TtlHolder, UpdateLeaseRequest, Wait,
};
use scratch_tests::is_root;

use super::clients::{Clients, Gone, Unanswered};
use super::ledger::Fate;
use super::own;

type Step = (&'static str, fn(&mut Clients) -> Result<(), Gone>);

/// In this order, each with leases of its own.
const STEPS: &[Step] = &[
    ("areas of a process's lease", areas),
    ("a batch", batch),
    ("a connection that stays", connection),
    ("a connection that closes", closed_connection),
    ("a ttl that is renewed", ttl),
    ("a descriptor", descriptor),
    ("another process that lives", living_process),
    ("another process that ends", dying_process),
    ("a lifetime that ends", lifetime),
    ("a process that is searched for", searched),
    ("holders that come and go", attach_and_detach),
    ("out of the lease by rename", persist_by_rename),
    ("out of the lease by copy", persist_by_copy),
    ("released trees", release),
    ("areas in a directory of its own", own::step),
    ("over gRPC", grpc),
    ("parents and children", family),
    ("a debt", debt),
];

/// Runs the script once; the ledger says after each line what must be so.
pub(crate) fn run(clients: &mut Clients) -> Result<(), Gone> {
    for (what, step) in STEPS {
        if let Err(gone) = step(clients) {
            println!("the broker went during: {what}");
            return Err(gone);
        }
    }
    Ok(())
}

pub(crate) fn held_by(kind: Holder) -> HolderSpec {
    HolderSpec { kind: Some(kind) }
}

pub(crate) fn of_connection() -> HolderSpec {
    held_by(Holder::Connection(ConnectionHolder {}))
}

pub(crate) fn of_other() -> HolderSpec {
    held_by(Holder::Process(ProcessHolder { fd: true }))
}

pub(crate) fn holding(holder: HolderSpec) -> GrantRequest {
    GrantRequest { holders: vec![holder], ..GrantRequest::default() }
}

pub(crate) fn content(path: &Path) -> Vec<u8> {
    // Different for each path, and longer than a page.
    path.as_os_str().as_encoded_bytes().iter().copied().cycle().take(9000).collect()
}

pub(crate) fn exact(lease: &str, kind: Kind, name: &str) -> CreateRequest {
    let name = name.as_bytes().to_owned();
    CreateRequest { lease: lease.to_owned(), kind: kind.into(), name, want_handle: true, ..CreateRequest::default() }
}

/// A file with content, made by the broker and written through its handle.
fn file(clients: &mut Clients, lease: &str, name: &str) -> Result<PathBuf, Gone> {
    let path = clients.path(lease).join(name);
    let content = content(&path);
    clients.ledger.file(&path, Fate::Open, &content);
    let (_, handles) = clients.ask(Op::Create(exact(lease, Kind::File, name)), &[])?;
    write(handles, &content);
    clients.ledger.file(&path, Fate::Live, &content);
    Ok(path)
}

pub(crate) fn write(handles: Vec<OwnedFd>, content: &[u8]) {
    let handle = handles.into_iter().next().expect("a handle was asked for");
    File::from(handle).write_all(content).expect("a handle can be written to");
}

/// A directory made by the broker, with a tree made by the client: deep, and wide enough for several looks.
fn tree(clients: &mut Clients, lease: &str, name: &str) -> Result<PathBuf, Gone> {
    let path = clients.path(lease).join(name);
    clients.ask(Op::Create(exact(lease, Kind::Directory, name)), &[])?;
    let deep = (0..24).fold(path.clone(), |path, _| path.join("d"));
    fs::create_dir_all(&deep).expect("an area is writable");
    for number in 0..40 {
        fs::write(path.join(number.to_string()), "").expect("an area is writable");
    }
    let bottom = deep.join("bottom");
    let content = content(&bottom);
    fs::write(&bottom, &content).expect("an area is writable");
    clients.ledger.file(&bottom, Fate::Live, &content);
    Ok(path)
}

/// Its end was caused: until it is seen it is open, and then the directory is gone.
pub(crate) fn ends(clients: &mut Clients, lease: &str) -> Result<(), Gone> {
    clients.ledger.lease(lease, Fate::Dead);
    let path = clients.path(lease);
    clients.until("what nobody holds goes", || !path.exists())
}

pub(crate) fn revoke(clients: &mut Clients, lease: &str, wait: Wait) -> Result<Reply, Gone> {
    clients.ledger.lease(lease, Fate::Open);
    let revoke = RevokeRequest { lease: lease.to_owned(), wait: wait.into() };
    let (reply, _) = clients.ask(Op::Revoke(revoke), &[])?;
    // One that can't be moved is told as owed.
    let own = format!("lease-{lease}");
    let is_owed = matches!(&reply, Reply::Revoke(revoked) if revoked.debt.contains(&own));
    assert!(is_owed || !clients.path(lease).exists(), "revoked, answered, and still there");
    if is_owed {
        assert!(clients.faults.is_some(), "nothing is in the way where no call fails");
        clients.until("what is owed goes", || !clients.path(lease).exists())?;
    }
    clients.ledger.lease(lease, Fate::Dead);
    Ok(reply)
}

fn areas(clients: &mut Clients) -> Result<(), Gone> {
    let lease = clients.grant(GrantRequest::default(), &[])?;
    file(clients, &lease, "file")?;
    tree(clients, &lease, "tree")?;
    for kind in [Kind::Anonymous, Kind::Memory] {
        let create = CreateRequest { lease: lease.clone(), kind: kind.into(), ..CreateRequest::default() };
        let (_, handles) = clients.ask(Op::Create(create), &[])?;
        let handle = handles.into_iter().next().expect("what has no name has a handle");
        let mut file = File::from(handle);
        let content = content(Path::new(&lease));
        file.write_all(&content).expect("a handle can be written to");
        clients.ledger.unnamed(file, &content);
    }
    let by_itself = clients.path(&lease).join("by itself");
    fs::write(&by_itself, content(&by_itself)).expect("a lease's directory is writable");
    clients.ledger.file(&by_itself, Fate::Live, &content(&by_itself));
    Ok(())
}

fn batch(clients: &mut Clients) -> Result<(), Gone> {
    let lease = clients.grant(GrantRequest::default(), &[])?;
    for kind in [Kind::File, Kind::Directory] {
        let create = CreateRequest { lease: lease.clone(), kind: kind.into(), count: 5, ..CreateRequest::default() };
        let (reply, _) = clients.ask(Op::Create(create), &[])?;
        let Reply::Create(created) = reply else { panic!("not created: {reply:?}") };
        assert_eq!(created.areas.len(), 5);
    }
    revoke(clients, &lease, Wait::Freed)?;
    Ok(())
}

fn connection(clients: &mut Clients) -> Result<(), Gone> {
    clients.second = Some(clients.connect()?);
    let nonce = clients.nonce();
    let (reply, _) = clients.ask_second(Op::Grant(GrantRequest { nonce, ..holding(of_connection()) }))?;
    let Reply::Grant(granted) = reply else { panic!("not granted: {reply:?}") };
    clients.ledger.lease(&granted.id, Fate::Live);
    clients.ledger.comes_back(&granted.id);
    file(clients, &granted.id, "file").map(drop)
}

fn closed_connection(clients: &mut Clients) -> Result<(), Gone> {
    let mut channel = clients.connect()?;
    let nonce = clients.nonce();
    let asked = channel.try_ask(Op::Grant(GrantRequest { nonce, ..holding(of_connection()) }));
    // Whatever came of it: nobody holds it any more.
    drop(channel);
    match asked {
        Ok(Reply::Grant(granted)) => ends(clients, &granted.id),
        Ok(other) if clients.faults.is_none() => panic!("not granted: {other:?}"),
        Ok(_) | Err(_) => Ok(()),
    }
}

fn ttl(clients: &mut Clients) -> Result<(), Gone> {
    let ttl = Duration::from_secs(300).try_into().ok();
    let lease = clients.grant(holding(held_by(Holder::Ttl(TtlHolder { ttl }))), &[])?;
    file(clients, &lease, "file")?;
    clients.ask(Op::KeepAlive(KeepAliveRequest { lease }), &[]).map(drop)
}

fn descriptor(clients: &mut Clients) -> Result<(), Gone> {
    let holder = held_by(Holder::Descriptor(DescriptorHolder { fd: true }));
    for stays in [true, false] {
        let (ours, passed) = UnixStream::pair().expect("the kernel has Unix sockets");
        let lease = clients.grant(holding(holder), &[passed.as_fd()])?;
        drop(passed);
        clients.ledger.dies_with_broker(&lease);
        if stays {
            file(clients, &lease, "file")?;
            clients.held.push(ours.into());
        } else {
            drop(ours);
            ends(clients, &lease)?;
        }
    }
    Ok(())
}

fn living_process(clients: &mut Clients) -> Result<(), Gone> {
    for what in ["to the end", "until the broker is away"] {
        let pidfd = clients.process(what, None);
        let lease = clients.grant(holding(of_other()), &[pidfd.as_fd()])?;
        clients.process_holds(what, lease.clone());
        file(clients, &lease, "file")?;
    }
    Ok(())
}

fn dying_process(clients: &mut Clients) -> Result<(), Gone> {
    let pidfd = clients.process("ends at once", None);
    let lease = clients.grant(holding(of_other()), &[pidfd.as_fd()])?;
    tree(clients, &lease, "tree")?;
    clients.end_process("ends at once");
    ends(clients, &lease)
}

fn lifetime(clients: &mut Clients) -> Result<(), Gone> {
    let lifetime_max = Duration::from_millis(50).try_into().ok();
    let lease = clients.grant(GrantRequest { lifetime_max, ..GrantRequest::default() }, &[])?;
    ends(clients, &lease)
}

fn searched(clients: &mut Clients) -> Result<(), Gone> {
    let pidfd = clients.process("ends and is searched for", None);
    let lease = clients.grant(GrantRequest { search_environment: true, ..holding(of_other()) }, &[pidfd.as_fd()])?;
    let left = clients.process("is found", Some(&lease));
    drop(left);
    clients.process_holds("is found", lease.clone());
    file(clients, &lease, "file")?;
    clients.end_process("ends and is searched for");
    Ok(())
}

fn attach_and_detach(clients: &mut Clients) -> Result<(), Gone> {
    let lease = clients.grant(GrantRequest::default(), &[])?;
    file(clients, &lease, "file")?;
    let pidfd = clients.process("is attached", None);
    let attach = AttachRequest { lease: lease.clone(), holder: Some(of_other()) };
    let (reply, _) = clients.ask(Op::Attach(attach), &[pidfd.as_fd()])?;
    if let Reply::Attach(attached) = reply {
        let holder = attached.holder.expect("an answer to Attach has a holder");
        assert!(matches!(holder.kind, Some(Has::Process(_))), "{holder:?}");
        clients.ask(Op::Detach(DetachRequest { lease: lease.clone(), holder: holder.id }), &[])?;
    }
    clients.end_process("is attached");
    let last = clients.grant(GrantRequest::default(), &[])?;
    clients.ledger.lease(&last, Fate::Open);
    // Its only holder: that ends it.
    clients.ask(Op::Detach(DetachRequest { lease: last.clone(), holder: 1 }), &[])?;
    ends(clients, &last)
}

fn persist(clients: &mut Clients, lease: &str, area: &str, known: &str, to: &Path) -> Result<(), Gone> {
    let directory = File::open(to).expect("a directory of the test's own");
    let name = format!("{lease}-{area}");
    let (from, to) = (clients.path(lease).join(area).join(known), to.join(&name).join(known));
    let persist = PersistRequest {
        lease: lease.to_owned(),
        area: area.as_bytes().to_owned(),
        fd: true,
        name: name.into_bytes(),
        ..PersistRequest::default()
    };
    // Without what a join with nothing leaves: a slash, after which there can be no file.
    let plain = |path: PathBuf| path.components().collect::<PathBuf>();
    let (from, to) = (plain(from), plain(to));
    clients.ledger.moves(&from, &to, Fate::Open);
    clients.ask(Op::Persist(persist), &[directory.as_fd()])?;
    clients.ledger.moves(&from, &to, Fate::Dead);
    Ok(())
}

fn persist_by_rename(clients: &mut Clients) -> Result<(), Gone> {
    let lease = clients.grant(GrantRequest::default(), &[])?;
    let near = clients.near.clone();
    file(clients, &lease, "file")?;
    persist(clients, &lease, "file", "", &near)?;
    tree(clients, &lease, "tree")?;
    let bottom = format!("{}bottom", "d/".repeat(24));
    persist(clients, &lease, "tree", &bottom, &near)
}

fn persist_by_copy(clients: &mut Clients) -> Result<(), Gone> {
    let lease = clients.grant(GrantRequest::default(), &[])?;
    let far = clients.far.clone();
    file(clients, &lease, "file")?;
    persist(clients, &lease, "file", "", &far)
}

fn release(clients: &mut Clients) -> Result<(), Gone> {
    let lease = clients.grant(GrantRequest::default(), &[])?;
    let stays = file(clients, &lease, "stays")?;
    for (name, wait) in [("file", Wait::Unspecified), ("tree", Wait::Unspecified), ("another", Wait::Freed)] {
        let path = if name == "file" { file(clients, &lease, name)? } else { tree(clients, &lease, name)? };
        clients.ledger.below(&path, Fate::Open);
        let area = name.as_bytes().to_owned();
        clients.ask(Op::Release(ReleaseRequest { lease: lease.clone(), area, wait: wait.into() }), &[])?;
        clients.ledger.below(&path, Fate::Dead);
        assert!(!path.exists() && stays.exists());
    }
    Ok(())
}

fn grpc(clients: &mut Clients) -> Result<(), Gone> {
    let nonce = clients.nonce();
    let request = GrantRequest { nonce, ..GrantRequest::default() };
    let granted = clients.grpc(async |channel| LeasesClient::new(channel).grant(request.clone()).await);
    let granted = granted.inspect_err(|Gone| {
        // The same nonce on the other road names the same lease.
        clients.unanswered = Some(Unanswered { op: Op::Grant(request), descriptors: Vec::new() });
    });
    let granted = granted?.into_inner();
    let lease = granted.id;
    clients.ledger.lease(&lease, Fate::Live);
    let labels = [("key".to_owned(), "value".to_owned())].into();
    let update = UpdateLeaseRequest { lease: lease.clone(), labels, ..UpdateLeaseRequest::default() };
    clients.grpc(async |channel| LeasesClient::new(channel).update(update.clone()).await)?;

    let path = clients.path(&lease).join("claimed");
    let content = content(&path);
    clients.ledger.file(&path, Fate::Open, &content);
    let create = CreateRequest { resend: true, ..exact(&lease, Kind::File, "claimed") };
    let created = clients.grpc(async |channel| AreasClient::new(channel).create(create.clone()).await)?.into_inner();
    let (_, handles) = clients.ask(Op::Claim(ClaimRequest { ticket: created.ticket }), &[])?;
    if !handles.is_empty() {
        write(handles, &content);
        clients.ledger.file(&path, Fate::Live, &content);
    }
    let release = ReleaseRequest { lease: lease.clone(), area: b"claimed".to_vec(), ..ReleaseRequest::default() };
    clients.ledger.below(&path, Fate::Open);
    clients.grpc(async |channel| AreasClient::new(channel).release(release.clone()).await)?;
    clients.ledger.below(&path, Fate::Dead);
    clients.ledger.lease(&lease, Fate::Open);
    let revoke = RevokeRequest { lease: lease.clone(), ..RevokeRequest::default() };
    clients.grpc(async |channel| {
        match LeasesClient::new(channel).revoke(revoke.clone()).await {
            // Sent again, after it was done.
            Err(status) if status.code() == tonic::Code::NotFound => Ok(()),
            other => other.map(drop),
        }
    })?;
    ends(clients, &lease)
}

fn family(clients: &mut Clients) -> Result<(), Gone> {
    let parent = clients.grant(GrantRequest::default(), &[])?;
    let below = |parent: &str| GrantRequest { parent: parent.to_owned(), ..GrantRequest::default() };
    let child = clients.grant(below(&parent), &[])?;
    let grandchild = clients.grant(below(&child), &[])?;
    let survives = clients.grant(GrantRequest::default(), &[])?;
    let beside = clients.grant(below(&survives), &[])?;
    file(clients, &grandchild, "file")?;
    file(clients, &beside, "file")?;
    [&child, &grandchild].into_iter().for_each(|lease| clients.ledger.lease(lease, Fate::Open));
    revoke(clients, &parent, Wait::Unspecified)?;
    ends(clients, &child)?;
    ends(clients, &grandchild)
}

/// What can't be removed while something is mounted in it, and can afterwards.
fn debt(clients: &mut Clients) -> Result<(), Gone> {
    if !is_root() {
        return Ok(());
    }
    let lease = clients.grant(GrantRequest::default(), &[])?;
    let busy = tree(clients, &lease, "tree")?.join("d/d");
    mount("test", &busy, "tmpfs", MountFlags::empty(), None).expect("a containment has mounts of its own");
    let reply = revoke(clients, &lease, Wait::Freed)?;
    if let Reply::Revoke(revoked) = reply {
        assert!(!revoked.freed && !revoked.debt.is_empty(), "{revoked:?}");
    }
    unmount_below(&clients.pool);
    clients.grpc(async |channel| AdminClient::new(channel).reap(ReapRequest::default()).await)?;
    Ok(())
}

/// Takes away what tests have mounted below a pool, wherever it was moved since.
pub(crate) fn unmount_below(pool: &Path) {
    let mounts = fs::read_to_string("/proc/self/mountinfo").expect("/proc tells mounts");
    let points = mounts.lines().filter_map(|line| line.split(' ').nth(4)).map(Path::new);
    for point in points.filter(|point| point.starts_with(pool)) {
        unmount(point, UnmountFlags::DETACH).expect("a containment has mounts of its own");
    }
}
