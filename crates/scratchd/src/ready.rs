//! Tells that the broker serves: one line on standard output, sd_notify, and the pipe of a client that started it.

use std::io::Write;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;

use scratch_fs::RootRefusal;

use crate::broker::Broker;
use crate::start::StartError;

/// Where a client that started this broker waits.
#[derive(Debug)]
pub(crate) struct Ready(Option<OwnedFd>);

impl Ready {
    /// The pipe that SCRATCHD_READY_FD names, if any.
    pub(crate) fn from_environment() -> Self {
        let number = std::env::var("SCRATCHD_READY_FD").ok().and_then(|text| text.parse().ok());
        Self(number.and_then(scratch_sys::take_inherited_descriptor))
    }

    /// The broker serves.
    pub(crate) fn tell(self, broker: &Broker) {
        let roots: Vec<_> = broker.pools.iter().map(|pool| pool.disk.path().display().to_string()).collect();
        let what = if roots.len() == 1 { "pool" } else { "pools" };
        let line = format!("scratchd ready: {what} {}, sockets in {}\n", roots.join(", "), broker.runtime.display());
        let mut out = std::io::stdout().lock();
        // Nobody may be reading; the broker serves all the same.
        let _ = out.write_all(line.as_bytes()).and_then(|()| out.flush());
        let _ = sd_notify::notify(&[sd_notify::NotifyState::Ready]);
        self.write(b"ready\n");
    }

    /// The broker does not serve; whoever waits is told why, or where another one is.
    pub(crate) fn failed(&self, error: &StartError) {
        match error {
            StartError::Root(RootRefusal::Locked { runtime, .. }) => {
                self.write(&[b"locked ", runtime.as_os_str().as_bytes(), b"\n"].concat());
            }
            StartError::FileSystem(error) if error.errno == rustix::io::Errno::WOULDBLOCK => {
                self.write(&[b"locked ", error.path.as_os_str().as_bytes(), b"\n"].concat());
            }
            error => self.write(format!("error {error}\n").as_bytes()),
        }
    }

    fn write(&self, line: &[u8]) {
        if let Some(pipe) = &self.0 {
            // Whoever waited may have given up.
            let _ = rustix::io::write(pipe, line);
        }
    }
}

/// The broker is about to end.
pub(crate) fn stopping() {
    // Without systemd there is nobody to be told.
    let _ = sd_notify::notify(&[sd_notify::NotifyState::Stopping]);
}
