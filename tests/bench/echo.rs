//! The peer of an empty call: a process with one epoll that sends back what it gets, over the same kind of socket.

use std::os::fd::{AsFd, OwnedFd};
use std::process::{Child, Command, ExitCode, Stdio};

use rustix::event::epoll;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};

/// The echo's life: its socket is standard input.
pub(crate) fn serve() -> ExitCode {
    let stdin = std::io::stdin();
    let epoll = epoll::create(epoll::CreateFlags::CLOEXEC).expect("the kernel has epoll");
    let one = epoll::EventData::new_u64(0);
    epoll::add(&epoll, &stdin, one, epoll::EventFlags::IN).expect("standard input is a socket");
    let mut packet = vec![0; 64 * 1024];
    let mut events = Vec::with_capacity(4);
    loop {
        events.clear();
        if epoll::wait(&epoll, rustix::buffer::spare_capacity(&mut events), None).is_err() {
            return ExitCode::FAILURE;
        }
        let mut none = Vec::new();
        match scratch_sys::receive_packet(stdin.as_fd(), &mut packet, &mut none, RecvFlags::DONTWAIT) {
            Ok(received) if received.length > 0 => {
                let sent =
                    scratch_sys::send_packet(stdin.as_fd(), &packet[..received.length], &[], SendFlags::DONTWAIT);
                if sent.is_err() {
                    return ExitCode::FAILURE;
                }
            }
            _ => return ExitCode::SUCCESS,
        }
    }
}

/// A running echo.
pub(crate) struct Echo {
    socket: OwnedFd,
    process: Child,
}

impl Echo {
    pub(crate) fn start() -> Self {
        let (near, far) =
            rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
                .expect("the kernel has Unix sockets");
        let program = std::env::current_exe().expect("/proc names this program");
        let process = Command::new(program).args(["--part", "echo"]).stdin(Stdio::from(far)).spawn();
        Self { socket: near, process: process.expect("this program can be run") }
    }

    /// One packet there and back.
    pub(crate) fn call(&self, packet: &mut [u8], length: usize) {
        let sent = scratch_sys::send_packet(self.socket.as_fd(), &packet[..length], &[], SendFlags::empty());
        sent.expect("the echo is there");
        let mut none = Vec::new();
        let received = scratch_sys::receive_packet(self.socket.as_fd(), packet, &mut none, RecvFlags::empty());
        assert_eq!(received.expect("the echo answers").length, length);
    }
}

impl Drop for Echo {
    fn drop(&mut self) {
        // Our own child, which does nothing but echo.
        let _ = self.process.kill().and_then(|()| self.process.wait());
    }
}
