//! Who listens where the broker should be, and what it says of itself.

use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;
use std::time::Duration;

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use rustix::process::geteuid;
use scratch_proto::v1;
use scratch_proto::v1::admin_client::AdminClient;
use tonic::transport::Channel;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

use super::finding::Finding;
use super::runtime;
use crate::broker;

const CHECK: &str = "broker";
const SERVICES: [&str; 3] = ["scratchd.v1.Leases", "scratchd.v1.Areas", "scratchd.v1.Admin"];
/// A broker answers within milliseconds; one that is stopped, never.
const ANSWER_TIME_MAX: Duration = Duration::from_secs(5);

/// What there is to say, and the broker's own word if it may be trusted and has one.
pub(super) fn check(directory: &Path) -> (Vec<Finding>, Option<v1::StatusResponse>) {
    let listening = who_listens(directory);
    let is_fine = matches!(&listening, Ok(Some(_)));
    let mut findings = vec![match listening {
        Ok(Some(found)) => found,
        Ok(None) => nobody(directory),
        Err(found) => *found,
    }];
    let status = if is_fine { ask(directory, &mut findings) } else { None };
    (findings, status)
}

/// Nothing where nobody listens.
fn who_listens(directory: &Path) -> Result<Option<Finding>, Box<Finding>> {
    let shown = directory.display();
    let socket = match connect(directory) {
        Ok(socket) => socket,
        Err(Errno::NOENT | Errno::NOTDIR | Errno::CONNREFUSED) => return Ok(None),
        Err(errno) => {
            return Err(Box::new(
                Finding::broker_fails(CHECK, format!("connecting in {shown}: {errno}"))
                    .remedy("set SCRATCHD_RUNTIME_DIR to where your broker is, or unset it"),
            ));
        }
    };
    let peer = scratch_sys::peer_credentials(&socket)
        .map_err(|errno| Finding::broker_fails(CHECK, format!("the kernel names nobody in {shown}: {errno}")))?;
    let (process, user) = (peer.pid, peer.uid);
    if user != 0 && user != geteuid().as_raw() {
        return Err(Box::new(
            Finding::foreign(CHECK, format!("pid {process} of uid {user} listens in {shown}: neither root nor you"))
                .remedy("don't use it; ask who started it there, or set SCRATCHD_RUNTIME_DIR"),
        ));
    }
    Ok(Some(Finding::ok(CHECK, format!("pid {process} of uid {user} listens"))))
}

fn nobody(directory: &Path) -> Finding {
    let shown = directory.display();
    if runtime::is_system(directory) {
        return Finding::broker_fails(CHECK, format!("nobody listens in {shown}"))
            .remedy("systemctl start scratchd, or see why it does not run: journalctl -u scratchd");
    }
    Finding::note(CHECK, format!("nobody listens in {shown}; `scratch run` starts a broker of this user"))
}

/// By a way that does not depend on the path's length.
fn connect(directory: &Path) -> Result<OwnedFd, Errno> {
    let held = rustix::fs::open(directory, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    let address = SocketAddrUnix::new(format!("/proc/self/fd/{}/handle.sock", held.as_raw_fd()))?;
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
    rustix::io::retry_on_intr(|| rustix::net::connect(&socket, &address))?;
    Ok(socket)
}

fn ask(directory: &Path, findings: &mut Vec<Finding>) -> Option<v1::StatusResponse> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime =
        runtime.map_err(|error| findings.push(Finding::fails(CHECK, format!("no event loop: {error}")))).ok()?;
    let asked = runtime.block_on(async { tokio::time::timeout(ANSWER_TIME_MAX, talk(directory, findings)).await });
    asked.unwrap_or_else(|_| {
        let text = format!("no answer over gRPC within {} s", ANSWER_TIME_MAX.as_secs());
        findings.push(Finding::broker_fails("health", text).remedy("see its log, and whether its process is stopped"));
        None
    })
}

async fn talk(directory: &Path, findings: &mut Vec<Finding>) -> Option<v1::StatusResponse> {
    let channel = match broker::connect(&directory.join("grpc.sock")).await {
        Ok(channel) => channel,
        Err(error) => {
            let found = Finding::broker_fails("health", format!("grpc.sock does not answer: {error}"));
            findings.push(found.remedy("see the broker's log, and start it again"));
            return None;
        }
    };
    let status = AdminClient::new(channel.clone()).status(v1::StatusRequest::default()).await;
    let status = status.map(tonic::Response::into_inner);
    let is_draining = status.as_ref().is_ok_and(|status| status.draining);
    findings.push(health(channel, is_draining).await);
    match status {
        Ok(status) => {
            findings.push(version(&status.version));
            findings.extend(state(&status));
            Some(status)
        }
        Err(error) => {
            let found = Finding::broker_fails("version", format!("Admin.Status: {}", error.message()));
            findings.push(found.remedy("see the broker's log; is it of this program's version?"));
            None
        }
    }
}

async fn health(channel: Channel, is_draining: bool) -> Finding {
    const CHECK: &str = "health";
    let mut client = HealthClient::new(channel);
    let mut ailing = Vec::new();
    for service in SERVICES {
        let request = HealthCheckRequest { service: service.to_owned() };
        match client.check(request).await.map(|answer| answer.into_inner().status()) {
            Ok(ServingStatus::Serving) => {}
            Ok(other) => ailing.push(format!("{service} {}", other.as_str_name())),
            Err(status) => ailing.push(format!("{service}: {}", status.message())),
        }
    }
    match (ailing.is_empty(), is_draining) {
        (true, _) => Finding::ok(CHECK, format!("SERVING: {}", SERVICES.join(", "))),
        (false, true) => Finding::warn(CHECK, ailing.join(", ")),
        (false, false) => Finding::broker_fails(CHECK, ailing.join(", ")).remedy("see the broker's log"),
    }
}

fn version(broker: &str) -> Finding {
    const CHECK: &str = "version";
    let own = env!("CARGO_PKG_VERSION");
    if broker == own {
        return Finding::ok(CHECK, format!("{own}, here and there"));
    }
    Finding::warn(CHECK, format!("the broker is {broker}, this program is {own}")).remedy("start the newer broker")
}

/// What a broker in good health may have to say.
fn state(status: &v1::StatusResponse) -> Vec<Finding> {
    let mut findings = Vec::new();
    if status.draining {
        let text = format!("nothing is granted, {} leases live", status.leases);
        findings.push(Finding::warn("drain", text).remedy("scratch drain --undo, to have it grant again"));
    }
    if status.debt > 0 {
        let text = format!("{} trees could not be removed yet", status.debt);
        findings.push(Finding::warn("debt", text).remedy("scratch debt"));
    }
    findings
}
