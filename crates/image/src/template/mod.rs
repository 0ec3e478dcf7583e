//! Warm templates: guests saved right after an interpreter has come up in them, from which a run begins
//! within milliseconds instead of a boot.
//!
//! `templates/KEY` in the store, a [shelf](crate::shelf), holds one: the guest's memory in a sparse file, the devices'
//! state, a manifest.

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

#[cfg(test)]
mod tests;
