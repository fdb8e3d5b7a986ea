//! Who has what: rules of the configuration, grants on behalf of tenants, and turns between them.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Output;

use rustix::fs::FallocateFlags;
use rustix::process::{Gid, Uid};
use rustix::thread::{set_thread_groups, set_thread_res_gid, set_thread_res_uid};
use scratch_proto::v1::channel_request::Op;
use scratch_proto::v1::channel_response::Result as Reply;
use scratch_proto::v1::{CreateRequest, GrantRequest, Kind, PingRequest, RevokeRequest, Wait};
use scratch_tests::{
    Broker, Channel, DEADLINE, Filesystem, Options, Place, Refusal, contained, eventually, is_root, left_out, names_in,
};
use serde_json::Value;

const POOLS: &str = "[[pool]]\nname = \"default\"\nroot = \"@PLACE@/pool\"\n";
const TENANT: u32 = 1234;
const OTHER: u32 = 4321;
/// Has an account wherever there are any.
const WITH_ACCOUNT: (&str, u32) = ("daemon", 1);

fn configured(rules: &str) -> Options {
    Options { config: Some(format!("{POOLS}{rules}")), ..Options::default() }
}

fn for_root(test: &str) -> bool {
    if !is_root() {
        left_out(test, "needs root");
    }
    is_root()
}

/// What a command says in JSON, or the reason of its refusal.
fn said(output: &Output) -> Result<Value, String> {
    let json = |bytes: &[u8]| serde_json::from_slice::<Value>(bytes).expect("--output json prints JSON");
    if output.status.success() {
        return Ok(json(&output.stdout));
    }
    Err(json(&output.stderr)["error"]["reason"].as_str().unwrap_or_default().to_owned())
}

fn ask_as(broker: &Broker, user: u32, arguments: &[&str]) -> Result<Value, String> {
    let output = broker.scratch_as(user, arguments).args(["--output", "json"]).output();
    said(&output.expect("the command line's program can be run"))
}

fn grant_as(broker: &Broker, user: u32, arguments: &[&str]) -> Result<PathBuf, String> {
    let granted = ask_as(broker, user, &[&["lease", "grant", "--ttl", "10m"], arguments].concat())?;
    Ok(granted["path"].as_str().expect("a lease has a path").into())
}

fn reason(reason: &str) -> Result<PathBuf, String> {
    Err(reason.to_owned())
}

/// A connection whose peer is this user: who a thread is when it connects.
fn connect_as(broker: &Broker, user: u32) -> Channel {
    let connect = || {
        set_thread_groups(&[]).expect("root may");
        let (uid, gid) = (Uid::from_raw(user), Gid::from_raw(user));
        set_thread_res_gid(gid, gid, gid).expect("root may");
        set_thread_res_uid(uid, uid, uid).expect("root may");
        Channel::connect(&broker.handle_socket())
    };
    std::thread::scope(|scope| scope.spawn(connect).join().expect("somebody listens"))
}

fn change(broker: &Broker, from: &str, to: &str) {
    let file = broker.config_file();
    let text = fs::read_to_string(&file).expect("the harness wrote it");
    assert!(text.contains(from), "{text}");
    fs::write(&file, text.replace(from, to)).expect("a place is writable");
}

#[test]
fn rules_give_pools_and_limits_and_refuse() {
    let test = "tenants::rules_give_pools_and_limits_and_refuse";
    contained(test, || {
        if !for_root(test) {
            return;
        }
        let rules = "[[pool]]\nname = \"fast\"\nroot = \"@PLACE@/fast\"\n\
            [[rule]]\nuser = \"1234\"\npools = [\"fast\"]\nlimits = { leases = 1 }\n\
            [[rule]]\ngroup = \"4321\"\ndeny = true\n";
        let options = configured(rules);
        let place = Place::default();
        fs::create_dir(place.path().join("fast")).expect("a place is writable");
        let broker = Broker::start(Options { place: Some(place), ..options });
        let path = grant_as(&broker, TENANT, &[]).expect("it is granted");
        assert!(path.starts_with(broker.place().join("fast")), "{}", path.display());
        assert_eq!(grant_as(&broker, TENANT, &[]), reason("LIMIT_LEASES"));
        assert_eq!(grant_as(&broker, TENANT, &["--pool", "default"]), reason("POOL_UNKNOWN"));
        assert_eq!(grant_as(&broker, OTHER, &[]), reason("NOT_PERMITTED"));
        let path = grant_as(&broker, 5678, &[]).expect("no rule is for this one");
        assert!(path.starts_with(broker.pool_root()));

        let own = ask_as(&broker, TENANT, &["status", "--tenants"]).expect("it answers");
        assert_eq!(own["tenants"].as_array().map(Vec::len), Some(1));
        assert_eq!(own["tenants"][0]["tenant"]["uid"], TENANT);
        assert_eq!(own["tenants"][0]["uses"]["leases"], serde_json::json!({"used": 1, "limit": 1}));
        let all = broker.json(&["status", "--tenants"]);
        let uids: Vec<_> =
            all["tenants"].as_array().expect("an array").iter().map(|one| &one["tenant"]["uid"]).collect();
        assert_eq!(uids, [0, TENANT, 5678]);
        assert_eq!(all["tenants"][1]["uses"]["leases"], serde_json::json!({"used": 1, "limit": 1}));
        assert_eq!(all["tenants"][2]["uses"]["bytes"], serde_json::json!({"used": 0, "limit": null}));
    });
}

#[test]
fn connections_come_under_changed_rules() {
    let test = "tenants::connections_come_under_changed_rules";
    contained(test, || {
        if !for_root(test) {
            return;
        }
        let broker = Broker::start(configured("[[rule]]\nuser = \"1234\"\nlimits = { leases = 1 }\n"));
        let mut channel = connect_as(&broker, TENANT);
        let mut grant = |request| match channel.try_ask(Op::Grant(request)) {
            Ok(Reply::Grant(granted)) => Ok(granted.id),
            Ok(Reply::Error(error)) => Err(error.reason),
            Ok(other) => panic!("neither granted nor refused: {other:?}"),
            Err(error) => Err(error.to_string()),
        };
        let first = grant(GrantRequest::default()).expect("one is allowed");
        assert_eq!(grant(GrantRequest::default()), Err("LIMIT_LEASES".to_owned()));
        change(&broker, "leases = 1", "leases = 2");
        eventually(DEADLINE, "the rule's new limit is in force", || grant(GrantRequest::default()).is_ok());
        // What can't be used changes nothing, like a user that does not exist.
        change(&broker, "user = \"1234\"\n", "user = \"nobody of this name\"\n");
        change(&broker, "user = \"nobody of this name\"\nlimits = { leases = 2 }", "user = \"1234\"\ndeny = true");
        eventually(DEADLINE, "it is denied", || grant(GrantRequest::default()) == Err("NOT_PERMITTED".to_owned()));
        assert!(broker.pool_root().join(first).is_dir(), "what lives is never taken away");
    });
}

#[test]
fn names_that_do_not_exist_are_refused_at_the_start() {
    contained("tenants::names_that_do_not_exist_are_refused_at_the_start", || {
        for key in ["user", "group"] {
            let refused = Broker::try_start(configured(&format!("[[rule]]\n{key} = \"nobody of this name\"\n")));
            let Err(Refusal { code, stderr }) = refused else { panic!("started with a rule for nobody") };
            assert_eq!(code, Some(78), "{stderr}");
            assert!(stderr.contains("nobody of this name"), "{stderr}");
        }
    });
}

#[test]
fn a_cgroup_has_a_rule_of_its_own() {
    let test = "tenants::a_cgroup_has_a_rule_of_its_own";
    contained(test, || {
        let groups = fs::read_to_string("/proc/self/cgroup").expect("/proc is there");
        let Some(own) = groups.lines().find_map(|line| line.strip_prefix("0::")) else {
            return left_out(test, "needs cgroups of version 2");
        };
        let rule =
            |cgroup: &str, leases: u32| format!("[[rule]]\ncgroup = \"{cgroup}\"\nlimits = {{ leases = {leases} }}\n");
        let broker = Broker::start(configured(&format!("{}{}", rule("/elsewhere", 0), rule(own, 1))));
        let grant = || {
            let output = broker.scratch(&["lease", "grant", "--ttl", "10m", "--output", "json"]).output();
            said(&output.expect("the command line's program can be run")).err()
        };
        assert_eq!(grant(), None);
        assert_eq!(grant().as_deref(), Some("LIMIT_LEASES"));
    });
}

#[test]
fn an_admin_grants_on_behalf_of_a_tenant() {
    let test = "tenants::an_admin_grants_on_behalf_of_a_tenant";
    contained(test, || {
        let (name, uid) = WITH_ACCOUNT;
        let accounts = fs::read_to_string("/etc/passwd").unwrap_or_default();
        if !for_root(test) {
            return;
        }
        if !accounts.contains(&format!("\n{name}:x:{uid}:")) {
            return left_out(test, "needs the account of daemon");
        }
        let mut broker = Broker::start(configured("[[rule]]\nuser = \"daemon\"\nlimits = { leases = 2 }\n"));
        let granted = broker.json(&["lease", "grant", "--for", name, "--label", "job=17"]);
        let path = Path::new(granted["path"].as_str().expect("a lease has a path"));
        assert_eq!(fs::metadata(path).expect("it is there").uid(), uid);
        let id = granted["id"].as_str().expect("a lease has an id");
        let shown = |broker: &Broker| {
            let shown = broker.json(&["lease", "show", id]);
            let holders: Vec<_> =
                shown["holders"].as_array().expect("an array").iter().map(|one| &one["kind"]).collect();
            assert_eq!(holders, ["hold"]);
            (shown["tenant"]["uid"].clone(), shown["granted_by"]["uid"].clone())
        };
        assert_eq!(shown(&broker), (uid.into(), 0.into()));
        broker.kill();
        broker.restart();
        assert_eq!(shown(&broker), (uid.into(), 0.into()), "after a restart");
        let own = ask_as(&broker, uid, &["ls"]).expect("it answers");
        assert_eq!(own[0]["id"], id);

        // It counts against the tenant, and is for admins alone.
        assert!(broker.scratch(&["lease", "grant", "--for", name]).status().expect("it runs").success());
        let output = broker.scratch(&["lease", "grant", "--for", name, "--output", "json"]).output().expect("it runs");
        assert_eq!(said(&output).err().as_deref(), Some("LIMIT_LEASES"));
        for to in [name, "0", "1234"] {
            let refused = ask_as(&broker, TENANT, &["lease", "grant", "--for", to]);
            assert_eq!(refused.err().as_deref(), Some("NOT_PERMITTED"), "{to}");
        }
        let output = broker.scratch(&["lease", "grant", "--for", "4294000001", "--output", "json"]).output();
        assert_eq!(said(&output.expect("it runs")).err().as_deref(), Some("TENANT_UNKNOWN"));
    });
}

#[test]
fn a_broker_that_can_not_act_as_others_grants_to_its_own_user() {
    let test = "tenants::a_broker_that_can_not_act_as_others_grants_to_its_own_user";
    contained(test, || {
        if !for_root(test) {
            return;
        }
        let under = ["setpriv", "--bounding-set=-setuid,-setgid"].map(str::to_owned).to_vec();
        let broker = Broker::start(Options { under, ..Options::default() });
        assert_eq!(grant_as(&broker, TENANT, &[]), reason("OTHER_USER"));
        assert!(broker.scratch(&["lease", "grant", "--ttl", "10m"]).status().expect("it runs").success());
    });
}

#[test]
fn who_has_no_number_in_the_brokers_name_space_is_refused() {
    let test = "tenants::who_has_no_number_in_the_brokers_name_space_is_refused";
    contained(test, || {
        if !for_root(test) {
            return;
        }
        let under = ["unshare", "--user", "--map-root-user"].map(str::to_owned).to_vec();
        let broker = match Broker::try_start(Options { under, ..Options::default() }) {
            Ok(broker) => broker,
            Err(refusal) => return left_out(test, &format!("needs user name spaces: {}", refusal.stderr)),
        };
        let mut channel = connect_as(&broker, TENANT);
        let (said, _) = channel.receive().expect("it says why");
        let Some(Reply::Error(error)) = said.result else { panic!("not refused: {said:?}") };
        assert_eq!((said.id, error.reason.as_str()), (0, "USER_UNMAPPED"));
        Channel::connect(&broker.handle_socket()).ping();
    });
}

#[test]
fn many_connections_of_two_tenants_are_all_served() {
    const CONNECTIONS: usize = 60;
    const PINGS: usize = 40;
    let test = "tenants::many_connections_of_two_tenants_are_all_served";
    contained(test, || {
        if !for_root(test) {
            return;
        }
        let broker = Broker::start(Options::default());
        let users = [TENANT, OTHER];
        let mut channels: Vec<Channel> =
            (0..CONNECTIONS).flat_map(|_| users.map(|user| connect_as(&broker, user))).collect();
        broker.freeze();
        for channel in &mut channels {
            (0..PINGS).for_each(|_| _ = channel.send(Op::Ping(PingRequest {}), &[]).expect("the socket has room"));
        }
        // Some hang up with all that they have sent unread.
        let gone = channels.split_off(channels.len() - 20);
        drop(gone);
        broker.thaw();
        for channel in &mut channels {
            for _ in 0..PINGS {
                let (reply, _) = channel.receive().expect("each is answered");
                assert!(matches!(reply.result, Some(Reply::Ping(_))), "{reply:?}");
            }
        }
        let connected = || broker.json(&["status", "--tenants"])["connections"].as_u64();
        eventually(DEADLINE, "those that hung up are forgotten", || connected() == Some(channels.len() as u64 + 1));
    });
}

/// A lease with many files, made by this process: it may write anywhere.
fn full(broker: &Broker, channel: &mut Channel, files: usize) -> String {
    let Reply::Grant(granted) = channel.ask(Op::Grant(GrantRequest::default())) else { panic!("not granted") };
    let path = broker.pool_root().join(&granted.id);
    (0..files).for_each(|number| fs::write(path.join(number.to_string()), "").expect("root may"));
    granted.id
}

#[test]
fn a_small_tree_is_freed_while_another_tenants_large_ones_wait() {
    const LARGE: usize = 8;
    let test = "tenants::a_small_tree_is_freed_while_another_tenants_large_ones_wait";
    contained(test, || {
        if !for_root(test) {
            return;
        }
        let broker = Broker::start(Options::default());
        let (mut hog, mut small) = (connect_as(&broker, TENANT), connect_as(&broker, OTHER));
        let large: Vec<String> = (0..LARGE).map(|_| full(&broker, &mut hog, 10_000)).collect();
        let one = full(&broker, &mut small, 1);
        let revoke = |lease: String, wait: Wait| Op::Revoke(RevokeRequest { lease, wait: wait.into() });
        broker.freeze();
        for lease in large {
            hog.send(revoke(lease, Wait::Unspecified), &[]).expect("the socket has room");
        }
        broker.thaw();
        (0..LARGE).for_each(|_| _ = hog.receive().expect("each is answered"));
        let Reply::Revoke(revoked) = small.ask(revoke(one, Wait::Freed)) else { panic!("not revoked") };
        assert!(revoked.freed);
        broker.freeze();
        let left = names_in(&broker.pool_root().join(".scratch/trash")).len();
        broker.thaw();
        assert!(left > 2, "only {left} of {LARGE} are left: the small one waited for the large ones");
        eventually(DEADLINE, "all are freed", || names_in(&broker.pool_root().join(".scratch/trash")).is_empty());
    });
}

#[test]
fn who_makes_too_much_at_once_is_told_when_to_come_again() {
    contained("tenants::who_makes_too_much_at_once_is_told_when_to_come_again", || {
        let broker = Broker::start(configured("[limits]\ncreates_per_second = 1\ncreates_burst = 1\n"));
        let mut channel = Channel::connect(&broker.handle_socket());
        let mut create = |count| {
            let kind = Kind::File.into();
            match channel.ask(Op::Create(CreateRequest { kind, count, ..CreateRequest::default() })) {
                Reply::Create(_) => None,
                Reply::Error(error) => Some(error),
                other => panic!("neither made nor refused: {other:?}"),
            }
        };
        // The bucket is empty for minutes after the first of these that it was full for.
        let refused = [(); 3].iter().find_map(|()| create(200)).expect("not three times 200 at once");
        assert_eq!((refused.reason.as_str(), refused.metadata["limit"].as_str()), ("LIMIT_RATE", "1"));
        assert!(refused.metadata.contains_key("retry_after"), "{refused:?}");
    });
}

#[test]
fn a_pool_above_its_high_water_ends_what_was_marked_for_that_and_grants_nothing() {
    let test = "tenants::a_pool_above_its_high_water_ends_what_was_marked_for_that_and_grants_nothing";
    contained(test, || {
        let Some(place) = Place::on(test, Filesystem::Ext4) else { return };
        let marks = "high_water = { bytes = \"60%\", inodes = \"90%\", end_preemptible = true }\n";
        let broker = Broker::start(Options { place: Some(place), ..configured(marks) });
        let grant = |options: &[&str]| {
            let arguments = [&["lease", "grant", "--ttl", "10m", "--output", "json"], options].concat();
            said(&broker.scratch(&arguments).output().expect("it runs"))
        };
        let id = |granted: Result<Value, String>| granted.expect("there is room")["id"].as_str().map(str::to_owned);
        let unmarked = id(grant(&[])).expect("a lease has an id");
        let marked = [(); 2].map(|()| id(grant(&["--preemptible"])).expect("a lease has an id"));
        let mut channel = Channel::connect(&broker.handle_socket());
        let mut with_nonce =
            || match channel.ask(Op::Grant(GrantRequest { nonce: vec![7; 16], ..GrantRequest::default() })) {
                Reply::Grant(granted) => granted.id,
                other => panic!("no grant: {other:?}"),
            };
        let before = with_nonce();
        let path = |lease: &String| broker.pool_root().join(lease);
        let space = rustix::fs::statvfs(broker.pool_root()).expect("it is there");
        let filler = path(&unmarked).join("filler");
        let file = fs::File::create(&filler).expect("an area is writable");
        rustix::fs::fallocate(&file, FallocateFlags::empty(), 0, space.f_bavail * space.f_frsize * 4 / 5)
            .expect("there is room");

        eventually(DEADLINE, "both that are marked have ended", || marked.iter().all(|lease| !path(lease).exists()));
        for lease in &marked {
            assert_eq!(broker.json(&["lease", "show", lease])["reason"]["code"], "PREEMPTED");
        }
        assert_eq!(grant(&["--preemptible"]).err().as_deref(), Some("POOL_FULL"));
        assert_eq!(with_nonce(), before, "a grant that is sent again asks for nothing");
        assert_eq!(broker.json(&["status"])["pools"][0]["full"], "bytes");
        assert!(filler.exists(), "what is not marked is never ended");
        fs::remove_file(&filler).expect("it is there");
        drop(file);
        eventually(DEADLINE, "it grants again", || grant(&[]).is_ok());
    });
}

#[test]
fn what_can_not_be_freed_yet_counts() {
    let test = "tenants::what_can_not_be_freed_yet_counts";
    contained(test, || {
        if !for_root(test) {
            return;
        }
        let broker = Broker::start(configured("[limits]\nbytes = \"100KiB\"\n"));
        let grant = || grant_as(&broker, TENANT, &["--size", "60KiB", "--soft"]);
        let lease = grant().expect("there is room");
        let theirs = lease.join("theirs");
        fs::create_dir(&theirs).expect("root may");
        fs::write(theirs.join("file"), "theirs").expect("root may");
        std::os::unix::fs::chown(&theirs, Some(OTHER), Some(OTHER)).expect("root may");
        let id = lease.file_name().and_then(|name| name.to_str()).expect("an id is plain text");
        assert!(broker.scratch(&["lease", "revoke", id]).status().expect("the program can be run").success());
        eventually(DEADLINE, "it is debt", || broker.json(&["debt"]).as_array().is_some_and(|debts| debts.len() == 1));
        assert_eq!(grant(), reason("LIMIT_BYTES"), "what is there no more still takes room");
        assert!(broker.scratch(&["reap", "--foreign"]).status().expect("the program can be run").success());
        eventually(DEADLINE, "it takes none", || grant().is_ok());
    });
}
