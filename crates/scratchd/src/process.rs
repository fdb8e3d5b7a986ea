//! What /proc says of a process: when it started, whose it is, what its environment names.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::io::Read;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::time::Duration;

use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use scratch_lease::{LeaseId, ProcessId};

/// A process that is provably the one it was: its pidfd is held, so that number and start time can't be another's.
#[derive(Debug)]
pub(crate) struct HeldProcess {
    pub(crate) id: ProcessId,
    pub(crate) pidfd: OwnedFd,
}

impl HeldProcess {
    /// Names the process of a pidfd.
    ///
    /// # Errors
    /// BADF for a descriptor of another kind, SRCH when the process is gone, ACCESS when it lives and is hidden from us.
    pub(crate) fn of_pidfd(pidfd: OwnedFd) -> Result<Self, Errno> {
        let id = id_of(&pidfd);
        if id == Err(Errno::BADF) {
            return Err(Errno::BADF);
        }
        // Alive after the reading: so what was read was this process's. The pidfd alone says that one is gone.
        match id {
            _ if !is_alive(&pidfd)? => Err(Errno::SRCH),
            Ok(id) => Ok(Self { id, pidfd }),
            Err(Errno::SRCH | Errno::NOENT) => Err(Errno::ACCESS),
            Err(errno) => Err(errno),
        }
    }

    /// The process with this number now.
    ///
    /// # Errors
    /// SRCH when there is none.
    pub(crate) fn of_pid(pid: i32) -> Result<Self, Errno> {
        let pid = Pid::from_raw(pid).ok_or(Errno::SRCH)?;
        match pidfd_open(pid, PidfdFlags::empty()) {
            Ok(pidfd) => Self::of_pidfd(pidfd),
            // The number is a thread's now: the process that had it is gone.
            Err(Errno::INVAL) => Err(Errno::SRCH),
            Err(errno) => Err(errno),
        }
    }
}

fn id_of(pidfd: &OwnedFd) -> Result<ProcessId, Errno> {
    let pid = pid_of(pidfd)?;
    Ok(ProcessId { pid, start_time: start_time(pid)?, pidfd_inode: pidfd_inode(pidfd.as_fd())? })
}

/// Whether a passed descriptor is a pidfd.
pub(crate) fn is_pidfd(descriptor: &OwnedFd) -> bool {
    !matches!(pid_of(descriptor), Err(Errno::BADF))
}

/// The number of a pidfd's process. Reading fdinfo asks the kernel alone: no file system of a client's can stall it.
fn pid_of(pidfd: &OwnedFd) -> Result<i32, Errno> {
    let path = format!("/proc/self/fdinfo/{}", pidfd.as_raw_fd());
    let text = std::fs::read_to_string(path).map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))?;
    let pid = text.lines().find_map(|line| line.strip_prefix("Pid:")).ok_or(Errno::BADF)?;
    match pid.trim().parse() {
        Ok(pid) if pid > 0 => Ok(pid),
        // -1: gone; 0: of another pid namespace, where it has no number for us.
        _ => Err(Errno::SRCH),
    }
}

fn is_alive(pidfd: &OwnedFd) -> Result<bool, Errno> {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    let mut ready = [PollFd::new(pidfd, PollFlags::IN)];
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    Ok(poll(&mut ready, Some(&now))? == 0)
}

/// Clock ticks from boot to the process's start.
pub(crate) fn start_time(pid: i32) -> Result<u64, Errno> {
    stat_field(pid, 22)
}

/// A number of /proc/pid/stat by proc(5)'s count, from 3 on: from behind the last `)`, since the name in the second one may
/// hold anything.
fn stat_field(pid: i32, number: usize) -> Result<u64, Errno> {
    let stat = read(&format!("/proc/{pid}/stat"))?;
    let behind = stat.iter().rposition(|byte| *byte == b')').ok_or(Errno::SRCH)?;
    let fields = String::from_utf8_lossy(&stat[behind + 1..]).into_owned();
    fields.split_ascii_whitespace().nth(number - 3).and_then(|field| field.parse().ok()).ok_or(Errno::SRCH)
}

/// What a process calls itself, if it still is the one meant.
pub(crate) fn command(process: ProcessId) -> Option<String> {
    let name = read(&format!("/proc/{}/comm", process.pid)).ok()?;
    let same = start_time(process.pid).ok()? == process.start_time;
    same.then(|| String::from_utf8_lossy(&name).trim_end_matches('\n').to_owned())
}

/// The cgroup of a process, of version 2 of the hierarchy, by its path from the root that the broker sees.
///
/// # Errors
/// SRCH when the process is gone, or is in no such cgroup.
pub(crate) fn cgroup(process: &HeldProcess) -> Result<PathBuf, Errno> {
    let groups = read(&format!("/proc/{}/cgroup", process.id.pid))?;
    // Alive after the reading: so what was read was this process's.
    if !is_alive(&process.pidfd)? {
        return Err(Errno::SRCH);
    }
    let path = groups.split(|byte| *byte == b'\n').find_map(|line| line.strip_prefix(b"0::"));
    path.map(|path| OsStr::from_bytes(path).into()).ok_or(Errno::SRCH)
}

/// The real, effective, saved and file-system user of a process.
pub(crate) fn users(pid: i32) -> Result<[u32; 4], Errno> {
    let status = read(&format!("/proc/{pid}/status"))?;
    let status = String::from_utf8_lossy(&status);
    let line = status.lines().find_map(|line| line.strip_prefix("Uid:")).ok_or(Errno::SRCH)?;
    let mut users = line.split_ascii_whitespace().filter_map(|field| field.parse().ok());
    let mut next = || users.next().ok_or(Errno::SRCH);
    Ok([next()?, next()?, next()?, next()?])
}

/// The inode of a pidfd where pidfs gives it one of its own (Linux 6.9): unique for a process in one boot. Else 0. An error is
/// none of both: taken for 0 it would make the same process another one after a restart.
fn pidfd_inode(pidfd: BorrowedFd<'_>) -> Result<u64, Errno> {
    const PIDFS_MAGIC: i64 = 0x5049_4446;
    if rustix::fs::fstatfs(pidfd)?.f_type != PIDFS_MAGIC {
        return Ok(0);
    }
    Ok(rustix::fs::fstat(pidfd)?.st_ino)
}

/// How often a search is begun anew because a program was being replaced, and how long to wait before.
const UNSURE_MAX: u32 = 1000;
const UNSURE_FOR: Duration = Duration::from_millis(1);

/// What a search looks for: a lease that a process may name, and the lease that it then holds.
pub(crate) type Wanted = HashMap<LeaseId, LeaseId>;

/// A tenant's processes that name a lease as SCRATCHD_LEASE in their environment. Root's leases are held by whatever user's
/// processes name them: what root starts may change its user and keep its environment.
///
/// A pass over /proc can miss a process whose parent dies while it is made. So a pass that finds nothing for a lease counts
/// only if no process was made during it; else it is made again, up to three times. And a process that is just becoming another
/// program has no environment for a moment: a pass that met one does not count at all.
///
/// # Errors
/// When the system would not let us look, as with EMFILE; EAGAIN when a program was being replaced for a second: then nothing
/// is known.
pub(crate) fn search_environments(tenant: u32, mut wanted: Wanted) -> Result<Vec<(LeaseId, HeldProcess)>, Errno> {
    let mut found = Vec::new();
    let mut passes = 0;
    for _ in 0..UNSURE_MAX {
        let before = processes_made();
        let unsure = pass(tenant, &wanted, &mut found)?;
        wanted.retain(|_, lease| !found.iter().any(|(held, _)| held == lease));
        passes += u32::from(!unsure);
        if wanted.is_empty() || passes == 3 || (!unsure && before.is_some() && before == processes_made()) {
            return Ok(found);
        }
        if unsure {
            std::thread::sleep(UNSURE_FOR);
        }
    }
    Err(Errno::AGAIN)
}

/// True: a process had no environment yet, it was just becoming what it is.
fn pass(tenant: u32, wanted: &Wanted, found: &mut Vec<(LeaseId, HeldProcess)>) -> Result<bool, Errno> {
    let mut unsure = false;
    let entries = std::fs::read_dir("/proc").map_err(|error| of_io(&error))?;
    for pid in entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok()) {
        // Asked first: what another tenant has mapped as its environment is not to be read.
        if tenant != 0 && !known(users(pid))?.is_some_and(|users| users.contains(&tenant)) {
            continue;
        }
        let Some(leases) = named_by(pid, wanted, &mut unsure)? else { continue };
        if leases.is_empty() {
            continue;
        }
        // Held, then read again: so it is this process that names them.
        let Some(process) = known(HeldProcess::of_pid(pid))? else { continue };
        let Some(leases) = named_by(pid, wanted, &mut unsure)? else { continue };
        for lease in leases {
            let pidfd = process.pidfd.try_clone().map_err(|error| of_io(&error))?;
            found.extend(known(HeldProcess::of_pidfd(pidfd))?.map(|process| (lease, process)));
        }
    }
    Ok(unsure)
}

/// The leases that a process holds by naming one; `None` when it is gone, or hides: the docs say that only a cgroup holds
/// what does.
fn named_by(pid: i32, wanted: &Wanted, unsure: &mut bool) -> Result<Option<Vec<LeaseId>>, Errno> {
    let Some(environment) = known(read(&format!("/proc/{pid}/environ")))? else { return Ok(None) };
    *unsure |= environment.is_empty() && is_becoming_another(pid);
    let named = environment.split(|byte| *byte == 0).filter_map(|entry| entry.strip_prefix(b"SCRATCHD_LEASE="));
    Ok(Some(named.filter_map(|text| wanted.get(&LeaseId::from_bytes(text).ok()?).copied()).collect()))
}

/// Whether execve(2) has given a process its new memory and not yet its environment: then its end, field 51 of
/// /proc/pid/stat, is 0. That of a program that was started without any is not.
fn is_becoming_another(pid: i32) -> bool {
    let has_program = std::fs::read_link(format!("/proc/{pid}/exe")).is_ok();
    has_program && stat_field(pid, 51) == Ok(0)
}

/// Gone or hidden is an answer; any other error is none.
fn known<T>(result: Result<T, Errno>) -> Result<Option<T>, Errno> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(Errno::NOENT | Errno::SRCH | Errno::ACCESS | Errno::PERM) => Ok(None),
        Err(errno) => Err(errno),
    }
}

fn of_io(error: &std::io::Error) -> Errno {
    Errno::from_io_error(error).unwrap_or(Errno::IO)
}

/// How many processes this machine has made since boot.
fn processes_made() -> Option<u64> {
    let stat = read("/proc/stat").ok()?;
    let text = String::from_utf8_lossy(&stat);
    text.lines().find_map(|line| line.strip_prefix("processes "))?.trim().parse().ok()
}

fn read(path: &str) -> Result<Vec<u8>, Errno> {
    let mut bytes = Vec::new();
    let file = std::fs::File::open(path);
    file.and_then(|mut file| file.read_to_end(&mut bytes)).map_err(|error| of_io(&error))?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::{Child, Command};

    /// A process with one variable more; killed when dropped.
    struct Sleeper(Child);

    impl Sleeper {
        fn with(variable: &str, lease: LeaseId) -> Self {
            Self(Command::new("sleep").arg("1000").env(variable, lease.as_str()).spawn().unwrap())
        }
    }

    impl Drop for Sleeper {
        fn drop(&mut self) {
            self.0.kill().and_then(|()| self.0.wait()).unwrap();
        }
    }

    #[test]
    fn a_child_is_found_by_its_environment_and_told_from_others() {
        // This process's own, since others may be running the same test.
        let mut bits = [7; 10];
        bits[..4].copy_from_slice(&std::process::id().to_be_bytes());
        let lease = LeaseId::from_bits(bits);
        let (child, other) = (Sleeper::with("SCRATCHD_LEASE", lease), Sleeper::with("XSCRATCHD_LEASE", lease));
        let tenant = rustix::process::geteuid().as_raw();
        let root = LeaseId::from_bits([1; 10]);
        let wanted = || Wanted::from([(lease, root)]);
        let found = search_environments(tenant, wanted()).unwrap();
        let pids: Vec<_> = found.iter().map(|(held, process)| (*held, process.id.pid)).collect();
        assert_eq!(pids, [(root, i32::try_from(child.0.id()).unwrap())]);
        let found: Vec<_> = found.into_iter().map(|(_, process)| process).collect();
        assert!(is_alive(&found[0].pidfd).unwrap());
        drop((child, other));
        assert!(!is_alive(&found[0].pidfd).unwrap());
        assert!(search_environments(tenant, wanted()).unwrap().is_empty());
        assert_eq!(HeldProcess::of_pid(pids[0].1).unwrap_err(), Errno::SRCH);
    }

    #[test]
    fn other_descriptors_are_no_pidfds() {
        let file = OwnedFd::from(std::fs::File::open("/proc/self/stat").unwrap());
        assert_eq!(HeldProcess::of_pidfd(file).unwrap_err(), Errno::BADF);
    }
}
