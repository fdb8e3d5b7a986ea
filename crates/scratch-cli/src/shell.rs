//! The shell that calls this program, held by a pidfd: whose end is the end of what it has made.

mod ancestry;

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;

use rustix::process::geteuid;
use scratch_client::Pidfd;

use crate::failure::Failure;
use ancestry::{Process, calling_shell};

/// Ancestors may end while they are looked at.
const ROUNDS_MAX: usize = 16;
/// More ancestors than any shell has.
const ANCESTORS_MAX: usize = 4096;

/// A process that is to hold a lease.
#[derive(Debug)]
pub(crate) struct Shell {
    pub(crate) pidfd: Pidfd,
    id: u32,
    start_time: u64,
}

/// The ancestors as one look after the other found them, or proof that one has ended meanwhile.
enum Look {
    Steady(Vec<(Process, Pidfd)>),
    Changed,
}

impl Shell {
    /// The process with this number, or the calling shell.
    ///
    /// # Errors
    /// When there is no such process.
    pub(crate) fn named_or_calling(process: Option<u32>) -> Result<Self, Failure> {
        process.map_or_else(Self::calling, Self::numbered)
    }

    /// The nearest ancestor that is not a bare fork of its own parent.
    fn calling() -> Result<Self, Failure> {
        let own = read(std::process::id()).map_err(|_| Failure::NoShell)?;
        for _ in 0..ROUNDS_MAX {
            let Look::Steady(mut ancestors) = look(&own)? else { continue };
            let processes: Vec<Process> = ancestors.iter().map(|(process, _)| process.clone()).collect();
            let place = calling_shell(&processes, own.session).ok_or(Failure::NoShell)?;
            let (process, pidfd) = ancestors.swap_remove(place);
            return Ok(Self { pidfd, id: process.id, start_time: process.start_time });
        }
        Err(Failure::NoShell)
    }

    fn numbered(id: u32) -> Result<Self, Failure> {
        let pidfd = Pidfd::open(id).map_err(|_| Failure::NoProcess(id))?;
        // If it ends meanwhile, the broker says so.
        let process = read(id).map_err(|_| Failure::NoProcess(id))?;
        Ok(Self { pidfd, id, start_time: process.start_time })
    }

    /// The same for all that is granted to this process for the same purpose, and to no other process: numbers come again,
    /// start times do not, and another PID namespace has numbers of its own.
    pub(crate) fn nonce(&self, purpose: [u8; 4]) -> [u8; 16] {
        let namespace = fs::metadata("/proc/self/ns/pid").map_or(0, |found| found.ino());
        let namespace = u32::try_from(namespace & u64::from(u32::MAX)).unwrap_or(0).to_be_bytes();
        let mut nonce = [0; 16];
        for (place, (purpose, namespace)) in nonce.iter_mut().zip(purpose.into_iter().zip(namespace)) {
            *place = purpose ^ namespace;
        }
        nonce[4..8].copy_from_slice(&self.id.to_be_bytes());
        nonce[8..].copy_from_slice(&self.start_time.to_be_bytes());
        nonce
    }
}

/// Goes up from parent to parent, as far as can be seen.
fn look(own: &Process) -> Result<Look, Failure> {
    let mut ancestors: Vec<(Process, Pidfd)> = Vec::new();
    // Our own parent may have changed since.
    let mut child = read(own.id).map_err(|_| Failure::NoShell)?;
    while child.parent != 0 && ancestors.len() < ANCESTORS_MAX {
        let found = Pidfd::open(child.parent).ok().and_then(|pidfd| Some((read(child.parent).ok()?, pidfd)));
        // Its parent is still the same, so that one has lived all the while, and what was held and read is it.
        match read(child.id) {
            Ok(again) if (again.parent, again.start_time) == (child.parent, child.start_time) => {}
            _ => return Ok(Look::Changed),
        }
        // Out of sight, as with hidepid.
        let Some(found) = found else { break };
        child = found.0.clone();
        ancestors.push(found);
    }
    Ok(Look::Steady(ancestors))
}

fn read(id: u32) -> io::Result<Process> {
    let stat = fs::read(format!("/proc/{id}/stat"))?;
    let process = Process::parse(&stat).ok_or(io::ErrorKind::InvalidData)?;
    let program = fs::metadata(format!("/proc/{id}/exe")).ok().map(|found| (found.dev(), found.ino()));
    let command_line = fs::read(format!("/proc/{id}/cmdline"))?;
    Ok(Process { own: is_own(id), program, command_line, ..process })
}

/// Whether its real and its effective user are ours.
fn is_own(id: u32) -> bool {
    let status = fs::read(format!("/proc/{id}/status")).unwrap_or_default();
    let status = String::from_utf8_lossy(&status);
    let users = status.lines().find_map(|line| line.strip_prefix("Uid:")).unwrap_or_default();
    let mut users = users.split_ascii_whitespace().map(|user| user.parse() == Ok(geteuid().as_raw()));
    users.next() == Some(true) && users.next() == Some(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_held_by_its_number_and_told_from_the_next_one() {
        let own = Shell::numbered(std::process::id()).unwrap();
        let parent = Shell::numbered(std::os::unix::process::parent_id()).unwrap();
        assert_eq!(own.nonce(*b"test"), Shell::numbered(std::process::id()).unwrap().nonce(*b"test"));
        assert_ne!(own.nonce(*b"test"), parent.nonce(*b"test"));
        assert_ne!(own.nonce(*b"test"), own.nonce(*b"else"));
        assert!(matches!(Shell::numbered(0), Err(Failure::NoProcess(0))));
    }
}
