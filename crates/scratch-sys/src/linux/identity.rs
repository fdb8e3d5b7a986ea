//! One thread's file-system identity. By raw system calls: libc's setgroups would change every thread of the process.

use std::process::abort;

use rustix::io::Errno;
use rustix::thread::CapabilitySet;

/// This thread acts on the file system as somebody else until the guard is dropped. The process must be root with no
/// supplementary groups (see [`drop_groups`]).
#[derive(Debug)]
#[must_use]
pub struct Assumed {
    own_uid: u32,
    own_gid: u32,
}

/// Takes on uid, gid and groups for file-system checks on this thread only.
///
/// # Errors
/// Of setgroups(2); EPERM when the identity did not take or the capability to override file permissions is still
/// effective, as it is where the capability is an ambient one. Nothing has changed then.
pub fn assume(uid: u32, gid: u32, groups: &[u32]) -> Result<Assumed, Errno> {
    let (own_uid, own_gid) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
    // Before there is a guard: where this fails, restoring would fail as well, and nothing has changed.
    set_groups(groups)?;
    let guard = Assumed { own_uid, own_gid };
    set_fsgid(gid);
    set_fsuid(uid);
    // The calls have no error of their own: ask what is in force. -1 changes nothing and answers.
    let taken = set_fsuid(u32::MAX) == uid && set_fsgid(u32::MAX) == gid;
    let effective = rustix::thread::capabilities(None)?.effective;
    if taken && (uid == 0 || !effective.contains(CapabilitySet::DAC_OVERRIDE)) { Ok(guard) } else { Err(Errno::PERM) }
}

impl Drop for Assumed {
    fn drop(&mut self) {
        set_fsuid(self.own_uid);
        set_fsgid(self.own_gid);
        let restored = set_fsuid(u32::MAX) == self.own_uid && set_fsgid(u32::MAX) == self.own_gid;
        if !restored || set_groups(&[]).is_err() {
            // A thread of the broker with a tenant's identity, or the other way round, must not go on.
            abort();
        }
    }
}

/// Drops the supplementary groups of the whole process. To be called before threads are made.
///
/// # Errors
/// EPERM without CAP_SETGID.
pub fn drop_groups() -> Result<(), Errno> {
    set_groups(&[])
}

fn set_groups(groups: &[u32]) -> Result<(), Errno> {
    // SAFETY: the kernel reads `len` ids from the pointer, which the slice provides; raw, so that it stays per thread.
    let result = unsafe { libc::syscall(libc::SYS_setgroups, groups.len(), groups.as_ptr()) };
    if result == 0 { Ok(()) } else { Err(last_errno()) }
}

fn set_fsuid(uid: u32) -> u32 {
    // SAFETY: no pointers; the kernel answers the previous id, whatever it did.
    let previous = unsafe { libc::syscall(libc::SYS_setfsuid, uid) };
    previous as u32
}

fn set_fsgid(gid: u32) -> u32 {
    // SAFETY: as for setfsuid.
    let previous = unsafe { libc::syscall(libc::SYS_setfsgid, gid) };
    previous as u32
}

pub(crate) fn last_errno() -> Errno {
    Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::IO)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_gets_the_tenants_rights_and_gives_them_back() {
        if !rustix::process::geteuid().is_root() {
            println!("left out: needs root");
            return;
        }
        let directory = tempfile::tempdir().unwrap();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                set_groups(&[]).unwrap();
                let file = directory.path().join("file");
                {
                    let _guard = assume(65534, 65534, &[65534]).unwrap();
                    let refused = std::fs::write(&file, b"").unwrap_err();
                    assert_eq!(refused.kind(), std::io::ErrorKind::PermissionDenied);
                }
                std::fs::write(&file, b"").unwrap();
            });
        });
    }
}
