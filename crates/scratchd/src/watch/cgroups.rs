//! The cgroups that are watched. A change of `populated` wakes who polls cgroup.events; the removal of a cgroup that never had
//! a process does not, so that for those the directory above is watched with inotify(7) as well.

use std::collections::{HashMap, HashSet};
use std::os::fd::OwnedFd;

use rustix::event::epoll::{self, EventData, EventFlags};
use rustix::fs::inotify::{self, CreateFlags, ReadFlags, Reader, WatchFlags};
use rustix::io::Errno;
use scratch_lease::Parting;

use super::HolderKey;
use crate::cgroup::Cgroup;

#[derive(Debug)]
pub(super) struct Cgroups {
    pub(super) inotify: OwnedFd,
    watched: HashMap<u64, Watched>,
    tokens: HashMap<HolderKey, u64>,
    /// What waits for a removal below a directory, by its number with inotify.
    above: HashMap<i32, HashSet<u64>>,
}

#[derive(Debug)]
struct Watched {
    cgroup: Cgroup,
    holder: HolderKey,
    above: Option<i32>,
}

impl Cgroups {
    pub(super) fn new() -> Result<Self, Errno> {
        let inotify = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?;
        Ok(Self { inotify, watched: HashMap::new(), tokens: HashMap::new(), above: HashMap::new() })
    }

    /// The directory above first: whatever happens to the cgroup before it is in the set is told when it is put there.
    pub(super) fn add(&mut self, epoll: &OwnedFd, token: u64, cgroup: Cgroup, holder: HolderKey) -> Result<(), Errno> {
        let removals = WatchFlags::DELETE | WatchFlags::ONLYDIR;
        let above = cgroup.above().map(|above| inotify::add_watch(&self.inotify, above, removals)).transpose()?;
        if let Some(above) = above {
            self.above.entry(above).or_default().insert(token);
        }
        // Edge-triggered: what can't be read is unknown, and must not be told again and again.
        let change = EventFlags::PRI | EventFlags::ERR | EventFlags::ET;
        if let Err(errno) = epoll::add(epoll, cgroup.events(), EventData::new_u64(token), change) {
            self.forget_above(above, token);
            return Err(errno);
        }
        self.tokens.insert(holder, token);
        self.watched.insert(token, Watched { cgroup, holder, above });
        Ok(())
    }

    pub(super) fn forget(&mut self, epoll: &OwnedFd, holder: HolderKey) -> bool {
        let Some(token) = self.tokens.get(&holder).copied() else { return false };
        self.drop_watched(epoll, token);
        true
    }

    /// Something has happened to a cgroup: the holder that it was, and how it went, if it has ended.
    pub(super) fn look(&mut self, epoll: &OwnedFd, token: u64) -> Option<(HolderKey, Parting)> {
        let watched = self.watched.get_mut(&token)?;
        let holder = watched.holder;
        if let Some(how) = watched.cgroup.ended() {
            self.drop_watched(epoll, token);
            return Some((holder, how));
        }
        if watched.cgroup.above().is_none() {
            let above = watched.above.take();
            self.forget_above(above, token);
        }
        None
    }

    /// Directories have been removed, or too many to tell which.
    pub(super) fn look_below(&mut self, epoll: &OwnedFd) -> Vec<(HolderKey, Parting)> {
        let mut tokens = HashSet::new();
        let mut buffer = [std::mem::MaybeUninit::uninit(); 4096];
        let mut removals = Reader::new(&self.inotify, &mut buffer);
        // EAGAIN: that was all.
        while let Ok(event) = removals.next() {
            if event.events().contains(ReadFlags::QUEUE_OVERFLOW) {
                tokens.extend(self.above.values().flatten());
            }
            tokens.extend(self.above.get(&event.wd()).into_iter().flatten());
        }
        tokens.into_iter().filter_map(|token| self.look(epoll, token)).collect()
    }

    fn drop_watched(&mut self, epoll: &OwnedFd, token: u64) {
        let Some(watched) = self.watched.remove(&token) else { return };
        self.tokens.remove(&watched.holder);
        self.forget_above(watched.above, token);
        // Its last descriptor goes here, and with it its place in the set; an error changes nothing.
        let _ = epoll::delete(epoll, watched.cgroup.events());
    }

    fn forget_above(&mut self, above: Option<i32>, token: u64) {
        let Some((above, tokens)) = above.and_then(|above| Some((above, self.above.get_mut(&above)?))) else { return };
        tokens.remove(&token);
        if tokens.is_empty() {
            self.above.remove(&above);
            // An error: the directory is gone, and its watch with it.
            let _ = inotify::remove_watch(&self.inotify, above);
        }
    }
}
