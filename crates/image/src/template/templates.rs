//! The templates of a store.

use std::path::PathBuf;
use std::time::SystemTime;

use super::format::MANIFEST;
use super::key::TemplateKey;
use super::opened::Template;
use super::writer::TemplateWriter;
use crate::Error;
use crate::artifact_cache::{ArtifactCache, ArtifactKind};
use crate::store::Store;

/// Bytes on disk that templates may take when nobody says otherwise: 4 GiB, some ninety of them (the shell's
/// takes 27 MB, Python's 50, JavaScript's 66; measured with guests of 512 MiB). A few languages, sizes of
/// memory and images at a time are far fewer; it bounds what updates of the image and of QEMU leave behind.
pub const TEMPLATES_BYTES: u64 = 4 << 30;

/// A template may be replaced while it is being opened; more than once within a millisecond it is not.
const OPEN_ATTEMPTS: usize = 3;

/// The warm templates of a store. Any number of threads and processes may use them at once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Templates {
    pub(super) cache: ArtifactCache,
}

impl Store {
    /// The warm templates of this store.
    pub fn templates(&self) -> Templates {
        Templates {
            cache: ArtifactCache::new(self, "templates", ArtifactKind::Template),
        }
    }
}

impl Templates {
    /// Opens a template, if it is there, and notes that it was used. Nothing is hashed that looks as it did
    /// after it was last hashed. One that is damaged is thrown away, with a warning, and is as if it had
    /// never been there.
    ///
    /// # Errors
    /// [`Error::Io`] when it cannot be read for a reason that is not damage, such as too many open files.
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
                // Removed or replaced while it was read: what was found says nothing of what is there now.
                Err(_) if !entry.is_current() => {}
                Err(error @ Error::DamagedTemplate { .. }) => {
                    self.cache.discard(&entry, &error);
                    return Ok(None);
                }
                Err(error) => return Err(error),
            }
        }

        Ok(None)
    }

    /// Whether a template is there, without opening it or noting a use.
    pub fn has(&self, key: &TemplateKey) -> bool {
        self.path(key).join(MANIFEST).is_file()
    }

    /// Begins to make a template. `None` when another thread or process is making this very one, or has
    /// just made it. What dead makers left behind is swept.
    ///
    /// The right to make it falls with the [`TemplateWriter`], or with the process.
    ///
    /// # Errors
    /// [`Error::Io`] when the store cannot be written to, [`Error::Locked`] when another process hangs
    /// while it changes the templates.
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
