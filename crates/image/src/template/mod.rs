//! Warm templates: guests saved right after an interpreter has started in them. A run restores one within
//! milliseconds instead of booting.
//!
//! `templates/KEY` in the store's [artifact cache](crate::artifact_cache) contains the guest's memory in a
//! sparse file, the devices' state and a manifest.
//!
//! Creating and restoring the saved guests belongs in the engine.

mod format;
mod key;
mod manifest;
mod memory;
mod opened;
mod prune;
mod summary;
mod templates;
mod writer;

pub use self::key::TemplateKey;
pub use self::manifest::TemplateManifest;
pub use self::opened::Template;
pub use self::summary::TemplateSummary;
pub use self::templates::{TEMPLATES_BYTES, Templates};
pub use self::writer::TemplateWriter;

/// Returns the digest of a template's memory: see [`TemplateManifest::ram_sha256`].
pub(crate) fn memory_digest(ram: &std::fs::File) -> std::io::Result<String> {
    let bytes = ram.metadata()?.len();
    memory::hash(ram, bytes).map(|digest| digest.sha256)
}

#[cfg(test)]
mod tests;
