//! Hot images: QEMU processes that were saved with their translated code. A VM continues from one within milliseconds.
//!
//! `hot-images/KEY/` contains the pages that QEMU and its guest have changed since the template was restored, and a
//! description, which belongs to the engine. All other pages are those of the template, of programs and of libraries.
//! An image is of use only until the host is started again, so nothing is flushed to the disk. Its files are mapped by
//! running VMs: they are written once, and never changed.

mod stored;
mod writer;

use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use crate::Error;
use crate::artifact_cache::{ArtifactCache, ArtifactKind, CacheEntry, PruneReport};
use crate::store::Store;
use crate::template::TemplateKey;

pub use self::stored::HotImage;
pub use self::writer::HotImageWriter;

/// The file of changed pages.
const PAGES: &str = "pages";
/// The file of the description.
const DESCRIPTION: &str = "image.json";
/// The file with the id of the boot of the host.
const BOOT: &str = "boot";

/// The limit of the hot images' size on disk: 3 GiB, some thirty images (75 to 130 MB each).
const MAX_BYTES: u64 = 3 << 30;

/// The hot images of a store. Any number of threads and processes may use them at once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HotImages {
    cache: ArtifactCache,
}

impl Store {
    /// Returns the hot images of this store.
    pub fn hot_images(&self) -> HotImages {
        HotImages {
            cache: ArtifactCache::new(self, "hot-images", ArtifactKind::HotImage),
        }
    }
}

impl HotImages {
    /// Opens an image, if it exists and is younger than `max_age`.
    ///
    /// # Errors
    /// [`Error::Io`] if it cannot be read. A damaged image is removed with a warning and treated as missing.
    pub fn open(&self, key: &TemplateKey, max_age: Duration) -> Result<Option<HotImage>, Error> {
        let Some(entry) = self.cache.entry(key.as_str())? else {
            return Ok(None);
        };

        match HotImage::load(&entry) {
            Ok(image) if image.age() <= max_age => {
                entry.mark_used(SystemTime::now());
                Ok(Some(image))
            }
            Ok(_) => Ok(None),
            // The entry was removed or replaced while it was read.
            Err(_) if !entry.is_current() => Ok(None),
            Err(error) if error.is_damage() => {
                self.cache.discard(&entry, &error);
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    /// Starts creating an image. Returns `None` if another thread or process is creating it, or if one exists that is
    /// younger than `max_age`. An older one is replaced. Images of an earlier boot of the host, and the least recently
    /// used ones above the limit, are removed.
    ///
    /// # Errors
    /// [`Error::Io`] if the store cannot be written, [`Error::Locked`] if another process does not release the lock.
    pub fn create(
        &self,
        key: &TemplateKey,
        boot: &str,
        max_age: Duration,
    ) -> Result<Option<HotImageWriter>, Error> {
        self.prune(boot)?;
        let is_usable = || self.open(key, max_age).is_ok_and(|image| image.is_some());
        let staging = self.cache.create(key.as_str(), is_usable)?;
        Ok(staging.map(|staging| HotImageWriter::new(key, boot, staging)))
    }

    /// Removes an image that cannot be used. VMs that run from it are not affected.
    pub fn discard(&self, key: &TemplateKey, reason: &str) {
        if let Ok(Some(entry)) = self.cache.entry(key.as_str()) {
            let error = entry.damaged(DESCRIPTION, reason.to_owned());
            self.cache.discard(&entry, &error);
        }
    }

    /// Returns the directory of an image.
    pub fn path(&self, key: &TemplateKey) -> PathBuf {
        self.cache.path(key.as_str())
    }

    /// Removes images of an earlier boot of the host, and the least recently used ones above the limit.
    ///
    /// # Errors
    /// [`Error::Io`] if the store cannot be read or changed.
    pub fn prune(&self, boot: &str) -> Result<PruneReport, Error> {
        let is_of_this_boot =
            |entry: &CacheEntry| entry.read_file(BOOT).is_ok_and(|of| of == boot.as_bytes());
        self.cache.prune(MAX_BYTES, is_of_this_boot)
    }
}
