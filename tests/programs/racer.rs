//! A tenant that exchanges directories with links, files and each other while the broker works among them.
//!
//! `racer HANDLE.SOCK CASE ROUNDS CANARY OUTSIDE FAR`: CANARY is what links lead to, OUTSIDE a directory of the tenant's on the
//! pool's file system, FAR one on another. Prints how many rounds and exchanges there were, and how many requests were refused.

use std::fs::{self, File};
use std::os::fd::AsFd;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use rustix::fs::{RenameFlags, renameat_with};
use scratch_proto::v1::channel_request::Op;
use scratch_proto::v1::channel_response::Result as Reply;
use scratch_proto::v1::r#where::Kind as Place;
use scratch_proto::v1::{CreateRequest, GrantRequest, Kind, PersistRequest, ReleaseRequest, Replace, Wait, Where};
use scratch_tests::Channel;

/// Two names that change places, or one that is moved to where the other would be.
struct Pair {
    from: File,
    name: String,
    to: File,
    other: String,
    flags: RenameFlags,
}

struct Racer {
    channel: Channel,
    lease: String,
    tree: PathBuf,
    canary: PathBuf,
    outside: PathBuf,
    far: PathBuf,
    swaps: AtomicU64,
    refused: u64,
}

const OURS: &str = "the tenant's own";

fn directory(path: &Path) -> File {
    File::open(path).expect(OURS)
}

fn exchange(at: &Path, name: &str, other: &str) -> Pair {
    let (from, to) = (directory(at), directory(at));
    Pair { from, name: name.to_owned(), to, other: other.to_owned(), flags: RenameFlags::EXCHANGE }
}

fn swap(pairs: &[Pair], swaps: &AtomicU64) {
    for pair in pairs {
        // There and back; what the broker has taken over answers EACCES, what it has removed ENOENT.
        let there = renameat_with(&pair.from, &pair.name, &pair.to, &pair.other, pair.flags);
        let back = renameat_with(&pair.to, &pair.other, &pair.from, &pair.name, pair.flags);
        swaps.fetch_add(u64::from(there.is_ok()) + u64::from(back.is_ok()), Ordering::Relaxed);
    }
}

impl Racer {
    /// One request, while pairs change places all the time.
    fn race(&mut self, pairs: &[Pair], op: Op, passed: Option<&File>) -> Option<Reply> {
        let (started, done) = (AtomicBool::new(false), AtomicBool::new(false));
        let swaps = &self.swaps;
        let channel = &mut self.channel;
        let reply = std::thread::scope(|scope| {
            let swapper = || {
                while !done.load(Ordering::Relaxed) {
                    swap(pairs, swaps);
                    started.store(true, Ordering::Relaxed);
                }
            };
            scope.spawn(swapper);
            while !started.load(Ordering::Relaxed) {
                std::thread::yield_now();
            }
            let passed: Vec<_> = passed.map(File::as_fd).into_iter().collect();
            let reply = channel.try_ask_with(op, &passed).expect("the broker lives");
            done.store(true, Ordering::Relaxed);
            reply.0
        });
        if matches!(reply, Reply::Error(_)) {
            self.refused += 1;
            return None;
        }
        Some(reply)
    }

    fn released(&mut self, area: &str, pairs: &[Pair]) {
        let (lease, area) = (self.lease.clone(), area.as_bytes().to_owned());
        self.race(pairs, Op::Release(ReleaseRequest { lease, area, wait: Wait::Freed.into() }), None);
    }

    /// A Create in a directory that is a link to the canary every other moment.
    fn create(&mut self) {
        let (d, link) = (self.tree.join("d"), self.tree.join("link"));
        if !d.exists() {
            fs::create_dir_all(d.join("inner")).expect(OURS);
            symlink(&self.canary, link).expect(OURS);
            symlink(self.canary.join("inner"), d.join("link")).expect(OURS);
        }
        let pairs = [exchange(&self.tree, "d", "link"), exchange(&self.tree.join("d"), "inner", "link")];
        for (place, kind) in [("d", Kind::File), ("d/inner", Kind::Directory), ("d/inner", Kind::Anonymous)] {
            let place = Some(Where { kind: Some(Place::Directory(place.into())) });
            let create = CreateRequest {
                lease: self.lease.clone(),
                kind: kind.into(),
                r#where: place,
                count: 4,
                ..Default::default()
            };
            self.race(&pairs, Op::Create(create), None);
        }
    }

    /// A Release of what is in the canary every other moment.
    fn release(&mut self) {
        let d = self.tree.join("d");
        fs::create_dir_all(d.join("inner")).expect(OURS);
        if !self.tree.join("link").exists() {
            symlink(&self.canary, self.tree.join("link")).expect(OURS);
        }
        fs::write(d.join("file"), "the tree's").expect(OURS);
        fs::write(d.join("inner/file"), "the tree's").expect(OURS);
        let pairs = [exchange(&self.tree, "d", "link")];
        for area in ["d/file", "d/inner/file", "d/inner"] {
            self.released(area, &pairs);
        }
    }

    /// Persist of what is in the canary every other moment, to where a link to the canary is every other moment.
    fn persist(&mut self, to: &Path, round: u64) {
        let d = self.tree.join("d");
        fs::create_dir_all(d.join("inner")).expect(OURS);
        if !self.tree.join("link").exists() {
            symlink(&self.canary, self.tree.join("link")).expect(OURS);
        }
        fs::write(d.join("file"), "the tree's").expect(OURS);
        fs::write(d.join("inner/file"), "the tree's").expect(OURS);
        let target = to.join("target");
        if !target.exists() {
            fs::create_dir_all(target.join("plain")).expect(OURS);
            symlink(self.canary.join("inner"), target.join("link")).expect(OURS);
            fs::write(target.join("old"), "the tree's").expect(OURS);
            symlink(self.canary.join("file"), target.join("to-file")).expect(OURS);
        }
        let held = directory(&target.join("plain"));
        let above = directory(&target);
        let pairs = [
            exchange(&self.tree, "d", "link"),
            exchange(&target, "plain", "link"),
            exchange(&target, "old", "to-file"),
        ];
        for (area, directory, name) in
            [("d/file", &held, "file"), ("d/inner", &held, "tree"), ("d/inner/file", &above, "old")]
        {
            let name = if name == "old" { name.to_owned() } else { format!("{name}-{round}") };
            let persist = PersistRequest {
                lease: self.lease.clone(),
                area: area.into(),
                fd: true,
                name: name.into_bytes(),
                replace: Replace::Always.into(),
            };
            self.race(&pairs, Op::Persist(persist), Some(directory));
        }
        // Nothing of the canary has come along, by whatever way.
        for directory in [target.join("plain"), target.join("link")] {
            for entry in fs::read_dir(directory).expect(OURS) {
                let path = entry.expect(OURS).path();
                let is_tree = path.symlink_metadata().is_ok_and(|found| found.is_dir());
                let file = if path.is_dir() { path.join("file") } else { path.clone() };
                let content = fs::read_to_string(&file).unwrap_or_default();
                let is_canary = fs::canonicalize(&file).is_ok_and(|real| real.starts_with(&self.canary));
                assert!(is_canary || !content.contains("precious"), "{} was copied", file.display());
                // It is looked at once; where the link stands it is the canary's own.
                if !is_canary {
                    let removed = if is_tree {
                        // Ignoring: an empty one.
                        let _ = fs::remove_file(&file);
                        fs::remove_dir(&path)
                    } else {
                        fs::remove_file(&path)
                    };
                    removed.expect(OURS);
                }
            }
        }
    }

    /// A tree in which everything changes places with links, files and directories: for each step of the walk.
    fn walk(&mut self) {
        let area = self.tree.join("area");
        let mut pairs = Vec::new();
        for number in 0..6 {
            let one = area.join(number.to_string());
            fs::create_dir_all(one.join("inner")).expect(OURS);
            fs::write(one.join("inner/file"), "").expect(OURS);
            fs::write(one.join("file"), "").expect(OURS);
            symlink(self.canary.join("inner"), one.join("link")).expect(OURS);
            pairs.push(exchange(&one, "inner", "link"));
            pairs.push(exchange(&one, "inner", "file"));
        }
        symlink(&self.canary, area.join("link")).expect(OURS);
        fs::write(area.join("file"), "").expect(OURS);
        for number in 0..6 {
            let name = number.to_string();
            pairs.push(exchange(&area, &name, "link"));
            pairs.push(exchange(&area, &name, "file"));
            pairs.push(exchange(&area, &name, &((number + 1) % 6).to_string()));
        }
        self.released("area", &pairs);
    }

    /// A chain, of which what is too deep is lifted: there links and directories change places.
    fn lift(&mut self) {
        let mut at = self.tree.join("area");
        fs::create_dir(&at).expect(OURS);
        let mut pairs = Vec::new();
        for level in 0..70 {
            if (28..40).contains(&level) || level > 60 {
                symlink(&self.canary, at.join("link")).expect(OURS);
                fs::create_dir(at.join("other")).expect(OURS);
                pairs.push(exchange(&at, "d", "link"));
                pairs.push(exchange(&at, "d", "other"));
            }
            at.push("d");
            fs::create_dir(&at).expect(OURS);
        }
        self.released("area", &pairs);
    }

    /// Directories whose modes have to be repaired change places with links to what must not be.
    fn repair(&mut self) {
        let area = self.tree.join("area");
        let mut pairs = Vec::new();
        for number in 0..10 {
            let one = area.join(number.to_string());
            fs::create_dir_all(one.join("closed")).expect(OURS);
            fs::write(one.join("closed/file"), "").expect(OURS);
            symlink(self.canary.join("inner"), one.join("link")).expect(OURS);
            symlink(self.canary.join("file"), one.join("to-file")).expect(OURS);
            pairs.push(exchange(&one, "closed", "link"));
            pairs.push(exchange(&one, "closed", "to-file"));
            fs::set_permissions(one.join("closed"), fs::Permissions::from_mode(0o000)).expect(OURS);
            fs::set_permissions(&one, fs::Permissions::from_mode([0o500, 0o700][number % 2])).expect(OURS);
        }
        self.released("area", &pairs);
    }

    /// Directories go out of the tree and come back. What is outside at the end is whole, or the broker has been out there.
    fn move_about(&mut self) {
        let area = self.tree.join("area");
        let mut pairs = Vec::new();
        for number in 0..10 {
            let one = area.join(number.to_string());
            fs::create_dir_all(one.join("inner/goes")).expect(OURS);
            fs::write(one.join("inner/goes/file"), "whole").expect(OURS);
            fs::create_dir_all(self.outside.join(format!("comes-{number}"))).expect(OURS);
            for (at, name) in [(one.join("inner"), "goes".to_owned()), (area.clone(), number.to_string())] {
                let (from, to, other) = (directory(&at), directory(&self.outside), format!("{name}-{number}"));
                pairs.push(Pair { from, name, to, other, flags: RenameFlags::NOREPLACE });
            }
            let (from, to, name) = (directory(&self.outside), directory(&one.join("inner")), format!("comes-{number}"));
            pairs.push(Pair { from, name, to, other: "came".to_owned(), flags: RenameFlags::NOREPLACE });
        }
        self.released("area", &pairs);
        for entry in fs::read_dir(&self.outside).expect(OURS) {
            let path = entry.expect(OURS).path();
            let name = path.file_name().expect("it has one").to_string_lossy().into_owned();
            let file = match name.split_once('-') {
                Some(("goes", _)) => path.join("file"),
                Some(("comes", _)) => continue,
                // Out before it was taken over, whatever had been moved out of it.
                _ => path.join("inner"),
            };
            assert!(file.exists(), "the broker emptied {}", path.display());
            // Out of the way; it goes with the lease.
            let kept = fs::read_dir(&self.tree).expect(OURS).count();
            fs::rename(&path, self.tree.join(format!("was-out-{kept}"))).expect(OURS);
        }
    }

    fn round(&mut self, case: &str, round: u64) {
        let (near, far) = (self.outside.clone(), self.far.clone());
        match case {
            "create" => self.create(),
            "release" => self.release(),
            "persist" => self.persist(&near, round),
            "persist-copy" => self.persist(&far, round),
            "walk" => self.walk(),
            "lift" => self.lift(),
            "repair" => self.repair(),
            "move" => self.move_about(),
            other => panic!("no case {other}"),
        }
    }
}

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let [_, socket, case, rounds, canary, outside, far] = arguments.as_slice() else {
        panic!("usage: racer HANDLE.SOCK CASE ROUNDS CANARY OUTSIDE FAR");
    };
    let mut channel = Channel::connect(Path::new(socket));
    let granted = channel.ask(Op::Grant(GrantRequest::default()));
    let Reply::Grant(granted) = granted else { panic!("not granted: {granted:?}") };
    let path = String::from_utf8(granted.path).expect("a test's paths are text");
    let (tree, lease) = (PathBuf::from(path), granted.id);
    let [canary, outside, far] = [canary, outside, far].map(PathBuf::from);
    let (swaps, refused) = (AtomicU64::new(0), 0);
    let mut racer = Racer { channel, lease, tree, canary, outside, far, swaps, refused };
    let rounds = rounds.parse().expect("a number");
    for round in 0..rounds {
        racer.round(case, round);
    }
    println!("{case}: {rounds} rounds, {} exchanges, {} refused", racer.swaps.into_inner(), racer.refused);
}
