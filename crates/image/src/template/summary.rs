//! The list of all templates.

use std::path::PathBuf;
use std::time::SystemTime;

use super::key::TemplateKey;
use super::manifest::TemplateManifest;
use super::opened::Template;
use super::templates::Templates;
use crate::Error;
use crate::artifact_cache::CacheEntry;

/// One template of a store, as it was found.
#[derive(Debug)]
pub struct TemplateSummary {
    /// Under which it lies in the store.
    pub key: TemplateKey,
    /// Its directory.
    pub directory: PathBuf,
    /// What it was made from, or why that cannot be said.
    pub manifest: Result<TemplateManifest, Error>,
    /// Bytes on disk.
    pub bytes: u64,
    /// When it was last opened, or made.
    pub last_used: SystemTime,
    /// Whether it can be used: all is there and is what the manifest says.
    pub is_intact: bool,
}

impl Templates {
    /// Every finished template of the store, by key. Nothing is hashed that looks as it did after it was
    /// last hashed, and no use is noted.
    ///
    /// # Errors
    /// When the store cannot be read; a store that does not exist yet is empty. A template that is not what
    /// it should be is no error.
    pub fn list(&self) -> Result<Vec<TemplateSummary>, Error> {
        let found = self.cache.entries()?;
        Ok(found.iter().filter_map(TemplateSummary::of).collect())
    }
}

impl TemplateSummary {
    fn of(entry: &CacheEntry) -> Option<Self> {
        let key = TemplateKey::from_name(entry.name())?;
        // Before it is looked at, for a new record of identities changes the directory.
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
