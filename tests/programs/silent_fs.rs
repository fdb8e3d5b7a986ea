//! A file system of FUSE that falls silent when it is told to: names, kinds and modes in memory, no content. Its directory is
//! its argument, its input says what it does next, its end lets go of all that wait for it.

use std::collections::BTreeMap;
use std::ffi::CString;
use std::fs::{File, OpenOptions};
use std::io::{BufRead, ErrorKind, Read, Write};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::OpenOptionsExt;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::mount::{MountFlags, mount};

const ROOT: u64 = 1;
const DIRECTORY: u32 = 0o040_000;
const FILE: u32 = 0o100_000;

/// What a request asks for, of `linux/fuse.h`; what is not here is answered ENOSYS, and then never asked again.
mod op {
    pub(crate) const LOOKUP: u32 = 1;
    pub(crate) const FORGET: u32 = 2;
    pub(crate) const GETATTR: u32 = 3;
    pub(crate) const SETATTR: u32 = 4;
    pub(crate) const MKDIR: u32 = 9;
    pub(crate) const UNLINK: u32 = 10;
    pub(crate) const RMDIR: u32 = 11;
    pub(crate) const RENAME: u32 = 12;
    pub(crate) const OPEN: u32 = 14;
    pub(crate) const STATFS: u32 = 17;
    pub(crate) const RELEASE: u32 = 18;
    pub(crate) const INIT: u32 = 26;
    pub(crate) const OPENDIR: u32 = 27;
    pub(crate) const READDIR: u32 = 28;
    pub(crate) const RELEASEDIR: u32 = 29;
    pub(crate) const CREATE: u32 = 35;
    pub(crate) const INTERRUPT: u32 = 36;
    pub(crate) const BATCH_FORGET: u32 = 42;
    pub(crate) const RENAME2: u32 = 45;
}

/// What it does with requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mood {
    Answers,
    /// Takes them and answers none: who waits for one can't even be killed.
    Silent,
    /// Takes none.
    Deaf,
}

#[derive(Debug, Clone)]
struct Node {
    parent: u64,
    name: Vec<u8>,
    mode: u32,
    uid: u32,
    gid: u32,
}

#[derive(Debug)]
struct Tree {
    nodes: BTreeMap<u64, Node>,
    last: u64,
}

/// One request: its head, and what comes after it.
#[derive(Debug)]
struct Request<'a> {
    op: u32,
    unique: u64,
    node: u64,
    uid: u32,
    gid: u32,
    rest: &'a [u8],
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_ne_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_ne_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}

/// The names that end a request, each with a zero behind it.
fn names(bytes: &[u8]) -> Vec<Vec<u8>> {
    bytes.split(|byte| *byte == 0).map(<[u8]>::to_vec).collect()
}

impl Request<'_> {
    fn parse(bytes: &[u8]) -> Request<'_> {
        let (op, unique, node) = (u32_at(bytes, 4), u64_at(bytes, 8), u64_at(bytes, 16));
        Request { op, unique, node, uid: u32_at(bytes, 24), gid: u32_at(bytes, 28), rest: &bytes[40..] }
    }
}

impl Tree {
    fn new() -> Tree {
        let root = Node { parent: 0, name: Vec::new(), mode: DIRECTORY | 0o1777, uid: 0, gid: 0 };
        Tree { nodes: BTreeMap::from([(ROOT, root)]), last: ROOT }
    }

    fn find(&self, parent: u64, name: &[u8]) -> Result<u64, Errno> {
        let mut nodes = self.nodes.iter();
        nodes.find(|(_, node)| node.parent == parent && node.name == name).map(|(id, _)| *id).ok_or(Errno::NOENT)
    }

    fn make(&mut self, request: &Request<'_>, name: Vec<u8>, mode: u32) -> Result<u64, Errno> {
        if self.find(request.node, &name).is_ok() {
            return Err(Errno::EXIST);
        }
        self.last += 1;
        let node = Node { parent: request.node, name, mode, uid: request.uid, gid: request.gid };
        self.nodes.insert(self.last, node);
        Ok(self.last)
    }

    fn remove(&mut self, parent: u64, name: &[u8]) -> Result<(), Errno> {
        let found = self.find(parent, name)?;
        if self.nodes.values().any(|node| node.parent == found) {
            return Err(Errno::NOTEMPTY);
        }
        // Who has it open asks for it still.
        self.nodes.get_mut(&found).ok_or(Errno::NOENT)?.parent = 0;
        Ok(())
    }

    fn rename(&mut self, request: &Request<'_>, head: usize, replaces: bool) -> Result<(), Errno> {
        let (names, to) = (names(&request.rest[head..]), u64_at(request.rest, 0));
        let found = self.find(request.node, &names[0])?;
        if self.find(to, &names[1]).is_ok() {
            if !replaces {
                return Err(Errno::EXIST);
            }
            self.remove(to, &names[1])?;
        }
        let node = self.nodes.get_mut(&found).ok_or(Errno::NOENT)?;
        (node.parent, node.name) = (to, names[1].clone());
        Ok(())
    }

    /// `struct fuse_attr`.
    fn attributes(&self, id: u64) -> Result<Vec<u8>, Errno> {
        let node = self.nodes.get(&id).ok_or(Errno::NOENT)?;
        let mut bytes = id.to_ne_bytes().to_vec();
        bytes.resize(60, 0);
        for field in [node.mode, 1, node.uid, node.gid, 0, 4096, 0] {
            bytes.extend(field.to_ne_bytes());
        }
        Ok(bytes)
    }

    /// `struct fuse_entry_out`: nothing may be remembered, so that everything is asked.
    fn entry(&self, id: u64) -> Result<Vec<u8>, Errno> {
        let mut bytes = id.to_ne_bytes().to_vec();
        bytes.resize(40, 0);
        bytes.extend(self.attributes(id)?);
        Ok(bytes)
    }

    /// `struct fuse_attr_out`.
    fn attr_out(&self, id: u64) -> Result<Vec<u8>, Errno> {
        Ok([vec![0; 16], self.attributes(id)?].concat())
    }

    /// `struct fuse_dirent`s from an offset on.
    fn list(&self, directory: u64, offset: u64, space: usize) -> Vec<u8> {
        let mut bytes = Vec::new();
        for (id, node) in self.nodes.iter().filter(|(id, node)| node.parent == directory && **id > offset) {
            let length = (24 + node.name.len()).next_multiple_of(8);
            if bytes.len() + length > space {
                break;
            }
            let end = bytes.len() + length;
            // The number is the offset, too: it only grows.
            [*id, *id].into_iter().for_each(|field| bytes.extend(field.to_ne_bytes()));
            let name_length = u32::try_from(node.name.len()).expect("a name is short");
            [name_length, node.mode >> 12].into_iter().for_each(|field| bytes.extend(field.to_ne_bytes()));
            bytes.extend(&node.name);
            bytes.resize(end, 0);
        }
        bytes
    }

    fn answer(&mut self, request: &Request<'_>) -> Result<Vec<u8>, Errno> {
        let name = |head: usize| names(&request.rest[head..]).swap_remove(0);
        match request.op {
            // Version 7.31, no options.
            op::INIT => {
                let mut bytes = Vec::new();
                [7, 31, 0, 0, 0, 4096].into_iter().for_each(|field: u32| bytes.extend(field.to_ne_bytes()));
                bytes.resize(64, 0);
                Ok(bytes)
            }
            op::LOOKUP => self.entry(self.find(request.node, &name(0))?),
            op::GETATTR => self.attr_out(request.node),
            op::SETATTR => {
                let node = self.nodes.get_mut(&request.node).ok_or(Errno::NOENT)?;
                if u32_at(request.rest, 0) & 1 != 0 {
                    node.mode = node.mode & !0o7777 | u32_at(request.rest, 68) & 0o7777;
                }
                self.attr_out(request.node)
            }
            op::MKDIR => {
                let mode = u32_at(request.rest, 0) & 0o7777;
                let made = self.make(request, name(8), DIRECTORY | mode)?;
                self.entry(made)
            }
            op::CREATE => {
                let mode = u32_at(request.rest, 4) & 0o7777;
                let made = self.make(request, name(16), FILE | mode)?;
                Ok([self.entry(made)?, vec![0; 16]].concat())
            }
            op::UNLINK | op::RMDIR => self.remove(request.node, &name(0)).map(|()| Vec::new()),
            op::RENAME => self.rename(request, 8, true).map(|()| Vec::new()),
            op::RENAME2 => self.rename(request, 16, u32_at(request.rest, 8) & 1 == 0).map(|()| Vec::new()),
            op::OPEN | op::OPENDIR => Ok(vec![0; 16]),
            op::STATFS => Ok(vec![0; 80]),
            op::RELEASE | op::RELEASEDIR => Ok(Vec::new()),
            op::READDIR => {
                let space = usize::try_from(u32_at(request.rest, 16)).expect("a size");
                Ok(self.list(request.node, u64_at(request.rest, 8), space))
            }
            _ => Err(Errno::NOSYS),
        }
    }
}

/// Answers one request, if it is one that has an answer.
fn serve(tree: &mut Tree, device: &mut File, bytes: &[u8]) {
    let request = Request::parse(bytes);
    if [op::FORGET, op::BATCH_FORGET, op::INTERRUPT].contains(&request.op) {
        return;
    }
    let (error, body) = match tree.answer(&request) {
        Ok(body) => (0, body),
        Err(errno) => (-errno.raw_os_error(), Vec::new()),
    };
    let length = u32::try_from(16 + body.len()).expect("an answer is short");
    let head = [&length.to_ne_bytes()[..], &error.to_ne_bytes(), &request.unique.to_ne_bytes()].concat();
    // Who asked may be gone.
    let _ = device.write_all(&[head, body].concat());
}

fn main() {
    let point = std::env::args_os().nth(1).expect("usage: silent-fs DIRECTORY");
    let mut options = OpenOptions::new();
    options.read(true).write(true).custom_flags(rustix::fs::OFlags::NONBLOCK.bits().cast_signed());
    let mut device = options.open("/dev/fuse").expect("FUSE is there");
    let data = format!("fd={},rootmode=40000,user_id=0,group_id=0,allow_other", device.as_raw_fd());
    let data = CString::new(data).expect("plain text");
    mount("silent", &point, "fuse.silent", MountFlags::empty(), data.as_c_str()).expect("root may mount");
    println!("mounted");
    let (mut tree, mut mood, mut held) = (Tree::new(), Mood::Answers, Vec::<Vec<u8>>::new());
    let (stdin, mut said) = (std::io::stdin(), String::new());
    let mut bytes = vec![0; 1 << 20];
    loop {
        let listens = if mood == Mood::Deaf { PollFlags::empty() } else { PollFlags::IN };
        let mut ready = [PollFd::new(&stdin, PollFlags::IN), PollFd::from_borrowed_fd(device.as_fd(), listens)];
        poll(&mut ready, None).expect("two descriptors can be waited for");
        let [command, asked] = ready.map(|ready| !ready.revents().is_empty());
        if command {
            said.clear();
            // Nothing in it is buffered: each line is sent when the one before was answered.
            if stdin.lock().read_line(&mut said).expect("its input can be read") == 0 {
                return;
            }
            mood = match said.trim() {
                "answer" => Mood::Answers,
                "silent" => Mood::Silent,
                "deaf" => Mood::Deaf,
                other => panic!("{other}: answer, silent or deaf"),
            };
            if mood == Mood::Answers {
                held.drain(..).for_each(|request| serve(&mut tree, &mut device, &request));
            }
            println!("{}", said.trim());
        }
        if asked && mood != Mood::Deaf {
            match device.read(&mut bytes) {
                Ok(length) if mood == Mood::Answers => serve(&mut tree, &mut device, &bytes[..length]),
                Ok(length) => held.push(bytes[..length].to_vec()),
                // Unmounted.
                Err(error) if error.raw_os_error() == Some(Errno::NODEV.raw_os_error()) => return,
                // Withdrawn meanwhile.
                Err(error) if [ErrorKind::NotFound, ErrorKind::WouldBlock].contains(&error.kind()) => {}
                Err(error) => panic!("/dev/fuse: {error}"),
            }
        }
    }
}
