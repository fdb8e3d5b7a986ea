//! Acts on the file system: names, create, open, list, persist, remove, usage, tenant credentials, pool layout, records.
//! Every step is relative to a held descriptor and never follows a symbolic link. No sockets, no tokio, no logging.

mod backend;
mod beneath;
mod blocker;
mod claim;
mod create;
mod debts;
mod descend;
mod discover;
mod end;
mod error;
mod files;
mod foreign;
#[doc(hidden)]
pub mod fuzz;
mod gone;
mod inspect;
mod ladder;
mod lift;
mod list;
mod marker;
mod memory;
mod name;
mod persist;
mod pool;
mod queue;
mod quota;
mod record;
mod remove;
mod repair;
mod root;
mod trash;
mod unused;
mod usage;
mod walk;

pub use backend::{Backend, Firmness};
pub use beneath::{open_directory_beneath, split_area_path};
pub use blocker::Blocker;
pub use create::{
    clear_umask, create_anonymous, create_directory, create_file, create_memory, create_nameless, open_directory,
    reopen_own,
};
pub use debts::{DebtBook, DebtEntry};
pub use discover::{first_usable_directory, temporary_directory_candidates};
pub use end::{Ended, Place};
pub use error::FsError;
pub use foreign::{ForeignBook, ForeignEntry, ForeignLeft, FoundForeign, FoundParent, MadeForeign, Node, Unmade};
pub use gone::{Gone, GoneName};
pub use inspect::{Misplaced, TamperWatches, is_below};
pub use list::{Entry, list};
pub use name::{NAME_BYTES_MAX, NameError, NamePattern, Naming, check_name};
pub use persist::{Persisted, Replace, persist};
pub use pool::{Boot, FoundRecord, Owner, Pool};
pub use quota::{NewQuota, QuotaId, QuotaUsage};
pub use record::{Record, RecordCgroup, RecordHolder, RecordHolderKind, RecordProcess, Torn};
pub use remove::{Leftover, Removal, Rights, remove, remove_in_turns};
pub use root::RootRefusal;
pub use trash::{Trash, TrashName};
pub use usage::{Usage, Walked, allocated, usage, usage_in_quota, usage_within};
