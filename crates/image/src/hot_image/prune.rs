//! Pruning hot images.

use super::format::boot_id;
use super::hot_images::HotImages;
use super::summary::HotImageSummary;
use crate::Error;
use crate::artifact_cache::{CacheEntry, PruneReport};

/// The limit of the hot images' size on disk: 3 GiB, some thirty images (75 to 130 MB each).
const MAX_BYTES: u64 = 3 << 30;

impl HotImages {
    /// Removes images that cannot be used any more: those of an earlier boot of the host, and those that are too old. Then
    /// the least recently used ones above the limit.
    ///
    /// # Errors
    /// [`Error::Io`] if the store cannot be read or changed.
    pub fn prune(&self) -> Result<PruneReport, Error> {
        let boot = boot_id();
        let is_usable =
            |entry: &CacheEntry| HotImageSummary::is_entry_usable(entry, boot.as_deref());
        self.cache.prune(MAX_BYTES, is_usable)
    }

    /// Removes all images.
    ///
    /// # Errors
    /// As [`prune`](Self::prune).
    pub fn remove_all(&self) -> Result<PruneReport, Error> {
        self.cache.prune(0, |_| false)
    }
}
