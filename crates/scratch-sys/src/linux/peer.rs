//! Who is at the other end of a Unix socket, as the kernel says it, and options of such sockets.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use rustix::io::Errno;

use super::identity::last_errno;

/// Linux 6.5; not in every libc crate yet.
const SO_PEERPIDFD: libc::c_int = 77;
/// Linux 6.16: with 0 the kernel refuses senders' descriptors instead of handing them over.
const SO_PASSRIGHTS: libc::c_int = 83;

/// Who had the other end of a socket when it connected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PeerCredentials {
    /// 0: it has no number in this PID namespace.
    pub pid: i32,
    /// Its effective user.
    pub uid: u32,
    /// Its effective group.
    pub gid: u32,
}

/// SO_PEERCRED, of a peer of another PID namespace, too: rustix takes its number, which is 0, for an error without a number.
///
/// # Errors
/// Of getsockopt(2).
pub fn peer_credentials(socket: impl AsFd) -> Result<PeerCredentials, Errno> {
    let mut found = libc::ucred { pid: 0, uid: 0, gid: 0 };
    let mut length = size_of::<libc::ucred>() as libc::socklen_t;
    // SAFETY: value and length point to live variables of the sizes that the kernel is told.
    let result = unsafe {
        libc::getsockopt(
            socket.as_fd().as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_PEERCRED,
            (&raw mut found).cast(),
            &raw mut length,
        )
    };
    if result != 0 {
        return Err(last_errno());
    }
    Ok(PeerCredentials { pid: found.pid, uid: found.uid, gid: found.gid })
}

/// The peer's pidfd, made by the kernel when it connected, so that no other process can stand in for it.
///
/// # Errors
/// NOPROTOOPT before Linux 6.5; NODATA or SRCH where there is no process or it is gone and reaped.
pub fn peer_pidfd(socket: BorrowedFd<'_>) -> Result<OwnedFd, Errno> {
    let mut raw: libc::c_int = -1;
    let mut length = size_of::<libc::c_int>() as libc::socklen_t;
    // SAFETY: value and length point to live variables of the sizes that the kernel is told.
    let result = unsafe {
        libc::getsockopt(socket.as_raw_fd(), libc::SOL_SOCKET, SO_PEERPIDFD, (&raw mut raw).cast(), &raw mut length)
    };
    if result != 0 {
        return Err(last_errno());
    }
    if raw < 0 {
        return Err(Errno::SRCH);
    }
    // SAFETY: the call succeeded, so that `raw` is a descriptor made for us, close-on-exec, that nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(raw) })
}

/// The peer's supplementary groups when it connected.
///
/// # Errors
/// Of getsockopt(2).
pub fn peer_groups(socket: BorrowedFd<'_>) -> Result<Vec<u32>, Errno> {
    // Most users have a few groups; the kernel says how many it would have been.
    let mut groups = vec![0u32; 32];
    loop {
        let mut length = size_of_val(groups.as_slice()) as libc::socklen_t;
        // SAFETY: the buffer holds `length` bytes, and both live through the call.
        let result = unsafe {
            libc::getsockopt(
                socket.as_raw_fd(),
                libc::SOL_SOCKET,
                libc::SO_PEERGROUPS,
                groups.as_mut_ptr().cast(),
                &raw mut length,
            )
        };
        let count = length as usize / size_of::<u32>();
        if result == 0 {
            groups.truncate(count);
            return Ok(groups);
        }
        match last_errno() {
            Errno::RANGE if count > groups.len() => groups.resize(count, 0),
            errno => return Err(errno),
        }
    }
}

/// Asks the kernel to take no descriptors on this socket (inherited by the connections a listener accepts).
///
/// # Errors
/// NOPROTOOPT before Linux 6.16.
pub fn refuse_descriptors(socket: impl AsFd) -> Result<(), Errno> {
    let off: libc::c_int = 0;
    // SAFETY: the value is a live int, and its size is told.
    let result = unsafe {
        libc::setsockopt(
            socket.as_fd().as_raw_fd(),
            libc::SOL_SOCKET,
            SO_PASSRIGHTS,
            (&raw const off).cast(),
            size_of::<libc::c_int>() as libc::socklen_t,
        )
    };
    if result == 0 { Ok(()) } else { Err(last_errno()) }
}

/// Bytes (as the kernel accounts them) that were sent on this socket and not yet received by the peer.
///
/// # Errors
/// Of ioctl(2).
pub fn unread_by_peer(socket: BorrowedFd<'_>) -> Result<u32, Errno> {
    let mut unread: libc::c_int = 0;
    // SAFETY: SIOCOUTQ (the same number as TIOCOUTQ) writes one int to the pointer.
    let result = unsafe { libc::ioctl(socket.as_raw_fd(), libc::TIOCOUTQ, &raw mut unread) };
    if result == 0 { Ok(u32::try_from(unread).unwrap_or(0)) } else { Err(last_errno()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixStream;

    #[test]
    fn the_peer_of_a_pair_is_this_process() {
        let (one, two) = UnixStream::pair().unwrap();
        match peer_pidfd(one.as_fd()) {
            Ok(pidfd) => {
                let info = std::fs::read_to_string(format!("/proc/self/fdinfo/{}", pidfd.as_raw_fd())).unwrap();
                assert!(info.contains(&format!("Pid:\t{}\n", std::process::id())), "{info}");
            }
            Err(errno) => assert_eq!(errno, Errno::NOPROTOOPT, "only old kernels"),
        }
        assert!(peer_groups(one.as_fd()).is_ok());
        let (uid, gid) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
        let pid = std::process::id().cast_signed();
        assert_eq!(peer_credentials(&one), Ok(PeerCredentials { pid, uid, gid }));
        assert_eq!(unread_by_peer(two.as_fd()), Ok(0));
        std::io::Write::write_all(&mut &two, b"x").unwrap();
        assert!(unread_by_peer(two.as_fd()).unwrap() > 0);
    }
}
