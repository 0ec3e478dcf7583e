//! Things that are kept in a directory of the store, each in a directory of its own under a name of 64 hexadecimal
//! digits: they appear whole, disappear whole, and the least recently used ones go first.
//!
//! `NAME.new` is one in the making, alive while the lock inside is held; `NAME.gone` is one on its way out. Both are
//! swept. Whoever renames or removes anything there holds `lock` for that moment; whoever only opens something takes
//! no lock.

mod cache;
mod entry;
mod lock;
mod prune;
mod report;
mod staging;

pub(crate) use self::cache::ArtifactCache;
pub(crate) use self::entry::{ArtifactKind, CacheEntry, is_digest};
pub use self::report::PruneReport;
pub(crate) use self::staging::StagingDir;
