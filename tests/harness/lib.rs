//! What the system tests stand on: containment, a real broker to talk to, places on other file systems, bounded waiting.
//! A test runs the built programs as a user would; nothing here knows the inside of a broker.

mod broker;
mod cgroup;
mod channel;
mod contain;
mod dialogue;
mod fdstore;
mod grpc;
mod held;
mod left_out;
mod place;
mod programs;
mod random;
mod snapshot;
mod strace;
mod torture;
mod wait;
mod whole;

pub use broker::{Broker, Options, Refusal};
pub use cgroup::{Cgroup, enter};
pub use channel::Channel;
pub use contain::{contained, contained_program, is_root};
pub use dialogue::Dialogue;
pub use fdstore::FdStore;
pub use grpc::{connect_grpc, with_grpc};
pub use held::Held;
pub use left_out::left_out;
pub use place::{Filesystem, Place};
pub use programs::{as_user, descriptors_file, installed, program, python, scratch, scratchd, shell, source_tree};
pub use random::Random;
pub use snapshot::{names_in, snapshot};
pub use strace::{Counts, Strace, counted, threads};
pub use torture::{figures, long_or_short, torture};
pub use wait::{DEADLINE, eventually, exit_of, wait_gone};
pub use whole::{PERSISTED_DIRECTORY_MODE, PERSISTED_FILE_MODE, is_whole, whole};
