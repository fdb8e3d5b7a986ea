//! The service manager as a broker sees it: a notify socket that keeps descriptors, and hands them to the next broker.

use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex, MutexGuard};

use rustix::io::FdFlags;
use rustix::net::{AddressFamily, RecvFlags, SocketAddrUnix, SocketFlags, SocketType, bind, socket_with};
use scratch_sys::receive_packet;

/// The descriptors under their names. Lives as long as one of its copies and a thread that reads.
#[derive(Debug, Clone)]
pub struct FdStore {
    path: PathBuf,
    kept: Arc<Mutex<Vec<(String, OwnedFd)>>>,
}

impl FdStore {
    /// With its notify socket in this directory.
    ///
    /// # Panics
    /// When it can't be made.
    #[must_use]
    pub fn new(directory: &Path) -> FdStore {
        let path = directory.join("notify");
        let socket = socket_with(AddressFamily::UNIX, SocketType::DGRAM, SocketFlags::CLOEXEC, None);
        let socket = socket.expect("the kernel has Unix sockets");
        bind(&socket, &SocketAddrUnix::new(&path).expect("a test's paths are short")).expect("a place is writable");
        let store = FdStore { path, kept: Arc::default() };
        let reader = store.clone();
        std::thread::spawn(move || reader.read(&socket));
        store
    }

    /// How many it keeps.
    ///
    /// # Panics
    /// When its reader has panicked.
    #[must_use]
    pub fn count(&self) -> usize {
        self.lock().len()
    }

    /// Drops all, as a manager does when a service is stopped for good.
    ///
    /// # Panics
    /// When its reader has panicked.
    pub fn forget(&self) {
        self.lock().clear();
    }

    /// `program`, to be started as a service: it will find all that is kept, from descriptor 3 on.
    pub(crate) fn service(&self, program: &Path) -> Command {
        let kept = self.lock();
        let mut script = String::new();
        let mut names = Vec::new();
        for (number, (name, descriptor)) in kept.iter().enumerate() {
            // Over the shell's exec, and over no other program's: the test starts one at a time.
            rustix::io::fcntl_setfd(descriptor, FdFlags::empty()).expect("the descriptor is open");
            script.push_str(&format!("exec {}<&{}; ", number + 3, descriptor.as_raw_fd()));
            names.push(name.as_str());
        }
        for (_, descriptor) in kept.iter() {
            script.push_str(&format!("exec {}<&-; ", descriptor.as_raw_fd()));
        }
        script.push_str("LISTEN_PID=$$ exec \"$0\" \"$@\"");
        // A shell that takes descriptors above 9.
        let mut command = Command::new("bash");
        command.arg("-c").arg(script).arg(program).env("NOTIFY_SOCKET", &self.path);
        command.env("LISTEN_FDS", kept.len().to_string()).env("LISTEN_FDNAMES", names.join(":"));
        command
    }

    /// The service has its own copies: nobody else is to inherit these.
    pub(crate) fn started(&self) {
        for (_, descriptor) in self.lock().iter() {
            rustix::io::fcntl_setfd(descriptor, FdFlags::CLOEXEC).expect("the descriptor is open");
        }
    }

    fn read(&self, socket: &OwnedFd) {
        let mut buffer = [0; 4096];
        loop {
            let mut descriptors = Vec::new();
            let received = receive_packet(socket.as_fd(), &mut buffer, &mut descriptors, RecvFlags::empty());
            let length = received.expect("a datagram socket can be read").length;
            let said = String::from_utf8_lossy(&buffer[..length]).into_owned();
            let value = |key: &str| said.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('='));
            let name = value("FDNAME").unwrap_or("stored").to_owned();
            if value("FDSTOREREMOVE").is_some() {
                self.lock().retain(|(other, _)| *other != name);
            } else if value("FDSTORE").is_some() {
                assert_eq!(value("FDPOLL"), Some("0"), "one whose other end is closed would be dropped");
                // High, so that they are not in the way of those that a service is to find.
                let high = |descriptor: OwnedFd| rustix::io::fcntl_dupfd_cloexec(descriptor, 500).expect("one is free");
                self.lock().extend(descriptors.into_iter().map(|descriptor| (name.clone(), high(descriptor))));
            }
            // What comes with BARRIER is closed, which is the answer.
        }
    }

    fn lock(&self) -> MutexGuard<'_, Vec<(String, OwnedFd)>> {
        self.kept.lock().expect("the reader does not panic")
    }
}
