//! What the clients of a sweep know: what they were answered must be so, what they were not answered may or may not be.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{Read, Seek};
use std::path::{Path, PathBuf};

/// What must be found after a restart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fate {
    Live,
    Dead,
    /// Asked for, and never answered.
    Open,
}

/// A lease, and how it comes through a restart.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Lease {
    pub(crate) fate: Fate,
    /// Its connection holds it: the client has to come back.
    pub(crate) comes_back: bool,
    /// What holds it dies with the broker.
    pub(crate) dies_with_broker: bool,
}

/// An area that leaves its lease.
#[derive(Debug)]
struct Move {
    from: PathBuf,
    to: PathBuf,
    fate: Fate,
    content: Vec<u8>,
}

/// An area in a directory of the clients' own.
#[derive(Debug)]
struct Own {
    lease: String,
    fate: Fate,
    /// The file with its content: the area, or in it.
    file: PathBuf,
    content: Vec<u8>,
}

/// All that was asked for and answered so far.
#[derive(Debug, Default)]
pub(crate) struct Ledger {
    pub(crate) leases: BTreeMap<String, Lease>,
    files: BTreeMap<PathBuf, (Fate, Vec<u8>)>,
    unnamed: Vec<(File, Vec<u8>)>,
    moves: Vec<Move>,
    own: BTreeMap<PathBuf, Own>,
}

impl Ledger {
    pub(crate) fn lease(&mut self, id: &str, fate: Fate) {
        let new = Lease { fate, comes_back: false, dies_with_broker: false };
        self.leases.entry(id.to_owned()).or_insert(new).fate = fate;
    }

    pub(crate) fn comes_back(&mut self, id: &str) {
        self.leases.get_mut(id).expect("a lease that was granted").comes_back = true;
    }

    pub(crate) fn dies_with_broker(&mut self, id: &str) {
        self.leases.get_mut(id).expect("a lease that was granted").dies_with_broker = true;
    }

    pub(crate) fn file(&mut self, path: &Path, fate: Fate, content: &[u8]) {
        self.files.insert(path.to_owned(), (fate, content.to_owned()));
    }

    /// What happens to a directory happens to all that is known below it.
    pub(crate) fn below(&mut self, directory: &Path, fate: Fate) {
        let below = self.files.iter_mut().filter(|(path, _)| path.starts_with(directory));
        below.for_each(|(_, (known, _))| *known = fate);
    }

    pub(crate) fn unnamed(&mut self, file: File, content: &[u8]) {
        self.unnamed.push((file, content.to_owned()));
    }

    /// The file leaves its lease; answered or not.
    pub(crate) fn moves(&mut self, from: &Path, to: &Path, fate: Fate) {
        match self.moves.iter_mut().find(|known| known.to == to) {
            Some(known) => known.fate = fate,
            None => {
                let (_, content) = self.files.remove(from).expect("a file that was made");
                self.moves.push(Move { from: from.to_owned(), to: to.to_owned(), fate, content });
            }
        }
    }

    /// An area outside of the pool; `file` is it, or in it.
    pub(crate) fn own(&mut self, area: &Path, lease: &str, file: &Path, content: &[u8]) {
        let (file, content) = (file.to_owned(), content.to_owned());
        self.own.insert(area.to_owned(), Own { lease: lease.to_owned(), fate: Fate::Open, file, content });
    }

    /// What became of it; what its lease comes to besides is known.
    pub(crate) fn own_is(&mut self, area: &Path, fate: Fate) {
        self.own.get_mut(area).expect("an area that was asked for").fate = fate;
    }

    /// The areas outside of the pool that are not dead for sure.
    pub(crate) fn own_alive(&self) -> impl Iterator<Item = &Path> {
        let is_dead = |own: &Own| own.fate == Fate::Dead || self.leases[&own.lease].fate == Fate::Dead;
        self.own.iter().filter(move |(_, own)| !is_dead(own)).map(|(area, _)| area.as_path())
    }

    /// Where things were persisted to.
    pub(crate) fn targets(&self) -> impl Iterator<Item = &Path> {
        self.moves.iter().map(|known| known.to.as_path())
    }

    /// What a crash of the broker means to everything that is known.
    pub(crate) fn broker_died(&mut self) {
        for lease in self.leases.values_mut().filter(|lease| lease.dies_with_broker) {
            lease.fate = Fate::Dead;
        }
    }

    /// Compares with what is there. `pool` holds the leases.
    ///
    /// # Panics
    /// When anything is lost, half, or still there.
    pub(crate) fn check(&mut self, pool: &Path) {
        for (path, (fate, content)) in &self.files {
            let lease = path.strip_prefix(pool).expect("files are in leases").components().next().expect("a lease");
            let lease = self.leases[lease.as_os_str().to_str().expect("an id is plain")].fate;
            match (lease, *fate) {
                (Fate::Live, Fate::Live) => assert!(holds(path, content), "lost: {}", path.display()),
                (Fate::Live, Fate::Dead) => assert!(!path.exists(), "still there: {}", path.display()),
                // Made and not yet written to, or not made.
                (Fate::Live, Fate::Open) => {
                    let whole = !path.exists() || holds(path, content) || holds(path, b"");
                    assert!(whole, "neither whole nor gone: {}", path.display());
                }
                // The directory of a lease goes as a whole, and is looked at as such.
                (Fate::Dead | Fate::Open, _) => {}
            }
        }
        for Move { from, to, fate, content } in &self.moves {
            let (there, left) = (to.exists(), from.exists());
            assert!(there || *fate == Fate::Open, "persisted and lost: {}", to.display());
            assert!(there || holds(from, content), "neither here nor there: {}", from.display());
            assert!(!there || holds(to, content), "persisted by half: {}", to.display());
            assert!(!left || *fate == Fate::Open, "persisted and still in its lease: {}", from.display());
        }
        for (area, own) in &self.own {
            match (self.leases[&own.lease].fate, own.fate) {
                (Fate::Live, Fate::Live) => assert!(holds(&own.file, &own.content), "lost: {}", area.display()),
                (_, Fate::Dead) => assert!(!area.exists(), "still there: {}", area.display()),
                _ => {}
            }
        }
        for (file, content) in &mut self.unnamed {
            let mut found = Vec::new();
            file.rewind().and_then(|()| file.read_to_end(&mut found)).expect("a descriptor stays what it is");
            assert!(found == *content, "a file without a name lost its content");
        }
    }
}

fn holds(path: &Path, content: &[u8]) -> bool {
    fs::read(path).is_ok_and(|found| found == content)
}
