//! Pruning templates.

use super::manifest::TemplateManifest;
use super::opened::Template;
use super::templates::Templates;
use crate::Error;
use crate::artifact_cache::{CacheEntry, PruneReport};

impl Templates {
    /// Removes templates that are damaged, half made, or that `keep` does not want, and then the least
    /// recently used ones until at most `max_bytes` are on disk. One that is being made stays, and one
    /// that is open elsewhere stays usable there.
    ///
    /// # Errors
    /// When the store cannot be read or changed; one template that cannot be removed is a warning.
    pub fn prune(
        &self,
        max_bytes: u64,
        keep: impl Fn(&TemplateManifest) -> bool,
    ) -> Result<PruneReport, Error> {
        let is_wanted = |entry: &CacheEntry| {
            Template::load(entry).is_ok_and(|template| keep(template.manifest()))
        };
        self.cache.prune(max_bytes, is_wanted)
    }
}
