//! Moves sub-trees out of a walk: what lies too deep for its stack, and what it gives away to workers without work. A
//! lifted tree is a trash entry of its own, so that nothing is lost if the broker ends here.

use std::ffi::{CStr, CString};
use std::os::fd::AsFd;

use rustix::fs::RenameFlags;
use rustix::io::Errno;

use crate::walk::Walk;

/// Names removed before help is called: up to here a thread costs more than it saves.
const WORTH_HELP: u64 = 1000;

/// Most directories given away at once: enough that the other is busy until it is asked again, few enough that the renames
/// do not show.
const SHARE_MAX: usize = 16;

impl Walk<'_, '_> {
    /// Lifts a name of the top frame that can't be entered from here.
    pub(crate) fn lift_top(&mut self, name: &CStr) {
        let Some(index) = self.stack.len().checked_sub(1) else { return };
        if let Err(unclaimed) = self.claim.check(self.top(), name) {
            return self.fail_unclaimed(name, &unclaimed);
        }
        match self.lift(index, name) {
            Ok(()) => {}
            Err(Errno::XDEV) => self.lift_within(name),
            Err(errno) => self.fail("lift into trash", name, errno),
        }
    }

    /// Gives sub-directories away while somebody is out of work; those nearest to the entry, which hold the most.
    pub(crate) fn share(&mut self) {
        if self.worker.names_removed >= WORTH_HELP
            && let Some(call_help) = self.worker.call_help.take()
        {
            call_help();
        }
        if !self.can_share || !self.worker.queue.is_hungry() {
            return;
        }
        let Some(index) = self.stack.iter().position(|frame| !frame.pending.is_empty()) else { return };
        let pending = &mut self.stack[index].pending;
        let count = pending.len().div_ceil(2).min(SHARE_MAX);
        for name in pending.drain(..count).collect::<Vec<CString>>() {
            let shared = match self.claim.check(self.stack[index].directory.as_fd(), &name) {
                Ok(()) => self.lift(index, &name),
                Err(_) => Err(Errno::PERM),
            };
            if let Err(errno) = shared {
                // It stays this walk's to enter, and its error is told then.
                self.can_share &= errno != Errno::XDEV;
                self.stack[index].pending.push(name);
            }
        }
    }

    fn lift(&self, index: usize, name: &CStr) -> Result<(), Errno> {
        let from = self.stack[index].directory.as_fd();
        match self.worker.trash.rename(from, name, self.entry.tenant, self.entry.lease) {
            Ok(lifted) => {
                self.worker.queue.push(lifted);
                Ok(())
            }
            Err(Errno::NOENT) => Ok(()),
            Err(errno) => Err(errno),
        }
    }

    /// The trash is another file system to this directory, as it is to a btrfs subvolume or under a project quota: lifts
    /// into the highest frame that is not. Where there is none, the top frame is a subvolume's root, which can be moved as a
    /// whole.
    fn lift_within(&mut self, name: &CStr) {
        let fresh = self.worker.trash.fresh(self.entry.tenant, self.entry.lease).to_cstring();
        let top = self.stack.len() - 1;
        for index in 0..top {
            let target = self.stack[index].directory.as_fd();
            match rustix::fs::renameat_with(self.top(), name, target, &fresh, RenameFlags::NOREPLACE) {
                Ok(()) => return self.stack[index].pending.push(fresh),
                Err(Errno::NOENT) => return,
                Err(Errno::XDEV) => {}
                Err(errno) => return self.fail("lift within tree", name, errno),
            }
        }
        let Some(frame) = self.stack.pop() else { return };
        let moved = match top.checked_sub(1) {
            Some(below) => self.lift(below, &frame.name),
            None => Err(Errno::XDEV),
        };
        if let Err(errno) = moved {
            self.fail("lift into trash", &frame.name, errno);
        }
    }
}
