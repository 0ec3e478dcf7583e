//! A cache of artifacts on disk: each is a directory whose name has 64 hexadecimal digits. Entries appear and
//! disappear atomically, and pruning removes the least recently used ones first.
//!
//! `NAME.new` is a staging directory, in use while the lock inside it is held; `NAME.gone` is an entry that
//! is being removed. Leftovers of both are swept. Renaming or removing anything requires the file lock
//! `lock`; opening an entry requires none.
//!
//! The contents of an entry belong in [`template`](crate::template) and [`layer`](crate::layer).

mod cache;
mod entry;
mod lock;
mod prune;
mod report;
mod staging;

pub(crate) use self::cache::{ArtifactCache, private_directory};
pub(crate) use self::entry::{ArtifactKind, CacheEntry, is_digest};
pub(crate) use self::lock::Lock;
pub use self::report::PruneReport;
pub(crate) use self::staging::StagingDir;
