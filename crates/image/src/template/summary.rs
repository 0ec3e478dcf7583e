//! The list of all templates.

use std::path::PathBuf;
use std::time::SystemTime;

use super::key::TemplateKey;
use super::manifest::TemplateManifest;
use super::opened::Template;
use super::templates::Templates;
use crate::Error;
use crate::artifact_cache::CacheEntry;

/// A template in the list of a store.
#[derive(Debug)]
pub struct TemplateSummary {
    /// The template's key, which is also its name in the store.
    pub key: TemplateKey,
    /// The template's directory.
    pub directory: PathBuf,
    /// The template's manifest, or the error that occurred on reading it.
    pub manifest: Result<TemplateManifest, Error>,
    /// The size on disk in bytes.
    pub bytes: u64,
    /// The time of the last use, or of the creation.
    pub last_used: SystemTime,
    /// Whether the template is usable: all files exist and match the manifest.
    pub is_intact: bool,
}

impl Templates {
    /// Returns all finished templates, sorted by key. A file is hashed only if its identity changed since its
    /// last hash, and no use is recorded.
    ///
    /// # Errors
    /// Returns an error if the store cannot be read. A store that does not exist yet is empty. A damaged
    /// template is not an error.
    pub fn list(&self) -> Result<Vec<TemplateSummary>, Error> {
        let found = self.cache.entries()?;
        Ok(found.iter().filter_map(TemplateSummary::of).collect())
    }
}

impl TemplateSummary {
    fn of(entry: &CacheEntry) -> Option<Self> {
        let key = TemplateKey::from_name(entry.name())?;
        // Read the time before checking: writing new identities changes the directory's time.
        let last_used = entry.last_used();
        let is_intact = Template::load(entry).is_ok();

        if entry.last_used() != last_used {
            entry.mark_used(last_used);
        }

        Some(Self {
            key,
            directory: entry.path().to_path_buf(),
            manifest: TemplateManifest::load(entry),
            bytes: entry.bytes(),
            last_used,
            is_intact,
        })
    }
}
