//! Warm templates: guests saved right after an interpreter has come up in them, from which a run begins
//! within milliseconds instead of a boot.
//!
//! `templates/KEY` in the store, a [shelf](crate::shelf), holds one: the guest's memory in a sparse file, the devices'
//! state, a manifest.

mod draft;
mod key;
mod list;
mod manifest;
mod open;
mod prune;
mod ram;
mod templates;

pub use draft::TemplateWriter;
pub use key::TemplateKey;
pub use list::TemplateSummary;
pub use manifest::TemplateManifest;
pub use open::Template;
pub use templates::Templates;

/// Bytes on disk that templates may take when nobody says otherwise: 4 GiB, some ninety of them (the shell's
/// takes 27 MB, Python's 50, JavaScript's 66; measured with guests of 512 MiB). A few languages, sizes of
/// memory and images at a time are far fewer; it bounds what updates of the image and of QEMU leave behind.
pub const TEMPLATES_BYTES: u64 = 4 << 30;

/// The version of the manifest, of the files beside it, and of the way memory is hashed.
const FORMAT: u32 = 2;
/// The manifest's file.
const MANIFEST: &str = "manifest.json";
/// The guest's memory.
const RAM: &str = "ram";
/// The state of the devices.
const STATE: &str = "state";

#[cfg(test)]
mod tests;
