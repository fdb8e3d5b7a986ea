//! A pool's file system in memory: a power cut or the broker's death between any two steps, a full disk, mounts in the way.

use std::collections::BTreeMap;

use scratch_tests::Random;

use crate::record::Record;

pub(crate) type Inode = u32;

pub(crate) const ROOT: Inode = 1;
pub(crate) const NEW: Inode = 2;
pub(crate) const RECORDS: Inode = 3;
pub(crate) const TRASH: Inode = 4;

/// Why a step was not done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fail {
    /// The broker died before it.
    Crash,
    NotThere,
    Exists,
    NotEmpty,
    Busy,
    NoSpace,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Owner {
    Broker,
    Client,
    /// Put there by somebody else.
    Stranger,
}

#[derive(Debug, Clone)]
pub(crate) enum Content {
    Directory(BTreeMap<String, Inode>),
    Record(Box<Record>),
    Torn,
}

#[derive(Debug, Clone)]
pub(crate) struct Node {
    pub(crate) owner: Owner,
    pub(crate) content: Content,
    /// Something is mounted on it.
    pub(crate) is_busy: bool,
}

type Place = (Inode, String);

#[derive(Debug)]
pub(crate) struct Disk {
    nodes: BTreeMap<Inode, Node>,
    next: Inode,
    /// What the file `boot` says: the number of a boot.
    pub(crate) boot: Option<u32>,
    /// So many steps are done before the broker dies.
    pub(crate) fuse: Option<u64>,
    pub(crate) is_full: bool,
    /// In another boot, and when told so, strangers under a lease's name are dead leases as well.
    pub(crate) everything_goes: bool,
    /// A stranger's that was moved or removed: what must never be.
    pub(crate) violation: Option<String>,
    /// Where everything was when it was last written down for good.
    synced: BTreeMap<Inode, Place>,
}

impl Disk {
    pub(crate) fn new() -> Disk {
        let directory = || Node { owner: Owner::Broker, content: Content::Directory(BTreeMap::new()), is_busy: false };
        Disk {
            nodes: [ROOT, NEW, RECORDS, TRASH].into_iter().map(|inode| (inode, directory())).collect(),
            next: TRASH + 1,
            boot: None,
            fuse: None,
            is_full: false,
            everything_goes: false,
            violation: None,
            synced: BTreeMap::new(),
        }
    }

    pub(crate) fn node(&self, inode: Inode) -> Option<&Node> {
        self.nodes.get(&inode)
    }

    pub(crate) fn entries(&self, directory: Inode) -> &BTreeMap<String, Inode> {
        static NONE: BTreeMap<String, Inode> = BTreeMap::new();
        match self.nodes.get(&directory).map(|node| &node.content) {
            Some(Content::Directory(entries)) => entries,
            _ => &NONE,
        }
    }

    fn entries_mut(&mut self, directory: Inode) -> Option<&mut BTreeMap<String, Inode>> {
        match self.nodes.get_mut(&directory).map(|node| &mut node.content) {
            Some(Content::Directory(entries)) => Some(entries),
            _ => None,
        }
    }

    pub(crate) fn look(&self, directory: Inode, name: &str) -> Option<Inode> {
        self.entries(directory).get(name).copied()
    }

    pub(crate) fn set_busy(&mut self, inode: Inode, is_busy: bool) {
        if let Some(node) = self.nodes.get_mut(&inode) {
            node.is_busy = is_busy;
        }
    }

    pub(crate) fn free_all(&mut self) {
        self.nodes.values_mut().for_each(|node| node.is_busy = false);
    }

    /// Puts something there without a step of the broker's: by clients and strangers.
    pub(crate) fn put(&mut self, directory: Inode, name: &str, owner: Owner, content: Content) -> Inode {
        let inode = self.next;
        self.next += 1;
        self.nodes.insert(inode, Node { owner, content, is_busy: false });
        if let Some(entries) = self.entries_mut(directory) {
            entries.insert(name.to_owned(), inode);
        }
        inode
    }

    /// Takes a name away without a step of the broker's.
    pub(crate) fn take(&mut self, directory: Inode, name: &str) {
        self.entries_mut(directory).and_then(|entries| entries.remove(name));
    }

    pub(crate) fn tear(&mut self, inode: Inode) {
        if let Some(node) = self.nodes.get_mut(&inode) {
            node.content = Content::Torn;
        }
    }

    /// What every system call begins with.
    pub(crate) fn step(&mut self) -> Result<(), Fail> {
        match &mut self.fuse {
            Some(0) => return Err(Fail::Crash),
            Some(left) => *left -= 1,
            None => {}
        }
        Ok(())
    }

    pub(crate) fn make_directory(&mut self, directory: Inode, name: &str) -> Result<Inode, Fail> {
        self.step()?;
        if self.is_full {
            return Err(Fail::NoSpace);
        }
        if self.look(directory, name).is_some() {
            return Err(Fail::Exists);
        }
        Ok(self.put(directory, name, Owner::Broker, Content::Directory(BTreeMap::new())))
    }

    /// Open and write: between the two, and when the disk is full, what is there is torn.
    pub(crate) fn write(&mut self, directory: Inode, name: &str, record: Record) -> Result<(), Fail> {
        self.step()?;
        let inode = self.put(directory, name, Owner::Broker, Content::Torn);
        self.step()?;
        if self.is_full {
            return Err(Fail::NoSpace);
        }
        if let Some(node) = self.nodes.get_mut(&inode) {
            node.content = Content::Record(Box::new(record));
        }
        Ok(())
    }

    /// `replaces`: as rename(2), else as with RENAME_NOREPLACE.
    pub(crate) fn rename(
        &mut self,
        (from, name): (Inode, &str),
        (to, new): (Inode, &str),
        replaces: bool,
    ) -> Result<(), Fail> {
        self.step()?;
        let inode = self.look(from, name).ok_or(Fail::NotThere)?;
        if self.nodes[&inode].is_busy {
            return Err(Fail::Busy);
        }
        if !replaces && self.look(to, new).is_some() {
            return Err(Fail::Exists);
        }
        self.touches(inode, name);
        self.take(from, name);
        if let Some(entries) = self.entries_mut(to) {
            entries.insert(new.to_owned(), inode);
        }
        Ok(())
    }

    pub(crate) fn unlink(&mut self, directory: Inode, name: &str) -> Result<(), Fail> {
        self.step()?;
        let inode = self.look(directory, name).ok_or(Fail::NotThere)?;
        if self.nodes[&inode].is_busy {
            return Err(Fail::Busy);
        }
        if !self.entries(inode).is_empty() {
            return Err(Fail::NotEmpty);
        }
        self.touches(inode, name);
        self.take(directory, name);
        Ok(())
    }

    fn touches(&mut self, inode: Inode, name: &str) {
        let Some(node) = self.nodes.get_mut(&inode).filter(|node| node.owner == Owner::Stranger) else { return };
        if self.everything_goes {
            node.owner = Owner::Broker;
        } else {
            self.violation = Some(format!("{name} is a stranger's and was named to a removal"));
        }
    }

    /// Removes a tree from below; what is busy stays, with all above it.
    pub(crate) fn remove(&mut self, directory: Inode, name: &str) -> Result<(), Fail> {
        let inode = self.look(directory, name).ok_or(Fail::NotThere)?;
        let inside: Vec<String> = self.entries(inode).keys().cloned().collect();
        let mut first = Ok(());
        for name in inside {
            match self.remove(inode, &name) {
                Err(Fail::Crash) => return Err(Fail::Crash),
                removed => first = first.and(removed),
            }
        }
        first?;
        self.unlink(directory, name)
    }

    fn places(&self) -> BTreeMap<Inode, Place> {
        let mut places = BTreeMap::new();
        for (directory, node) in &self.nodes {
            if let Content::Directory(entries) = &node.content {
                places.extend(entries.iter().map(|(name, inode)| (*inode, (*directory, name.clone()))));
            }
        }
        places
    }

    /// Everything is written down for good, and what has no name any more is forgotten.
    pub(crate) fn sync(&mut self) {
        self.synced = self.places();
        let synced = &self.synced;
        self.nodes.retain(|inode, _| *inode <= TRASH || synced.contains_key(inode));
    }

    /// Of what was not synced, each name is as it was or as it became; a fresh record may be torn.
    pub(crate) fn cut_power(&mut self, random: &mut Random) {
        let now = self.places();
        let all: Vec<Inode> = self.nodes.keys().copied().filter(|inode| *inode > TRASH).collect();
        for node in self.nodes.values_mut() {
            if let Content::Directory(entries) = &mut node.content {
                entries.clear();
            }
            node.is_busy = false;
        }
        for inode in all {
            let (old, new) = (self.synced.get(&inode), now.get(&inode));
            let is_new = old != new;
            let Some((directory, name)) = (if random.below(2) == 0 { old } else { new }).cloned() else { continue };
            if is_new && !matches!(self.nodes[&inode].content, Content::Directory(_)) && random.below(3) == 0 {
                self.tear(inode);
            }
            if let Some(entries) = self.entries_mut(directory) {
                entries.entry(name).or_insert(inode);
            }
        }
        self.sync();
    }
}
