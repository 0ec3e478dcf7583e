//! Pruning templates.

use super::manifest::TemplateManifest;
use super::opened::Template;
use super::templates::Templates;
use crate::Error;
use crate::artifact_cache::{CacheEntry, PruneReport};

impl Templates {
    /// Removes damaged and unfinished templates, templates for which `keep` is false, and then the least
    /// recently used ones until at most `max_bytes` remain on disk. A template that is being created stays,
    /// and a template that is open elsewhere remains usable there.
    ///
    /// # Errors
    /// Returns an error if the store cannot be read or changed. A template that cannot be removed only causes
    /// a warning.
    pub fn prune(
        &self,
        max_bytes: u64,
        keep: impl Fn(&TemplateManifest) -> bool,
    ) -> Result<PruneReport, Error> {
        let is_wanted = |entry: &CacheEntry| match Template::load(entry) {
            Ok(template) => keep(template.manifest()),
            Err(error) => !error.is_damage(),
        };
        self.cache.prune(max_bytes, is_wanted)
    }
}
