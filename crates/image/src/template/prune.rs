//! Pruning templates.

use super::manifest::TemplateManifest;
use super::opened::Template;
use super::templates::Templates;
use crate::Error;
use crate::artifact_cache::{ArtifactCache, CacheEntry, PruneReport};

/// The input of a template that names its image.
const IMAGE: &str = "image";

impl Templates {
    /// Returns the cache that holds the templates.
    pub(crate) fn into_cache(self) -> ArtifactCache {
        self.cache
    }

    /// Prunes as [`prune`](Self::prune), and removes the templates of images that are no longer in the store, because
    /// nothing can use them. `own_image`: the id of an image that the caller still uses.
    ///
    /// # Errors
    /// As [`prune`](Self::prune).
    pub fn prune_stale(
        &self,
        max_bytes: u64,
        own_image: Option<&str>,
    ) -> Result<PruneReport, Error> {
        let listed = self.cache.store().list()?;
        // The id of an image that cannot be read is unknown: then nothing is stale.
        let ids: Option<Vec<String>> = listed
            .into_iter()
            .map(|image| image.manifest.ok().map(|manifest| manifest.id))
            .collect();

        self.prune(max_bytes, |template| {
            let Some((image, ids)) = template.inputs.get(IMAGE).zip(ids.as_ref()) else {
                return true;
            };
            own_image == Some(image) || ids.contains(image)
        })
    }

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
