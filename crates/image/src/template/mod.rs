//! Warm templates: the saved states of guests, beside the images that they are of.

mod draft;
mod manifest;
mod shelf;
mod sparse;

pub use draft::Draft;
pub use manifest::{TemplateKey, TemplateManifest};
pub use shelf::{ListedTemplate, PruneReport, TEMPLATES_BYTES, Template, Templates};
pub use sparse::copy_sparse;

/// The names of a template's files in its directory.
const MANIFEST: &str = "manifest.json";
const RAM: &str = "ram";
const STATE: &str = "state";
const IDENTITY: &str = "identity.json";

#[cfg(test)]
mod tests;
