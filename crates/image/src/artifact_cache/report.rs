//! The report of a pruning.

use crate::Error;

/// The number of entries that a prune removed, and their size.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PruneReport {
    /// Removed templates or layers, including those that were only partly written or removed.
    pub removed: usize,
    /// Their bytes on disk. The space of an entry that is still open elsewhere is freed when it is closed.
    pub freed_bytes: u64,
}

impl std::ops::AddAssign for PruneReport {
    fn add_assign(&mut self, other: Self) {
        self.removed += other.removed;
        self.freed_bytes += other.freed_bytes;
    }
}

impl PruneReport {
    /// Counts one removal, or logs its failure.
    pub(crate) fn add(&mut self, bytes: u64, result: Result<(), Error>) {
        match result {
            Ok(()) => {
                self.removed += 1;
                self.freed_bytes += bytes;
            }
            Err(error) => tracing::warn!(%error, "cannot remove an entry of the store"),
        }
    }
}
