//! What a directory around gives to what is made in it: its group, its ACL, its label. The broker's is as its tenant's own,
//! made in the same place with open(2) or mkdir(2).

use std::ffi::CStr;
use std::fs::{self, File, Permissions};
use std::os::fd::AsFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};

use rustix::fs::{Gid, Mode, OFlags, Uid, XattrFlags};
use rustix::thread::{set_thread_groups, set_thread_res_gid, set_thread_res_uid};
use scratch_proto::v1::channel_request::Op;
use scratch_proto::v1::channel_response::Result as Reply;
use scratch_proto::v1::{CreateRequest, ForeignDirectory, GrantRequest, Kind, RevokeRequest, Where, r#where};
use scratch_tests::{Broker, Channel, Filesystem, Options, Place, contained, is_root, left_out, names_in};

use crate::regressions::{granted, nothing_is_left};

const TENANT: u32 = 1234;
const OTHER: u32 = 4321;
/// A group that the tenant is in, and one that it is not in.
const ITS_GROUP: u32 = 5678;
const OTHERS_GROUP: u32 = 8765;
const DEFAULT_ACL: &str = "system.posix_acl_default";

/// Its name and what makes its value.
type Attribute = (&'static str, fn() -> Vec<u8>);

/// A directory of the tenant's.
struct Parent {
    name: &'static str,
    group: u32,
    mode: u32,
    attribute: Option<Attribute>,
}

const PARENTS: &[Parent] = &[
    Parent { name: "plain", group: TENANT, mode: 0o755, attribute: None },
    Parent { name: "setgid", group: ITS_GROUP, mode: 0o2755, attribute: None },
    Parent { name: "setgid-of-others", group: OTHERS_GROUP, mode: 0o2755, attribute: None },
    Parent { name: "acl", group: TENANT, mode: 0o755, attribute: Some((DEFAULT_ACL, wide)) },
    Parent { name: "acl-setgid", group: OTHERS_GROUP, mode: 0o2755, attribute: Some((DEFAULT_ACL, wide)) },
    Parent { name: "label", group: TENANT, mode: 0o755, attribute: Some(("security.test", || b"label".to_vec())) },
];

const MADE: &[(Kind, &[u32])] = &[(Kind::File, &[0o600, 0o640, 0o666]), (Kind::Directory, &[0o700, 0o750, 0o777])];

/// Owner, OTHER, group, mask and all others may what this says.
fn acl(permissions: [u16; 5]) -> Vec<u8> {
    // Version 2: u32; then tag u16, permissions u16, id u32 of each entry.
    let mut bytes = 2u32.to_le_bytes().to_vec();
    let tags = [(1u16, u32::MAX), (2, OTHER), (4, u32::MAX), (16, u32::MAX), (32, u32::MAX)];
    for ((tag, id), permissions) in tags.into_iter().zip(permissions) {
        bytes.extend([tag.to_le_bytes(), permissions.to_le_bytes()].concat());
        bytes.extend(id.to_le_bytes());
    }
    bytes
}

/// One that takes nothing of a mode away.
fn wide() -> Vec<u8> {
    acl([7; 5])
}

/// Does something as a user of this process, on a thread that ends with it.
fn as_user<T: Send>(user: u32, act: impl FnOnce() -> T + Send) -> T {
    let become_it = || {
        let (uid, gid) = (Some(Uid::from_raw(user)), Some(Gid::from_raw(user)));
        set_thread_groups(&[Gid::from_raw(ITS_GROUP)][..usize::from(user == TENANT)]).expect("root may");
        set_thread_res_gid(gid, gid, gid).expect("root may");
        set_thread_res_uid(uid, uid, uid).expect("root may");
        act()
    };
    std::thread::scope(|scope| scope.spawn(become_it).join().expect("it was said what is wrong"))
}

/// Mode, owner, group and all attributes.
fn look(path: &Path) -> String {
    let found = path.symlink_metadata().expect("it was made");
    let mut names = [0; 4096];
    let length = rustix::fs::llistxattr(path, &mut names[..]).expect("root may look");
    let mut attributes: Vec<_> = names[..length].split_inclusive(|byte| *byte == 0).collect();
    attributes.sort_unstable();
    let value = |name: &[u8]| {
        let (name, mut value) = (CStr::from_bytes_with_nul(name).expect("names end with a zero"), [0; 4096]);
        let length = rustix::fs::lgetxattr(path, name, &mut value[..]).expect("it was listed");
        format!(" {name:?} {:?}", &value[..length])
    };
    let attributes: String = attributes.into_iter().map(value).collect();
    format!("{:o} {}:{}{attributes}", found.mode(), found.uid(), found.gid())
}

/// The tenant makes it by itself.
fn make(kind: Kind, path: &Path, mode: u32) {
    let mode = Mode::from_raw_mode(mode);
    let made = match kind {
        Kind::Directory => rustix::fs::mkdir(path, mode),
        _ => rustix::fs::open(path, OFlags::CREATE | OFlags::EXCL | OFlags::RDWR, mode).map(drop),
    };
    made.expect("the directory is the tenant's");
}

fn create(channel: &mut Channel, request: CreateRequest, passed: Option<&File>) {
    let descriptors: Vec<_> = passed.into_iter().map(AsFd::as_fd).collect();
    let (reply, _) = channel.try_ask_with(Op::Create(request), &descriptors).expect("the broker answers");
    assert!(matches!(reply, Reply::Create(_)), "{reply:?}");
}

/// None where the file system has no such attributes.
fn make_parent(parent: &Parent, path: &Path) -> Option<()> {
    fs::create_dir(path).expect("root may");
    chown(path, Some(TENANT), Some(parent.group)).expect("root may");
    fs::set_permissions(path, Permissions::from_mode(parent.mode)).expect("root may");
    let Some((name, value)) = parent.attribute else { return Some(()) };
    rustix::fs::setxattr(path, name, &value(), XattrFlags::empty()).ok()
}

fn as_the_tenants_own(test: &str, filesystem: Filesystem) {
    if !is_root() {
        return left_out(test, "needs root");
    }
    let Some(place) = Place::on(test, filesystem) else { return };
    let broker = Broker::start(Options { place: Some(place), ..Options::default() });
    rustix::process::umask(Mode::empty());
    let mut channel = as_user(TENANT, || Channel::connect(&broker.handle_socket()));
    let lease = granted(&mut channel, GrantRequest::default()).id;
    for parent in PARENTS {
        let inside: PathBuf = broker.pool_root().join(&lease).join(parent.name);
        let outside = broker.place().join(parent.name);
        for path in [&inside, &outside] {
            let Some(()) = make_parent(parent, path) else {
                left_out(test, &format!("{filesystem:?} can't have what {} has", parent.name));
                continue;
            };
            let (own, passed) = (path.join("own"), File::open(path).expect("root may"));
            for (kind, mode) in MADE.iter().flat_map(|(kind, modes)| modes.iter().map(|mode| (*kind, *mode))) {
                let mut request = CreateRequest {
                    lease: lease.clone(),
                    kind: kind.into(),
                    name: b"brokers".to_vec(),
                    mode: Some(mode),
                    ..CreateRequest::default()
                };
                let (directory, foreign) = (parent.name.into(), ForeignDirectory { fd: true });
                let is_inside = path == &inside;
                let place =
                    if is_inside { r#where::Kind::Directory(directory) } else { r#where::Kind::Foreign(foreign) };
                request.r#where = Some(Where { kind: Some(place) });
                create(&mut channel, request, (!is_inside).then_some(&passed));
                as_user(TENANT, || make(kind, &own, mode));
                let brokers = path.join("brokers");
                assert_eq!(look(&brokers), look(&own), "{filesystem:?} {path:?} {kind:?} {mode:o}");
                for made in [&own, &brokers] {
                    fs::remove_file(made).or_else(|_| fs::remove_dir(made)).expect("root may");
                }
            }
        }
    }
    channel.ask(Op::Revoke(RevokeRequest { lease, ..RevokeRequest::default() }));
    nothing_is_left(&broker);
}

#[test]
fn what_is_made_is_as_the_tenants_own_on_ext4() {
    let test = "parents::what_is_made_is_as_the_tenants_own_on_ext4";
    contained(test, || as_the_tenants_own(test, Filesystem::Ext4));
}

#[test]
fn what_is_made_is_as_the_tenants_own_on_tmpfs() {
    let test = "parents::what_is_made_is_as_the_tenants_own_on_tmpfs";
    contained(test, || as_the_tenants_own(test, Filesystem::Tmpfs));
}

/// It reaches all that is made in the pool, and opens no lease: the mask of a lease's directory is empty.
#[test]
fn a_default_acl_of_a_pools_root_opens_no_lease() {
    let test = "parents::a_default_acl_of_a_pools_root_opens_no_lease";
    contained(test, || {
        if !is_root() {
            return left_out(test, "needs root");
        }
        let place = Place::new();
        let pool = place.path().join("pool");
        fs::create_dir(&pool).expect("a place is writable");
        if rustix::fs::setxattr(&pool, DEFAULT_ACL, &wide(), XattrFlags::empty()).is_err() {
            return left_out(test, "no ACLs here");
        }
        let broker = Broker::start(Options { place: Some(place), ..Options::default() });
        let mut channel = as_user(TENANT, || Channel::connect(&broker.handle_socket()));
        let lease = granted(&mut channel, GrantRequest::default()).id;
        let path = broker.pool_root().join(&lease);
        let request = CreateRequest {
            lease: lease.clone(),
            kind: Kind::File.into(),
            name: b"area".to_vec(),
            mode: Some(0o666),
            ..CreateRequest::default()
        };
        create(&mut channel, request, None);
        assert_eq!(fs::metadata(&path).expect("it lives").mode() & 0o7777, 0o700);
        assert_eq!(fs::metadata(path.join("area")).expect("it lives").mode() & 0o7777, 0o666);
        let kind = as_user(OTHER, || fs::read(path.join("area")).expect_err("another's lease").kind());
        assert_eq!(kind, std::io::ErrorKind::PermissionDenied);
        assert!(as_user(OTHER, || fs::read_dir(broker.pool_root().join(".scratch")).is_err()));
        as_user(TENANT, || fs::write(path.join("by itself"), "content")).expect("it is the tenant's");
        assert_eq!(names_in(&path), ["area", "by itself"]);
        channel.ask(Op::Revoke(RevokeRequest { lease, ..RevokeRequest::default() }));
        nothing_is_left(&broker);
    });
}
