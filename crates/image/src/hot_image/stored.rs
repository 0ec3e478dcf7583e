//! A hot image that was opened.

use std::fs::File;
use std::time::{Duration, SystemTime};

use super::format::{DESCRIPTION, PAGES};
use crate::Error;
use crate::artifact_cache::CacheEntry;
use crate::store::Identity;

/// A hot image that was opened. It stays usable after it is removed from the store.
#[derive(Debug)]
pub struct HotImage {
    /// Changed pages, open only for reading.
    pub pages: File,
    /// The engine's description.
    pub description: Vec<u8>,
    created: SystemTime,
}

impl HotImage {
    /// Returns the time since it was created.
    pub fn age(&self) -> Duration {
        // A clock that was set back makes an image too old: it is created again.
        self.created.elapsed().unwrap_or(Duration::MAX)
    }

    /// Opens the files of an entry. A file that was changed after its creation is damage: its contents are not hashed.
    pub(super) fn load(entry: &CacheEntry) -> Result<Self, Error> {
        let recorded = entry.identities();
        let pages = entry.open_file(PAGES)?;
        if recorded.get(PAGES) != Some(&Identity::of(&pages, entry.path())?) {
            return Err(entry.damaged(PAGES, "it was changed".to_owned()));
        }

        let created = pages.metadata().and_then(|metadata| metadata.modified());
        Ok(Self {
            description: entry.read_file(DESCRIPTION)?,
            created: created.map_err(Error::io("inspect", entry.path()))?,
            pages,
        })
    }
}
