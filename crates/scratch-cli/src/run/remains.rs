//! What a command leaves running. As a subreaper this process is the parent of every orphan below it: when it has no child
//! left, no descendant of the command lives, and the lease can go. What does live gets hold of the lease itself.

use std::collections::HashSet;
use std::fs;
use std::os::fd::AsFd;

use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, WaitOptions, getpid, pidfd_open, set_child_subreaper};
use scratch_client::{Client, ClientError, Lease};

use super::cgroup::CommandCgroup;
use super::keep::KeepOnFailure;
use super::say;

/// Processes that are started while the list is read are found the next time.
const ROUNDS_MAX: usize = 16;

/// Children of this process from before the command, which have nothing to do with it.
pub(super) type Earlier = HashSet<i32>;

/// Makes this process the parent of all orphans below it.
pub(super) fn become_subreaper() -> Result<Earlier, Errno> {
    set_child_subreaper(Some(getpid()))?;
    Ok(children(own_id()).into_iter().collect())
}

/// How the command ended, with what was noted for a failure.
pub(super) enum Outcome {
    Succeeded(Option<KeepOnFailure>),
    Failed(Option<KeepOnFailure>),
}

/// Revokes the lease if nothing of the command is left and it is not to be kept, else leaves it to what is, and to its end.
pub(super) fn settle(
    client: &Client,
    lease: Lease,
    earlier: &Earlier,
    cgroup: Option<&CommandCgroup>,
    outcome: Outcome,
) {
    let nothing_is_left = has_no_children() && !cgroup.is_some_and(CommandCgroup::is_populated);
    let result = match outcome {
        Outcome::Failed(Some(keep)) => {
            keep.tell(&lease, nothing_is_left);
            leave_to_remains(client, lease, earlier)
        }
        // A Revoke keeps nothing.
        _ if nothing_is_left => lease.revoke(),
        Outcome::Succeeded(keep) => {
            keep.into_iter().for_each(|keep| keep.take_back(&lease));
            leave_to_remains(client, lease, earlier)
        }
        Outcome::Failed(None) => leave_to_remains(client, lease, earlier),
    };
    match result {
        Ok(()) => {}
        // It ended before: by --ttl, or revoked by somebody.
        Err(error) if error.is_refusal("LEASE_UNKNOWN") => {}
        Err(error) => say(&format!("the command has ended, and its lease may be left behind: {error}")),
    }
}

/// Reaps what has ended; whether nothing is left then, which the kernel alone can say for sure.
fn has_no_children() -> bool {
    loop {
        match rustix::process::wait(WaitOptions::NOHANG) {
            Ok(Some(_)) | Err(Errno::INTR) => {}
            Ok(None) => return false,
            Err(errno) => return errno == Errno::CHILD,
        }
    }
}

/// Lets every descendant that lives hold the lease.
fn leave_to_remains(client: &Client, lease: Lease, earlier: &Earlier) -> Result<(), ClientError> {
    // A broker that had to be started for this is below us now, and must not hold a lease.
    let connected = client.ping();
    let mut others = earlier.clone();
    others.insert(client.broker_process());
    let mut result = connected;
    let mut attached = HashSet::new();
    for _ in 0..ROUNDS_MAX {
        let found: Vec<Process> =
            descendants(&others).into_iter().filter(|process| attached.insert(process.id)).collect();
        if found.is_empty() {
            break;
        }
        for process in found {
            let tried = attach(&lease, process);
            result = result.and(tried);
        }
    }
    lease.leave();
    result
}

/// A process and its parent, as they were when they were looked at.
#[derive(Debug, Clone, Copy)]
struct Process {
    id: i32,
    parent: i32,
}

/// Attaches a process if it is still the one that was found. One that has ended needs no lease.
fn attach(lease: &Lease, process: Process) -> Result<(), ClientError> {
    let Some(Ok(pidfd)) = Pid::from_raw(process.id).map(|id| pidfd_open(id, PidfdFlags::empty())) else {
        return Ok(());
    };
    // Its number may be another's by now, but then its parent is another one, too. An orphan is ours.
    match parent(process.id) {
        Some(parent) if parent == process.parent || parent == own_id() => {}
        _ => return Ok(()),
    }
    match lease.attach_process(pidfd.as_fd()) {
        // Ended meanwhile, or another user's: the socket end that it inherited holds the lease for that one.
        Err(ClientError::Refused { reason, .. }) if reason != "LEASE_UNKNOWN" => Ok(()),
        result => result,
    }
}

/// All below this process but these others and what is below those.
fn descendants(others: &HashSet<i32>) -> Vec<Process> {
    let mut found = Vec::new();
    let mut open = vec![own_id()];
    while let Some(parent) = open.pop() {
        for id in children(parent).into_iter().filter(|id| !others.contains(id)) {
            open.push(id);
            found.push(Process { id, parent });
        }
    }
    found
}

fn own_id() -> i32 {
    Pid::as_raw(Some(getpid()))
}

/// The children of a process; none if it has ended.
fn children(process: i32) -> Vec<i32> {
    let Ok(threads) = fs::read_dir(format!("/proc/{process}/task")) else { return Vec::new() };
    let lists = threads.flatten().map(|thread| fs::read_to_string(thread.path().join("children")));
    match lists.collect::<Result<Vec<_>, _>>() {
        Ok(lists) => lists.iter().flat_map(|list| list.split_whitespace()).flat_map(str::parse).collect(),
        // A kernel without CONFIG_PROC_CHILDREN, or a thread that has ended.
        Err(_) => children_by_parent(process),
    }
}

fn children_by_parent(process: i32) -> Vec<i32> {
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    let ids = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    ids.filter(|id| parent(*id) == Some(process)).collect()
}

/// The fourth field of `/proc/<pid>/stat`; the second, the name, ends at the last parenthesis.
fn parent(process: i32) -> Option<i32> {
    let stat = fs::read(format!("/proc/{process}/stat")).ok()?;
    let end = stat.iter().rposition(|byte| *byte == b')')?;
    let rest = std::str::from_utf8(stat.get(end + 1..)?).ok()?;
    rest.split_whitespace().nth(1)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    #[test]
    fn both_ways_to_list_children_find_a_child() {
        let mut child = Command::new("sleep").arg("60").spawn().unwrap();
        let id = child.id().cast_signed();
        assert!(children(own_id()).contains(&id));
        assert!(children_by_parent(own_id()).contains(&id));
        assert_eq!(parent(id), Some(own_id()));
        assert!(descendants(&HashSet::new()).iter().any(|process| process.id == id));
        assert!(!descendants(&HashSet::from([id])).iter().any(|process| process.id == id));
        child.kill().unwrap();
        child.wait().unwrap();
    }
}
