//! The templates of a store.

use std::path::PathBuf;
use std::time::SystemTime;

use super::format::MANIFEST;
use super::key::TemplateKey;
use super::opened::Template;
use super::writer::TemplateWriter;
use crate::Error;
use crate::artifact_cache::{ArtifactCache, ArtifactKind};
use crate::store::{Identities, Store, save_identities};

/// The default limit of the templates' size on disk: 4 GiB, about ninety templates (27 MB for shell, 50 for
/// Python, 66 for JavaScript; measured with guests of 512 MiB). A few languages, memory sizes and images need
/// far fewer; the limit bounds the leftovers of updates of the image and of QEMU.
pub const TEMPLATES_BYTES: u64 = 4 << 30;

/// Attempts to open a template. It may be replaced while it is being opened, but not more than once within a
/// millisecond.
const OPEN_ATTEMPTS: usize = 3;

/// The warm templates of a store. Any number of threads and processes may use them at once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Templates {
    pub(super) cache: ArtifactCache,
}

impl Store {
    /// Returns the warm templates of this store.
    pub fn templates(&self) -> Templates {
        Templates {
            cache: ArtifactCache::new(self, "templates", ArtifactKind::Template),
        }
    }
}

impl Templates {
    /// Opens a template, if it exists, and records the use. A file is hashed only if its identity changed
    /// since its last hash. A damaged template is removed with a warning and treated as missing.
    ///
    /// # Errors
    /// [`Error::Io`] if the template cannot be read for a reason other than damage, such as too many open
    /// files.
    pub fn open(&self, key: &TemplateKey) -> Result<Option<Template>, Error> {
        for _ in 0..OPEN_ATTEMPTS {
            let Some(entry) = self.cache.entry(key.as_str())? else {
                return Ok(None);
            };

            match Template::load(&entry) {
                Ok(template) => {
                    entry.mark_used(SystemTime::now());
                    return Ok(Some(template));
                }
                // The entry was removed or replaced while it was read, so the error may not concern the
                // current one.
                Err(_) if !entry.is_current() => {}
                Err(error) if error.is_damage() => {
                    self.cache.discard(&entry, &error);
                    return Ok(None);
                }
                Err(error) => return Err(error),
            }
        }

        Ok(None)
    }

    /// Makes the next [`open`](Self::open) hash the template's files, which removes a damaged template. To be
    /// called when a template could not be used although its files have not changed.
    ///
    /// # Errors
    /// [`Error::Io`] if the store cannot be read or changed.
    pub fn distrust(&self, key: &TemplateKey) -> Result<(), Error> {
        match self.cache.entry(key.as_str())? {
            Some(entry) => save_identities(entry.path(), &Identities::new()),
            None => Ok(()),
        }
    }

    /// Returns whether a template exists, without opening it or recording a use.
    pub fn has(&self, key: &TemplateKey) -> bool {
        self.path(key).join(MANIFEST).is_file()
    }

    /// Starts creating a template. Returns `None` if another thread or process is creating it, or if it
    /// exists already. Leftovers of dead processes are swept.
    ///
    /// The reservation ends with the [`TemplateWriter`], or with the process.
    ///
    /// # Errors
    /// [`Error::Io`] if the store cannot be written, [`Error::Locked`] if another process does not release
    /// the lock of the templates.
    pub fn create(&self, key: &TemplateKey) -> Result<Option<TemplateWriter>, Error> {
        let staging = self.cache.create(key.as_str(), || self.is_usable(key))?;
        Ok(staging.map(|staging| TemplateWriter::new(key, staging)))
    }

    pub(super) fn path(&self, key: &TemplateKey) -> PathBuf {
        self.cache.path(key.as_str())
    }

    fn is_usable(&self, key: &TemplateKey) -> bool {
        let entry = self.cache.entry(key.as_str()).ok().flatten();
        entry.is_some_and(|entry| Template::load(&entry).is_ok())
    }
}
