//! The two flavours of the SDK as one, for callers that wait.

use std::os::fd::OwnedFd;
use std::sync::LazyLock;

use scratch_client::{ConnectOptions, CreateMode};
use tokio::runtime::Runtime;

/// Where the async flavour's calls are waited for.
pub(super) static RUNTIME: LazyLock<Runtime> = LazyLock::new(|| Runtime::new().expect("threads can be started"));

/// Of the blocking flavour or of the async one.
pub(super) enum Of<B, A> {
    Blocking(B),
    Async(A),
}

pub(super) type Client = Of<scratch_client::Client, scratch_client::tokio::Client>;
pub(super) type Lease = Of<scratch_client::Lease, scratch_client::tokio::Lease>;
pub(super) type NamedFile = Of<scratch_client::NamedFile, scratch_client::tokio::NamedFile>;
pub(super) type Directory = Of<scratch_client::Directory, scratch_client::tokio::Directory>;

/// Which flavour, and who makes areas.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Way {
    pub(super) is_async: bool,
    pub(super) create: CreateMode,
}

impl Way {
    pub(super) fn connect(self, options: &ConnectOptions) -> Client {
        if self.is_async {
            let client = RUNTIME.block_on(scratch_client::tokio::Client::connect(options));
            Of::Async(client.expect("the broker listens"))
        } else {
            Of::Blocking(scratch_client::Client::connect(options).expect("the broker listens"))
        }
    }

    pub(super) fn delegated(self, channel: OwnedFd) -> Client {
        let client = if self.is_async {
            RUNTIME.block_on(async { scratch_client::tokio::Client::delegated(channel) }).map(Of::Async)
        } else {
            scratch_client::Client::delegated(channel).map(Of::Blocking)
        };
        client.expect("a socket can be watched")
    }
}

/// A call, and its answer.
macro_rules! ask {
    ($it:expr, $method:ident($($argument:expr),*)) => {
        match $it {
            Of::Blocking(it) => it.$method($($argument),*),
            Of::Async(it) => RUNTIME.block_on(it.$method($($argument),*)),
        }
    };
}

/// A call whose answer is of its flavour as well.
macro_rules! get {
    ($it:expr, $method:ident($($argument:expr),*)) => {
        match $it {
            Of::Blocking(it) => it.$method($($argument),*).map(Of::Blocking),
            Of::Async(it) => RUNTIME.block_on(it.$method($($argument),*)).map(Of::Async),
        }
    };
}

/// A call whose answers are of its flavour as well.
macro_rules! get_all {
    ($it:expr, $method:ident($($argument:expr),*)) => {
        match $it {
            Of::Blocking(it) => it.$method($($argument),*).map(|all| all.into_iter().map(Of::Blocking).collect()),
            Of::Async(it) => {
                let all = RUNTIME.block_on(it.$method($($argument),*));
                all.map(|all| all.into_iter().map(Of::Async).collect())
            }
        }
    };
}

/// What needs no broker.
macro_rules! look {
    ($it:expr, $method:ident()) => {
        match $it {
            Of::Blocking(it) => it.$method(),
            Of::Async(it) => it.$method(),
        }
    };
}

pub(super) use {ask, get, get_all, look};
