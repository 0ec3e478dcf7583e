use super::{Template, TemplateManifest, Templates};
use crate::Error;
use crate::shelf::{Place, PruneReport};

impl Templates {
    /// Removes templates that are damaged, half made, or that `keep` does not want, and then the least
    /// recently used ones until at most `most_bytes` are on disk. One that is being made stays, and one
    /// that is open elsewhere stays usable there.
    ///
    /// # Errors
    /// When the store cannot be read or changed; one template that cannot be removed is a warning.
    pub fn prune(
        &self,
        most_bytes: u64,
        keep: impl Fn(&TemplateManifest) -> bool,
    ) -> Result<PruneReport, Error> {
        let is_wanted =
            |place: &Place| Template::load(place).is_ok_and(|template| keep(template.manifest()));
        self.shelf.prune(most_bytes, is_wanted)
    }
}
