//! Areas in directories that clients name: made there, ended there, and written down in the pool's `.scratch/foreign` before
//! they are, so that none is lost and nothing else is ever taken for one. Names and order of steps: decision 0013.

mod book;
mod empty;
mod end;
mod entry;
mod find;
mod make;
mod node;

pub use book::{ForeignBook, FoundForeign};
pub use end::ForeignLeft;
pub use entry::ForeignEntry;
pub use find::FoundParent;
pub use make::{MadeForeign, Unmade};
pub use node::Node;
