//! The list of all hot images.

use std::time::{Duration, SystemTime};

use super::format::{BOOT, HOT_IMAGE_AGE, LABEL, PAGES, boot_id};
use super::hot_images::HotImages;
use crate::Error;
use crate::artifact_cache::CacheEntry;

/// A hot image in the list of a store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HotImageSummary {
    /// The image's name in the store.
    pub key: String,
    /// The guest that it contains, for people.
    pub label: String,
    /// The size on disk in bytes.
    pub bytes: u64,
    /// The time of its creation.
    pub created: SystemTime,
    /// Whether it is used: it is of this boot of the host, and not too old.
    pub is_usable: bool,
}

impl HotImages {
    /// Returns all images, sorted by key.
    ///
    /// # Errors
    /// [`Error::Io`] if the store cannot be read. A store that does not exist yet is empty.
    pub fn list(&self) -> Result<Vec<HotImageSummary>, Error> {
        let (entries, boot) = (self.cache.entries()?, boot_id());
        let summaries = entries
            .iter()
            .map(|entry| HotImageSummary::of(entry, boot.as_deref()));
        Ok(summaries.collect())
    }
}

impl HotImageSummary {
    fn of(entry: &CacheEntry, boot: Option<&str>) -> Self {
        let label = entry.read_file(LABEL).unwrap_or_default();
        Self {
            key: entry.name().to_owned(),
            label: String::from_utf8_lossy(&label).into_owned(),
            bytes: entry.bytes(),
            created: created(entry),
            is_usable: Self::is_entry_usable(entry, boot),
        }
    }

    /// Returns whether an entry is of this boot of the host, and not too old.
    pub(super) fn is_entry_usable(entry: &CacheEntry, boot: Option<&str>) -> bool {
        let of = entry.read_file(BOOT).ok();
        // A clock that was set back makes an image too old: it is created again.
        let age = created(entry).elapsed().unwrap_or(Duration::MAX);
        of.is_some_and(|of| Some(of.as_slice()) == boot.map(str::as_bytes)) && age <= HOT_IMAGE_AGE
    }
}

/// Returns the time of an image's creation; that of an image without pages is the distant past.
fn created(entry: &CacheEntry) -> SystemTime {
    let pages = std::fs::metadata(entry.path().join(PAGES));
    let modified = pages.and_then(|metadata| metadata.modified());
    modified.unwrap_or(SystemTime::UNIX_EPOCH)
}
