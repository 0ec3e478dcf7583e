//! The hot images of a store.

use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use super::format::{DESCRIPTION, HOT_IMAGE_AGE};
use super::stored::HotImage;
use super::writer::HotImageWriter;
use crate::Error;
use crate::artifact_cache::{ArtifactCache, ArtifactKind};
use crate::store::Store;
use crate::template::TemplateKey;

/// The hot images of a store. Any number of threads and processes may use them at once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HotImages {
    pub(super) cache: ArtifactCache,
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
    /// Returns the cache that holds the images.
    pub(crate) fn into_cache(self) -> ArtifactCache {
        self.cache
    }

    /// Opens an image, if it exists and is younger than [`HOT_IMAGE_AGE`].
    ///
    /// # Errors
    /// [`Error::Io`] if it cannot be read. A damaged image is removed with a warning and treated as missing.
    pub fn open(&self, key: &TemplateKey) -> Result<Option<HotImage>, Error> {
        self.open_younger(key, HOT_IMAGE_AGE)
    }

    /// As [`open`](Self::open), with this maximum age.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn open_younger(
        &self,
        key: &TemplateKey,
        max_age: Duration,
    ) -> Result<Option<HotImage>, Error> {
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
    /// younger than `max_age`. An older one is replaced. Images that cannot be used any more, and the least recently used
    /// ones above the limit, are removed. `label` describes the guest to people.
    ///
    /// # Errors
    /// [`Error::Io`] if the store cannot be written, [`Error::Locked`] if another process does not release the lock.
    pub fn create(
        &self,
        key: &TemplateKey,
        label: &str,
        max_age: Duration,
    ) -> Result<Option<HotImageWriter>, Error> {
        self.prune()?;
        let is_usable = || {
            let opened = self.open_younger(key, max_age);
            opened.is_ok_and(|image| image.is_some())
        };
        let staging = self.cache.create(key.as_str(), is_usable)?;
        Ok(staging.map(|staging| HotImageWriter::new(key, label, staging)))
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
}
