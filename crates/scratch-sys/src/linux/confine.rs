//! What this process may ask of the kernel from now on: a seccomp filter that lets listed calls through, and no new privileges
//! by execve(2). It looks at a call's number, at flags of two calls and at nothing else, so that kernels from 5.11 on remember the
//! answer for the others and ask no more.

use rustix::io::Errno;

use super::identity::last_errno;
use super::system_calls::{ALLOWED, AT_START_AGAIN, WITH_FLAGS};

/// What becomes of who makes a call that is not listed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Violation {
    /// The call fails with EPERM; the kernel's audit log has it.
    Refused,
    /// The process is killed.
    Killed,
}

#[cfg(target_arch = "x86_64")]
const ARCHITECTURE: u32 = 0xc000_003e;
#[cfg(target_arch = "aarch64")]
const ARCHITECTURE: u32 = 0xc000_00b7;

/// Where seccomp_data has the call's number and the architecture that it is of.
const NUMBER_AT: u32 = 0;
const ARCHITECTURE_AT: u32 = 4;
/// Its arguments, of 8 bytes each; both architectures have the lower half first.
const ARGUMENTS_AT: u32 = 16;

/// The number that a tracer gives a call that is not to be made.
const SKIPPED: u32 = u32::MAX;

/// Confines the whole process, its threads to come and what it becomes by execve(2), which is let through only where it is to
/// start itself again.
///
/// # Errors
/// Of prctl(2) and seccomp(2): ENOSYS or EINVAL where the kernel has none.
pub fn confine(starts_again: bool, violation: Violation) -> Result<(), Errno> {
    install(starts_again, violation, libc::SECCOMP_FILTER_FLAG_TSYNC)
}

fn install(starts_again: bool, violation: Violation, whole: libc::c_ulong) -> Result<(), Errno> {
    rustix::thread::set_no_new_privs(true)?;
    let again = if starts_again { AT_START_AGAIN } else { &[] };
    let filter = program(ALLOWED.iter().chain(again).copied(), violation);
    let length = u16::try_from(filter.len()).map_err(|_| Errno::INVAL)?;
    let program = libc::sock_fprog { len: length, filter: filter.as_ptr().cast_mut() };
    let flags = whole | libc::SECCOMP_FILTER_FLAG_LOG;
    // SAFETY: the kernel copies the program, whose pointer and length are those of a vector that lives here; nothing is written.
    let result =
        unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, flags, std::ptr::from_ref(&program)) };
    // A positive answer names a thread that could not follow.
    match result {
        0 => Ok(()),
        -1 => Err(last_errno()),
        _ => Err(Errno::SRCH),
    }
}

/// In the language of bpf(4): another architecture never, a listed number yes, all else as said.
fn program(allowed: impl Iterator<Item = libc::c_long>, violation: Violation) -> Vec<libc::sock_filter> {
    let load = |at| step(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, at);
    let answer = |with| step(libc::BPF_RET | libc::BPF_K, with);
    // The next step where it is the value, the one after it where it is not; and the other way round.
    let is = |value| libc::sock_filter { jf: 1, ..step(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, value) };
    let is_not = |value| libc::sock_filter { jt: 1, ..step(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, value) };
    let never = || answer(libc::SECCOMP_RET_KILL_PROCESS);
    let mut program = vec![load(ARCHITECTURE_AT), is_not(ARCHITECTURE), never(), load(NUMBER_AT)];
    for number in allowed.filter_map(|number| u32::try_from(number).ok()).chain([SKIPPED]) {
        program.extend([is(number), answer(libc::SECCOMP_RET_ALLOW)]);
    }
    let refuse = || match violation {
        Violation::Refused => answer(libc::SECCOMP_RET_ERRNO | libc::EPERM.cast_unsigned()),
        Violation::Killed => never(),
    };
    for (number, argument, flags) in WITH_FLAGS.iter().copied() {
        let Ok(number) = u32::try_from(number) else { continue };
        let only = libc::sock_filter { jf: 4, ..is(number) };
        program.extend([only, load(ARGUMENTS_AT + 8 * argument), is(flags), answer(libc::SECCOMP_RET_ALLOW), refuse()]);
    }
    program.push(refuse());
    program
}

fn step(code: u32, value: u32) -> libc::sock_filter {
    // The codes of bpf(4) are of 16 bits.
    libc::sock_filter { code: code as u16, jt: 0, jf: 0, k: value }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fails(number: libc::c_long) -> Option<Errno> {
        // SAFETY: with these arguments no call that is tried here does anything.
        let result = unsafe { libc::syscall(number, 0, 0, 0, 0, 0) };
        (result == -1).then(last_errno)
    }

    #[test]
    fn what_is_not_listed_is_refused() {
        // A thread alone: the rest of this process is as it was.
        let confined = std::thread::spawn(|| {
            install(false, Violation::Refused, 0).unwrap();
            for forbidden in [
                libc::SYS_mount,
                libc::SYS_umount2,
                libc::SYS_unshare,
                libc::SYS_setns,
                libc::SYS_ptrace,
                libc::SYS_process_vm_readv,
                libc::SYS_bpf,
                libc::SYS_init_module,
                libc::SYS_kexec_load,
                libc::SYS_keyctl,
                libc::SYS_reboot,
                libc::SYS_chroot,
                libc::SYS_setuid,
                libc::SYS_execve,
                libc::SYS_io_uring_setup,
                libc::SYS_perf_event_open,
            ] {
                assert_eq!(fails(forbidden), Some(Errno::PERM), "{forbidden}");
            }
            if rustix::process::geteuid().is_root() {
                use rustix::mount::{MountPropagationFlags, mount_change};
                // SAFETY: this thread alone gets another mount namespace.
                unsafe { rustix::thread::unshare_unsafe(rustix::thread::UnshareFlags::NEWNS) }.unwrap();
                mount_change(c"/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC).unwrap();
                let shared = mount_change(c"/", MountPropagationFlags::SHARED);
                assert_eq!(shared, Err(Errno::PERM));
            }
            let directory = tempfile::tempdir().unwrap();
            std::fs::write(directory.path().join("file"), b"content").unwrap();
            assert_eq!(std::fs::read(directory.path().join("file")).unwrap(), b"content");
            assert!(std::thread::spawn(|| fails(libc::SYS_mount)).join().unwrap() == Some(Errno::PERM));
        });
        confined.join().unwrap();
        let status = std::fs::read_to_string("/proc/thread-self/status").unwrap();
        assert!(status.contains("Seccomp:\t0"), "{status}");
    }
}
