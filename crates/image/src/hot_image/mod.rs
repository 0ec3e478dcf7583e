//! Hot images: QEMU processes that were saved with their translated code. A VM continues from one within milliseconds.
//!
//! `hot-images/KEY/` contains the pages that QEMU and its guest have changed since the template was restored, and a
//! description, which belongs to the engine. All other pages are those of the template, of programs and of libraries.
//! An image is of use only until the host is started again, so nothing is flushed to the disk. Its files are mapped by
//! running VMs: they are written once, and never changed.

mod failure;
mod lock;
mod stored;
mod summary;
mod writer;

use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use crate::Error;
use crate::artifact_cache::{ArtifactCache, ArtifactKind, CacheEntry, PruneReport};
use crate::store::Store;
use crate::template::TemplateKey;

pub use self::failure::BuildFailure;
pub use self::lock::BuilderLock;
pub use self::stored::HotImage;
pub use self::summary::HotImageSummary;
pub use self::writer::HotImageWriter;

/// The file of changed pages.
const PAGES: &str = "pages";
/// The file of the description.
const DESCRIPTION: &str = "image.json";
/// The file with the id of the boot of the host.
const BOOT: &str = "boot";
/// The file with the text that describes the guest to people.
const LABEL: &str = "label";

/// How long an image is used. Its VMs share the addresses and canaries of their QEMU, so that what one of them learns by
/// breaking into its QEMU helps against the others for no longer than this.
pub const HOT_IMAGE_AGE: Duration = Duration::from_hours(24);

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

/// Returns the id of this boot of the host: an image is of use until the next boot.
pub fn boot_id() -> Option<String> {
    let id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
    Some(id.trim().to_owned())
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
