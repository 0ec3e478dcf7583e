//! The report of a pruning.

use crate::Error;

/// What a pruning removed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PruneReport {
    /// Templates or layers, those half made or half removed among them.
    pub removed: usize,
    /// Bytes on disk that they took. Those of one that is open somewhere come free when it is closed there.
    pub freed_bytes: u64,
}

impl PruneReport {
    /// Counts one that was to be removed.
    pub(super) fn add(&mut self, bytes: u64, result: Result<(), Error>) {
        match result {
            Ok(()) => {
                self.removed += 1;
                self.freed_bytes += bytes;
            }
            Err(error) => tracing::warn!(%error, "something in the store cannot be removed"),
        }
    }
}
