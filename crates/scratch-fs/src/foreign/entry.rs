//! What is written down of one area in a directory that a client named.

use std::ffi::{CString, OsStr};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use prost::Message;
use rustix::io::Errno;

use crate::foreign::node::Node;
use crate::{FsError, NamePattern};

/// Characters of the name that an area has before it gets its own and after it was ended: 130 random bits, so that whatever
/// has this name was made by who drew it.
const ASIDE_CHARS: usize = 25;

/// One area. Written before anything is made of it, and until nothing is left.
#[derive(Clone, PartialEq, Message)]
pub struct ForeignEntry {
    /// Its lease.
    #[prost(string, tag = "1")]
    pub lease: String,
    /// Its number there.
    #[prost(uint32, tag = "2")]
    pub number: u32,
    /// With whose rights it was made and is ended.
    #[prost(uint32, tag = "3")]
    pub uid: u32,
    /// The group of those.
    #[prost(uint32, tag = "4")]
    pub gid: u32,
    /// The supplementary groups of those.
    #[prost(uint32, repeated, tag = "5")]
    pub groups: Vec<u32>,
    /// The boot in which it was made.
    #[prost(string, tag = "6")]
    pub boot: String,
    /// The client's directory.
    #[prost(message, optional, tag = "7")]
    pub parent: Option<Node>,
    /// Where that was when it was passed, as the broker saw it. A hint.
    #[prost(bytes = "vec", tag = "8")]
    pub path: Vec<u8>,
    /// Its name there; empty as long as none was chosen.
    #[prost(bytes = "vec", tag = "9")]
    pub name: Vec<u8>,
    /// What it is called before it has its name, and when it has ended.
    #[prost(bytes = "vec", tag = "10")]
    pub aside: Vec<u8>,
    /// It is a directory, else a file.
    #[prost(bool, tag = "11")]
    pub is_directory: bool,
    /// What was made; absent as long as that is not known.
    #[prost(message, optional, tag = "12")]
    pub child: Option<Node>,
    /// It had its name before its client was told of it.
    #[prost(bool, tag = "13")]
    pub is_named: bool,
    /// It was released, or its lease has ended.
    #[prost(bool, tag = "14")]
    pub has_ended: bool,
}

impl ForeignEntry {
    /// A name that nobody has, to be made and ended under.
    ///
    /// # Errors
    /// That of getrandom(2).
    pub fn draw_aside() -> Result<CString, Errno> {
        NamePattern::new(b".scratch-", b"", ASIDE_CHARS).map_err(|_| Errno::INVAL)?.draw()
    }

    /// Where it is, as far as that is known.
    #[must_use]
    pub fn shown(&self) -> PathBuf {
        self.shown_as(if self.name.is_empty() { &self.aside } else { &self.name })
    }

    pub(crate) fn shown_as(&self, name: &[u8]) -> PathBuf {
        PathBuf::from(OsStr::from_bytes(&self.path)).join(OsStr::from_bytes(name))
    }

    pub(crate) fn aside(&self) -> Result<CString, FsError> {
        self.checked(&self.aside)
    }

    /// None as long as none was chosen.
    pub(crate) fn name(&self) -> Result<Option<CString>, FsError> {
        if self.name.is_empty() { Ok(None) } else { self.checked(&self.name).map(Some) }
    }

    /// Does something with the rights of the tenant, where those are not the broker's own.
    pub(crate) fn as_tenant<T>(&self, act: impl FnOnce() -> Result<T, FsError>) -> Result<T, FsError> {
        let refused = |errno| FsError::new("take on the tenant's rights", "", errno);
        let _rights = if self.uid == rustix::process::geteuid().as_raw() {
            None
        } else {
            Some(scratch_sys::assume(self.uid, self.gid, &self.groups).map_err(refused)?)
        };
        act()
    }

    /// An entry may have been written by anybody who could: a name that leads elsewhere is none.
    fn checked(&self, name: &[u8]) -> Result<CString, FsError> {
        crate::check_name(name).map_err(|_| FsError::new("read the name of", self.shown_as(b""), Errno::INVAL))
    }
}
